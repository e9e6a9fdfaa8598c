//! Are token files what was written, are batches a function of their place, and do windows cover a split?

use std::collections::HashSet;
use std::fs;

use tempfile::TempDir;
use wgpt::Tokenizer;
use wgpt::data::{Document, IGNORE, Place, TokenWriter, Tokens, batch, encode, split, windows};
use wgpt::tokenizer::AddedAs;

/// All ids of a row.
fn ids(tokens: &Tokens) -> Vec<u32> {
    let mut out = vec![0; tokens.len()];
    tokens.copy_to(0..tokens.len(), &mut out);
    out
}

fn place(seed: u64, step: u64, micro: u64) -> Place {
    Place { seed, step, micro }
}

#[test]
fn token_files_read_back_in_both_widths() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ids.bin");
    for (vocab_size, width) in [(300, 2), (65_536, 2), (65_537, 4)] {
        let wanted: Vec<u32> = (0..100_000_u32).map(|i| i * 7919 % vocab_size).collect();
        let mut writer = TokenWriter::create(&path, vocab_size as usize).unwrap();
        wanted.chunks(999).for_each(|part| writer.push(part).unwrap());
        let tokens = writer.finish().unwrap();
        assert_eq!((tokens.len(), tokens.width()), (wanted.len(), width));
        assert_eq!(ids(&tokens), wanted);
        tokens.check(vocab_size as usize).unwrap();
        let mut some = [0; 5];
        Tokens::open(&path).unwrap().copy_to(77_777..77_782, &mut some);
        assert_eq!(some[..], wanted[77_777..77_782]);
        let last = wanted.iter().max().unwrap();
        let at = wanted.iter().position(|id| id == last).unwrap();
        let error = tokens.check(*last as usize).unwrap_err().to_string();
        for part in ["ids.bin", &last.to_string(), &format!("position {at} ")] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
}

#[test]
fn an_unfinished_file_never_appears() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ids.bin");
    let mut writer = TokenWriter::create(&path, 300).unwrap();
    writer.push(&[1, 2, 3]).unwrap();
    assert!(!path.exists());
    assert!(writer.push(&[70_000]).unwrap_err().to_string().contains("70000"));
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn plain_files_are_16_bit_ids() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("plain.bin");
    fs::write(&path, [5, 0, 0, 1, 255, 255]).unwrap();
    assert_eq!(ids(&Tokens::open(&path).unwrap()), [5, 256, 65_535]);
}

/// A file as llm.c writes it.
fn llm_c(magic: u32, version: u32, count: u32, ids: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [magic, version, count].iter().flat_map(|n| n.to_le_bytes()).collect();
    bytes.resize(1024, 0);
    [&bytes, ids].concat()
}

#[test]
fn the_token_files_of_llm_c_are_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("fineweb_train_000001.bin");
    fs::write(&path, llm_c(20_240_520, 1, 3, &[80, 196, 7, 0, 1, 1])).unwrap();
    let tokens = Tokens::open(&path).unwrap();
    assert_eq!((ids(&tokens), tokens.width()), (vec![50_256, 7, 257], 2));
    fs::write(&path, llm_c(20_240_801, 7, 2, &[0, 244, 1, 0, 7, 0, 0, 0])).unwrap();
    let tokens = Tokens::open(&path).unwrap();
    assert_eq!((ids(&tokens), tokens.width()), (vec![128_000, 7], 4));
    // Plain ids that happen to begin with the magic number are no header.
    let plain = [&20_240_520_u32.to_le_bytes()[..], &[7; 2000]].concat();
    fs::write(&path, plain).unwrap();
    assert_eq!(Tokens::open(&path).unwrap().len(), 1002);
}

