//! The `wgpt` program: parse, run, print the error and its hint, exit code.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
