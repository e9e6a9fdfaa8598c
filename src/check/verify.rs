//! Compares every kernel of a device with its twin, over tiny models and single ops: `wgpt verify`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::verify_cases::{self, Case, fill_random};
use crate::backend::cpu::{Cpu, Use};
use crate::backend::gpu::{Choice, Choices, Gpu, choose, class};
use crate::backend::{Backend, Device};
use crate::check::{Comparison, lockstep, sabotage};
use crate::error::Result;
use crate::kernel::{Kernel, Variant};
use crate::ops::ALL;
use crate::plan::{Dispatch, Plan};

/// The result of one kernel over all its dispatches.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The kernel.
    pub kernel: &'static str,
    /// The variant; empty for the portable one, and on the CPU.
    pub variant: &'static str,
    /// Whether the device can run the variant.
    pub available: bool,
    /// The number of dispatches that were compared.
    pub dispatches: usize,
    /// The largest difference from the twin, relative to the largest value of the argument.
    pub error: f32,
    /// The largest error allowed.
    pub tolerance: f32,
    /// The place of the largest error; empty if there is none.
    pub place: String,
}

impl Row {
    /// Returns whether the kernel was run and agrees with its twin; an error that is not a number fails. A variant that
    /// the device cannot run is never used, and so passes.
    pub fn passes(&self) -> bool {
        !self.available || (self.dispatches > 0 && self.error <= self.tolerance)
    }

    /// Returns the name of the shader's file.
    pub fn name(&self) -> String {
        match self.variant {
            "" => self.kernel.to_owned(),
            variant => format!("{}_{variant}", self.kernel),
        }
    }
}

/// Compares every kernel and variant on a device with its twin: the rows of [`rows`].
///
/// `spoil` names a kernel whose twin is made wrong first, to see that the error is found.
///
/// # Errors
///
/// If the device cannot hold the tiny models, or is lost.
pub fn verify(device: &Device, spoil: Option<&str>) -> Result<Vec<Row>> {
    let mut rows = rows(device);
    all_cases(device).iter().try_for_each(|case| run(case, device, spoil, &mut rows))?;
    Ok(rows)
}

