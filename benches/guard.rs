//! A guard against slow-downs: the key rows of all benchmarks, each measured several times as a whole process.
//!
//! ```text
//! cargo bench --bench guard                          compare with what this machine recorded before
//! cargo bench --bench guard -- record                record this machine's rows, with the commit
//! cargo bench --bench guard -- against OLD_BINARY    measure both binaries in turn, pair by pair
//! ```
//!
//! A row is slower than the noise if the 90 % interval of the ratio of its medians (by bootstrap) lies below
//! [`ENOUGH`]. The exit code is then 1. The speed of a shared machine drifts by more than that within a day, so that
//! `against` is the form that decides: both binaries then see the same machine. Nothing else should run meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wgpt::Tokenizer;
use wgpt::data::stories;

/// The binary that this benchmark was built with.
const WGPT: &str = env!("CARGO_BIN_EXE_wgpt");
/// Where the records of all machines are, within the project.
const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/guard.json");
/// What the 90 % interval of a row's ratio must reach.
const ENOUGH: f64 = 0.98;
/// Stories of the text that is encoded, about 20 MB.
const STORIES: u64 = 40_000;

type Error = Box<dyn std::error::Error>;

/// Says which key rows became slower than the noise.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Task>,
    /// Only rows whose names begin with this; may be given again
    #[arg(long, global = true, value_name = "PREFIX")]
    row: Vec<String>,
    /// Processes per row and binary
    #[arg(long, global = true, value_name = "N", default_value_t = 7)]
    runs: usize,
    /// Run each row once, and compare nothing
    #[arg(long, global = true)]
    test: bool,
    /// Given by cargo
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Store the rows of this machine, with the commit
    Record,
    /// Measure an older binary in turn with this one
    Against {
        /// The older `wgpt`
        binary: PathBuf,
        /// Store the rows of this one, too
        #[arg(long)]
        record: bool,
    },
}

/// What is measured: the arguments of a command, and what its speed is.
struct Row {
    name: &'static str,
    arguments: &'static str,
    speed: Speed,
}

enum Speed {
    /// The command prints it, as JSON.
    TokensPerSecond,
    /// One per second that the whole command takes.
    Commands,
}

const fn row(name: &'static str, arguments: &'static str, speed: Speed) -> Row {
    Row { name, arguments, speed }
}

use Speed::{Commands, TokensPerSecond};

/// The key rows. `TEXT`, `TOKENIZER` and `OUT` are files of the benchmark's own.
const ROWS: &[Row] = &[
    row("cpu/train/small", "bench train --size small --device cpu --steps 40", TokensPerSecond),
    row("cpu/train/medium", "bench train --size medium --device cpu --steps 8", TokensPerSecond),
    row(
        "cpu/train/large",
        "bench train --size large --device cpu --steps 2 --warmup 1",
        TokensPerSecond,
    ),
    row(
        "cpu/train/gpt2",
        "bench train --size gpt2 --device cpu --steps 2 --warmup 1",
        TokensPerSecond,
    ),
    row("cpu/generate/gpt2", "bench generate --size gpt2 --device cpu --steps 3", TokensPerSecond),
    row(
        "gpu/train/small",
        "bench train --size small --device gpu --precision f32 --steps 10",
        TokensPerSecond,
    ),
    row(
        "gpu/train/medium",
        "bench train --size medium --device gpu --precision f32 --steps 2 --warmup 1",
        TokensPerSecond,
    ),
    row(
        "gpu/generate/small",
        "bench generate --size small --device gpu --precision f32",
        TokensPerSecond,
    ),
    row("tokenizer/train", "tokenizer train TEXT --vocab 5000 --out OUT/trained", Commands),
    row(
        "tokenizer/encode",
        "tokenizer encode TEXT --tokenizer TOKENIZER --out OUT/tokens.bin",
        Commands,
    ),
];

/// A binary, and the files that its commands read and write.
struct Bench<'a> {
    wgpt: &'a Path,
    folder: &'a Path,
}

impl Bench<'_> {
    /// The speed of one process.
    fn measure(&self, row: &Row) -> Result<f64, Error> {
        let out = tempfile::tempdir_in(self.folder)?;
        let file = |word: &str| {
            word.replace("TEXT", &self.folder.join("text.txt").to_string_lossy())
                .replace("TOKENIZER", &self.folder.join("tokenizer").to_string_lossy())
                .replace("OUT", &out.path().join("out").to_string_lossy())
        };
        std::fs::create_dir(out.path().join("out"))?;
        let mut command = Command::new(self.wgpt);
        command.args(row.arguments.split(' ').map(file)).stderr(Stdio::piped());
        if matches!(row.speed, Speed::TokensPerSecond) {
            command.arg("--json");
        }
        let began = Instant::now();
        let output = command.output()?;
        let seconds = began.elapsed().as_secs_f64();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(
                format!("{}: {} {}: {said}", row.name, self.wgpt.display(), row.arguments).into()
            );
        }
        Ok(match row.speed {
            Speed::Commands => 1.0 / seconds,
            Speed::TokensPerSecond => {
                let printed: Value = serde_json::from_slice(&output.stdout)?;
                printed["tokens_per_s"].as_f64().ok_or("no tokens_per_s was printed")?
            }
        })
    }
}

