//! Profiles of a step: every kernel's time, and its share of the device's best speed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use crate::backend::cpu::{Cpu, Use};
use crate::backend::gpu::{Choice, Gpu, GpuDevice, HOPELESS, Peak, Product, by_promise, choose};
use crate::backend::{Backend, Device};
use crate::clock::Stopwatch;
use crate::config::GptConfig;
use crate::error::Result;
use crate::graph::Graph;
use crate::kernel::{Access, Step, Variant};
use crate::math::bf16;
use crate::ops::matmul::Layout;
use crate::params::{ParamInfo, ParamRole};
use crate::plan::{BufferSpec, Dispatch, Limits, Phase, Plan, Role};
use crate::timeline::{self, Activity};

/// Edges of the square products that measure the device's best: the first that takes long enough is used, or the last.
const EDGES: [usize; 4] = [512, 1024, 2048, 4096];
/// The least time of a product for its measurement to be reliable.
const LONG_ENOUGH_MS: f64 = 5.0;
/// Runs of each product; the fastest counts.
const RUNS: usize = 3;

/// The times of all dispatches since profiling began.
#[derive(Clone, Debug)]
pub struct Profile {
    clock: Stopwatch,
    kernels: BTreeMap<&'static str, Sum>,
    spans: Vec<Span>,
    activities: Vec<timeline::Span>,
    half: bool,
}

/// The totals of all dispatches of a kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    calls: u64,
    ms: f64,
    flops: u64,
    bytes: u64,
}

/// One dispatch on the time line, in milliseconds since profiling began.
#[derive(Clone, Copy, Debug)]
struct Span {
    kernel: &'static str,
    start_ms: f64,
    ms: f64,
}

/// A kernel's line in the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The kernel.
    pub kernel: &'static str,
    /// Dispatches per step.
    pub calls: f64,
    /// Milliseconds per step.
    pub ms: f64,
    /// The share of the step's time on the clock.
    pub share: f64,
    /// Floating-point operations per second, in 10⁹.
    pub gflops: f64,
    /// Bytes read and written per second, each element once, in 10⁹.
    pub gb_per_s: f64,
    /// The share of the device's measured best: of its products or of its memory, whichever share is larger.
    pub of_peak: f64,
}

/// The table: the times of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Milliseconds per step on the clock, without timing of kernels.
    pub step_ms: f64,
    /// The sum of the kernels' times.
    pub kernels_ms: f64,
    /// The rest of the time: dispatching, waiting, the host's own work.
    pub overhead_ms: f64,
    /// The device's measured best.
    pub peak: Peak,
    /// The kernels, the longest first.
    pub rows: Vec<Row>,
}

impl Profile {
    /// Creates an empty profile of a plan.
    pub fn new(plan: &Plan) -> Profile {
        let is_half = |b: &BufferSpec| b.role == Role::Activations && b.format.block_bytes == 2;
        let half = plan.buffers.iter().any(is_half);
        Profile {
            clock: Stopwatch::start(),
            kernels: BTreeMap::new(),
            spans: vec![],
            activities: vec![],
            half,
        }
    }

    /// Returns the clock that started when the profile was created.
    pub fn clock(&self) -> Stopwatch {
        self.clock
    }

    /// Returns what was done when, in order, in seconds of [`Profile::clock`].
    pub fn activities(&self) -> &[timeline::Span] {
        &self.activities
    }

    /// Records that something took the time from `start_s` until now, in seconds of [`Profile::clock`].
    pub(crate) fn record(&mut self, activity: Activity, start_s: f64) {
        let seconds = self.clock.seconds() - start_s;
        self.activities.push(timeline::Span { activity, start_s, seconds });
    }

