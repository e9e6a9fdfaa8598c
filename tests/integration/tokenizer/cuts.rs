//! Are ids the same wherever a text is cut, whatever the text and the tokenizer?

use proptest::prelude::*;
use serde_json::json;
use wgpt::data::{self, CutText, Document};
use wgpt::tokenizer::{AddedAs, END_OF_TEXT, TokenizerTrainer};
use wgpt::{Result, Tokenizer};

use super::huggingface::{
    added, around, cases, merged_across_cuts, nasty, pre_tokenizers, their_ids, theirs, with_added,
};
use super::{folder, read};

/// The text in pieces of so many characters, which are given over and over.
fn pieces<'a>(text: &'a str, lengths: &'a [usize]) -> impl Iterator<Item = &'a str> {
    let (mut rest, mut lengths) = (text, lengths.iter().cycle());
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(*lengths.next()?).map_or(rest.len(), |(at, _)| at);
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The ids of a text that comes in pieces, and how many there were before its end.
pub(super) fn streamed(
    tokenizer: &Tokenizer,
    added: AddedAs,
    text: &str,
    lengths: &[usize],
) -> (Vec<u32>, usize) {
    let (mut stream, mut ids) = (tokenizer.encoder(added).stream(), Vec::new());
    for piece in pieces(text, lengths) {
        ids.extend(stream.push(piece));
    }
    let early = ids.len();
    ids.extend(stream.finish());
    (ids, early)
}

#[test]
fn every_cut_gives_the_ids_of_the_whole_by_every_pattern() {
    let plain = merged_across_cuts(3000);
    for (prefix, ignore_merges) in [(false, false), (true, false), (false, true)] {
        for pre_tokenizer in pre_tokenizers(prefix) {
            let mut json = plain.clone();
            json["pre_tokenizer"] = pre_tokenizer.clone();
            json["model"]["ignore_merges"] = json!(ignore_merges);
            let ours = Tokenizer::from_json(&json.to_string(), "pattern").unwrap();
            let theirs = theirs(&json.to_string());
            let text = prop_oneof![nasty(), around()];
            let lengths = proptest::collection::vec(1..6_usize, 1..4);
            let check = |(text, lengths): (String, Vec<usize>)| {
                let expected = their_ids(&theirs, &text);
                let found = streamed(&ours, AddedAs::Tokens, &text, &lengths).0;
                prop_assert_eq!(found, expected, "{:?}", pre_tokenizer);
                let found = streamed(&ours, AddedAs::Text, &text, &[1]).0;
                prop_assert_eq!(found, ours.encode(&text), "{:?}", pre_tokenizer);
                Ok(())
            };
            cases(150).run(&(text, lengths), check).unwrap();
        }
    }
}

#[test]
fn added_tokens_at_a_cut_are_found_as_in_the_whole() {
    let plain = merged_across_cuts(900);
    let kinds = (0..8_usize, any::<bool>());
    let lengths = proptest::collection::vec(1..6_usize, 1..4);
    cases(800)
        .run(&(kinds, added(), around(), lengths), |((kind, prefix), tokens, text, lengths)| {
            let mut plain = plain.clone();
            plain["pre_tokenizer"] = pre_tokenizers(prefix)[kind].clone();
            let json = with_added(&plain, tokens);
            let ours = Tokenizer::from_json(&json, "added").unwrap();
            let found = streamed(&ours, AddedAs::Tokens, &text, &lengths).0;
            prop_assert_eq!(found, their_ids(&theirs(&json), &text));
            Ok(())
        })
        .unwrap();
}

/// Texts of which long ones have no single blank between two words.
fn texts() -> [(&'static str, String); 6] {
    let thai = "\u{e2a}\u{e27}\u{e31}\u{e2a}\u{e14}\u{e35}";
    let chinese = "\u{5929}\u{5730}\u{7384}\u{9ec4}";
    let repeated = |piece: &dyn Fn(usize) -> String| (0..9000).map(piece).collect::<String>();
    [
        ("prose", read(folder().join("train_text.txt")).replace(END_OF_TEXT, "")),
        ("blank lines", repeated(&|i| thai.repeat(2 + i % 7) + "\n\n")),
        ("windows", repeated(&|i| chinese.repeat(3 + i % 5) + "\u{3002}\r\n")),
        ("no white space", repeated(&|i| chinese.repeat(3 + i % 5) + "\u{ff0c}")),
        ("numbers", repeated(&|i| format!("{i}{thai}"))),
        ("blanks", repeated(&|i| "x".to_owned() + &" ".repeat(2 + i % 5) + "\n\n\n")),
    ]
}

#[test]
fn long_texts_are_encoded_as_they_come_and_as_the_whole() {
    // The white space that no text of this kind has as a token, so that a wrong cut shows.
    let spaces = ["\n\n", "\r\n", "  ", "\n\n\n"];
    let tokenizer = Tokenizer::train_documents(spaces.iter().chain(&spaces), 270).unwrap();
    let theirs = theirs(&tokenizer.to_json());
    for (name, text) in texts() {
        let expected = their_ids(&theirs, &text);
        for length in [1000, 4096] {
            let (ids, early) = streamed(&tokenizer, AddedAs::Tokens, &text, &[length]);
            assert!(ids == expected, "{name} in pieces of {length}");
            assert!(early > ids.len() * 9 / 10, "{name}: {early} of {} before the end", ids.len());
        }
        // Two documents of the text, in pieces as from a file.
        let documents = [0, 1].into_iter().flat_map(|_| {
            let pieces = pieces(&text, &[100_003]).enumerate();
            pieces.map(|(i, text)| Ok(Document { text: text.to_owned(), begins: i == 0 }))
        });
        let mut ids = Vec::new();
        let mut push = |more: &[u32]| {
            ids.extend_from_slice(more);
            Ok(())
        };
        let encoder = tokenizer.encoder(AddedAs::Tokens);
        data::encode(documents, encoder, Some(0), &mut push, &mut |_| {}).unwrap();
        assert!(ids == [&expected[..], &[0], &expected].concat(), "{name} through data::encode");
    }
}

#[test]
fn a_text_without_a_place_to_cut_is_held_and_one_with_tokens_is_cut_between_them() {
    let tokenizer = Tokenizer::bytes();
    let (ids, early) = streamed(&tokenizer, AddedAs::Tokens, &"x".repeat(5000), &[7]);
    assert_eq!((ids.len(), early), (5000, 0));
    let text = "a <|endoftext|> ".repeat(300);
    let (ids, early) = streamed(&tokenizer, AddedAs::Tokens, &text, &[1]);
    assert_eq!(ids, tokenizer.encode_with_special(&text));
    assert!(early > 1000, "{early}");
}

#[test]
fn training_on_pieces_is_training_on_the_whole() {
    let special = ["<|user|>", "a b"];
    for (name, text) in texts() {
        let text = text.replace("x  ", "a b <|user|> x  ");
        let trainer = TokenizerTrainer::new(330).special_tokens(special);
        let train = |documents: Vec<Document>| {
            let documents = CutText::new(documents.into_iter().map(Ok), trainer.cutter().unwrap());
            let documents = documents.map(|document| Ok(document?.text));
            trainer.train(documents, &mut |_| {}).unwrap()
        };
        let whole = trainer.train([Ok(text.as_str())], &mut |_| {}).unwrap();
        for length in [1, 70_001] {
            let cut = |(i, text): (usize, &str)| Document { text: text.to_owned(), begins: i == 0 };
            let pieces = pieces(&text, &[length]).enumerate().map(cut).collect();
            assert!(train(pieces) == whole, "{name} in pieces of {length}");
        }
    }
}

#[test]
fn an_error_among_pieces_is_passed_on() -> Result<()> {
    let documents = [Ok(Document::whole("a b".into())), Err(wgpt::Error::input("byte 7"))];
    let tokenizer = Tokenizer::bytes();
    let cutter = tokenizer.encoder(AddedAs::Text).cutter();
    let all: Vec<Result<Document>> = CutText::new(documents.into_iter(), cutter).collect();
    let error = all.into_iter().find_map(Result::err).expect("the error");
    assert_eq!(error.to_string(), "byte 7");
    Ok(())
}