/// What a row came to before.
#[derive(Serialize, Deserialize)]
struct Recorded {
    commit: String,
    date: String,
    /// The speed of every process: tokens/s, or commands/s.
    speeds: Vec<f64>,
}

/// What was recorded, by machine and row.
type Records = BTreeMap<String, BTreeMap<String, Recorded>>;

fn read_records() -> Result<Records, Error> {
    match std::fs::read(RECORDS) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Records::new()),
        Err(error) => Err(error.into()),
    }
}

/// The processor, its threads, and the GPU with its driver.
fn machine() -> Result<String, Error> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    // Virtual machines hide the model's name behind a family's; family, model and stepping tell more.
    let words = ["model name", "cpu family", "model\t", "stepping"].map(field);
    let cpu = words.into_iter().flatten().collect::<Vec<_>>().join("/");
    let threads = std::thread::available_parallelism()?;
    let devices = Command::new(WGPT).args(["devices", "--json"]).stderr(Stdio::null()).output()?;
    let devices: Value = serde_json::from_slice(&devices.stdout)?;
    let gpu = devices["adapters"].get(0).map(|adapter| {
        let word = |name: &str| adapter[name].as_str().unwrap_or("").to_owned();
        format!("{} {}", word("name"), word("driver"))
    });
    let gpu = gpu.unwrap_or_else(|| "no GPU".to_owned());
    Ok(format!("{cpu}, {threads} threads, {gpu}"))
}

/// What a program of the system prints, on one line.
fn ask(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2])
}

/// How a row's speed compares: the ratio of the medians, new to old, and its 90 % interval.
struct Comparison {
    ratio: f64,
    low: f64,
    high: f64,
}

impl Comparison {
    /// By bootstrap with numbers that are the same every time. `paired` values were measured in turn and are drawn in pairs.
    fn of(new: &[f64], old: &[f64], paired: bool) -> Comparison {
        const DRAWS: usize = 4000;
        let mut state = 1_u64;
        let mut below = |n: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let statistic = |new: &[f64], old: &[f64]| match paired {
            true => median(&new.iter().zip(old).map(|(new, old)| new / old).collect::<Vec<_>>()),
            false => median(new) / median(old),
        };
        let mut drawn: Vec<f64> = (0..DRAWS)
            .map(|_| {
                let places: Vec<usize> = new.iter().map(|_| below(new.len())).collect();
                let a: Vec<f64> = places.iter().map(|&i| new[i]).collect();
                let b: Vec<f64> = match paired {
                    true => places.iter().map(|&i| old[i]).collect(),
                    false => old.iter().map(|_| old[below(old.len())]).collect(),
                };
                statistic(&a, &b)
            })
            .collect();
        drawn.sort_by(f64::total_cmp);
        let at = |share: f64| drawn[((DRAWS - 1) as f64 * share) as usize];
        Comparison { ratio: statistic(new, old), low: at(0.05), high: at(0.95) }
    }

    /// Whether the interval reaches [`ENOUGH`]; a speed that is no number does not.
    fn holds(&self) -> bool {
        self.high >= ENOUGH
    }
}

/// Fails if the comparison itself cannot tell a slow-down from noise.
fn check_comparison() {
    let noisy = [100.0, 97.0, 103.0, 99.0, 101.0, 98.0, 102.0];
    let by = |factor: f64| noisy.map(|speed| speed * factor);
    for paired in [false, true] {
        assert!(Comparison::of(&noisy, &noisy, paired).holds(), "the same speed holds");
        assert!(Comparison::of(&by(1.2), &noisy, paired).holds(), "a faster one holds");
        assert!(!Comparison::of(&by(0.9), &noisy, paired).holds(), "a tenth slower is seen");
        assert!(!Comparison::of(&[f64::NAN; 7], &noisy, paired).holds(), "no number is no speed");
    }
}

/// Prints the table; whether every row holds.
fn print(rows: &[Compared]) -> bool {
    println!("{:<20}{:>12}{:>12}{:>8}  90 %", "row", "old", "new", "ratio");
    for (name, comparison, [old, new]) in rows {
        let Comparison { ratio, low, high } = comparison;
        let verdict = if comparison.holds() { "" } else { "  SLOWER" };
        println!("{name:<20}{old:>12.3}{new:>12.3}{ratio:>8.3}  {low:.3} to {high:.3}{verdict}");
    }
    rows.iter().all(|(_, comparison, _)| comparison.holds())
}

/// The speeds of a row, by binary.
struct Measured {
    name: &'static str,
    speeds: Vec<Vec<f64>>,
}

