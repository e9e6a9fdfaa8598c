//! Does what differs between Linux, macOS and Windows work on each: paths, open files, line ends, quotes?

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use predicates::prelude::*;
use serde_json::Value;
use tempfile::TempDir;
use wgpt::data::Sources;
use wgpt::{Tokenizer, files};

use crate::cli::wgpt;

/// A name with blanks, brackets and letters of several alphabets.
const AWKWARD: &str = "größer als 1 (Модель 東京)";

/// A run so short that it takes no time.
const TINY: [&str; 9] = [
    "--tokenizer=bytes",
    "--layers=1",
    "--heads=2",
    "--embd=16",
    "--context=16",
    "--batch-size=2",
    "--eval-every=0",
    "--log-every=1",
    "--device=cpu",
];

/// A text of Windows: each line ends with a carriage return, too.
fn with_carriage_returns(text: &str) -> String {
    text.replace('\n', "\r\n")
}

/// Opens a file as a virus scanner or an editor does: on Windows nobody may replace or remove it meanwhile.
fn open_jealously(path: &Path) -> File {
    let mut options = File::options();
    #[cfg(windows)]
    std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 1);
    options.read(true).open(path).unwrap()
}

/// Calls `change` while `file` is open for a moment longer.
fn while_open(file: File, change: impl FnOnce() -> wgpt::Result<()>) {
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(file);
    });
    change().unwrap();
    reader.join().unwrap();
}

#[test]
fn paths_may_have_blanks_and_letters_of_any_alphabet() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join(AWKWARD);
    fs::create_dir(&folder).unwrap();
    let text: String = (0..60).map(|i| format!("The cat saw {i} birds.\n")).collect();
    fs::write(folder.join("мой текст.txt"), text).unwrap();
    let named = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
    let (data, out) = (named("data", "мой текст.txt"), named("out", "ein Lauf"));

    // From the folder above, the path that is printed is this one, in the system's quotes.
    let run = PathBuf::from(AWKWARD).join("ein Lauf");
    let quote = if cfg!(windows) { '"' } else { '\'' };
    let best = format!("--model {quote}{}{quote} --prompt", run.join("best").display());
    let mut train = wgpt(dir.path());
    train.args(["train", &data, &out, "--max-iters=3"]).args(TINY);
    train.assert().success().stdout(predicate::str::contains(best));

    let resume = format!("--resume={}", run.display());
    let again = wgpt(dir.path()).args(["train", &resume]).assert().success();
    again.stdout(predicate::str::contains("ein Lauf"));
    let model = named("model", "ein Lauf");
    let generate = ["generate", &model, "--prompt=The", "--max-tokens=3", "--device=cpu"];
    wgpt(dir.path()).args(generate).assert().success();
    wgpt(dir.path()).args(["export", &model, &named("out", "für HF")]).assert().success();
    assert!(folder.join("für HF").join("model.safetensors").is_file());
}

#[test]
fn files_of_windows_are_read_as_others_are() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join(name), with_carriage_returns(text)).unwrap();
    };

    let tokenizer = Tokenizer::train(b"low lower lowest low lower lowest", 262).unwrap();
    let (vocab, merges) = tokenizer.to_vocab_and_merges().unwrap();
    write("vocab.json", &vocab);
    write("merges.txt", &merges);
    assert!(Tokenizer::load(dir.path()).unwrap() == tokenizer);

    write("texts.jsonl", "{\"text\": \"one\"}\n\n{\"text\": \"two\\n\"}\n");
    let path = dir.path().join("texts.jsonl").to_string_lossy().into_owned();
    let documents = Sources::parse(&[path]).unwrap();
    let texts: Vec<String> = documents.documents().map(|found| found.unwrap().text).collect();
    assert_eq!(texts, ["one", "two\n"]);

    // An editor may begin the file with a byte order mark, too.
    write("data.txt", &"The cat saw 12 birds.\n".repeat(60));
    write(
        "settings.toml",
        "\u{feff}# a run\ndata = [\"data.txt\"]\nout = \"run\"\nmax-iters = 2\n",
    );
    wgpt(dir.path()).args(["train", "--config=settings.toml"]).args(TINY).assert().success();
    write("prompt.txt", "The cat\n");
    let text = |prompt: &[&str]| {
        let fixed =
            ["generate", "--model=run", "--greedy", "--max-tokens=4", "--json", "--device=cpu"];
        let output = wgpt(dir.path()).args(fixed).args(prompt).assert().success();
        let told: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        told["samples"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(text(&["--prompt-file=prompt.txt"]), text(&["--prompt=The cat"]));
}

#[test]
fn a_file_that_is_being_read_is_replaced() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("run.json");
    files::write_bytes(&path, b"old").unwrap();
    let mut reader = File::open(&path).unwrap();
    while_open(open_jealously(&path), || files::write_bytes(&path, b"new"));
    assert_eq!(fs::read(&path).unwrap(), b"new");
    // Who has the old file open goes on reading it.
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!(text, "old");
}

#[test]
fn a_folder_with_an_open_file_is_replaced_and_removed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("best");
    let write = |text: &str| {
        files::write_folder(&path, |dir| files::write_bytes(&dir.join("model"), text.as_bytes()))
    };
    write("old").unwrap();
    while_open(open_jealously(&path.join("model")), || write("new"));
    assert_eq!(fs::read(path.join("model")).unwrap(), b"new");
    while_open(open_jealously(&path.join("model")), || files::remove_folder(&path));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
