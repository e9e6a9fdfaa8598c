//! `wgpt plan --link`: what an update on several ranks takes, from measurements of this machine.

use serde::Serialize;
use wgpt::backend::Device;
use wgpt::dist::{Forecast, Layout, LinkSpeed, Measured, forecast};
use wgpt::model::Program;
use wgpt::{Error, Result, TrainConfig, tree};

use super::measure::Here;
use crate::cli::{number, output};

/// The printed forecast.
#[derive(Serialize)]
pub struct Report {
    ranks: usize,
    /// How many of the ranks are on this machine, and the threads of each.
    ranks_here: usize,
    threads: usize,
    link_bytes_per_s: f64,
    /// Bytes that each rank sends per update.
    sent_bytes: u64,
    compute_ms: f64,
    /// Copies between the device and the host.
    copy_ms: f64,
    exchange_ms: f64,
    hidden_ms: f64,
    step_ms: f64,
    tokens_per_s: f64,
}

/// The ranks of a run that are on this machine: as many as are given, or else all of them on a CPU, and one on a GPU. Unless
/// `threads` are given, they share its cores.
///
/// # Errors
///
/// If more are given than the run has.
pub fn here(
    train: &TrainConfig,
    given: Option<u32>,
    threads: Option<usize>,
    device: &Device,
) -> Result<Here> {
    let all = train.ranks;
    let ranks = match (given, device) {
        (Some(given), _) => given as usize,
        (None, Device::Cpu) => all,
        (None, Device::Gpu(_)) => 1,
    };
    if ranks > all {
        return Err(Error::usage(format!(
            "--ranks-here is {ranks}, must be at most --ranks, {all}"
        ))
        .hint("give how many of the ranks share this machine"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Here { ranks, threads: threads.unwrap_or((cores / ranks).max(1)) })
}

/// Measures an update on this machine, and forecasts it on several ranks over a link.
///
/// # Errors
///
/// If the machine cannot hold the program as often as it has ranks, or the device is lost.
pub fn of(
    program: &Program,
    train: &TrainConfig,
    device: &Device,
    here: Here,
    link: LinkSpeed,
) -> Result<Report> {
    let ranks = train.ranks;
    let shares: Vec<_> =
        (0..ranks).map(|rank| tree::share(train.grad_accum, rank, ranks)).collect();
    let layout = Layout::new(program, &shares, train.sum);
    let measured = here.measure(program, device)?;
    let Forecast { sent_bytes, copy_s, exchange_s, hidden_s, step_s } =
        forecast(program, &layout, &shares, measured, link);
    let Measured { forward_s, backward_s, update_s, .. } = measured;
    let compute_s = shares[0].len() as f64 * (forward_s + backward_s) + update_s;
    let tokens = (program.uses.batch * program.uses.seq * train.grad_accum) as f64;
    Ok(Report {
        ranks,
        ranks_here: here.ranks,
        threads: here.threads,
        link_bytes_per_s: link.bytes_per_s,
        sent_bytes,
        compute_ms: 1e3 * compute_s,
        copy_ms: 1e3 * copy_s,
        exchange_ms: 1e3 * exchange_s,
        hidden_ms: 1e3 * hidden_s,
        step_ms: 1e3 * step_s,
        tokens_per_s: tokens / step_s,
    })
}

/// Prints a forecast.
pub fn show(report: &Report) {
    let ms = |ms: f64| format!("{ms:.1} ms");
    let row = |name: &str, value: String| [name.to_owned(), value];
    let rows = vec![
        row("sent by each rank", number::bytes(report.sent_bytes)),
        row("computation", ms(report.compute_ms)),
        row("copies", ms(report.copy_ms)),
        row("exchange", ms(report.exchange_ms)),
        row("of it hidden", ms(report.hidden_ms)),
        row("update", ms(report.step_ms)),
        row("tokens/s, all ranks", number::rate(report.tokens_per_s)),
    ];
    let rate = number::bytes(report.link_bytes_per_s as u64);
    let head = format!("forecast of an update on {} ranks, {rate}/s", report.ranks);
    output::line(&output::table([head.as_str(), ""], &[0], rows));
    if report.ranks_here > 1 {
        output::line(&format!(
            "{} of the ranks are on this machine, and were measured while all of them computed at once",
            report.ranks_here
        ));
    }
}
