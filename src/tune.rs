//! Tuning: finds the fastest variant of each kernel on this adapter by measurement.
//!
//! Dispatches are timed by class ([`class`]): each variant that the adapter can run, alone, on buffers of the
//! dispatch's own sizes. Before that each variant is compared with its twin; one that differs is never used. The
//! results are kept in the device's cache folder ([`Measured`]) for the next start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::gpu::{Choice, Gpu, GpuDevice, Measured, Notice, candidates, class};
use crate::backend::{Backend, Device};
use crate::check::verify::{self, Row};
use crate::clock::Stopwatch;
use crate::error::Result;
use crate::kernel::rows::{self, Place};
use crate::kernel::{Draw, Kernel, Step, Variant};
use crate::plan::{Dispatch, Plan, Role, View};

/// The longest time that a start may spend on timing; the rest is left for the next start.
pub const BUDGET: Duration = Duration::from_secs(3);

/// The longest time of the runs of one variant, beyond the first two.
const SAMPLING: Duration = Duration::from_millis(100);
/// The most timed runs of a variant, after a warm-up run.
const SAMPLES: usize = 7;

/// The amount of tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Only classes that are not measured yet, within [`BUDGET`].
    Missing,
    /// All classes, without a time limit.
    All,
}

/// Measures which variants of a plan's kernels are fast on a device, and keeps the result in the device's cache folder.
/// Does nothing on a device whose choices are already fixed ([`GpuDevice::with_choices`]).
///
/// # Errors
///
/// If the device is lost.
pub fn tune(
    device: &Arc<GpuDevice>,
    plan: &Plan,
    effort: Effort,
    on_notice: &mut dyn FnMut(Notice),
) -> Result<()> {
    if let Some(notice) = device.cache_notice() {
        on_notice(notice);
    }
    if device.is_settled() {
        return Ok(());
    }
    if effort == Effort::All {
        let mut measured = device.measured();
        *measured = Measured::new(std::mem::take(&mut measured.adapter));
    }
    let classes = unknown(device, plan);
    if classes.is_empty() {
        return Ok(());
    }
    on_notice(Notice::Tuning { device: device.name().to_owned(), classes: classes.len() });
    compare(device, plan, on_notice)?;
    let clock = Stopwatch::start();
    for dispatch in classes {
        if effort == Effort::Missing && clock.elapsed() > BUDGET {
            break;
        }
        // If a dispatch cannot be timed alone, for lack of memory, the default variant is kept.
        if let Ok(ms) = time(device, dispatch) {
            device.measured().learn(dispatch, device.has(), ms);
        }
    }
    if let Err(error) = device.save_measured() {
        on_notice(Notice::NotKept { cause: error.to_string() });
    }
    Ok(())
}

/// Returns a dispatch of each class that has several sound variants and was not timed, the most work first.
fn unknown<'a>(device: &GpuDevice, plan: &'a Plan) -> Vec<&'a Dispatch> {
    let measured = device.measured();
    let mut classes: BTreeMap<String, (u64, &Dispatch)> = BTreeMap::new();
    for dispatch in plan.dispatches.iter().filter(|d| candidates(device.has(), d).nth(1).is_some())
    {
        let work = classes.entry(class(dispatch)).or_insert((0, dispatch));
        work.0 += (dispatch.kernel.flops)(&dispatch.dims);
        // Replays of generation with few rows and with many share a class; the one with the fewest is timed: it is
        // replayed most.
        if (dispatch.dims.T, dispatch.dims.M) < (work.1.dims.T, work.1.dims.M) {
            work.1 = dispatch;
        }
    }
    let mut classes: Vec<_> = classes.into_values().collect();
    classes.retain(|(_, dispatch)| measured.timing(dispatch, device.has()).is_none());
    classes.sort_by_key(|(work, _)| std::cmp::Reverse(*work));
    classes.into_iter().map(|(_, dispatch)| dispatch).collect()
}

