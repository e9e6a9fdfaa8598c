//! Do `wgpt data` and `wgpt chat` do what they say?

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use predicates::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{json as json_of, wgpt};

const CHATS: [(&str, &str); 3] =
    [("What color?", "Red."), ("How many?", "Seven."), ("Who?", "A cat.")];

/// A folder with chats.jsonl and a model that has learned them by heart in runs/chats, made once.
fn trained() -> &'static Path {
    static TRAINED: OnceLock<TempDir> = OnceLock::new();
    let folder = TRAINED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let line = |(question, answer): &(&str, &str)| {
            json!({"messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]})
            .to_string()
        };
        let lines: Vec<String> = CHATS.iter().cycle().take(12).map(line).collect();
        fs::write(folder.path().join("chats.jsonl"), lines.join("\n")).unwrap();
        let sizes = ["--layers=2", "--heads=2", "--embd=32", "--context=64", "--tokenizer=bytes"];
        let steps =
            ["--batch-size=2", "--max-iters=160", "--lr=1e-2", "--eval-every=0", "--save-every=0"];
        let run = ["train", "--data=chats.jsonl", "--out=runs/chats", "--device=cpu"];
        wgpt(folder.path())
            .args(run)
            .args(sizes)
            .args(steps)
            .assert()
            .success()
            .stdout(predicate::str::contains("12 conversations, "))
            .stdout(predicate::str::contains("wgpt chat --model runs/chats/best"));
        folder
    });
    folder.path()
}

const MODEL: [&str; 2] = ["--model=runs/chats", "--device=cpu"];

#[test]
fn a_chat_answers_what_it_has_learned() {
    let input = "What color?\n\n/reset\nHow many?\n/nonsense\n/save out/chat.txt\n/save chat.jsonl\n/system Be brief.\n/save chat.jsonl\n/exit\nWho?\n";
    let assert = wgpt(trained())
        .args(["chat", "--temperature=0"])
        .args(MODEL)
        .write_stdin(input)
        .assert()
        .code(1);
    let output = assert.get_output();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Red.\nSeven.\n");
    let said = String::from_utf8_lossy(&output.stderr);
    let nothing = "there is no reply to save yet";
    let all = ["a new chat", "/nonsense is no command", "ends in .jsonl", "saved to chat.jsonl"];
    for wanted in all.into_iter().chain([nothing]) {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    // What was saved can be trained on.
    let saved = fs::read_to_string(trained().join("chat.jsonl")).unwrap();
    let lines: Vec<Value> = saved.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["messages"][0], json!({"role": "user", "content": "How many?"}));
    assert_eq!(lines[0]["messages"][1], json!({"role": "assistant", "content": "Seven."}));
    assert_eq!(lines.len(), 1, "a chat without a reply cannot be trained on");
}

#[test]
fn a_reply_has_at_most_as_many_tokens_as_asked_for() {
    let chat = ["chat", "--temperature=0", "--max-tokens=3"];
    let assert = wgpt(trained()).args(chat).args(MODEL).write_stdin("What color?\n").assert();
    // The blank after the generation prompt is a token.
    assert.success().stdout("Re\n");
    let long = "x".repeat(200);
    wgpt(trained())
        .args(["chat"])
        .args(MODEL)
        .write_stdin(long)
        .assert()
        .code(1)
        .stdout("")
        .stderr(predicate::str::contains("write a shorter one"));
}

#[test]
fn what_is_learned_is_shown() {
    let shown = wgpt(trained())
        .args(["data", "show", "chats.jsonl", "--model=runs/chats", "--limit=1"])
        .assert()
        .success();
    let text = String::from_utf8_lossy(&shown.get_output().stdout).into_owned();
    assert!(text.contains("--- chats.jsonl, line 1: "), "{text}");
    assert!(text.contains("User: What color?\nAssistant:⟦ Red.<|endoftext|>\n⟧"), "{text}");
    assert!(text.contains("12 conversations, "), "{text}");
    let tokens = wgpt(trained())
        .args(["data", "show", "chats.jsonl", "--model=runs/chats", "--limit=1", "--tokens"])
        .assert()
        .success();
    let text = String::from_utf8_lossy(&tokens.get_output().stdout).into_owned();
    assert!(text.contains("t|:|⟦ |R|e|d|.|<|endoftext|>"), "{text}");
    let all = ["data", "show", "chats.jsonl", "--model=runs/chats", "--json", "--limit=2"];
    let value = json_of(wgpt(trained()).args(all));
    assert_eq!(value["conversations"].as_array().unwrap().len(), 2);
    assert_eq!(value["counts"]["conversations"], 12);
    let one = &value["conversations"][0];
    let learned = one["learned"].as_array().unwrap().iter().filter(|is| **is == true).count();
    assert_eq!(learned, 1 + 4 + 1 + 1);
    let text = trained().join("text.txt");
    fs::write(&text, "no conversations").unwrap();
    wgpt(trained())
        .args(["data", "show", "text.txt", "--model=runs/chats"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("holds no conversations"));
}

#[test]
fn the_proof_is_a_command() {
    let prove = ["data", "prove", "chats.jsonl", "--conversations=3"];
    wgpt(trained())
        .args(prove)
        .args(MODEL)
        .assert()
        .success()
        .stdout(predicate::str::contains("each of the changes is exactly 0"));
    let value = json_of(wgpt(trained()).args(prove).args(MODEL).arg("--json"));
    assert_eq!(value["holds"], true);
    assert_eq!(value["other_tokens"]["gradient_change"], 0.0);
    assert!(value["learned_label"]["least_loss_change"].as_f64().unwrap() > 0.0);
}
