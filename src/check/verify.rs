//! Compares every kernel of a device with its twin, over tiny models and single ops: `wgpt verify`.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::stored_cases;
use super::verify_cases::{self, Case, Run, fill_as_before};
use super::{Comparison, lockstep_of, sabotage};
use crate::backend::cpu::{Cpu, Use};
use crate::backend::gpu::{Choice, Gpu, choose};
use crate::backend::{Backend, Device};
use crate::error::Result;
use crate::kernel::{Format, Kernel, Variant, WEIGHTS};
use crate::ops::ALL;
use crate::plan::{Dispatch, Plan};
use crate::trial::{self, Subject};

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
    try_out(device, &mut rows)?;
    all_cases(device).iter().try_for_each(|case| run(case, device, spoil, &mut rows))?;
    Ok(rows)
}

/// Takes out the rows of variants whose compilation crashes the driver; their place says so.
fn try_out(device: &Device, rows: &mut [Row]) -> Result<()> {
    let Device::Gpu(gpu) = device else { return Ok(()) };
    let subject = |row: &Row| {
        let subject = Subject::find(row.kernel, row.variant)?;
        (row.available && subject.variant.uses_matrix_units()).then_some(subject)
    };
    let risky = rows.iter().enumerate().filter_map(|(i, row)| Some((i, subject(row)?)));
    let (places, subjects): (Vec<usize>, Vec<Subject>) = risky.unzip();
    for (i, fault) in trial::faults(gpu, &subjects)? {
        let row = &mut rows[places[i]];
        (row.available, row.place) = (false, fault);
    }
    Ok(())
}

/// Compares the variant `name` of a kernel with its twin over those of `cases` that have the kernel; returns `None` if the
/// kernel has no such variant. Threads may compare several variants on one device at the same time.
///
/// # Errors
///
/// If the device cannot hold the tiny models, refuses the shader, or is lost.
pub fn verify_variant(
    device: &Device,
    name: &str,
    kernel: &'static Kernel,
    cases: &[Case],
) -> Result<Option<Row>> {
    let mut rows = rows_of(&[kernel], device);
    rows.retain(|row| row.variant == name);
    let is_it = |dispatch: &Dispatch| dispatch.kernel.name == kernel.name;
    for case in cases.iter().filter(|case| case.plan.dispatches.iter().any(is_it)) {
        let mut case = case.clone();
        let dispatches = &mut Arc::make_mut(&mut case.plan).dispatches;
        dispatches.iter_mut().filter(|d| is_it(d)).for_each(|d| d.kernel = kernel);
        run_with(&case, device, None, &mut rows, Depth::EachOnce)?;
    }
    Ok(rows.pop())
}

/// Returns the cases; of a GPU also those of matrices that shaders read through integers, and where it has half precision all
/// cases in that. Of the formats of matrices one is enough there, since what differs are the other arguments.
pub fn all_cases(device: &Device) -> Vec<Case> {
    let mut cases = verify_cases::all();
    let Device::Gpu(gpu) = device else { return cases };
    cases.extend(stored_cases::all(Format::Q8_0));
    if gpu.has().f16 {
        let halved = |case: &Case| verify_cases::halved(case, Format::F16);
        cases.extend(cases.iter().map(halved).collect::<Vec<_>>());
    }
    let others = WEIGHTS.iter().filter(|format| format.is_coded() && **format != Format::Q8_0);
    cases.extend(others.flat_map(|format| stored_cases::all(*format)));
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
    run_with(case, device, spoil, rows, Depth::Every)
}

/// Which of a case's dispatches are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Every one, in every run.
    Every,
    /// Of those that differ in nothing but their data, as the layers of a model do, the first one.
    EachOnce,
}