    /// Runs some dispatches and records the times of its kernels.
    pub(crate) fn run(
        &mut self,
        backend: &mut dyn Backend,
        plan: &Plan,
        range: Range<usize>,
        step: &Step,
    ) {
        if range.is_empty() {
            return;
        }
        let start_s = self.clock.seconds();
        let times = backend.run_timed(range.clone(), step);
        let mut phases = plan.phases.iter().filter(|(_, phase)| phase.contains(&range.start));
        let phase = phases.next().map_or(Phase::Forward, |(phase, _)| *phase);
        self.record(Activity::of(phase), start_s);
        let mut start_ms = 1e3 * start_s;
        for (dispatch, ms) in plan.dispatches[range].iter().zip(times) {
            let kernel = dispatch.kernel.name;
            let sum = self.kernels.entry(kernel).or_default();
            sum.calls += 1;
            sum.ms += ms;
            sum.flops += (dispatch.kernel.flops)(&dispatch.dims);
            sum.bytes += moved_bytes(dispatch);
            self.spans.push(Span { kernel, start_ms, ms });
            start_ms += ms;
        }
    }

    /// Returns the table of `steps` profiled steps, each of which takes `step_ms` on the clock without timing of
    /// kernels.
    pub fn report(&self, steps: u32, step_ms: f64, peak: Peak) -> Report {
        let steps = f64::from(steps.max(1));
        let best = peak.of(self.half);
        let row = |(kernel, sum): (&&'static str, &Sum)| {
            let per_second = |count: u64| count as f64 / (sum.ms * 1e6).max(1e-9);
            let (gflops, gb_per_s) = (per_second(sum.flops), per_second(sum.bytes));
            Row {
                kernel,
                calls: sum.calls as f64 / steps,
                ms: sum.ms / steps,
                share: sum.ms / steps / step_ms,
                gflops,
                gb_per_s,
                of_peak: (gflops / best).max(gb_per_s / peak.gb_per_s),
            }
        };
        let mut rows: Vec<Row> = self.kernels.iter().map(row).collect();
        rows.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        let kernels_ms = rows.iter().map(|row| row.ms).sum();
        Report { step_ms, kernels_ms, overhead_ms: step_ms - kernels_ms, peak, rows }
    }

    /// Returns the time line in the Trace Event Format, which Perfetto and Chrome's tracing show.
    pub fn trace(&self) -> Value {
        json!({ "traceEvents": self.kernel_events(1), "displayTimeUnit": "ms" })
    }

    /// Returns the time line of several ranks in the Trace Event Format: a process for each rank, with a row for its device
    /// and one for what is under way with the others; the first rank, whose profile this is, has one for the kernels, too.
    /// The spans are on [`Profile::clock`].
    pub fn trace_of_ranks(&self, ranks: &[Vec<timeline::Span>]) -> Value {
        const ROWS: [&str; 3] = ["computing", "kernels", "exchange"];
        let mut events = vec![];
        for (rank, spans) in ranks.iter().enumerate() {
            let name = |what: &str, tid: usize, name: &str| json!({ "name": what, "ph": "M", "pid": rank, "tid": tid, "args": { "name": name } });
            events.push(name("process_name", 0, &format!("rank {rank}")));
            let rows = ROWS.iter().enumerate().filter(|(tid, _)| rank == 0 || *tid != 1);
            events.extend(rows.map(|(tid, row)| name("thread_name", tid, row)));
            events.extend(spans.iter().map(|span| {
                let tid = if span.activity == Activity::Transfer { 2 } else { 0 };
                json!({
                    "name": span.activity.name(), "cat": "rank", "ph": "X", "pid": rank, "tid": tid,
                    "ts": span.start_s * 1e6, "dur": span.seconds * 1e6,
                })
            }));
        }
        events.extend(self.kernel_events(0));
        json!({ "traceEvents": events, "displayTimeUnit": "ms" })
    }

    fn kernel_events(&self, pid: usize) -> Vec<Value> {
        let event = |span: &Span| {
            json!({
                "name": span.kernel, "cat": "kernel", "ph": "X", "pid": pid, "tid": 1,
                "ts": span.start_ms * 1e3, "dur": span.ms * 1e3,
            })
        };
        self.spans.iter().map(event).collect()
    }
}

