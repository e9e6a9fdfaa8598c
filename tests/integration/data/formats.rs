//! Is text read from whatever holds it: JSON lines, arrays and objects under all their names, UTF-16, byte order marks?

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use wgpt::data::{Document, Sources};

fn sources(path: &Path) -> wgpt::Result<Sources> {
    Sources::parse(&[path.display().to_string()])
}

fn documents(path: &Path) -> wgpt::Result<Vec<Document>> {
    sources(path)?.documents().collect()
}

/// The texts of a file called `name` with these bytes.
fn read(name: &str, bytes: &[u8]) -> wgpt::Result<Vec<String>> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let documents = documents(&path)?;
    assert!(documents.iter().all(|document| document.begins), "{name}: documents are whole");
    Ok(documents.into_iter().map(|document| document.text).collect())
}

/// The error of such a file, with its hint.
fn refused(name: &str, bytes: &[u8]) -> String {
    let error = read(name, bytes).err().unwrap_or_else(|| panic!("{name} was read"));
    format!("{error} / {}", error.advice().unwrap_or_default())
}

const UTF16_LE: [u8; 2] = [0xFF, 0xFE];
const UTF16_BE: [u8; 2] = [0xFE, 0xFF];

/// A text in UTF-16 with these bytes before it.
fn utf16(mark: [u8; 2], text: &str) -> Vec<u8> {
    let unit = |unit: u16| match mark {
        UTF16_LE => unit.to_le_bytes(),
        _ => unit.to_be_bytes(),
    };
    mark.into_iter().chain(text.encode_utf16().flat_map(unit)).collect()
}

#[test]
fn json_is_told_by_its_content_under_every_name() {
    let lines = "{\"text\": \"The red fox.\"}\n\n{\"id\": [1, {\"text\": 2}], \"text\": \"é\\n\\\"x\\\" }]\"}\r\n{\"text\": \"\"}\n";
    let array = "[{\"text\": \"The red fox.\"},{\"id\": [1, {\"text\": 2}], \"text\": \"é\\n\\\"x\\\" }]\"}, {\"text\": \"\"}]";
    let pretty = "\n[\n  {\n    \"text\": \"The red fox.\"\n  },\n  {\n    \"id\": [\n      1\n    ],\n    \"text\": \"é\\n\\\"x\\\" }]\"\n  }\n]\n";
    let strings = "[\"The red fox.\", \"\",\n \"é\\n\\\"x\\\" }]\"]";
    let wanted = ["The red fox.", "é\n\"x\" }]"];
    for name in ["a.json", "a.JSON", "a.jsonl", "a.ndjson", "a.NdJson"] {
        for text in [lines, array, pretty, strings] {
            assert_eq!(read(name, text.as_bytes()).unwrap(), wanted, "{name}: {text}");
            let marked = format!("\u{feff}{text}");
            assert_eq!(read(name, marked.as_bytes()).unwrap(), wanted, "{name}, marked: {text}");
            for mark in [UTF16_LE, UTF16_BE] {
                assert_eq!(read(name, &utf16(mark, text)).unwrap(), wanted, "{name}, UTF-16");
            }
        }
    }
    let one = "{\n \"title\": \"x\",\n \"text\": \"only\"\n}";
    assert_eq!(read("a.json", one.as_bytes()).unwrap(), ["only"]);
    assert_eq!(read("a.json", format!("{one}\n{one}{one}").as_bytes()).unwrap(), ["only"; 3]);
    assert_eq!(read("a.json", b"{\"text\": \"only\"}").unwrap(), ["only"]);
    assert_eq!(read("a.json", b"[]").unwrap().len(), 0);
    // JSON under another name is text.
    assert_eq!(read("a.txt", b"{\"text\": \"x\"}").unwrap(), ["{\"text\": \"x\"}"]);
}

#[test]
fn values_longer_than_a_buffer_are_whole() {
    let long = "x".repeat(300_000) + "\\\\\\\"" + &"é".repeat(200_000);
    let text = long.replace("\\\\", "\\").replace("\\\"", "\"");
    for shift in 0..4 {
        let space = " ".repeat(shift);
        let array = format!("{space}[{{\"text\":\"{long}\"}} ,\n{space}\"{long}\"\n]");
        assert!(read("a.json", array.as_bytes()).unwrap() == [text.clone(), text.clone()]);
    }
    let object = format!("{{\n\"text\": \"{long}\"\n}}\n").repeat(2);
    assert!(read("a.json", object.as_bytes()).unwrap() == [text.clone(), text]);
}

