//! Do the fast ways give what the slow ones give: another engine's pieces, merging one pair at a
//! time, recounting?

use std::collections::HashMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use wgpt::Tokenizer;
use wgpt::tokenizer::END_OF_TEXT;

use super::{check_stream, folder, ids, read, read_json, rows, text};

/// The letter of each byte in tokenizer files, by the rule that GPT-2 published.
fn letters() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut moved = 0;
    let mut letter = |byte| {
        if printable(byte) {
            return char::from_u32(byte).unwrap();
        }
        moved += 1;
        char::from_u32(255 + moved).unwrap()
    };
    (0..256).map(&mut letter).collect()
}

/// The slow way: among the neighbours, the pair whose result has the lowest rank, the leftmost of
/// them; again until none.
fn merge_slowly(piece: &[u8], rank: impl Fn(&[u8], &[u8]) -> Option<u32>) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
    loop {
        let pairs = parts.windows(2).enumerate();
        let ranked = pairs.filter_map(|(i, pair)| Some((rank(&pair[0], &pair[1])?, i)));
        let Some((_, i)) = ranked.min() else { return parts };
        let right = parts.remove(i + 1);
        parts[i].extend(right);
    }
}

/// GPT-2's own tokenizer, from the list of tokens that the crate tiktoken-rs carries: a token's
/// rank is its id, and the merge that makes it is the pair that is left when only lower ranks
/// merge.
fn gpt2() -> Tokenizer {
    let bpe = tiktoken_rs::r50k_base_singleton();
    let mut tokens = Vec::new();
    while let Ok(token) = bpe.decode_bytes(&[tokens.len() as u32]) {
        tokens.push(token);
    }
    let end = tokens.iter().position(|token| token == END_OF_TEXT.as_bytes()).unwrap();
    assert_eq!(end + 1, tokens.len());
    let ids: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let letters = letters();
    let spell = |token: &[u8]| token.iter().map(|&byte| letters[byte as usize]).collect::<String>();
    let mut vocab = serde_json::Map::new();
    let mut merges = String::from("#version: 0.2\n");
    for (token, id) in tokens.iter().zip(0u32..) {
        vocab.insert(spell(token), id.into());
        if token.len() > 1 && id != end as u32 {
            let rank = |left: &[u8], right: &[u8]| {
                ids.get([left, right].concat().as_slice()).copied().filter(|&rank| rank < id)
            };
            let parts = merge_slowly(token, rank);
            assert_eq!(parts.len(), 2, "{token:?}");
            merges += &format!("{} {}\n", spell(&parts[0]), spell(&parts[1]));
        }
    }
    Tokenizer::from_vocab_and_merges(&Value::Object(vocab).to_string(), &merges, "gpt2").unwrap()
}

#[test]
fn gpt2_has_the_reference_ids() {
    let tokenizer = gpt2();
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (50257, Some(50256)));
    let file = read_json(folder().join("gpt2_encodings.json"));
    for row in rows(&file, "rows") {
        let (text, plain) = (text(row, "text"), ids(&row["ids"]));
        assert_eq!(tokenizer.encode(text), plain, "{text:?}");
        let special = row.get("ids_special").map_or(plain.clone(), ids);
        assert_eq!(tokenizer.encode_with_special(text), special, "{text:?}");
        assert_eq!(tokenizer.decode_lossy(&plain).unwrap(), text);
    }
    // A second implementation over the whole training text, which has every kind of character.
    let text = read(folder().join("train_text.txt"));
    assert_eq!(tokenizer.encode(&text), tiktoken_rs::r50k_base_singleton().encode_ordinary(&text));
}

/// Texts of what pre-tokenisation tells apart: any characters, and those that matter more often.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-e ]{1,12}",
        1 => "'(s|t|re|ve|m|ll|d|x)",
        2 => "\\PC{1,6}",
        2 => "[ \n\r\t\u{85}\u{a0}\u{3000}\u{200b}\u{feff}\u{1c}\0]{1,3}",
        1 => "[0-9²½Ⅷ]{1,4}",
        1 => "[é́ßжा漢😀👍🏽]{1,4}",
        1 => any::<char>().prop_map(String::from),
        1 => "(ab){30,90}",
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// Runs properties; the case that fails is printed, and nothing is written beside the tests.
fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })
}

/// A small tokenizer, its merges in order as pairs of bytes.
type Small = (Tokenizer, HashMap<(Vec<u8>, Vec<u8>), u32>);