#[test]
fn damaged_token_files_of_llm_c_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("fineweb.bin");
    let ids = [1, 0, 2, 0, 3, 0];
    let cases = [
        (llm_c(20_240_520, 2, 3, &ids), "version 2"),
        (llm_c(20_240_801, 1, 3, &ids), "version 1"),
        (llm_c(20_240_520, 1, 4, &ids), "4 tokens"),
        (llm_c(20_240_520, 1, 2, &ids), "2 tokens"),
        (llm_c(20_240_520, 1, u32::MAX, &ids), "tokens"),
        (llm_c(20_240_801, 7, 3, &ids), "3 tokens of 4 bytes"),
        (llm_c(20_240_520, 1, 0, &[]), "empty"),
        (llm_c(20_240_520, 1, 3, &ids)[..700].to_vec(), "cut short"),
        (llm_c(20_240_522, 1, 3, &ids), "questions"),
    ];
    for (bytes, words) in cases {
        fs::write(&path, &bytes).unwrap();
        let error = Tokens::open(&path).err().expect(words).to_string();
        assert!(error.contains(words) && error.contains("fineweb.bin"), "{words}: {error}");
    }
}

#[test]
fn changed_token_files_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ids.bin");
    let mut writer = TokenWriter::create(&path, 300).unwrap();
    writer.push(&[1, 2, 3]).unwrap();
    drop(writer.finish().unwrap());
    let whole = fs::read(&path).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    let cases = [
        (vec![], "empty"),
        (whole[..10].to_vec(), "header"),
        (whole[..whole.len() - 2].to_vec(), "3 tokens"),
        ([&whole[..], &[0, 0]].concat(), "3 tokens"),
        (with(8, 9), "version 9"),
        (with(12, 3), "3 bytes"),
        (with(23, 255), "tokens"),
    ];
    for (bytes, words) in cases {
        fs::write(&path, &bytes).unwrap();
        let error = Tokens::open(&path).err().expect(words).to_string();
        assert!(error.contains(words) && error.contains("ids.bin"), "{words}: {error}");
    }
}

#[test]
fn encoding_keeps_order_and_puts_ends_between_documents() {
    let documents = |count: usize| {
        (0..count)
            .map(|i| Ok(Document { text: format!("{i} ").repeat(1 + i % 50), begins: i % 3 != 1 }))
    };
    let tokenizer = Tokenizer::bytes();
    let bytes = |text: &str| tokenizer.encode(text);
    let run = |threads: usize, end: Option<u32>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut out, mut done) = (Vec::new(), 0);
        let mut push = |ids: &[u32]| {
            out.extend_from_slice(ids);
            Ok(())
        };
        pool.install(|| {
            let encoder = tokenizer.encoder(AddedAs::Text);
            encode(documents(40_000), encoder, end, &mut push, &mut |bytes| done = bytes)
        })
        .unwrap();
        (out, done)
    };
    let mut wanted = Vec::new();
    for (i, document) in documents(40_000).enumerate() {
        let document = document.unwrap();
        if document.begins && i > 0 {
            wanted.push(0);
        }
        wanted.extend(bytes(&document.text));
    }
    let plain: Vec<u32> = wanted.iter().copied().filter(|id| *id != 0).collect();
    assert!(plain.len() > 3 << 20, "more than one round of every thread");
    assert!(run(1, Some(0)).0 == wanted && run(3, Some(0)).0 == wanted);
    assert!(run(2, None) == (plain.clone(), plain.len() as u64));
}

#[test]
fn an_error_in_the_text_ends_the_encoding() {
    let documents = [Ok(Document::whole("a".into())), Err(wgpt::Error::input("byte 7"))];
    let tokenizer = Tokenizer::bytes();
    let encoder = tokenizer.encoder(AddedAs::Text);
    let error = encode(documents.into_iter(), encoder, None, &mut |_| Ok(()), &mut |_| {});
    assert_eq!(error.unwrap_err().to_string(), "byte 7");
}

