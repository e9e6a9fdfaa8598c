//! Tuning: finds the fastest variant of each kernel on this adapter by measurement.
//!
//! The work is a list of jobs, those from which a step may gain the most first, so that a small budget is spent where it
//! matters. A variant is compared with its twin, in the precision that the plan uses, before it is timed; one that differs is
//! never used, and a run takes none that was not compared. Dispatches are timed by class ([`class`](crate::backend::gpu::class)),
//! alone, on buffers of their own sizes. The results are kept in the device's cache folder
//! ([`Measured`]) for the next start.

mod jobs;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

use crate::backend::Device;
use crate::backend::gpu::{Choices, GpuDevice, Measured, Notice, full_name};
use crate::check::stored_cases;
use crate::check::verify::{self, Row};
use crate::check::verify_cases::{self, Case};
use crate::clock::Stopwatch;
use crate::error::Result;
use crate::kernel::Format;
use crate::plan::{Dispatch, Plan};
use crate::trial::{self, Subject};

use jobs::{Job, Task, find};

/// The time after which a start begins no more comparisons and timings; the rest is left for the next start.
pub const BUDGET: Duration = Duration::from_secs(if IN_A_TAB { 2 } else { 3 });
/// The same for the comparisons of what a run takes if nothing is timed: without them it would take portable variants, which
/// may make it several times slower from its beginning to its end, and which take as long to compile.
pub const BUDGET_OF_GUESSES: Duration = Duration::from_secs(if IN_A_TAB { 2 } else { 10 });
/// Whether this runs in a browser, where a person who has opened a page waits for it.
const IN_A_TAB: bool = cfg!(target_family = "wasm");

/// The amount of tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Only what is not known yet, within [`BUDGET`] and [`BUDGET_OF_GUESSES`].
    Missing,
    /// Everything anew, without a time limit.
    All,
}

/// Measures which variants of a plan's kernels are fast on a device, and keeps the result in the device's cache folder.
/// Returns the variants that a run of the plan takes: the fastest known ones, and none that was not compared with its twin,
/// except the portable ones. On a device whose choices are already fixed ([`GpuDevice::with_choices`]), these are returned, and
/// nothing is measured.
///
/// # Errors
///
/// If the device is lost.
pub fn tune(
    device: &Arc<GpuDevice>,
    plan: &Plan,
    effort: Effort,
    on_notice: &mut dyn FnMut(Notice),
) -> Result<Choices> {
    if let Some(notice) = device.cache_notice() {
        on_notice(notice);
    }
    if device.is_settled() {
        return Ok(device.choices(plan));
    }
    // A browser without a GPU takes the processor, unless somebody wants to see its software adapter.
    if IN_A_TAB && effort == Effort::Missing && !device.is_real() {
        return Ok(device.compared_choices(plan));
    }
    if effort == Effort::All {
        let mut measured = device.measured();
        *measured = Measured::new(std::mem::take(&mut measured.adapter));
    }
    let jobs = find(device, plan);
    if !jobs.is_empty() {
        let classes = jobs::classes(&jobs);
        on_notice(Notice::Tuning { device: device.name().to_owned(), classes });
        let left = work(device, &jobs, effort, on_notice)?;
        let classes = jobs::classes(left);
        if classes > 0 {
            let portable = left.iter().filter(|job| job.task == Task::Guess).count();
            on_notice(Notice::Left { classes, portable });
        }
        if let Err(error) = device.save_measured() {
            on_notice(Notice::NotKept { cause: error.to_string() });
        }
    }
    Ok(device.compared_choices(plan))
}

/// Does jobs in their order, as many as there is time for, and returns those that are left. Comparisons in a row are done on
/// all threads; while something is timed, nothing else is done.
fn work<'a, 'b>(
    device: &Arc<GpuDevice>,
    jobs: &'b [Job<'a>],
    effort: Effort,
    on_notice: &mut dyn FnMut(Notice),
) -> Result<&'b [Job<'a>]> {
    let cases = cases(jobs);
    let clock = Stopwatch::start();
    let is_late = |task| {
        let budget = if task == Task::Guess { BUDGET_OF_GUESSES } else { BUDGET };
        effort == Effort::Missing && clock.elapsed() > budget
    };
    let together = |a: &Job<'_>, b: &Job<'_>| a.task == b.task && a.task != Task::Time;
    let rows = jobs.chunk_by(together);
    let mut done = 0;
    for row in rows {
        let task = row[0].task;
        if task != Task::Time && !is_late(task) {
            try_out(device, row, on_notice);
        }
        for part in row.chunks(rayon::current_num_threads()) {
            if is_late(task) {
                return Ok(&jobs[done..]);
            }
            on_notice(Notice::Working { what: part[0].to_string(), done, total: jobs.len() });
            match task {
                Task::Guess | Task::Compare => compare(device, part, &cases, on_notice)?,
                Task::Time => part.iter().for_each(|job| time::learn(device, job)),
            }
            done += part.len();
        }
    }
    Ok(&jobs[done..])
}

