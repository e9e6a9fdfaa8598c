//! The time that a variant takes for a dispatch.

use std::sync::Arc;
use std::time::Duration;

use super::jobs::Job;
use crate::backend::Backend;
use crate::backend::gpu::{Choice, Gpu, GpuDevice, HOPELESS, Timing};
use crate::clock::Stopwatch;
use crate::error::Result;
use crate::kernel::rows::{self, Place};
use crate::kernel::{Draw, Step};
use crate::plan::{Dispatch, Plan, Role, View};

/// The longest time of the runs of one variant, beyond the first two.
const SAMPLING: Duration = Duration::from_millis(30);
/// The most timed runs of a variant, after a warm-up run.
const SAMPLES: usize = 7;

/// Measures the time of a variant for the class of a dispatch and stores it, unless the variant is not sound or dull.
pub(super) fn learn(device: &Arc<GpuDevice>, job: &Job<'_>) {
    let (dispatch, variant, has) = (job.dispatch, job.variant, device.has());
    let best_ms = {
        let measured = device.measured();
        if !measured.is_sound(dispatch, variant) || measured.is_dull(variant.name) {
            return;
        }
        measured.timing(dispatch, has).and_then(Timing::best_ms)
    };
    // If a dispatch cannot be timed alone, for lack of memory, the default variant is kept.
    if let Ok(ms) = shortest_ms(device, job, best_ms) {
        device.measured().learn(dispatch, has, variant, ms);
    }
}

/// Returns the shortest time of some runs, after a warm-up run, during which some drivers compile; if the first of them shows
/// that the variant is hopeless, it is the only one. What else runs on a machine makes a run longer and never shorter, and of a
/// slow kernel there are two runs.
fn shortest_ms(device: &Arc<GpuDevice>, job: &Job<'_>, best_ms: Option<f64>) -> Result<f64> {
    let plan = Arc::new(alone(job.dispatch));
    let mut gpu = Gpu::with(device, plan, Choice::Named(job.variant.name))?;
    write_rows(&mut gpu, job.dispatch);
    let mut run = || -> Result<f64> {
        let ms = gpu.run_timed(0..1, &Step::default()).iter().sum();
        gpu.wait()?;
        Ok(ms)
    };
    run()?;
    let clock = Stopwatch::start();
    let mut shortest = run()?;
    let is_hopeless = best_ms.is_some_and(|best_ms| shortest > HOPELESS * best_ms);
    let mut samples = 1;
    while !is_hopeless && samples < SAMPLES && clock.elapsed() < SAMPLING {
        shortest = shortest.min(run()?);
        samples += 1;
    }
    Ok(shortest)
}

/// Places the rows of generation in the middle of a context, their average position; every slot draws a token.
fn write_rows(gpu: &mut Gpu, dispatch: &Dispatch) {
    let middle = dispatch.dims.S.saturating_sub(dispatch.dims.T) / 2;
    for (arg, index) in dispatch.kernel.args.iter().zip(0..) {
        let view = View { buffer: index, start: 0, ..dispatch.args[index] };
        let words: Vec<u32> = match arg.name {
            "rows" => {
                let place = |t| Place { slot: 0, position: middle as usize + t, first_key: 0 };
                (0..view.len / rows::ROW_WORDS).flat_map(|t| place(t).words()).collect()
            }
            "slots" => {
                let count = view.len / rows::slot::WORDS;
                (0..count).flat_map(|_| Draw::default().words(0)).collect()
            }
            _ => continue,
        };
        gpu.write_u32(view, &words);
    }
}

/// Returns a plan with one dispatch, with a buffer for each argument.
fn alone(dispatch: &Dispatch) -> Plan {
    let mut plan = Plan::default();
    let args = dispatch
        .args
        .iter()
        .zip(dispatch.kernel.args)
        .map(|(view, arg)| plan.buffer(Role::Activations, arg.name, view.len, view.format));
    let args: Vec<_> = args.collect();
    plan.push(dispatch.kernel, dispatch.dims, &args);
    plan
}
