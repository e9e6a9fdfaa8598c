//! Lockstep comparison of two backends over one plan: it finds the wrong results of each kernel, and their places.
//!
//! Two more checks are here: [`grad`], finite differences against backpropagation, and [`sabotage()`], which makes a
//! kernel wrong so that a test can see these checks fail.

pub mod grad;
pub mod grad_cases;
pub mod packing;
mod sabotage;
pub mod step;
pub mod stored_cases;
pub mod verify;
pub mod verify_cases;

pub use sabotage::sabotage;

use std::ops::Range;

use half::{bf16, f16};

use crate::backend::Backend;
use crate::error::Result;
use crate::kernel::{Access, Arg, Format, Step};
use crate::plan::{Dispatch, Plan, View};

/// The comparison of one dispatch's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The kernel.
    pub kernel: &'static str,
    /// The index of the dispatch.
    pub dispatch: usize,
    /// The largest difference, relative to the largest value of its argument; infinite if only one of the two values is
    /// a number.
    pub error: f32,
    /// The place of that difference: `argument[index]: got …, want …`.
    pub place: String,
}

/// The mark in elements that a kernel may leave alone: a value that no kernel computes, and that half precision has
/// too.
const UNTOUCHED: f32 = -12_344.0;

/// Runs dispatches one by one on both backends and compares what each one wrote.
///
/// Both start every dispatch from the reference's inputs, so an error is attributed to the kernel that made it. Outputs
/// that a kernel must overwrite are poisoned with NaN first, so that an element that it left out shows; outputs that it
/// may leave alone are marked, so that an element that it should have left alone shows too. `seen` is called with the
/// result of each dispatch.
///
/// # Errors
///
/// If a device is lost.
pub fn lockstep(
    plan: &Plan,
    range: Range<usize>,
    step: &Step,
    reference: &mut dyn Backend,
    subject: &mut dyn Backend,
    mut seen: impl FnMut(Comparison),
) -> Result<()> {
    for index in range {
        let dispatch = &plan.dispatches[index];
        seen(lockstep_of(dispatch, step, [index, index], reference, subject)?);
    }
    Ok(())
}

/// Runs one dispatch on both backends and compares what it wrote. The dispatch has a place in the reference's plan and one in
/// the subject's; the buffers of the two plans are the same.
fn lockstep_of(
    dispatch: &Dispatch,
    step: &Step,
    [index, place]: [usize; 2],
    reference: &mut dyn Backend,
    subject: &mut dyn Backend,
) -> Result<Comparison> {
    let kept = keep(dispatch, reference)?;
    prepare(dispatch, step, reference, subject)?;
    reference.run(index..index + 1, step);
    subject.run(place..place + 1, step);
    let found = compare(index, dispatch, reference, subject)?;
    restore(kept, reference)?;
    Ok(found)
}

/// Reads the arguments that a dispatch only writes in part, before it runs.
fn keep(dispatch: &Dispatch, reference: &mut dyn Backend) -> Result<Vec<(View, Vec<f32>)>> {
    let partial = signature(dispatch).filter(|(a, _)| a.access == Access::Part);
    let real = partial.filter(|(_, view)| view.format != Format::U32);
    real.map(|(_, view)| Ok((view, read(reference, view)?))).collect()
}

/// Restores the elements that a dispatch left alone, where [`prepare`] marked them: later dispatches read them.
fn restore(kept: Vec<(View, Vec<f32>)>, reference: &mut dyn Backend) -> Result<()> {
    for (view, mut data) in kept {
        let now = read(reference, view)?;
        for (old, now) in data.iter_mut().zip(now) {
            if now != UNTOUCHED {
                *old = now;
            }
        }
        reference.write(view, &data);
    }
    Ok(())
}

/// Returns the arguments of a dispatch, each with its view.
fn signature(dispatch: &Dispatch) -> impl Iterator<Item = (Arg, View)> + '_ {
    dispatch.kernel.args.iter().copied().zip(dispatch.args.iter().copied())
}

fn prepare(
    dispatch: &Dispatch,
    step: &Step,
    reference: &mut dyn Backend,
    subject: &mut dyn Backend,
) -> Result<()> {
    for (arg, view) in signature(dispatch) {
        if view.format == Format::U32 {
            let mut data = vec![0; view.len];
            reference.read_u32(view, &mut data)?;
            subject.write_u32(view, &data);
            continue;
        }
        let mut data = vec![0.0; view.len];
        let overwritten = arg.access == Access::Acc && step.overwrites(&dispatch.dims);
        match arg.access {
            Access::Out => data.fill(f32::NAN),
            Access::Acc if overwritten => data.fill(f32::NAN),
            Access::Part => data.fill(UNTOUCHED),
            Access::In | Access::Acc | Access::Mut => reference.read(view, &mut data)?,
        }
        reference.write(view, &data);
        subject.write(view, &data);
    }
    Ok(())
}

fn compare(
    index: usize,
    dispatch: &Dispatch,
    reference: &mut dyn Backend,
    subject: &mut dyn Backend,
) -> Result<Comparison> {
    let kernel = dispatch.kernel.name;
    let mut worst = Comparison { kernel, dispatch: index, error: 0.0, place: String::new() };
    for (arg, view) in signature(dispatch).filter(|(arg, _)| arg.is_written()) {
        let (want, got) = match view.format {
            Format::U32 => (read_words(reference, view)?, read_words(subject, view)?),
            _ => (read(reference, view)?, read(subject, view)?),
        };
        let touched = want.iter().filter(|x| x.is_finite() && **x != UNTOUCHED);
        let scale = touched.fold(1e-6_f32, |m, x| m.max(x.abs()));
        let exact = view.format == Format::U32;
        // Two sums that differ in their last digits may round to adjacent values.
        let rounding = |x: f32| match view.format {
            Format::F16 => f16::EPSILON.to_f32() * x.abs().max(f16::MIN_POSITIVE.to_f32()),
            Format::BF16 => bf16::EPSILON.to_f32() * x.abs().max(bf16::MIN_POSITIVE.to_f32()),
            _ => 0.0,
        };
        for (i, (&w, &g)) in want.iter().zip(&got).enumerate() {
            let error = match (w - g).abs() {
                0.0 => 0.0,
                difference if difference.is_nan() || exact || w == UNTOUCHED => f32::INFINITY,
                difference => (difference - rounding(w)).max(0.0) / scale,
            };
            if error > worst.error {
                worst.error = error;
                worst.place = format!("{}[{i}]: got {g}, want {w}", arg.name);
            }
        }
    }
    Ok(worst)
}

fn read(backend: &mut dyn Backend, view: View) -> Result<Vec<f32>> {
    let mut data = vec![0.0; view.len];
    backend.read(view, &mut data)?;
    Ok(data)
}

/// Reads integers as numbers: those of a test are small, and compared exactly.
fn read_words(backend: &mut dyn Backend, view: View) -> Result<Vec<f32>> {
    let mut data = vec![0; view.len];
    backend.read_u32(view, &mut data)?;
    Ok(data.into_iter().map(|x| x as f32).collect())
}
