//! Output: results, JSON, tables, log lines, errors.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;
use wgpt::Error;

use super::flags;

/// Prints a result as it is, at once. If the reader has gone away, the program ends quietly: the reader has seen
/// enough.
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

/// Prints the JSON object of `--json`.
pub fn json(value: &impl Serialize) {
    line(&serde_json::to_string_pretty(value).expect("results are plain data"));
}

/// Prints a line on stderr. If that fails, nobody can be told, so the error is ignored.
pub fn log(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Returns a path as a user would type it: relative to the working folder if it lies within it.
pub fn path(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    let short = short.filter(|short| !short.as_os_str().is_empty());
    short.unwrap_or(path).display().to_string()
}

/// Returns a path quoted for a shell; on Windows for cmd.exe and PowerShell both, which know double quotes.
pub fn quoted(path: &Path) -> String {
    let text = self::path(path);
    let separator = std::path::MAIN_SEPARATOR;
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@".contains(c) || c == separator;
    match text.chars().all(plain) {
        true => text,
        // A path on Windows has no double quote.
        false if cfg!(windows) => format!("\"{text}\""),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Returns whether a stream may have colours: it is a terminal that knows them, and `NO_COLOR` is not set.
pub fn colours(stream: &impl IsTerminal) -> bool {
    // A console of Windows shows the codes as text unless it is told to obey them.
    let obeys = || anstyle_query::windows::enable_ansi_colors().unwrap_or(true);
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()) && obeys()
}

/// Prints an error and its hint, with the command line's names of the settings.
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

/// Formats a table with a header; all columns except those in `left` are aligned to the right.
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