#[test]
fn what_is_no_text_is_refused_with_its_line_and_what_is_wanted() {
    let fine = "{\"text\": \"fine\"}";
    let cases = [
        ("a.jsonl", format!("{fine}\n[\"The green hill\"]\n{fine}\n"), "line 2"),
        ("a.ndjson", format!("{fine}\n\n[{fine}]\n"), "line 3"),
        ("a.json", format!("{fine}\n[\"The green hill\"]\n"), "line 2"),
        ("a.jsonl", format!("[\"The green hill\"]\n{fine}\n"), "line 1"),
        ("a.json", format!("\n[{fine}]\n[{fine}]\n"), "line 2"),
        ("a.json", format!("{fine}\n\"a string\"\n"), "line 2"),
        ("a.json", "{\"lr\": 0.1, \"layers\": 3}".to_owned(), "line 1: missing field `text`"),
        ("a.json", "{\n  \"lr\": 0.1\n}".to_owned(), "line 3: missing field `text`"),
        ("a.json", "{\"text\": [\"a\"]}".to_owned(), "line 1"),
        ("a.json", format!("[{fine},\n{fine},\n3]"), "line 3"),
        ("a.json", format!("[{fine},\n[{fine}]]"), "line 2"),
        ("a.json", format!("[{fine}\n{fine}]"), "line 2: a comma or ]"),
        ("a.json", format!("[{fine},\n\n"), "line 3: the file ends"),
        ("a.json", format!("[{fine},\n]"), "line 2"),
        ("a.json", format!("[{fine},\n{{\"text\": \"cut sho"), "line 2"),
        ("a.json", "Once upon a time".to_owned(), "line 1"),
        ("a.json", "{\n\"text\": \"a\",\n\"text\": \"b\"\n}".to_owned(), "duplicate field"),
    ];
    for (name, text, words) in cases {
        let error = refused(name, text.as_bytes());
        assert!(error.contains(words) && error.contains(name), "{text:?}: {error}");
        assert!(error.contains("string \"text\""), "{text:?}: {error}");
    }
    let error = refused("a.json", b"[{\"text\": \"a\"},\n{\"text\": \"\xFF\"}]");
    assert!(error.contains("line 2") && error.contains("byte 26"), "{error}");
    let error = refused("a.jsonl", b"\xEF\xBB\xBF{\"text\": \"a\"}\n{\"text\": \"\xFF\"}");
    assert!(error.contains("line 2") && error.contains("byte 27"), "{error}");
}

#[test]
fn marked_text_is_read_without_its_mark() {
    let text = "Zoë has 🙂 and a café.\r\nЭто текст. 漢字\n";
    assert_eq!(read("a.txt", format!("\u{feff}{text}").as_bytes()).unwrap(), [text]);
    for mark in [UTF16_LE, UTF16_BE] {
        assert_eq!(read("a.txt", &utf16(mark, text)).unwrap(), [text]);
        let parted = utf16(mark, "one\n<|endoftext|>\ntwo");
        assert_eq!(read("a.txt", &parted).unwrap(), ["one", "two"]);
        assert_eq!(read("a.txt", &mark).unwrap().len(), 0, "a mark alone is an empty text");
    }
    for bytes in [utf16(UTF16_BE, text), format!("\u{feff}{text}").into_bytes()] {
        assert_eq!(wgpt::data::read_text(bytes.as_slice(), "stdin").unwrap(), text);
    }
    let error = wgpt::data::read_text(&b"\xEF\xBB\xBFa\xFF"[..], "stdin").unwrap_err().to_string();
    assert!(error.contains("stdin") && error.contains("byte 4"), "{error}");
    // A mark within the text is a character.
    assert_eq!(read("a.txt", "a\u{feff}".as_bytes()).unwrap(), ["a\u{feff}"]);
}

#[test]
fn long_utf16_loses_nothing_wherever_it_is_cut() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("long.txt");
    for shift in 0..3 {
        let text = "a".repeat(shift) + &"🙂é漢 ".repeat(60_000);
        fs::write(&path, utf16(UTF16_LE, &text)).unwrap();
        let pieces = documents(&path).unwrap();
        let read: String = pieces.into_iter().map(|piece| piece.text).collect();
        assert!(read == text, "{shift}");
    }
}

