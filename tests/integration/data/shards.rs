//! Are several token files one row, divided as their names say, with every fault under its file's name?

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wgpt::data::{Shards, Sources, TokenWriter, Tokens};

fn ids(tokens: &Tokens, range: std::ops::Range<usize>) -> Vec<u32> {
    let mut out = vec![0; range.len()];
    tokens.copy_to(range, &mut out);
    out
}

fn plain(path: &Path, ids: impl Iterator<Item = u16>) {
    fs::write(path, ids.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
}

/// A file as llm.c writes it, of 16-bit ids.
fn llm_c(path: &Path, ids: &[u16]) {
    let head = [20_240_520, 1, ids.len() as u32];
    let mut bytes: Vec<u8> = head.iter().flat_map(|n| n.to_le_bytes()).collect();
    bytes.resize(1024, 0);
    bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

fn own(path: &Path, vocab_size: usize, ids: &[u32]) {
    let mut writer = TokenWriter::create(path, vocab_size).unwrap();
    writer.push(ids).unwrap();
    writer.finish().unwrap();
}

/// Shards of every format and both widths, in a folder; the ids count up from 0 to 1000.
fn mixed() -> (TempDir, Vec<PathBuf>) {
    let folder = TempDir::new().unwrap();
    let names = ["0.bin", "1.bin", "2.BIN", "sub/0.bin"];
    let paths = names.map(|name| folder.path().join(name)).to_vec();
    fs::create_dir(folder.path().join("sub")).unwrap();
    plain(&paths[0], 0..300);
    llm_c(&paths[1], &[300]);
    own(&paths[2], 1 << 17, &(301..800).collect::<Vec<u32>>());
    own(&paths[3], 1000, &(800..1000).collect::<Vec<u32>>());
    (folder, paths)
}

#[test]
fn shards_are_one_row_in_order() {
    let (folder, paths) = mixed();
    let arguments = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let whole = Tokens::from_ids((0..1000).collect());
    for arguments in [vec![folder.path().display().to_string()], arguments] {
        let sources = Sources::parse(&arguments).unwrap();
        let shards = sources.shards().unwrap();
        assert_eq!((&shards.training, shards.notes().len()), (&paths, 0));
        for tokens in [shards.open().unwrap(), sources.tokens().unwrap().unwrap()] {
            assert_eq!((tokens.len(), tokens.width()), (1000, 4));
            for (start, end) in [(0, 1000), (0, 300), (299, 302), (300, 301), (800, 1000), (5, 5)] {
                assert_eq!(ids(&tokens, start..end), ids(&whole, start..end), "{start}..{end}");
            }
            assert_eq!(tokens.fingerprint(), whole.fingerprint());
            assert_eq!(tokens.split(None), whole.split(None));
            tokens.check(1000).unwrap();
        }
        assert!(sources.documents().next().unwrap().is_err(), "they are no text");
    }
}

#[test]
fn a_fault_names_its_shard() {
    let (folder, paths) = mixed();
    let argument = [folder.path().display().to_string()];
    let open = || Sources::parse(&argument).unwrap().tokens();
    let error = open().unwrap().unwrap().check(850).unwrap_err().to_string();
    assert!(error.contains("sub/0.bin: token id 850 at position 50 "), "{error}");
    let error = open().unwrap().unwrap().check(300).unwrap_err().to_string();
    assert!(error.contains("1.bin: token id 300 at position 0 "), "{error}");
    let whole = fs::read(&paths[1]).unwrap();
    for (bytes, words) in
        [(&whole[..1000], "cut short"), (&[][..], "empty"), (&[1][..], "multiple")]
    {
        fs::write(&paths[1], bytes).unwrap();
        let error = open().err().expect(words).to_string();
        assert!(error.contains("1.bin") && error.contains(words), "{error}");
    }
}

#[test]
fn token_files_and_text_do_not_mix() {
    let (folder, _) = mixed();
    fs::write(folder.path().join("notes.md"), "some words").unwrap();
    let error = Sources::parse(&[folder.path().display().to_string()]).unwrap_err();
    let said = format!("{error} / {}", error.advice().unwrap_or_default());
    for words in ["0.bin", "notes.md", "text", "/*.bin"] {
        assert!(said.contains(words), "{said}");
    }
    let mixed = [folder.path().join("0.bin").display().to_string(), "stories".to_owned()];
    assert!(Sources::parse(&mixed).unwrap_err().to_string().contains("such as stories"));
}

#[test]
fn names_say_what_is_for_validation() {
    let divided = |names: &[&str]| {
        let paths: Vec<PathBuf> =
            names.iter().map(|name| Path::new("/test/val").join(name)).collect();
        let Shards { training, validation, left_out } = Shards::new(&paths);
        [training, validation, left_out].map(|paths| {
            let own =
                |path: &PathBuf| path.strip_prefix("/test/val").unwrap().display().to_string();
            paths.iter().map(own).collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(
        divided(&[
            "fineweb_train_000001.bin",
            "fineweb_train_000002.bin",
            "fineweb_val_000000.bin"
        ]),
        ["fineweb_train_000001.bin fineweb_train_000002.bin", "fineweb_val_000000.bin", ""]
    );
    assert_eq!(divided(&["train.bin", "val.bin"]), ["train.bin", "val.bin", ""]);
    assert_eq!(
        divided(&["a-Valid.bin", "b.bin", "test1.bin"]),
        ["b.bin", "a-Valid.bin", "test1.bin"]
    );
    assert_eq!(
        divided(&["train/0.bin", "train/1.bin", "validation/0.bin"]),
        ["train/0.bin train/1.bin", "validation/0.bin", ""]
    );
    // Words within words, and files that are all of one kind, are no division.
    assert_eq!(divided(&["retrieval.bin", "latest.bin"]), ["retrieval.bin latest.bin", "", ""]);
    assert_eq!(divided(&["val_0.bin", "val_1.bin"]), ["val_0.bin val_1.bin", "", ""]);
    assert_eq!(divided(&["val.bin"]), ["val.bin", "", ""]);
}

#[test]
fn validation_shards_are_the_validation_split() {
    let folder = TempDir::new().unwrap();
    // Sorted by name, the validation shard comes first.
    plain(&folder.path().join("a_val_0.bin"), 900..1000);
    plain(&folder.path().join("b_train_0.bin"), 0..300);
    plain(&folder.path().join("b_train_1.bin"), 300..900);
    let sources = Sources::parse(&[folder.path().display().to_string()]).unwrap();
    let shards = sources.shards().unwrap();
    let notes = shards.notes();
    assert!(notes.len() == 1 && notes[0].contains("to validate on"), "{notes:?}");
    assert!(notes[0].contains("a_val_0.bin"), "{notes:?}");
    let tokens = shards.open().unwrap();
    assert_eq!(ids(&tokens, 0..1000), (0..1000).collect::<Vec<u32>>());
    assert_eq!(tokens.split(None), (0..900, 900..1000));
    assert_eq!(tokens.split(Some(1_000_000)), (0..900, 900..1000));
    // What is not validated on is not trained on.
    assert_eq!(tokens.split(Some(10)), (0..900, 900..910));
}

#[test]
fn the_validation_split_is_a_tenth_and_bounded() {
    let tokens = Tokens::from_ids((0..1005).collect());
    assert_eq!(tokens.split(None), (0..904, 904..1005));
    assert_eq!(tokens.split(Some(101)), (0..904, 904..1005));
    assert_eq!(tokens.split(Some(100)), (0..905, 905..1005));
    assert_eq!(tokens.split(Some(2)), (0..1003, 1003..1005));
}