/// Compares the variants that were not compared yet with their twins, over the tiny models of `wgpt verify`.
fn compare(device: &Arc<GpuDevice>, plan: &Plan, on_notice: &mut dyn FnMut(Notice)) -> Result<()> {
    let mut open: BTreeMap<&str, BTreeMap<&str, (&Dispatch, &Variant)>> = BTreeMap::new();
    for dispatch in &plan.dispatches {
        for variant in candidates(device.has(), dispatch).skip(1) {
            if device.measured().verdict(dispatch, variant).is_none() {
                let of_name = open.entry(variant.name).or_default();
                of_name.insert(dispatch.kernel.name, (dispatch, variant));
            }
        }
    }
    for (name, kernels) in open {
        let all: Vec<&'static Kernel> = kernels.values().map(|(d, _)| d.kernel).collect();
        let together = verified(device, name, &all)?;
        for (kernel, (dispatch, variant)) in kernels {
            // If one does not compile, the others are still compared.
            let found = match &together {
                Err(_) if all.len() > 1 => &verified(device, name, &[dispatch.kernel])?,
                found => found,
            };
            let fault = match found {
                Ok(rows) => fault(rows.iter().find(|row| row.kernel == kernel)),
                Err(error) => Some(error.to_string()),
            };
            if let Some(fault) = &fault {
                let variant = format!("{kernel} {name}");
                on_notice(Notice::Refused { variant, fault: fault.clone() });
            }
            device.measured().judge(dispatch, variant, fault);
        }
    }
    Ok(())
}

/// Compares the variant `name` of some kernels; returns the results, or the reason why it cannot be compared.
///
/// # Errors
///
/// If the device is lost, which is no variant's fault.
fn verified(
    device: &Arc<GpuDevice>,
    name: &str,
    kernels: &[&'static Kernel],
) -> Result<Result<Vec<Row>>> {
    let found = verify::verify_variant(&Device::Gpu(Arc::clone(device)), name, kernels);
    match found {
        Err(error) if device.is_lost() => Err(error),
        found => Ok(found),
    }
}

/// Returns the fault of a variant, if it has one; a variant that was not compared is not known to be right.
fn fault(row: Option<&Row>) -> Option<String> {
    match row {
        Some(row) if row.passes() => None,
        Some(row) if row.dispatches > 0 => {
            Some(format!("error {:.1e} of {:.0e}, {}", row.error, row.tolerance, row.place))
        }
        _ => Some("it was not compared".to_owned()),
    }
}

/// Returns the milliseconds that each sound variant takes for a dispatch, by name.
fn time(device: &Arc<GpuDevice>, dispatch: &Dispatch) -> Result<BTreeMap<String, f64>> {
    let mut times = BTreeMap::new();
    let plan = Arc::new(alone(dispatch));
    for variant in candidates(device.has(), dispatch) {
        if device.measured().refuses(dispatch, variant) {
            continue;
        }
        let mut gpu = Gpu::with(device, Arc::clone(&plan), Choice::Named(variant.name))?;
        write_rows(&mut gpu, dispatch);
        times.insert(variant.name.to_owned(), median_ms(&mut gpu, &Step::default())?);
    }
    Ok(times)
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

/// Returns the median time of some runs of a plan, after a warm-up run.
fn median_ms(gpu: &mut Gpu, step: &Step) -> Result<f64> {
    let all = 0..gpu.plan().dispatches.len();
    let mut ms: Vec<f64> = vec![];
    gpu.run_timed(all.clone(), step);
    let clock = Stopwatch::start();
    while ms.is_empty() || (ms.len() < SAMPLES && clock.elapsed() < SAMPLING) {
        ms.push(gpu.run_timed(all.clone(), step).iter().sum());
    }
    gpu.wait()?;
    ms.sort_by(f64::total_cmp);
    Ok(ms[ms.len() / 2])
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
