//! The command line: one file per subcommand, and the parts that they share.
//!
//! Results go to stdout, everything else to stderr. An error is one line `error: …` and, if there is a remedy, one line
//! `hint: …`; the exit code is 2 for a wrong command line, else 1.

mod bench;
mod chat;
mod config_file;
mod data;
mod devices;
mod eval;
mod export;
mod flags;
mod generate;
mod grad_check;
mod interrupt;
#[cfg_attr(not(unix), allow(dead_code, reason = "the launcher is for Unix systems"))]
mod launch;
mod number;
mod options;
mod outcome;
mod output;
mod plan;
mod profile;
mod progress;
mod ranks;
#[cfg(feature = "serve")]
mod serve;
mod tokenizer;
mod train;
mod trial;
mod tune;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use wgpt::error::Kind;
use wgpt::{Error, Result};

use outcome::Outcome;

const EXAMPLES: &str = "\
Examples:
  wgpt train                                        train on little stories, in minutes and without a GPU
  wgpt generate --prompt \"Once upon a time\"         continue a text with the newest run's best model
  wgpt train --data book.txt --size medium          train on a text of your own
  wgpt chat --model runs/NAME/best                  talk to a model that was trained on conversations
  wgpt serve --model runs/NAME/best                 let programs use it that know OpenAI's API
  wgpt eval held-out.txt                            how well does it predict a text?
  wgpt export --out my-model                        write it for transformers, or with --gguf for llama.cpp
  wgpt plan --size gpt2 --batch-size 4              how much memory would that take?
  wgpt COMMAND --help                               options and examples of a command";

/// Train and run GPT-2-class language models on any GPU through wgpu, or on the CPU.
#[derive(Parser)]
#[command(name = "wgpt", version, after_help = EXAMPLES, subcommand_required = true)]
#[command(arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    /// Use N threads of the CPU [default: all cores]
    #[arg(long, value_name = "N", global = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
enum Command {
    Train(train::Args),
    Generate(generate::Args),
    Chat(chat::Args),
    #[cfg(feature = "serve")]
    Serve(serve::Args),
    Eval(eval::Args),
    Export(export::Args),
    Launch(launch::Args),
    Plan(plan::Args),
    Bench(bench::Args),
    Data(data::Args),
    Tokenizer(tokenizer::Args),
    GradCheck(grad_check::Args),
    Verify(verify::Args),
    Tune(tune::Args),
    Devices(devices::Args),
    #[command(hide = true)]
    Trial(trial::Args),
}

/// Runs the command that the arguments name; returns the exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Ok(program) = std::env::current_exe() {
        wgpt::trial::use_program(program);
    }
    match parse(&arguments).and_then(|cli| run(&cli)) {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::FAILURE,
        Err(error) => {
            output::error(&error);
            ExitCode::from(if error.kind() == Kind::Usage { 2 } else { 1 })
        }
    }
}

/// Lets every option take negative numbers, so that the error for a value out of range names its option.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_action().takes_values() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    });
    command.mut_subcommands(with_negative_numbers)
}

fn command() -> clap::Command {
    with_negative_numbers(Cli::command())
}

/// Parses the arguments, with those of `--config` added. Ends the program for help and usage errors.
fn parse(arguments: &[OsString]) -> Result<Cli> {
    let matches = command().get_matches_from(arguments);
    let matches = match matches.subcommand() {
        Some(("train", train)) => match config_file::arguments(train)? {
            Some((place, more)) => {
                let all = arguments.iter().cloned().chain(more);
                command().try_get_matches_from(all).map_err(|error| in_file(&error, &place))?
            }
            None => matches,
        },
        _ => matches,
    };
    if let Some(("train", train)) = matches.subcommand() {
        train::check_resume(train)?;
    }
    Cli::from_arg_matches(&matches).map_err(|error| error.exit())
}

/// Returns clap's error about an option that the file `place` sets.
fn in_file(error: &clap::Error, place: &str) -> Error {
    let text = error.to_string();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ");
    let error = Error::usage(first).at(place);
    match lines.next().map(str::trim).filter(|line| line.starts_with('[')) {
        Some(values) => error.hint(values.trim_matches(['[', ']'])),
        None => error,
    }
}

/// Runs a command with its number of threads.
fn run(cli: &Cli) -> Result<Outcome> {
    let threads = match (&cli.command, cli.threads) {
        (Command::Train(args), None) => args.threads_of_resumed(),
        (_, threads) => threads.map(usize::from),
    };
    // The whole command runs inside the pool, on a thread with as much stack as the first one has.
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.or_else(ranks::threads).unwrap_or(0));
    let pool = pool.stack_size(8 << 20).build();
    let pool = pool.map_err(|error| Error::input(format!("starting threads: {error}")))?;
    pool.install(|| match &cli.command {
        Command::Train(args) => train::run(args, threads),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args),
        Command::Data(args) => data::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Export(args) => export::run(args),
        Command::Launch(args) => launch::run(args),
        Command::Plan(args) => plan::run(args, threads),
        Command::Bench(args) => bench::run(args),
        Command::Tokenizer(args) => tokenizer::run(args),
        Command::GradCheck(args) => grad_check::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Trial(args) => trial::run(args),
    })
}

#[cfg(test)]
mod tests {
    /// clap detects faults in its use, such as two groups of one name, when it checks a command.
    #[test]
    fn the_commands_are_well_formed() {
        super::command().debug_assert();
    }
}