fn small() -> Small {
    let text = read(folder().join("train_text.txt")) + &"ab".repeat(64).repeat(2);
    let tokenizer = Tokenizer::train(text.as_bytes(), 700).unwrap();
    let json: Value = serde_json::from_str(&tokenizer.to_json()).unwrap();
    let letters = letters();
    let byte = |letter| letters.iter().position(|&other| other == letter).unwrap() as u8;
    let token = |spelled: &Value| spelled.as_str().unwrap().chars().map(byte).collect::<Vec<u8>>();
    let merges =
        rows(&json["model"], "merges").iter().map(|pair| (token(&pair[0]), token(&pair[1])));
    let ranks = merges.zip(0..).collect();
    (tokenizer, ranks)
}

#[test]
fn any_text_survives_and_has_the_ids_that_slow_merging_gives() {
    let (tokenizer, ranks) = small();
    let rank = |left: &[u8], right: &[u8]| ranks.get(&(left.to_vec(), right.to_vec())).copied();
    let mut runner = runner();
    let holds = runner.run(&texts(), |text| {
        let ids = tokenizer.encode(&text);
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_bytes());
        check_stream(&tokenizer, &ids, &text);
        let tokens: Vec<&[u8]> = ids.iter().map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
        let slow = cut(&text).into_iter().flat_map(|piece| merge_slowly(piece, rank));
        prop_assert_eq!(tokens, slow.collect::<Vec<_>>());
        Ok(())
    });
    holds.unwrap();
}

#[test]
fn long_texts_have_the_ids_of_their_pieces() {
    // Texts over a megabyte are cut into chunks for the threads. Each suffix that begins with a
    // piece is cut elsewhere.
    let (tokenizer, _) = small();
    let text = read(folder().join("train_text.txt"));
    let text = text.replace(' ', "   ").repeat((5 << 18) / text.len() + 1);
    let (mut starts, mut ids, mut bytes) = (Vec::new(), Vec::new(), 0);
    for piece in cut(&text) {
        starts.push((bytes, ids.len()));
        bytes += piece.len();
        ids.extend(tokenizer.encode(str::from_utf8(piece).unwrap()));
    }
    for &(byte, id) in starts.iter().step_by(997).take(16) {
        assert!(tokenizer.encode(&text[byte..]) == ids[id..], "from byte {byte}");
    }
}

#[test]
fn training_is_what_recounting_gives() {
    let mut runner = runner();
    let holds = runner.run(&prop::collection::vec(texts(), 1..4), |documents| {
        let trained = Tokenizer::train_documents(&documents, 290).unwrap();
        let json: Value = serde_json::from_str(&trained.to_json()).unwrap();
        prop_assert_eq!(&json["model"]["merges"], &train_slowly(&documents, 290));
        Ok(())
    });
    holds.unwrap();
}

/// The trainer's rules with everything counted again each round; the merges as the file spells
/// them.
fn train_slowly(documents: &[String], vocab: usize) -> Value {
    let letters = letters();
    let spell = |bytes: &[u8]| bytes.iter().map(|&byte| letters[byte as usize]).collect::<String>();
    let mut alphabet = letters.clone();
    alphabet.sort_unstable();
    let mut tokens = vec![END_OF_TEXT.to_owned()];
    tokens.extend(alphabet.iter().map(char::to_string));
    let id = |tokens: &[String], token: &str| tokens.iter().position(|other| other == token);
    let pieces = documents.iter().flat_map(|text| cut(text));
    let byte = |&byte: &u8| id(&tokens, &spell(&[byte])).unwrap();
    let mut words: Vec<Vec<usize>> = pieces.map(|piece| piece.iter().map(byte).collect()).collect();
    let mut merges = Vec::new();
    while tokens.len() < vocab {
        let mut counts: HashMap<(usize, usize), usize> = HashMap::new();
        for pair in words.iter().flat_map(|word| word.windows(2)) {
            *counts.entry((pair[0], pair[1])).or_default() += 1;
        }
        let best =
            counts.into_iter().max_by_key(|(pair, count)| (*count, std::cmp::Reverse(*pair)));
        let Some(((left, right), 2..)) = best else { break };
        merges.push(serde_json::json!([tokens[left], tokens[right]]));
        let token = format!("{}{}", tokens[left], tokens[right]);
        let result = id(&tokens, &token).unwrap_or(tokens.len());
        if result == tokens.len() {
            tokens.push(token);
        }
        for word in &mut words {
            let mut i = 0;
            while i + 1 < word.len() {
                if (word[i], word[i + 1]) == (left, right) {
                    word[i] = result;
                    word.remove(i + 1);
                }
                i += 1;
            }
        }
    }
    merges.into()
}

/// GPT-2's pattern as it is published.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Cuts texts with a general engine.
fn cut(text: &str) -> Vec<&[u8]> {
    static ENGINE: LazyLock<fancy_regex::Regex> =
        LazyLock::new(|| fancy_regex::Regex::new(PATTERN).unwrap());
    ENGINE.find_iter(text).map(|found| found.unwrap().as_str().as_bytes()).collect()
}