#[test]
fn broken_utf16_is_refused_with_its_byte() {
    let mut odd = utf16(UTF16_LE, "hello");
    odd.push(7);
    let error = refused("odd.txt", &odd);
    assert!(error.contains("odd.txt") && error.contains("byte 12"), "{error}");
    for (mark, lone) in [(UTF16_LE, [0x00, 0xD8]), (UTF16_BE, [0xDC, 0x00])] {
        let text = [utf16(mark, "ab🙂"), lone.to_vec(), utf16(mark, "cd")[2..].to_vec()].concat();
        let error = refused("lone.txt", &text);
        assert!(error.contains("UTF-16") && error.contains("byte 10"), "{error}");
        assert!(error.contains("iconv"), "{error}");
    }
    // Far into the file, beyond what is decoded at once.
    let far = [utf16(UTF16_LE, &"🙂".repeat(40_000)), vec![0, 0xDC]].concat();
    let error = refused("far.txt", &far);
    assert!(error.contains("byte 160002"), "{error}");
    // Without a mark it is not known which of the two it is.
    for text in ["Hello, world", "Привет, как твои дела сегодня?\n"] {
        let error = refused("bare.txt", &utf16(UTF16_BE, text)[2..]);
        assert!(
            error.contains("bare.txt") && error.contains("without a byte order mark"),
            "{error}"
        );
    }
    let error = refused("wide.txt", &[0xFF, 0xFE, 0, 0, b'a', 0, 0, 0]);
    assert!(error.contains("UTF-32"), "{error}");
}

#[test]
fn a_folder_says_what_it_leaves_out() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    for (name, bytes) in [
        ("a.txt", b"plain".to_vec()),
        ("b.txt", utf16(UTF16_LE, "wide")),
        ("c.json", b"[\"of JSON\"]".to_vec()),
        ("d.ndjson", b"{\"text\": \"a line\"}".to_vec()),
        ("package.json", b"{\n \"name\": \"x\"\n}".to_vec()),
        ("p.png", vec![0x89, 0x50, 0, 0, 0xFF]),
        ("bare.txt", utf16(UTF16_LE, "no mark")[2..].to_vec()),
        ("empty.txt", vec![]),
        ("none.json", b"[]".to_vec()),
        (".hidden.json", b"{}".to_vec()),
    ] {
        fs::write(root.join(name), bytes).unwrap();
    }
    let parsed = sources(root).unwrap();
    let texts: Vec<String> = parsed.documents().map(|document| document.unwrap().text).collect();
    assert_eq!(texts, ["plain", "wide", "of JSON", "a line"]);
    let left = |file: &wgpt::data::LeftOut| {
        let name = file.path.strip_prefix(root).unwrap().display().to_string();
        (name, file.why.clone())
    };
    let left: Vec<(String, String)> = parsed.left_out().iter().map(left).collect();
    let wanted = [
        ("bare.txt", "byte order mark"),
        ("empty.txt", "empty"),
        ("none.json", "without a text"),
        ("p.png", "binary"),
        ("package.json", "missing field `text`"),
    ];
    assert_eq!(left.len(), wanted.len(), "{left:?}");
    for ((name, why), (wanted, words)) in left.iter().zip(wanted) {
        assert!(name == wanted && why.contains(words), "{name}: {why}");
    }
    assert_eq!(parsed.notes().len(), 5);
    assert!(parsed.notes()[3].contains("p.png: binary"), "{:?}", parsed.notes());
    for i in 0..20 {
        fs::write(root.join(format!("x{i}.png")), [0, 1, 2]).unwrap();
    }
    let notes = sources(root).unwrap().notes();
    assert!(notes.len() == 6 && notes[5].contains("20 files more"), "{notes:?}");
    // A file with JSON lines is meant: one that is broken is not left out.
    fs::write(root.join("e.jsonl"), "{\"txt\": 1}").unwrap();
    let error = documents(root).unwrap_err().to_string();
    assert!(error.contains("e.jsonl, line 1"), "{error}");
    // Nothing is left: the message says what there was.
    let settings = TempDir::new().unwrap();
    fs::write(settings.path().join("config.json"), "{}").unwrap();
    let error = sources(settings.path()).unwrap_err().to_string();
    assert!(error.contains("no data") && error.contains("config.json"), "{error}");
}
