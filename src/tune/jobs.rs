//! What there is to find out about the variants of a plan's kernels, and the order in which it is found out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::backend::gpu::{GpuDevice, by_promise, candidates, class, full_name};
use crate::kernel::Variant;
use crate::plan::{Dispatch, Plan};
use crate::profile;

/// The operations that take about as long as reading or writing a byte.
const FLOPS_PER_BYTE: u64 = 10;

/// What is to be found out about a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Whether it computes the same as its twin: it is what a run takes if nothing is timed.
    Guess,
    /// Whether it computes the same as its twin.
    Compare,
    /// How long it takes for the class of the dispatch.
    Time,
}

/// A variant of a kernel, a dispatch that it can run, and what is to be found out.
pub(super) struct Job<'a> {
    pub task: Task,
    pub dispatch: &'a Dispatch,
    pub variant: &'static Variant,
}

impl fmt::Display for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = class(self.dispatch);
        let (kernel, shape) = class.split_once(' ').unwrap_or((&class, ""));
        let variant = if self.variant.name.is_empty() { "portable" } else { self.variant.name };
        match self.task {
            Task::Guess | Task::Compare => write!(f, "comparing {kernel} {variant} with its twin"),
            Task::Time => write!(f, "timing {kernel} {variant}, {shape}"),
        }
    }
}

/// Returns the number of classes among jobs that have variants to time.
pub(super) fn classes(jobs: &[Job<'_>]) -> usize {
    let timed = jobs.iter().filter(|job| job.task == Task::Time);
    timed.map(|job| class(job.dispatch)).collect::<BTreeSet<String>>().len()
}

/// Returns what is not known yet. The variants that are taken where nothing was timed are compared first, so that a run can
/// take them; then class after class, the one with the most work first, the other variants are compared and all are timed, the
/// most promising one first.
pub(super) fn find<'a>(device: &GpuDevice, plan: &'a Plan) -> Vec<Job<'a>> {
    let (has, measured) = (device.has(), device.measured());
    let classes = by_work(device, plan).into_iter();
    let classes: Vec<(&Dispatch, Vec<&'static Variant>)> = classes
        .map(|dispatch| {
            let is_tried = |variant: &&Variant| {
                !measured.refuses(dispatch, variant) && !measured.is_dull(variant.name)
            };
            let variants = by_promise(has, dispatch).into_iter();
            (dispatch, variants.filter(is_tried).collect())
        })
        .collect();
    let mut listed = BTreeSet::new();
    let mut is_open = |dispatch: &Dispatch, variant: &Variant| {
        let is_known = variant.name.is_empty() || measured.verdict(dispatch, variant).is_some();
        !is_known && listed.insert(full_name(dispatch, variant))
    };
    let mut jobs = vec![];
    for (dispatch, variants) in &classes {
        let open = variants.iter().take(1).filter(|variant| is_open(dispatch, variant));
        jobs.extend(open.map(|variant| Job { task: Task::Guess, dispatch, variant }));
    }
    for (dispatch, variants) in &classes {
        let open = variants.iter().filter(|variant| is_open(dispatch, variant));
        jobs.extend(open.map(|variant| Job { task: Task::Compare, dispatch, variant }));
        let timing = measured.timing(dispatch, has);
        let is_timed = |name| timing.is_some_and(|timing| timing.ms.contains_key(name));
        let open = variants.iter().filter(|variant| !is_timed(variant.name));
        jobs.extend(open.map(|variant| Job { task: Task::Time, dispatch, variant }));
    }
    jobs
}

/// Returns a dispatch of each class that has several variants, the most work first.
fn by_work<'a>(device: &GpuDevice, plan: &'a Plan) -> Vec<&'a Dispatch> {
    let mut classes: BTreeMap<String, (u64, &Dispatch)> = BTreeMap::new();
    let several = |d: &&Dispatch| candidates(device.has(), d).nth(1).is_some();
    for dispatch in plan.dispatches.iter().filter(several) {
        let work = classes.entry(class(dispatch)).or_insert((0, dispatch));
        work.0 += (dispatch.kernel.flops)(&dispatch.dims);
        work.0 += FLOPS_PER_BYTE * profile::moved_bytes(dispatch);
        // Replays of generation with few rows and with many share a class; the one with the fewest is timed: it is
        // replayed most.
        if (dispatch.dims.T, dispatch.dims.M) < (work.1.dims.T, work.1.dims.M) {
            work.1 = dispatch;
        }
    }
    let mut classes: Vec<_> = classes.into_values().collect();
    classes.sort_by_key(|(work, _)| Reverse(*work));
    classes.into_iter().map(|(_, dispatch)| dispatch).collect()
}