impl Peak {
    /// Returns the best speed of products, in 10⁹ operations per second; in half precision if `half` and if that is
    /// faster.
    pub fn of(&self, half: bool) -> f64 {
        self.half_gflops.filter(|_| half).map_or(self.gflops, |half| half.max(self.gflops))
    }
}

/// Returns the bytes that a dispatch reads and writes, each element once.
pub fn moved_bytes(dispatch: &Dispatch) -> u64 {
    let args = dispatch.kernel.args.iter().zip(&dispatch.args);
    args.map(|(arg, view)| {
        let times = if arg.access == Access::Mut { 2 } else { 1 };
        times * view.bytes()
    })
    .sum()
}

/// Returns the floating-point operations that training on a token takes: 6 per parameter that a product uses, and the
/// causal half of attention's products. Recomputation to save memory does not count.
pub fn flops_per_token<'a>(
    config: &GptConfig,
    parameters: impl Iterator<Item = &'a ParamInfo>,
    seq: usize,
) -> f64 {
    // Where the head has a table of its own, no product uses that of the tokens.
    let is_used = |role| match role {
        ParamRole::PositionTable => false,
        ParamRole::TokenTable => config.blocks.is_tied,
        _ => true,
    };
    let used: usize = parameters.filter(|param| is_used(param.role)).map(|param| param.len()).sum();
    let width = config.n_head * config.head_size();
    6.0 * used as f64 + 6.0 * (config.n_layer * width * seq) as f64
}

/// Returns the best speeds of a device: those of a large product with its fastest variant, also in half precision if `half`,
/// and of a copy. A GPU with a cache folder is measured only once.
///
/// # Errors
///
/// If the device has no room for the measurement, or is lost.
pub fn peak(device: &Device, half: bool) -> Result<Peak> {
    let half = half && has_fast_half(device);
    let Device::Gpu(gpu) = device else { return Ok(cpu_peak(half)) };
    let half_gflops = half.then(|| gpu_gflops(gpu, true, Among::Sound)).transpose()?;
    let gflops = gpu_gflops(gpu, false, Among::Sound)?;
    let kept = gpu.measured().best.gb_per_s;
    let gb_per_s = kept.map_or_else(|| gpu.copy_gb_per_s(), Ok)?;
    gpu.measured().best.gb_per_s = Some(gb_per_s);
    // If the file cannot be written, the speeds are measured again at the next start, and nothing else is lost.
    let _ = gpu.save_measured();
    Ok(Peak { gflops, half_gflops, gb_per_s })
}

/// Returns the best speed of a device's products, in 10⁹ operations per second, in half precision if `half` and if that
/// is faster: [`Peak::of`], without the time that measuring the memory would take. On a GPU only the variant is measured that a
/// run which begins now would take, so that nothing else is compiled; `None` if there was no time to compare the most promising
/// one with its twin.
///
/// # Errors
///
/// As [`peak`].
pub fn best_gflops(device: &Device, half: bool) -> Result<Option<f64>> {
    let precisions: &[bool] = if half && has_fast_half(device) { &[false, true] } else { &[false] };
    let Device::Gpu(gpu) = device else {
        return Ok(precisions.iter().map(|half| cpu_gflops(*half)).reduce(f64::max));
    };
    let mut best: Option<f64> = None;
    for half in precisions.iter().copied().filter(|half| is_compared(gpu, *half)) {
        let gflops = gpu_gflops(gpu, half, Among::Taken)?;
        best = Some(best.map_or(gflops, |best| best.max(gflops)));
    }
    let _ = gpu.save_measured();
    Ok(best)
}

/// Whether products in half precision may be the fastest: on a CPU not by loops.
fn has_fast_half(device: &Device) -> bool {
    match device {
        Device::Cpu => bf16::is_fast(),
        Device::Gpu(_) => device.has_half(),
    }
}

/// Whether the most promising variant of a large product was compared with its twin.
fn is_compared(device: &GpuDevice, half: bool) -> bool {
    let plan = square(device.limits(), EDGES[0], half);
    let promising = by_promise(device.has(), &plan.dispatches[0])[0];
    promising.name.is_empty() || device.measured().verdict(&plan.dispatches[0], promising).is_some()
}

