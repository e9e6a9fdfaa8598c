//! The GPU side of a kernel: WGSL texts, and the dispatches that they fit.

use super::constants;
use super::dims::Dims;
use super::format::Format;
use super::matrices::Matrices;
use super::needs::Needs;
use super::signature::Arg;

/// One WGSL implementation of a kernel.
#[derive(Clone, Copy)]
pub struct Variant {
    /// How it differs; empty for the portable variant. Its file is `KERNEL_WORD.wgsl`, where WORD is the name's
    /// first word, or the portable variant's file if only texts of `shaders/shared/` differ.
    pub name: &'static str,
    /// The text of its file.
    pub wgsl: &'static str,
    /// The texts of `shaders/shared/` that it uses in addition to those of every kernel.
    pub shared: &'static [&'static str],
    /// The requirements for an adapter beyond WebGPU's defaults.
    pub needs: Needs,
    /// Whether it can compute a dispatch with these sizes, whose arguments have these formats.
    pub fits: fn(&Dims, &[Format]) -> bool,
    /// The largest error that it may have, if that differs from its kernel's.
    pub tolerance: Option<f32>,
    /// Returns the workgroups per dispatch, from the sizes and the lengths of the arguments.
    pub grid: fn(&Dims, &[usize]) -> [u32; 3],
}

impl Variant {
    /// Whether it uses matrix units, for which some drivers' compilers crash.
    pub fn uses_matrix_units(&self) -> bool {
        self.needs.matrices != Matrices::NONE
    }

    /// Returns the whole WGSL text for the arguments `args` of its kernel, which have `formats`. Text from outside of
    /// the file comes last, so that line numbers are those of the file.
    pub fn source(&self, args: &[Arg], formats: &[Format]) -> String {
        const EVERY: &str = concat!(
            include_str!("../../shaders/shared/dims.wgsl"),
            include_str!("../../shaders/shared/step.wgsl"),
        );
        let half = self.needs.f16 || formats.contains(&Format::F16);
        let matrices = self.uses_matrix_units();
        let mut text = String::new();
        for (enable, wanted) in [("f16", half), ("wgpu_cooperative_matrix", matrices)] {
            if wanted {
                text += &format!("enable {enable}; ");
            }
        }
        text += &format!("{}\n{EVERY}{}\n", self.wgsl, self.shared.concat());
        text += constants::header();
        for (arg, format) in args.iter().zip(formats).filter(|(arg, _)| arg.formats.len() > 1) {
            if !format.is_coded() {
                text += &format!("alias {}_elem = {};\n", arg.name, format.wgsl);
            }
            if arg.is_stored {
                text += &format.stored_wgsl().replace("MATRIX", arg.name);
            }
        }
        text
    }
}

/// [`Variant::fits`] of variants that compute any sizes and formats.
pub fn always(_: &Dims, _: &[Format]) -> bool {
    true
}

/// [`Variant::fits`] of variants that process four channels at a time.
pub fn four_channels(dims: &Dims, _: &[Format]) -> bool {
    dims.C > 0 && dims.C.is_multiple_of(4)
}
