//! Are files, folders and `.jsonl` read whole, in order, in pieces, and refused where they are broken?

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use wgpt::data::{Document, Downloads, Source, Sources, Tokens, check_length, encode, split};
use wgpt::tokenizer::AddedAs;

use crate::common::oracle;

fn sources(paths: &[&Path]) -> wgpt::Result<Sources> {
    let arguments: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    Sources::parse(&arguments)
}

fn documents(path: &Path) -> wgpt::Result<Vec<Document>> {
    sources(&[path])?.documents().collect()
}

/// The documents with their pieces put together again.
fn texts(path: &Path) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for document in documents(path).unwrap() {
        if document.begins {
            texts.push(String::new());
        }
        texts.last_mut().expect("the first piece begins").push_str(&document.text);
    }
    texts
}

/// The error of a call, with its hint.
fn message<T>(result: wgpt::Result<T>) -> String {
    let error = result.err().expect("an error");
    format!("{error} / {}", error.advice().unwrap_or_default())
}

#[test]
fn names_and_paths_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.txt");
    fs::write(&file, "hello").unwrap();
    let arguments = ["stories", "tinystories", file.to_str().unwrap()].map(str::to_owned);
    let parsed = Sources::parse(&arguments).unwrap();
    assert!(matches!(parsed.list()[0], Source::Stories(_)));
    assert!(matches!(parsed.list()[1], Source::Dataset(set) if set.name == "tinystories"));
    assert_eq!(parsed.list()[2], Source::Text(file));
    assert_eq!(parsed.name(), arguments.join(" "));
    let missing = message(Sources::parse(&["no/such/file".to_owned()]));
    assert!(missing.contains("no/such/file") && missing.contains("shakespeare"), "{missing}");
    assert!(Sources::parse(&[]).is_err());
}

#[test]
fn the_stories_corpus_is_its_stories() {
    let parsed = Sources::parse(&["stories".to_owned()]).unwrap();
    let third = parsed.documents().nth(2).unwrap().unwrap();
    assert_eq!(third, Document::whole(wgpt::data::stories::story(1, 2)));
}

#[test]
fn a_folder_is_its_files_in_order() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("b/c")).unwrap();
    fs::create_dir_all(root.join(".git")).unwrap();
    for (name, text) in [
        ("z.txt", "last"),
        ("a.md", "first"),
        ("b/c/x.jsonl", "{\"text\": \"second\"}\n\n{\"id\": 1, \"text\": \"third \\u00e9\"}"),
        ("b/d.txt", "fourth"),
        (".hidden.txt", "never"),
        (".git/config", "never"),
        ("empty.txt", ""),
    ] {
        fs::write(root.join(name), text).unwrap();
    }
    assert_eq!(texts(root), ["first", "second", "third é", "fourth", "last"]);
    let nothing = TempDir::new().unwrap();
    assert!(message(documents(nothing.path())).contains("no data"));
}

#[test]
fn separators_part_documents() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("s.txt");
    fs::write(&path, "\nOne.\nTwo.\n<|endoftext|>\n\nThree.\r\n<|endoftext|><|endoftext|>Four")
        .unwrap();
    assert_eq!(texts(&path), ["\nOne.\nTwo.", "Three.", "Four"]);
}

/// A text of several pieces with words, numbers, line ends and two- and four-byte characters.
fn long_text() -> String {
    let word = |i: usize| match i % 7 {
        0 => "naïve ".to_owned(),
        1 => format!("{i} "),
        2 => "it's\n".to_owned(),
        3 => "  two\n\n".to_owned(),
        4 => "🙂, ".to_owned(),
        _ => "word ".to_owned(),
    };
    (0..200_000).map(word).collect()
}

#[test]
fn long_files_come_in_pieces_that_lose_nothing() {
    let folder = TempDir::new().unwrap();
    for (name, text) in [
        ("words.txt", long_text()),
        ("no_spaces.txt", "é🙂".repeat(200_000)),
        ("one_letter.txt", "x".repeat(700_001)),
        ("lines.txt", "\n".repeat(600) + &"x\r\n".repeat(200_000)),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, &text).unwrap();
        let pieces = documents(&path).unwrap();
        assert!(pieces.len() > 2, "{name}: {} pieces", pieces.len());
        assert!(pieces.iter().all(|piece| piece.text.len() <= 1 << 20), "{name}");
        assert_eq!(pieces.iter().filter(|piece| piece.begins).count(), 1, "{name}");
        assert!(pieces.iter().map(|piece| &piece.text[..]).eq_text(&text), "{name}");
    }
}