#[test]
fn the_split_is_nano_gpts() {
    for len in (0..2000).chain([1_115_394, 123_456_789, 9_035_582_198]) {
        let (train, val) = split(len);
        assert_eq!(train.end, (0.9 * len as f64) as usize, "int(0.9 * {len})");
        assert_eq!((train.start, val.start, val.end), (0, train.end, len));
    }
}

#[test]
fn a_batch_is_windows_of_its_split() {
    let tokens = Tokens::from_ids((0..1000).collect());
    let (b, t) = (64, 7);
    let (mut x, mut y) = (vec![0; b * t], vec![0; b * t]);
    let mut starts = HashSet::new();
    for step in 0..200 {
        batch(&tokens, 900..1000, place(1, step, 0), (b, t), &mut x, &mut y).unwrap();
        for (x, y) in x.chunks(t).zip(y.chunks(t)) {
            assert!(x.windows(2).all(|pair| pair[1] == pair[0] + 1));
            assert!(x.iter().zip(y).all(|(x, y)| *y == x + 1));
            starts.insert(x[0]);
        }
    }
    // Every start occurs: the first has the split's first token, the last predicts its last one.
    let wanted: HashSet<u32> = (900..=1000 - 8).collect();
    assert_eq!(starts, wanted);
}

#[test]
fn a_batch_is_a_function_of_its_place() {
    let tokens = Tokens::from_ids((0..100_000).collect());
    let draw = |at: Place| {
        let (mut x, mut y) = (vec![0; 8 * 4], vec![0; 8 * 4]);
        batch(&tokens, 0..100_000, at, (8, 4), &mut x, &mut y).unwrap();
        (x, y)
    };
    assert_eq!(draw(place(1, 2, 3)), draw(place(1, 2, 3)));
    let places = [place(1, 2, 3), place(2, 2, 3), place(1, 3, 3), place(1, 2, 4), place(2, 1, 3)];
    let different: HashSet<Vec<u32>> = places.iter().map(|at| draw(*at).0).collect();
    assert_eq!(different.len(), places.len());
}

#[test]
fn too_short_a_split_is_refused() {
    let tokens = Tokens::from_ids((0..8).collect()).named("tiny.txt");
    let (mut x, mut y) = (vec![0; 8], vec![0; 8]);
    batch(&tokens, 0..8, place(0, 0, 0), (1, 7), &mut x[..7], &mut y[..7]).unwrap();
    assert_eq!((x[0], y[6]), (0, 7));
    let error = batch(&tokens, 0..8, place(0, 0, 0), (1, 8), &mut x, &mut y).unwrap_err();
    for part in ["tiny.txt", "short", "8", "9"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn windows_predict_every_token_but_the_first_once() {
    for (len, t, b) in
        [(100, 7, 3), (99, 7, 2), (8, 7, 4), (2, 7, 1), (1, 7, 1), (0, 7, 1), (50, 1, 4)]
    {
        let tokens = Tokens::from_ids((1000..1000 + 10 + len).collect());
        let range = 10..10 + len as usize;
        let all = windows(range.clone(), t);
        let (mut x, mut y) = (vec![9; b * t], vec![9; b * t]);
        let (mut targets, mut count) = (Vec::new(), 0);
        for first in (0..all.len()).step_by(b) {
            count += all.fill(&tokens, first, &mut x, &mut y);
            for (&x, &y) in x.iter().zip(&y) {
                assert!(if y == IGNORE { x == 0 } else { y == x + 1 });
                targets.extend((y != IGNORE).then_some(y));
            }
        }
        let wanted: Vec<u32> = (1011..1010 + len).collect();
        assert_eq!(targets, wanted, "{len} tokens in windows of {t}");
        assert_eq!((count, all.targets(), all.is_empty()), (wanted.len(), wanted.len(), len < 2));
        assert_eq!(all.fill(&tokens, all.len(), &mut x, &mut y), 0);
        assert!(y.iter().all(|y| *y == IGNORE));
    }
}