/// The variants of a product whose fastest one is the device's best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Among {
    /// The one that a run would take which begins now.
    Taken,
    /// All that are not known to be wrong or dull.
    Sound,
}

/// Returns the plan of a square product.
fn product(limits: Limits, edge: usize) -> Plan {
    let mut g = Graph::new(limits, false, 1e-5);
    let [a, b] = ["a", "b"].map(|name| g.input(name, edge * edge));
    g.matmul("product", Layout::NN, [edge; 3], a, b);
    g.record_forward(Phase::Forward);
    g.plan
}

/// Returns the plan of a square product, in half precision if `half`.
fn square(limits: Limits, edge: usize, half: bool) -> Plan {
    let plan = product(limits, edge);
    if half { plan.halved(limits.half) } else { plan }
}

/// Returns the operations per second of products with the fastest variant, in 10⁹: as measured before, if that was among all
/// these variants.
fn gpu_gflops(device: &Arc<GpuDevice>, half: bool, among: Among) -> Result<f64> {
    let plan = |edge| square(device.limits(), edge, half);
    let variants = |plan: &Plan| -> Vec<&'static Variant> {
        let (dispatch, measured) = (&plan.dispatches[0], device.measured());
        let counts = |variant: &&Variant| {
            !measured.refuses(dispatch, variant) && !measured.is_dull(variant.name)
        };
        match among {
            Among::Sound => by_promise(device.has(), dispatch).into_iter().filter(counts).collect(),
            Among::Taken => {
                let choices = measured.compared_choices(plan, device.has());
                vec![choose(Choice::Chosen(&choices), device.has(), dispatch)]
            }
        }
    };
    let names = |edge| variants(&plan(edge)).into_iter().map(|variant| variant.name.to_owned());
    let kept = device.measured().best.product(half).clone();
    if let Some(kept) = kept.filter(|kept| names(EDGES[0]).all(|name| kept.among.contains(&name))) {
        return Ok(kept.gflops);
    }
    let mut best = Product { gflops: 0.0, among: names(EDGES[0]).collect() };
    for edge in EDGES {
        let plan = Arc::new(plan(edge));
        let mut least_ms = f64::INFINITY;
        for variant in variants(&plan) {
            let mut gpu = Gpu::with(device, Arc::clone(&plan), Choice::Named(variant.name))?;
            least_ms = least_ms.min(fastest_ms(&mut gpu, least_ms));
            gpu.wait()?;
        }
        best.gflops = best.gflops.max(product_gflops(edge, least_ms));
        if least_ms >= LONG_ENOUGH_MS {
            break;
        }
    }
    let gflops = best.gflops;
    *device.measured().best.product(half) = Some(best);
    Ok(gflops)
}

fn product_gflops(edge: usize, ms: f64) -> f64 {
    2.0 * (edge as f64).powi(3) / (ms * 1e6)
}

/// Returns the fastest time of a plan's only dispatch, after a warm-up run; infinite if no time was measured, or if the first
/// run shows that there is no hope of a time below `least_ms`.
fn fastest_ms(backend: &mut dyn Backend, least_ms: f64) -> f64 {
    let mut run = |_| backend.run_timed(0..1, &Step::default()).into_iter().sum::<f64>();
    run(0);
    let first = run(0);
    let runs = if first > HOPELESS * least_ms { 0 } else { RUNS - 1 };
    let all = [first].into_iter().chain((0..runs).map(run));
    all.filter(|ms| *ms > 0.0).fold(f64::INFINITY, f64::min)
}

fn cpu_gflops(half: bool) -> f64 {
    const EDGE: usize = 1024;
    let mut cpu = Cpu::<f32>::new(Arc::new(square(Limits::CPU, EDGE, half)), Use::Kernels);
    product_gflops(EDGE, fastest_ms(&mut cpu, f64::INFINITY))
}

