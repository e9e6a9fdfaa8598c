//! The matrix units that an adapter's kernels use, or why they use none.

use wgpt::backend::gpu::AdapterReport;
use wgpt::kernel::{Matrices, Variant};
use wgpt::ops::linear;

/// Returns the names of the variants of a linear layer that use the adapter's matrix units, and the shapes of their matrices;
/// or the reason why there are none.
pub fn matrix_units(adapter: &AdapterReport) -> Result<String, String> {
    let all = || linear::FORWARD.variants.iter().filter(|variant| variant.uses_matrix_units());
    let names: Vec<&str> = all().filter(|v| v.needs.within(&adapter.has)).map(|v| v.name).collect();
    if !names.is_empty() {
        let shapes = adapter.has.matrices.shapes().map(|shape| [shape.m, shape.n, shape.k]);
        return Ok(format!("{} ({})", shapes_text(shapes), names.join(", ")));
    }
    Err(match adapter {
        _ if !adapter.shader_f16 => "the driver has no half precision in shaders".to_owned(),
        _ if !adapter.cooperative_matrix => "the driver offers none".to_owned(),
        _ if adapter.matrix_shapes.is_empty() => {
            "the driver offers none in half precision with sums in single precision".to_owned()
        }
        _ if adapter.has.matrices == Matrices::NONE => {
            let known = Matrices::KNOWN.iter().map(|shape| [shape.m, shape.n, shape.k]);
            let has = shapes_text(adapter.matrix_shapes.iter().copied());
            format!("its matrices are {has}, kernels are for {}", shapes_text(known))
        }
        _ => {
            let of_shape = all().filter(|v| adapter.has.matrices.include(v.needs.matrices));
            let lacking: Vec<String> = of_shape
                .filter_map(|v| Some(format!("{} wants {}", v.name, wanted(v, adapter)?)))
                .collect();
            lacking.join(", ")
        }
    })
}

/// Returns what a variant wants that an adapter lacks, with numbers.
fn wanted(variant: &Variant, adapter: &AdapterReport) -> Option<String> {
    let needs = &variant.needs;
    let lacking = needs.lacking(&adapter.has)?;
    Some(match (needs.subgroups, lacking) {
        (Some([least, most]), lacking) if lacking.contains("subgroups") => {
            format!("subgroups of {least} to {most}")
        }
        _ => lacking.to_owned(),
    })
}

fn shapes_text(shapes: impl Iterator<Item = [u32; 3]>) -> String {
    let text = |[m, n, k]: [u32; 3]| format!("{m} x {n} x {k}");
    let mut all: Vec<String> = shapes.map(text).collect();
    all.dedup();
    all.join(", ")
}
