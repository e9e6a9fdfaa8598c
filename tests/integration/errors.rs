//! Does an error name a setting as the one who reads it knows it: by the field, by the flag, or as the file has it?

use std::fs;
use std::path::Path;

use wgpt::error::{Error, Kind, field};
use wgpt::{GenerateOptions, TrainConfig};

use crate::cli::{folder, trained, wgpt};

/// What a command that fails says, and its exit code.
fn said(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = wgpt(folder).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_library_names_fields() {
    let model = wgpt::GptConfig::small();
    let train = TrainConfig { learning_rate: -1.0, ..TrainConfig::default() };
    let error = train.validate(&model).unwrap_err();
    assert_eq!(error.to_string(), "learning_rate is -1, must be 0 to 1000");
    assert!(format!("{error:?}").contains("learning_rate is -1"), "{error:?}");
    let options = GenerateOptions { top_p: 2.0, ..GenerateOptions::default() };
    assert_eq!(options.validate().unwrap_err().to_string(), "top_p is 2, must be 0 to 1");
}

#[test]
fn names_are_kept_through_a_place_and_a_hint_and_are_final_once_written() {
    let error = Error::usage(format!("{} and {} differ", field("a"), field("b")));
    let error = error.hint(format!("change {}", field("b"))).at("here");
    let shown = error.with_names(|name| format!("--{name}"));
    assert_eq!(shown.to_string(), "here: --a and --b differ");
    assert_eq!(shown.advice().unwrap(), "change --b");
    let written = error.of_kind(Kind::Input).as_written().with_names(|name| format!("--{name}"));
    assert_eq!(written.to_string(), "here: a and b differ");
    assert_eq!((written.advice().unwrap().as_str(), written.kind()), ("change b", Kind::Input));
}

#[test]
fn the_command_line_names_flags() {
    let folder = folder();
    for (arguments, message) in [
        (&["train", "--lr=-1"][..], "error: --lr is -1, must be 0 to 1000"),
        (&["train", "--min-lr=-1"], "error: --min-lr is -1, must be 0 to 1000"),
        (&["train", "--embd=30"], "error: --heads 4 does not divide --embd 30"),
        (&["train", "--embd=16777216"], "error: 4 times --embd is 67108864, must be 1 to 16777216"),
        (&["train", "--vocab=0"], "error: --vocab is 0, must be 1 to 16777216"),
        (&["train", "--lora-rank=2"], "error: --lora-rank adapts a model that is there already"),
        (&["train", "--freeze", "no.*"], "error: --freeze no.*: no parameter has such a name"),
        (
            &["train", "--batch-size=4000000"],
            "error: --batch-size times --seq-len is 512000000, must be at most 16777216",
        ),
    ] {
        let arguments = [arguments, &["--device=cpu", "--data=data.txt"]].concat();
        let (code, said) = said(folder.path(), &arguments);
        assert!(code == Some(2) && said.contains(&format!("{message}\n")), "{arguments:?}: {said}");
    }
    let (_, said) = said(folder.path(), &["train", "--lora-rank=2", "--device=cpu"]);
    let hint = "hint: name it with --init DIR; or leave --lora-rank out to train a new one\n";
    assert!(said.contains(hint), "{said}");
}

/// Copies a folder's files, changed by `edit`.
fn edited(from: &Path, to: &Path, edit: &dyn Fn(&str, String) -> String) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if path.is_dir() {
            edited(&path, &to.join(&name), edit);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            let text = edit(name.to_str().unwrap(), fs::read_to_string(&path).unwrap());
            fs::write(to.join(&name), text).unwrap();
        } else {
            fs::copy(&path, to.join(&name)).unwrap();
        }
    }
}

#[test]
fn a_file_has_names_of_its_own() {
    let place = folder();
    let run = trained().join("runs/tiny");
    // Written by a hand that knows the field, and not the flag.
    let more = |name: &str, text: String| match name {
        "run.json" => text
            .replace("\"max_iters\": 12", "\"max_iters\": 24")
            .replace("\"batch_size\": 4", "\"batch_size\": 0"),
        _ => text,
    };
    edited(&run, &place.path().join("a"), &more);
    let (code, text) = said(place.path(), &["train", "--resume=a"]);
    assert_eq!(code, Some(1), "{text}");
    let message = format!(
        "error: {}: batch_size is 0, must be at least 1\n",
        Path::new("a/run.json").display()
    );
    assert!(text.contains(&message), "{text}");
    let heads = |name: &str, text: String| match name {
        "config.json" => text.replace("\"n_head\": 2", "\"n_head\": 3"),
        _ => text,
    };
    edited(&run, &place.path().join("b"), &heads);
    let (code, text) = said(place.path(), &["generate", "--model=b", "--prompt=x", "--device=cpu"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("config.json: n_head 3 does not divide n_embd 16\n"), "{text}");
}