fn cpu_peak(half: bool) -> Peak {
    let gflops = cpu_gflops(false);
    let half_gflops = half.then(|| cpu_gflops(true));
    let from = vec![1_u8; 64 << 20];
    let mut to = vec![0_u8; from.len()];
    let mut copy = |_| {
        let clock = Stopwatch::start();
        let pieces = to.par_chunks_mut(1 << 20).zip(from.par_chunks(1 << 20));
        pieces.for_each(|(to, from)| to.copy_from_slice(from));
        2.0 * from.len() as f64 / clock.seconds() * 1e-9
    };
    copy(0);
    Peak { gflops, half_gflops, gb_per_s: (0..RUNS).map(copy).fold(0.0, f64::max) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Dims, Format, Kernel, changes, reads};
    use crate::ops::cast;
    use crate::plan::Role;

    #[test]
    fn what_is_changed_in_place_is_read_and_written() {
        let mut plan = Plan::default();
        let [x, y] = ["x", "y"].map(|name| plan.buffer(Role::Activations, name, 100, Format::F32));
        let both = [reads("x"), changes("y")];
        let dispatch = |kernel| Dispatch { kernel, dims: Dims::default(), args: vec![x, y] };
        let kernel = Box::leak(Box::new(Kernel { args: both.to_vec().leak(), ..cast::FORWARD }));
        assert_eq!(moved_bytes(&dispatch(kernel)), 100 * 4 * 3);
    }

    #[test]
    fn a_profile_adds_up() {
        let plan = Arc::new(product(Limits::NONE, 64));
        let mut cpu = Cpu::<f32>::new(Arc::clone(&plan), Use::Kernels);
        let mut profile = Profile::new(&plan);
        for _ in 0..4 {
            profile.run(&mut cpu, &plan, plan.phase(Phase::Forward), &Step::default());
        }
        let peak = Peak { gflops: 100.0, half_gflops: Some(300.0), gb_per_s: 10.0 };
        let report = profile.report(2, 50.0, peak);
        let [row] = &report.rows[..] else { panic!("one kernel: {report:?}") };
        assert_eq!((row.kernel, row.calls), ("matmul_nn", 2.0));
        assert!(row.ms > 0.0 && (row.ms - report.kernels_ms).abs() <= 1e-9);
        assert!((report.overhead_ms + report.kernels_ms - 50.0).abs() <= 1e-9);
        assert!((row.share - row.ms / 50.0).abs() <= 1e-9);
        let gflops = 2.0 * 2.0 * 64f64.powi(3) / (row.ms * 1e6);
        assert!((row.gflops - gflops).abs() <= 1e-6 * gflops, "{row:?}");
        let bytes_rate = 2.0 * 3.0 * 4.0 * 64.0 * 64.0 / (row.ms * 1e6);
        assert!((row.gb_per_s - bytes_rate).abs() <= 1e-6 * bytes_rate, "{row:?}");
        let events = profile.trace()["traceEvents"].as_array().unwrap().clone();
        assert_eq!(events.len(), 4);
        let ends = events.windows(2).all(|pair| pair[0]["ts"].as_f64() < pair[1]["ts"].as_f64());
        assert!(ends && events.iter().all(|e| e["dur"].as_f64().is_some_and(|us| us > 0.0)));
        assert_eq!((peak.of(false), peak.of(true)), (100.0, 300.0));
    }

    #[test]
    fn gpt2_takes_what_its_paper_says() {
        // The blocks have 85 million parameters and the head has 38.6 million, of 124 million with the positions.
        let config = GptConfig::gpt2();
        let all = crate::model::schema(&config, &crate::FineTune::default());
        let flops = flops_per_token(&config, all.own(), 1024);
        assert!((flops / 6.0 - (123_653_376.0 + 12.0 * 768.0 * 1024.0)).abs() < 1.0, "{flops}");
    }

    #[test]
    fn the_cpu_has_a_best() {
        let peak = peak(&Device::Cpu, false).unwrap();
        assert!(peak.gflops > 0.1 && peak.gb_per_s > 0.1, "{peak:?}");
        assert!(peak.gflops.is_finite() && peak.gb_per_s.is_finite(), "{peak:?}");
    }
}
