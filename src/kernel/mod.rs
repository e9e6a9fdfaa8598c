//! Kernels: a name, a signature, a CPU twin, and the WGSL variants that must match both.

pub mod constants;
mod dims;
mod format;
pub mod grid;
mod matrices;
mod needs;
pub mod rows;
pub mod shared;
mod signature;
pub mod state;
mod step;
mod twin;
mod variant;

pub use dims::{Accumulate, Decay, Dims, LossScale};
pub use format::Format;
pub use matrices::{Matrices, MatrixShape};
pub use needs::Needs;
pub use rows::{Draw, Feed};
pub use signature::{
    Access, Arg, FLOATS, WEIGHTS, adds, changes, changes_u32, reads, reads_u32, writes,
    writes_part, writes_part_u32,
};
pub use step::{Step, StepWords};
pub(crate) use twin::twin;
pub use twin::{Io, Real, Run, Twin, accumulate};
pub use variant::{Variant, always, four_channels};

/// A kernel: `args[i]` is `@group(0) @binding(i + 1)`; binding 0 is [`Dims`].
///
/// Buffers that are read come first, then those that are written. Bind group 1 holds [`Step`].
pub struct Kernel {
    /// The stem of the WGSL file, the label of the pipeline, and the row of the profiler and the benchmarks.
    pub name: &'static str,
    /// The buffers.
    pub args: &'static [Arg],
    /// The specification: plain loops.
    pub twin: Twin,
    /// The CPU kernel, where speed matters; if there is none, the twin runs.
    pub cpu: Option<Run<f32>>,
    /// Floating-point operations of one dispatch.
    pub flops: fn(&Dims) -> u64,
    /// The largest error that an implementation may have compared with the twin, relative to the largest output value:
    /// both sum in single precision, in different orders.
    pub tolerance: f32,
    /// WGSL implementations: the portable one, which runs everywhere, comes first; without a measurement the
    /// last one that an adapter can run is used.
    pub variants: &'static [Variant],
}

impl Kernel {
    /// The tolerance of most kernels.
    pub const TOLERANCE: f32 = 2e-5;

    /// Returns the formats of the arguments if those that shaders have in `format` have it, and the others their usual one.
    pub fn formats(&self, format: Format) -> Vec<Format> {
        let of = |arg: &Arg| if arg.is_in_shaders(format) { format } else { arg.usual_format() };
        self.args.iter().map(of).collect()
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