/// Has a child process compile those variants whose compilation may crash the driver, and refuses what crashes.
fn try_out(device: &GpuDevice, jobs: &[Job<'_>], on_notice: &mut dyn FnMut(Notice)) {
    let subject = |job: &Job<'_>| Subject { kernel: job.dispatch.kernel, variant: job.variant };
    let risky: Vec<&Job<'_>> = jobs.iter().filter(|job| job.variant.uses_matrix_units()).collect();
    let subjects: Vec<Subject> = risky.iter().map(|job| subject(job)).collect();
    let faults = trial::faults(device, &subjects).unwrap_or_else(|error| {
        (0..risky.len()).map(|i| (i, format!("it could not be tried: {error}"))).collect()
    });
    for (i, fault) in faults {
        refuse(device, risky[i], fault, on_notice);
    }
}

/// Stores that a variant is not to be used, and says so.
fn refuse(device: &GpuDevice, job: &Job<'_>, fault: String, on_notice: &mut dyn FnMut(Notice)) {
    let variant = full_name(job.dispatch, job.variant);
    on_notice(Notice::Refused { variant, fault: fault.clone() });
    device.measured().judge(job.dispatch, job.variant, Some(fault));
}

/// What must be the same for a comparison: whether there is half precision, and the name of a stored matrix's format.
type Formats = (Option<&'static str>, bool);

fn formats(dispatch: &Dispatch) -> Formats {
    (dispatch.coded().map(|format| format.name), dispatch.has_half())
}

/// Returns the cases of comparisons for each of the formats that the jobs need.
fn cases(jobs: &[Job<'_>]) -> BTreeMap<Formats, Vec<Case>> {
    let compared = jobs.iter().filter(|job| job.task != Task::Time);
    let mut cases = BTreeMap::new();
    for dispatch in compared.map(|job| job.dispatch) {
        cases.entry(formats(dispatch)).or_insert_with(|| {
            let single = dispatch.coded().map_or_else(verify_cases::all, stored_cases::all);
            let halved = |case: &Case| verify_cases::halved(case, Format::F16);
            let half = || single.iter().map(halved).collect();
            if dispatch.has_half() { half() } else { single }
        });
    }
    cases
}

/// Compares variants with their twins, over the tiny models of `wgpt verify`, and stores the verdicts.
fn compare(
    device: &Arc<GpuDevice>,
    jobs: &[Job<'_>],
    cases: &BTreeMap<Formats, Vec<Case>>,
    on_notice: &mut dyn FnMut(Notice),
) -> Result<()> {
    // What was timed meanwhile may show that a variant need not be tried.
    let is_tried = |job: &&Job<'_>| {
        let measured = device.measured();
        !measured.is_dull(job.variant.name) && !measured.refuses(job.dispatch, job.variant)
    };
    let jobs: Vec<&Job<'_>> = jobs.iter().filter(is_tried).collect();
    let fault = |job: &&Job<'_>| fault(device, job, &cases[&formats(job.dispatch)]);
    let found: Vec<Result<Option<String>>> = jobs.par_iter().map(fault).collect();
    for (job, fault) in jobs.into_iter().zip(found) {
        match fault? {
            Some(fault) => refuse(device, job, fault, on_notice),
            None => device.measured().judge(job.dispatch, job.variant, None),
        }
    }
    Ok(())
}

/// Returns the fault of a variant, if it has one; a variant that cannot be compared is not known to be right.
///
/// # Errors
///
/// If the device is lost, which is no variant's fault.
fn fault(device: &Arc<GpuDevice>, job: &Job<'_>, cases: &[Case]) -> Result<Option<String>> {
    let on = Device::Gpu(Arc::clone(device));
    match verify::verify_variant(&on, job.variant.name, job.dispatch.kernel, cases) {
        Err(error) if device.is_lost() => Err(error),
        Err(error) => Ok(Some(error.to_string())),
        Ok(row) => Ok(fault_in(row.as_ref())),
    }
}

fn fault_in(row: Option<&Row>) -> Option<String> {
    match row {
        Some(row) if row.passes() => None,
        Some(row) if row.dispatches > 0 => {
            Some(format!("error {:.1e} of {:.0e}, {}", row.error, row.tolerance, row.place))
        }
        _ => Some("it was not compared".to_owned()),
    }
}
