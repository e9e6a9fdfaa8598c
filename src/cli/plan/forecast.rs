//! `wgpt plan --link`: what an update on several ranks takes, from measurements of this device.

use std::time::Instant;

use serde::Serialize;
use wgpt::backend::Device;
use wgpt::dist::{Forecast, Layout, LinkSpeed, Measured, forecast};
use wgpt::engine::Engine;
use wgpt::kernel::Step;
use wgpt::model::Program;
use wgpt::plan::Phase;
use wgpt::{GptConfig, Result, TrainConfig, tree};

use crate::cli::{number, output};

/// Updates that are measured, after one that is not.
const MEASURED: usize = 3;

/// The printed forecast.
#[derive(Serialize)]
pub struct Report {
    ranks: usize,
    link_bytes_per_s: f64,
    /// How many ranks compute at the same time on each core of this machine, if they share its cores.
    sharing: f64,
    /// Bytes that each rank sends per update.
    sent_bytes: u64,
    compute_ms: f64,
    exchange_ms: f64,
    hidden_ms: f64,
    step_ms: f64,
    tokens_per_s: f64,
}

/// Measures an update on this device, and forecasts it on several ranks over a link.
///
/// # Errors
///
/// If the device cannot hold the program, or is lost.
pub fn of(
    program: &Program,
    (train, model): (&TrainConfig, &GptConfig),
    device: &Device,
    link: LinkSpeed,
) -> Result<Report> {
    let ranks = train.ranks;
    let shares: Vec<_> =
        (0..ranks).map(|rank| tree::share(train.grad_accum, rank, ranks)).collect();
    let layout = Layout::new(program, &shares, train.sum);
    let mut engine = Engine::with(program.clone(), device)?;
    engine.initialize(0);
    let alone = measure(&mut engine, model)?;
    // Ranks on one machine share its cores.
    let sharing = match device {
        Device::Cpu => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (ranks * rayon::current_num_threads()) as f64 / cores as f64
        }
        Device::Gpu(_) => 1.0,
    };
    let slower = sharing.max(1.0);
    let measured = Measured {
        forward_s: alone.forward_s * slower,
        backward_s: alone.backward_s * slower,
        update_s: alone.update_s * slower,
    };
    let Forecast { sent_bytes, exchange_s, hidden_s, step_s } =
        forecast(program, &layout, &shares, measured, link);
    let Measured { forward_s, backward_s, update_s } = measured;
    let compute_s = shares[0].len() as f64 * (forward_s + backward_s) + update_s;
    let tokens = (program.uses.batch * program.uses.seq * train.grad_accum) as f64;
    Ok(Report {
        ranks,
        link_bytes_per_s: link.bytes_per_s,
        sharing: slower,
        sent_bytes,
        compute_ms: 1e3 * compute_s,
        exchange_ms: 1e3 * exchange_s,
        hidden_ms: 1e3 * hidden_s,
        step_ms: 1e3 * step_s,
        tokens_per_s: tokens / step_s,
    })
}

/// Measures the parts of an update: the medians of some.
fn measure(engine: &mut Engine, model: &GptConfig) -> Result<Measured> {
    let uses = engine.program().uses;
    let rows = uses.batch * uses.seq;
    let ids: Vec<u32> = (0..=rows as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) % model.vocab_size as u32)
        .collect();
    let mut times: Vec<[f64; 3]> = vec![];
    for _ in 0..=MEASURED {
        let clock = Instant::now();
        let step = Step { learning_rate: 1e-9, ..Step::default() };
        engine.train_batch(&ids[..rows], &ids[1..], (0, rows), step);
        engine.read_loss()?;
        let passes_s = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        engine.run_update_alone(&step);
        engine.read_update()?;
        let update_s = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let ticket = engine.request_row_losses(&ids[..rows], &ids[1..]);
        engine.take_row_losses(ticket)?;
        times.push([passes_s, update_s, clock.elapsed().as_secs_f64()]);
    }
    let median = |of: usize| {
        let mut all: Vec<f64> = times[1..].iter().map(|times| times[of]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (passes_s, update_s, forward_s) = (median(0), median(1), median(2));
    let head = share_of_head(engine);
    let forward_s = forward_s * (1.0 - head);
    Ok(Measured { forward_s, backward_s: passes_s - forward_s, update_s })
}

/// The share of an evaluation's operations that its head takes, which the backward pass of training computes.
fn share_of_head(engine: &Engine) -> f64 {
    let plan = &engine.program().plan;
    let flops = |phase| -> f64 {
        let dispatches = &plan.dispatches[plan.phase(phase)];
        dispatches.iter().map(|dispatch| (dispatch.kernel.flops)(&dispatch.dims) as f64).sum()
    };
    let (forward, head) = (flops(Phase::Forward), flops(Phase::Evaluate));
    head / (forward + head)
}

/// Prints a forecast.
pub fn show(report: &Report) {
    let ms = |ms: f64| format!("{ms:.1} ms");
    let row = |name: &str, value: String| [name.to_owned(), value];
    let rows = vec![
        row("sent by each rank", number::bytes(report.sent_bytes)),
        row("computation", ms(report.compute_ms)),
        row("exchange", ms(report.exchange_ms)),
        row("of it hidden", ms(report.hidden_ms)),
        row("update", ms(report.step_ms)),
        row("tokens/s, all ranks", number::rate(report.tokens_per_s)),
    ];
    let rate = number::bytes(report.link_bytes_per_s as u64);
    let head = format!("forecast of an update on {} ranks, {rate}/s", report.ranks);
    output::line(&output::table([head.as_str(), ""], &[0], rows));
    if report.sharing > 1.0 {
        output::line(&format!(
            "the ranks share this machine's cores, so that each computes {:.1} times as long as alone",
            report.sharing
        ));
    }
}