trait EqText {
    fn eq_text(self, text: &str) -> bool;
}

impl<'a, I: Iterator<Item = &'a str>> EqText for I {
    fn eq_text(self, text: &str) -> bool {
        self.collect::<String>() == text
    }
}

#[test]
fn files_have_the_tokens_of_their_texts_wherever_pieces_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("text.txt");
    // Line ends that no such text has as tokens, so that a wrong cut shows.
    let line_ends = ["\n\n", "\n\n", "\r\n", "\r\n"];
    let thai = "\u{e2a}\u{e27}\u{e31}\u{e2a}\u{e14}\u{e35}".repeat(9) + "\n\n";
    let chinese = "\u{5929}\u{5730}".repeat(20) + "\u{3002}\r\n";
    for text in [long_text(), thai.repeat(4000), chinese.repeat(4000), "x".repeat(600_000)] {
        let documents = [&text[..100_000.min(text.floor_char_boundary(100_000))]];
        let documents = documents.into_iter().chain(line_ends);
        let tokenizer = wgpt::Tokenizer::train_documents(documents, 400).unwrap();
        fs::write(&path, &text).unwrap();
        let mut ids = Vec::new();
        encode(
            sources(&[&path]).unwrap().documents(),
            tokenizer.encoder(AddedAs::Tokens),
            tokenizer.end_of_text(),
            &mut |more| {
                ids.extend_from_slice(more);
                Ok(())
            },
            &mut |_| {},
        )
        .unwrap();
        assert!(ids == tokenizer.encode_with_special(&text), "a cut changes the tokens");
    }
}

#[test]
fn a_separator_is_found_wherever_a_piece_is_cut() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("s.txt");
    for length in (262_144 - 20)..(262_144 + 8) {
        let long = "y".repeat(length);
        fs::write(&path, format!("{long}<|endoftext|>{long}")).unwrap();
        assert_eq!(texts(&path), [long.clone(), long], "{length}");
    }
}

#[test]
fn invalid_utf8_is_refused_with_file_and_byte() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("broken.txt");
    let mut bytes = long_text().into_bytes();
    bytes[900_000] = 0xFF;
    let first = std::str::from_utf8(&bytes).unwrap_err().valid_up_to();
    fs::write(&path, &bytes).unwrap();
    let error = message(documents(&path));
    assert!(error.contains("broken.txt") && error.contains(&first.to_string()), "{error}");
    let lines = folder.path().join("broken.jsonl");
    fs::write(&lines, b"{\"text\": \"a\"}\n{\"text\": \"\xFF\"}\n").unwrap();
    let error = message(documents(&lines));
    assert!(error.contains("line 2") && error.contains("byte 24"), "{error}");
}

#[test]
fn broken_json_lines_name_file_and_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("d.jsonl");
    for bad in ["{\"txt\": \"a\"}", "{\"text\": 3}", "not json", "[]", "{\"text\": \"a\"", "\"a\""]
    {
        fs::write(&path, format!("{{\"text\": \"fine\"}}\n\n{bad}\n{{\"text\": \"on\"}}\n"))
            .unwrap();
        let read: Vec<_> = sources(&[&path]).unwrap().documents().collect();
        assert_eq!(read.len(), 2, "{bad}: it ends at the error");
        let error = message(read.into_iter().nth(1).unwrap());
        assert!(error.contains("d.jsonl, line 3") && !error.contains("line 1 "), "{bad}: {error}");
    }
}

#[test]
fn a_sample_is_bounded_and_even() {
    let folder = TempDir::new().unwrap();
    let paths = ["a.txt", "b.txt", "c.txt"].map(|name| folder.path().join(name));
    for (path, letter) in paths.iter().zip(["a ", "b ", "c "]) {
        fs::write(path, letter.repeat(500_000)).unwrap();
    }
    let parsed = sources(&[folder.path()]).unwrap();
    assert_eq!(parsed.bytes(), 3_000_000);
    let sample = parsed.sample(300_000).unwrap().concat();
    assert!((250_000..350_000).contains(&sample.len()), "{} bytes", sample.len());
    for letter in ["a", "b", "c"] {
        let share = sample.matches(letter).count() as f64 / (sample.len() as f64 / 2.0);
        assert!((0.25..0.42).contains(&share), "{letter}: {share}");
    }
    assert_eq!(parsed.sample(1 << 30).unwrap().concat().len(), 3_000_000);
}

