//! `train --config FILE.toml`: any option of train by its long name; the command line takes precedence over the file.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};
use toml::Value;
use wgpt::{Error, Result};

/// Options that select the run or its output, not its settings.
const NOT_IN_FILES: [&str; 5] = ["config", "resume", "json", "help", "version"];

/// Returns the arguments that the file of `--config` adds to the command line, and the file's name.
///
/// # Errors
///
/// If the file cannot be read, is not TOML, or has a key that is not an option.
pub fn arguments(train: &ArgMatches) -> Result<Option<(String, Vec<OsString>)>> {
    let Some(path) = train.get_one::<std::path::PathBuf>("config") else { return Ok(None) };
    let place = path.display().to_string();
    let mut arguments = vec![];
    for (key, value) in read(path)? {
        let (id, is_switch) = option(&key).map_err(|error| error.at(&place))?;
        if train.value_source(&id) == Some(ValueSource::CommandLine) {
            continue;
        }
        match value {
            Value::Boolean(on) if is_switch => {
                arguments.extend(on.then(|| OsString::from(format!("--{key}"))));
            }
            value => add(&key, &value, &mut arguments).map_err(|error| error.at(&place))?,
        }
    }
    Ok(Some((place, arguments)))
}

fn read(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, &e))?;
    text.parse::<toml::Table>().map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 1;
        Error::input(format!("{} line {line}: {}", path.display(), error.message())).hint(
            "a line is OPTION = VALUE, for example batch-size = 8 or data = [\"a.txt\", \"b.txt\"]",
        )
    })
}

/// Returns clap's name of the option called `key`, and whether it has no value.
fn option(key: &str) -> Result<(String, bool)> {
    let mut command = super::Cli::command();
    command.build();
    let train = command.find_subcommand("train").expect("train is a command");
    let options = train.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
    let options: Vec<_> = options.filter(|(long, _)| !NOT_IN_FILES.contains(long)).collect();
    match options.iter().find(|(long, _)| *long == key) {
        Some((_, arg)) => Ok((arg.get_id().to_string(), !arg.get_action().takes_values())),
        None => {
            let names: Vec<&str> = options.iter().map(|(long, _)| *long).collect();
            Err(Error::usage(format!("unknown key {key:?}"))
                .hint(format!("the keys are those of wgpt train's options: {}", names.join(", "))))
        }
    }
}

/// Adds `--key=value`.
fn add(key: &str, value: &Value, arguments: &mut Vec<OsString>) -> Result<()> {
    match value {
        Value::Array(values) if values.is_empty() => {
            Err(Error::usage(format!("{key} is an empty list")))
        }
        Value::Array(values) => values.iter().try_for_each(|value| match value {
            Value::Array(_) => Err(Error::usage(format!("{key}: a list within a list"))),
            value => add(key, value, arguments),
        }),
        Value::String(text) => {
            arguments.push(format!("--{key}={text}").into());
            Ok(())
        }
        Value::Integer(number) => {
            arguments.push(format!("--{key}={number}").into());
            Ok(())
        }
        Value::Float(number) => {
            arguments.push(format!("--{key}={number}").into());
            Ok(())
        }
        Value::Boolean(_) | Value::Datetime(_) | Value::Table(_) => {
            Err(Error::usage(format!("{key} is a {}, wanted a number or a text", value.type_str())))
        }
    }
}