/// Measures rows, each binary in turn.
fn measure(
    rows: &[&'static Row],
    benches: &[Bench<'_>],
    runs: usize,
) -> Result<Vec<Measured>, Error> {
    let mut all = vec![];
    for row in rows {
        let mut speeds = vec![vec![]; benches.len()];
        // The first process of a binary may compile and tune.
        let warmup = usize::from(runs > 1);
        for run in 0..runs + warmup {
            for (bench, speeds) in benches.iter().zip(&mut speeds) {
                let speed = bench.measure(row)?;
                if run >= warmup {
                    speeds.push(speed);
                }
            }
        }
        let medians: Vec<String> = speeds.iter().map(|all| format!("{:.3}", median(all))).collect();
        eprintln!("{}: {}", row.name, medians.join(" and "));
        all.push(Measured { name: row.name, speeds });
    }
    Ok(all)
}

/// The text and the tokenizer that the tokenizer's rows read.
fn write_inputs(folder: &Path, stories: u64) -> Result<(), Error> {
    let text: String = stories::stories(1, stories).map(|story| story + "\n").collect();
    std::fs::create_dir(folder.join("tokenizer"))?;
    let tokenizer = Tokenizer::train(text.as_bytes(), 5000)?;
    std::fs::write(folder.join("tokenizer/tokenizer.json"), tokenizer.to_json())?;
    Ok(std::fs::write(folder.join("text.txt"), text)?)
}

fn run(args: &Args) -> Result<bool, Error> {
    let folder = tempfile::tempdir()?;
    let wanted =
        |row: &&Row| args.row.is_empty() || args.row.iter().any(|p| row.name.starts_with(p));
    let rows: Vec<&'static Row> = ROWS.iter().filter(wanted).collect();
    let this = Bench { wgpt: Path::new(WGPT), folder: folder.path() };
    check_comparison();
    if args.test {
        // What takes long is left to the other benchmarks; so are GPUs, which would be tuned first.
        write_inputs(folder.path(), 2000)?;
        let quick = |row: &&Row| row.name == "cpu/train/small" || row.name.starts_with("tokenizer");
        let rows: Vec<&'static Row> = rows.into_iter().filter(quick).collect();
        return measure(&rows, &[this], 1).map(|_| true);
    }
    write_inputs(folder.path(), STORIES)?;
    match &args.command {
        Some(Task::Against { binary, record: is_recorded }) => {
            let old = Bench { wgpt: binary, folder: folder.path() };
            let machine = machine()?;
            let measured = measure(&rows, &[old, this], args.runs)?;
            if *is_recorded {
                record(machine, &measured)?;
            }
            Ok(print(&compare_pairs(&measured)))
        }
        Some(Task::Record) => {
            let machine = machine()?;
            record(machine, &measure(&rows, &[this], args.runs)?).map(|()| true)
        }
        None => {
            let machine = machine()?;
            let known = read_records()?.remove(&machine).ok_or_else(|| {
                format!(
                    "nothing is recorded of this machine ({machine})\nhint: record it with `cargo bench --bench \
                     guard -- record`, or compare with an older binary by `-- against OLD_BINARY`"
                )
            })?;
            Ok(print(&compare_record(&measure(&rows, &[this], args.runs)?, &known)))
        }
    }
}

/// A row's name, how its speed compares, and the medians of the old speed and the new.
type Compared = (&'static str, Comparison, [f64; 2]);

/// Compares the second binary with the first.
fn compare_pairs(measured: &[Measured]) -> Vec<Compared> {
    let compare = |row: &Measured| {
        let [old, new] = [&row.speeds[0], &row.speeds[1]];
        (row.name, Comparison::of(new, old, true), [median(old), median(new)])
    };
    measured.iter().map(compare).collect()
}

/// Compares with what was recorded; a row without a record is named and left out.
fn compare_record(measured: &[Measured], known: &BTreeMap<String, Recorded>) -> Vec<Compared> {
    let compare = |row: &Measured| {
        let new = &row.speeds[0];
        let Some(Recorded { commit, date, speeds: old }) = known.get(row.name) else {
            eprintln!("{} is not recorded yet", row.name);
            return None;
        };
        eprintln!("{}: compared with commit {commit}, recorded on {date}", row.name);
        Some((row.name, Comparison::of(new, old, false), [median(old), median(new)]))
    };
    measured.iter().filter_map(compare).collect()
}

/// Records the rows of a machine, each in the place of an older record; of several binaries those of the last.
fn record(machine: String, measured: &[Measured]) -> Result<(), Error> {
    let mut records = read_records()?;
    let (commit, date) = (ask("git", &["rev-parse", "--short", "HEAD"]), ask("date", &["+%F"]));
    let rows = measured.iter().map(|row| {
        let speeds = row.speeds.last().cloned().unwrap_or_default();
        let (commit, date) = (commit.clone(), date.clone());
        (row.name.to_owned(), Recorded { commit, date, speeds })
    });
    records.entry(machine).or_default().extend(rows);
    Ok(std::fs::write(RECORDS, serde_json::to_string_pretty(&records)? + "\n")?)
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