#[test]
fn a_folder_may_hold_pictures_and_a_file_may_begin_with_a_mark() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.txt"), "hello").unwrap();
    fs::write(folder.path().join("b.png"), [0x89, 0x50, 0, 0, 0xff]).unwrap();
    assert_eq!(sources(&[folder.path()]).unwrap().list().len(), 1);
    // A file that is named is meant.
    assert!(message(documents(&folder.path().join("b.png"))).contains("b.png"));
    let marked = folder.path().join("c.jsonl");
    fs::write(&marked, "\u{feff}{\"text\": \"one\"}\n{\"text\": \"two\"}\n").unwrap();
    assert_eq!(documents(&marked).unwrap().len(), 2);
}

#[test]
fn token_files_stand_alone() {
    let folder = TempDir::new().unwrap();
    let (ids, text) = (folder.path().join("ids.bin"), folder.path().join("a.txt"));
    fs::write(&ids, [1, 0, 2, 0]).unwrap();
    fs::write(&text, "hello").unwrap();
    let shards = sources(&[&ids]).unwrap().shards().unwrap();
    assert_eq!(shards.training, std::slice::from_ref(&ids));
    assert!(sources(&[&text]).unwrap().shards().is_none());
    assert!(message(sources(&[&ids, &text])).contains("ids.bin"));
    assert!(message(documents(&ids)).contains("tokens"));
}

/// What reading `path` as training data says: parsed, read, split into windows, checked against the vocabulary.
fn read_all(path: &Path, context: usize, vocab_size: usize) -> wgpt::Result<()> {
    let parsed = sources(&[path])?;
    let tokens = match parsed.tokens()? {
        Some(tokens) => tokens,
        None => {
            let text = parsed.documents().collect::<wgpt::Result<Vec<Document>>>()?;
            let ids = text.iter().flat_map(|piece| piece.text.bytes().map(u32::from)).collect();
            Tokens::from_ids(ids).named(parsed.name())
        }
    };
    let (train, val) = split(tokens.len());
    check_length(&tokens, &train, context)?;
    check_length(&tokens, &val, context)?;
    tokens.check(vocab_size)
}

#[test]
fn the_oracles_bad_data_is_refused() {
    let folder = oracle().join("bad");
    let bad: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("bad.json")).unwrap()).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("control_ok/config.json")).unwrap()).unwrap();
    let vocab_size = config["vocab_size"].as_u64().unwrap() as usize;
    let mut seen = 0;
    for case in bad["cases"].as_array().unwrap() {
        let kind = case["kind"].as_str().unwrap();
        if kind != "text" && kind != "tokens" {
            continue;
        }
        seen += 1;
        let path = oracle().join(case["path"].as_str().unwrap());
        let said = message(read_all(&path, 8, vocab_size)).to_lowercase();
        for words in case["must_mention"].as_array().unwrap() {
            let words: Vec<&str> =
                words.as_array().unwrap().iter().filter_map(|w| w.as_str()).collect();
            assert!(words.iter().any(|w| said.contains(&w.to_lowercase())), "{case}: {said}");
        }
    }
    assert!(seen >= 2, "the oracle has {seen} cases of text and tokens");
}

#[test]
fn what_is_not_downloaded_cannot_be_read() {
    let parsed = Sources::parse(&["shakespeare".to_owned()]).unwrap();
    assert!(message(parsed.documents().next().unwrap()).contains("shakespeare"));
    // A file put into the cache folder by hand needs no network, but must be the right one.
    let cache = TempDir::new().unwrap();
    fs::write(cache.path().join("tinyshakespeare.txt"), "To be").unwrap();
    let mut parsed = parsed;
    let from = Downloads::new(cache.path(), Some("http://127.0.0.1:1".to_owned()));
    assert!(message(parsed.fetch(&from, &mut |_| {})).contains("SHA-256"));
    let mut tiny = Sources::parse(&["tinystories".to_owned()]).unwrap();
    fs::write(cache.path().join("TinyStoriesV2-GPT4-train.txt"), "One\n<|endoftext|>\nTwo")
        .unwrap();
    tiny.fetch(&from, &mut |_| {}).unwrap();
    let texts: Vec<String> = tiny.documents().map(|document| document.unwrap().text).collect();
    assert_eq!(texts, ["One", "Two"]);
}