/// Compares the variant `name` of some kernels with their twins; returns a row for each kernel that has it.
///
/// # Errors
///
/// If the device cannot hold the tiny models, refuses one of the shaders, or is lost.
pub fn verify_variant(
    device: &Device,
    name: &str,
    kernels: &[&'static Kernel],
) -> Result<Vec<Row>> {
    let mut rows = rows_of(kernels, device);
    rows.retain(|row| row.variant == name);
    for case in all_cases(device) {
        run(&of_kernels(case, kernels), device, None, &mut rows)?;
    }
    Ok(rows)
}

/// Replaces kernels of a case by those of the same names in `kernels`.
fn of_kernels(mut case: Case, kernels: &[&'static Kernel]) -> Case {
    for dispatch in &mut Arc::make_mut(&mut case.plan).dispatches {
        let same = kernels.iter().find(|kernel| kernel.name == dispatch.kernel.name);
        dispatch.kernel = same.copied().unwrap_or(dispatch.kernel);
    }
    case
}

/// Returns the cases, also in half precision where a device has it.
fn all_cases(device: &Device) -> Vec<Case> {
    let mut cases = verify_cases::all();
    if matches!(device, Device::Gpu(gpu) if gpu.has().f16) {
        cases.extend(cases.iter().map(verify_cases::halved).collect::<Vec<_>>());
    }
    cases
}

/// Returns a row for each kernel of [`ALL`] and each of its variants; none of them has been run.
pub fn rows(device: &Device) -> Vec<Row> {
    rows_of(ALL, device)
}

fn rows_of(kernels: &[&'static Kernel], device: &Device) -> Vec<Row> {
    let row = |kernel: &'static Kernel, variant: Option<&'static Variant>, available| Row {
        kernel: kernel.name,
        variant: variant.map_or("", |variant| variant.name),
        available,
        dispatches: 0,
        error: 0.0,
        tolerance: variant.and_then(|variant| variant.tolerance).unwrap_or(kernel.tolerance),
        place: String::new(),
    };
    let rows = kernels.iter().flat_map(|kernel| match device {
        Device::Cpu => vec![row(kernel, None, true)],
        Device::Gpu(gpu) => {
            let variants = kernel.variants.iter();
            variants.map(|v| row(kernel, Some(v), v.needs.within(gpu.has()))).collect()
        }
    });
    rows.collect()
}

/// Runs one case against the twins, once for each name of a variant, and adds the results to `rows`.
///
/// # Errors
///
/// If a device is lost.
pub fn run(case: &Case, device: &Device, spoil: Option<&str>, rows: &mut [Row]) -> Result<()> {
    let mut plan = Arc::clone(&case.plan);
    if let Some(kernel) = spoil {
        sabotage(Arc::make_mut(&mut plan), kernel);
    }
    let names: BTreeSet<&str> = rows.iter().filter(|r| r.available).map(|r| r.variant).collect();
    for name in names {
        let compared = compared(case, device, name, rows);
        if compared.contains(&true) {
            run_variant(case, &plan, device, (name, &compared), rows)?;
        }
    }
    Ok(())
}

/// Marks the dispatches of a case that have a row and run the variant `name` when it is requested.
fn compared(case: &Case, device: &Device, name: &str, rows: &[Row]) -> Vec<bool> {
    let runs = |dispatch: &Dispatch| match device {
        Device::Cpu => true,
        Device::Gpu(gpu) => choose(Choice::Named(name), gpu.has(), dispatch).name == name,
    };
    let has_row = |kernel| rows.iter().any(|row| row.kernel == kernel && row.variant == name);
    let dispatches = case.plan.dispatches.iter();
    dispatches.map(|dispatch| has_row(dispatch.kernel.name) && runs(dispatch)).collect()
}

/// Compares the marked dispatches, with the variant `name`; the others run on the reference alone.
fn run_variant(
    case: &Case,
    reference: &Arc<Plan>,
    device: &Device,
    (name, compared): (&str, &[bool]),
    rows: &mut [Row],
) -> Result<()> {
    let mut subject: Box<dyn Backend> = match device {
        Device::Cpu => device.backend(Arc::clone(&case.plan))?,
        Device::Gpu(gpu) => {
            let choices = only(&case.plan, name, compared);
            Box::new(Gpu::with(gpu, Arc::clone(&case.plan), Choice::Chosen(&choices))?)
        }
    };
    let mut reference = Cpu::<f32>::new(Arc::clone(reference), Use::Twins);
    fill_random(case, &mut reference, 1);
    for run in &case.runs {
        run.prepare(&mut reference);
        for index in run.range.clone() {
            reference.set_use(if compared[index] { Use::Twins } else { Use::Kernels });
            if !compared[index] {
                reference.run(index..index + 1, &run.step);
                continue;
            }
            let (plan, one) = (&case.plan, index..index + 1);
            lockstep(plan, one, &run.step, &mut reference, &mut *subject, |found| {
                enter(case, found, name, rows);
            })?;
        }
    }
    Ok(())
}

/// Chooses the variant `name` for the compared dispatches, and the portable one for all others, so that no other
/// variant has to compile.
fn only(plan: &Plan, name: &str, compared: &[bool]) -> Choices {
    let all = plan.dispatches.iter().map(|dispatch| (class(dispatch), String::new()));
    let compared = plan.dispatches.iter().zip(compared).filter(|(_, compared)| **compared);
    let named = compared.map(|(dispatch, _)| (class(dispatch), name.to_owned()));
    Choices { taken: all.chain(named).collect(), refused: vec![] }
}

fn enter(case: &Case, found: Comparison, variant: &str, rows: &mut [Row]) {
    let same = |row: &&mut Row| row.kernel == found.kernel && row.variant == variant;
    let Some(row) = rows.iter_mut().find(same) else { return };
    row.dispatches += 1;
    if found.error > row.error || found.error.is_nan() {
        row.error = found.error;
        row.place = format!("{}, dispatch {}: {}", case.name, found.dispatch, found.place);
    }
}
