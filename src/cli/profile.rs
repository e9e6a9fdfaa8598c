//! `--profile` and `--trace`: show the time of each kernel, as a table and as a time line.

use std::path::PathBuf;

use wgpt::backend::gpu::Peak;
use wgpt::files;
use wgpt::profile::{Profile, Report};
use wgpt::timeline::Span;
use wgpt::train::RankTimes;
use wgpt::{Error, Result};

use super::{number, output};

/// What to profile.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Profiling")]
pub struct ProfileArgs {
    /// Time every kernel of a few steps, and print its share of the step, GFLOP/s, GB/s, share of the device's measured best
    #[arg(long)]
    pub profile: bool,
    /// Write the time line of the profiled steps, with several ranks a row for each, to FILE, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub trace: Option<PathBuf>,
}

impl ProfileArgs {
    /// Writes the time line, if it is requested: of the kernels, and if there are several ranks, of what each of them did.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write_trace(&self, profile: &Profile, ranks: &[Vec<Span>]) -> Result<()> {
        let Some(path) = &self.trace else { return Ok(()) };
        let trace = match ranks.len() {
            0 | 1 => profile.trace(),
            _ => profile.trace_of_ranks(ranks),
        };
        let text = serde_json::to_vec(&trace)
            .map_err(|e| Error::input(format!("writing {}: {e}", path.display())))?;
        files::write_bytes(path, &text)
    }
}

/// Returns the table of a profile.
pub fn table(report: &Report) -> String {
    let row = |name: &str, ms: f64| {
        let share = ms / report.step_ms.max(1e-9);
        [name.to_owned(), String::new(), format!("{ms:.3}"), percent(share)]
    };
    let plain = |[name, calls, ms, share]: [String; 4]| {
        [name, calls, ms, share, String::new(), String::new(), String::new()]
    };
    let kernel = |row: &wgpt::profile::Row| {
        [
            row.kernel.to_owned(),
            number::rate(row.calls),
            format!("{:.3}", row.ms),
            percent(row.share),
            format!("{:.1}", row.gflops),
            format!("{:.1}", row.gb_per_s),
            percent(row.of_peak),
        ]
    };
    let mut rows: Vec<_> = report.rows.iter().map(kernel).collect();
    rows.push(plain(row("all kernels", report.kernels_ms)));
    rows.push(plain(row("dispatching and waiting", report.overhead_ms)));
    rows.push(plain(row("step", report.step_ms)));
    let head = ["kernel", "calls", "ms per step", "share", "GFLOP/s", "GB/s", "of the best"];
    format!("{}\n{}", output::table(head, &[0], rows), best(&report.peak))
}

/// Returns the table of the ranks of a run.
pub fn table_of_ranks(all: &[RankTimes]) -> String {
    let row = |(rank, times): (usize, &RankTimes)| {
        let RankTimes { computed_ms, copied_ms, waited_ms, hidden_ms } = *times;
        let step_ms = (computed_ms + copied_ms + waited_ms).max(1e-9);
        let [computed, copied, waited, hidden] =
            [computed_ms, copied_ms, waited_ms, hidden_ms].map(|ms| format!("{ms:.3}"));
        [rank.to_string(), computed, copied, waited, percent(waited_ms / step_ms), hidden]
    };
    let head =
        ["rank", "computing, ms", "copying, ms", "waiting, ms", "share", "transfer meanwhile, ms"];
    output::table(head, &[], all.iter().enumerate().map(row).collect())
}

/// Describes a device's best speeds in words.
pub fn best(peak: &Peak) -> String {
    let half = peak.half_gflops;
    let half = half.map_or(String::new(), |half| format!(", {half:.0} in half precision"));
    format!(
        "the device's measured best: {:.0} GFLOP/s{half}, {:.1} GB/s",
        peak.gflops, peak.gb_per_s
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
