//! Printing: results, JSON, tables, log lines, errors.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;
use wgpt::Error;

use super::flags;

/// Prints a result as it is, at once. A reader that went away ends the program quietly: it has seen what it wanted.
pub fn text(text: &str) {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            log(&format!("error: writing to stdout: {error}"));
            std::process::exit(1);
        }
    }
}

/// Prints a line of the result.
pub fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Prints the one object of `--json`.
pub fn json(value: &impl Serialize) {
    line(&serde_json::to_string_pretty(value).expect("results are plain data"));
}

/// Prints a line on stderr. Nobody is left to hear of it if that fails.
pub fn log(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A path as one would type it: within the working folder, from there.
pub fn path(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    let short = short.filter(|short| !short.as_os_str().is_empty());
    short.unwrap_or(path).display().to_string()
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = self::path(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Whether a stream may have colours: it is a terminal, and `NO_COLOR` is not set.
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Prints an error and what to do about it, with the settings that it names as the command line calls them.
pub fn error(error: &Error) {
    let error = error.with_names(flags::name);
    let paint = |code: &str, word: &str| match colours(&io::stderr()) {
        true => format!("\u{1b}[{code}m{word}\u{1b}[0m"),
        false => word.to_owned(),
    };
    log(&format!("{} {error}", paint("1;31", "error:")));
    if let Some(hint) = error.advice() {
        log(&format!("{} {hint}", paint("1;36", "hint:")));
    }
}

/// A table with a head; columns but those of `left` are aligned to the right.
pub fn table<const N: usize>(head: [&str; N], left: &[usize], rows: Vec<[String; N]>) -> String {
    const STYLE: TableStyle =
        TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
    let mut table = Table::new();
    table.load_style(STYLE).set_header(head).add_rows(rows);
    for (i, column) in table.column_iter_mut().enumerate() {
        if !left.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}