fn run_with(
    case: &Case,
    device: &Device,
    spoil: Option<&str>,
    rows: &mut [Row],
    depth: Depth,
) -> Result<()> {
    let mut plan = Arc::clone(&case.plan);
    if let Some(kernel) = spoil {
        sabotage(Arc::make_mut(&mut plan), kernel);
    }
    let names: BTreeSet<&str> = rows.iter().filter(|r| r.available).map(|r| r.variant).collect();
    for name in names {
        let compared = compared(case, device, name, rows);
        if compared.contains(&true) {
            run_variant(case, &plan, device, (name, &compared, depth), rows)?;
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
    let is_row = |row: &Row, kernel| row.kernel == kernel && row.variant == name && row.available;
    let has_row = |kernel| rows.iter().any(|row| is_row(row, kernel));
    let dispatches = case.plan.dispatches.iter();
    dispatches.map(|dispatch| has_row(dispatch.kernel.name) && runs(dispatch)).collect()
}

/// Compares the marked dispatches, with the variant `name`; the others run on the reference alone.
fn run_variant(
    case: &Case,
    reference: &Arc<Plan>,
    device: &Device,
    (name, compared, depth): (&str, &[bool], Depth),
    rows: &mut [Row],
) -> Result<()> {
    let (marked, places) = marked(&case.plan, compared);
    let mut subject: Box<dyn Backend> = match device {
        Device::Cpu => device.backend(marked)?,
        Device::Gpu(gpu) => {
            // A shader's error is seen only by the thread that compiles it.
            for dispatch in &marked.dispatches {
                let variant = choose(Choice::Named(name), gpu.has(), dispatch);
                gpu.compile(dispatch.kernel, variant, &dispatch.formats())?;
            }
            Box::new(Gpu::with(gpu, marked, Choice::Named(name))?)
        }
    };
    let mut reference = Cpu::<f32>::new(Arc::clone(reference), Use::Twins);
    fill_as_before(case, &mut reference);
    let runs = compared_runs(case, compared, depth);
    let needed = runs.iter().rposition(|run| run.contains(&true)).map_or(0, |last| last + 1);
    for (run, compared) in case.runs.iter().zip(&runs[..needed]) {
        run.prepare(&mut reference);
        for (index, compared) in run.range.clone().zip(compared) {
            reference.set_use(if *compared { Use::Twins } else { Use::Kernels });
            if !compared {
                reference.run(index..index + 1, &run.step);
                continue;
            }
            let (dispatch, places) = (&case.plan.dispatches[index], [index, places[index]]);
            let found = lockstep_of(dispatch, &run.step, places, &mut reference, &mut *subject)?;
            enter(case, found, name, rows);
        }
    }
    Ok(())
}

/// Returns for each run of a case which of its dispatches are compared, of those that are marked.
fn compared_runs(case: &Case, marks: &[bool], depth: Depth) -> Vec<Vec<bool>> {
    let mut seen = HashSet::new();
    let mut is_compared = |run: &Run, index: usize| {
        let dispatch = &case.plan.dispatches[index];
        // Tables of generation are data that matter.
        let each = depth == Depth::Every || !run.tables.is_empty();
        let sizes = bytemuck::bytes_of(&dispatch.dims).to_vec();
        let step = bytemuck::bytes_of(&run.step.words()).to_vec();
        marks[index]
            && (each || seen.insert((dispatch.kernel.name, sizes, dispatch.formats(), step)))
    };
    let of_run = |run: &Run| run.range.clone().map(|index| is_compared(run, index)).collect();
    case.runs.iter().map(of_run).collect()
}

/// Returns a plan of the marked dispatches alone over the same buffers, so that nothing else has to compile, and for each
/// dispatch the number of marked ones before it.
fn marked(plan: &Plan, marks: &[bool]) -> (Arc<Plan>, Vec<usize>) {
    let mut dispatches = vec![];
    let mut places = vec![];
    for (dispatch, is_marked) in plan.dispatches.iter().zip(marks) {
        places.push(dispatches.len());
        dispatches.extend(is_marked.then(|| dispatch.clone()));
    }
    let marked = Plan { buffers: plan.buffers.clone(), dispatches, ..Plan::default() };
    (Arc::new(marked), places)
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
