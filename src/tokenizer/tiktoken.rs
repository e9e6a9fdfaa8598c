//! Reads files of tiktoken: on each line a token in base64, a blank, and its rank, which is its id.
//!
//! Such a file has no merges: two neighbours merge if their bytes are a token, the lowest rank first. The merge that
//! makes a token is therefore the pair that is left of its bytes when only lower ranks have merged. A token of which more
//! than a pair is left is never merged; it is found only where it is a whole piece.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;

use super::alphabet;
use super::bpe::Tokenizer;
use super::patterns;
use super::rules::Rules;
use super::special::Flags;
use super::token::{Merge, Token};
use super::vocabulary::{Stated, Vocabulary};
use crate::disk::File;
use crate::error::{Error, Result};

/// The tokens of Llama 3's vocabulary in its tokenizer.model, before the special ones.
const LLAMA_3: usize = 128_000;

/// The most bytes of a file that are read to see its kind.
const LONGEST_LINE: u64 = 4096;

/// Returns the special tokens of Llama 3, which its tokenizer.model does not have, in the order of their ids.
fn llama_3_special() -> Vec<String> {
    let reserved = |i: usize| format!("<|reserved_special_token_{i}|>");
    let named = |name: &str| format!("<|{name}|>");
    let mut tokens = vec![named("begin_of_text"), named("end_of_text")];
    tokens.extend((0..4).map(reserved));
    tokens.extend(["start_header_id", "end_header_id"].map(named));
    tokens.extend([reserved(4), named("eot_id")]);
    tokens.extend((5..251).map(reserved));
    tokens
}

impl Tokenizer {
    /// Parses the text of a tiktoken file; error messages begin with `place`. The file says neither how texts are cut nor
    /// which special tokens there are: `pattern` is a name (`gpt2`, `cl100k_base`, `o200k_base`, `llama3`, `qwen2`) or
    /// one of the regular expressions of these, and `special` has the special tokens with their ids, which follow those
    /// of the file without a gap.
    ///
    /// ```
    /// use wgpt::Tokenizer;
    ///
    /// let bytes = (0..=255_u8).map(|byte| {
    ///     let base64 = [byte >> 2, byte << 4 & 63].map(|bits| match bits {
    ///         0..26 => b'A' + bits,
    ///         26..52 => b'a' + bits - 26,
    ///         52..62 => b'0' + bits - 52,
    ///         62 => b'+',
    ///         _ => b'/',
    ///     });
    ///     format!("{}{}== {byte}\n", char::from(base64[0]), char::from(base64[1]))
    /// });
    /// let file = bytes.collect::<String>() + "YWI= 256\n";
    /// let special = [("<|endoftext|>", 257)];
    /// let tokenizer = Tokenizer::from_tiktoken(&file, "gpt2", special, "ab.tiktoken")?;
    /// assert_eq!(tokenizer.encode_with_special("abc<|endoftext|>"), [256, 99, 257]);
    /// # Ok::<(), wgpt::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Gives the line that has not this form, or a token or rank that an earlier line has; if a byte has no token, the
    /// pattern is not known, or a special token has another id than the next free one.
    pub fn from_tiktoken<T: Into<String>>(
        text: &str,
        pattern: &str,
        special: impl IntoIterator<Item = (T, u32)>,
        place: &str,
    ) -> Result<Tokenizer> {
        let at = |error: Error| error.at(place);
        let pre_tokenizer = patterns::named(pattern).map_err(at)?;
        let tokens = tokens(text, place)?;
        let (merges, falls_short) = merges(&tokens);
        let spelled = tokens.iter().map(|(id, bytes)| (alphabet::spell(bytes), *id));
        let mut vocabulary = Vocabulary::new(spelled.collect()).map_err(at)?;
        for (content, id) in special {
            let token = Stated { content: content.into(), id: Some(id), flags: Flags::SPECIAL };
            vocabulary.add(token).map_err(at)?;
        }
        let rules = Rules { pre_tokenizer, ignore_merges: falls_short, ..Rules::default() };
        let tokens = vocabulary.tokens(true).map_err(at)?;
        Tokenizer::build(tokens, merges, vocabulary.added, rules).map_err(at)
    }

    /// Parses a tokenizer.model: a tiktoken file with Llama 3's vocabulary, to which its special tokens are added; texts
    /// begin with `<|begin_of_text|>`.
    ///
    /// # Errors
    ///
    /// If it is another kind of file: a model of SentencePiece, or a tiktoken file of another model, whose pattern is not
    /// known. Otherwise as [`from_tiktoken`](Tokenizer::from_tiktoken).
    pub(super) fn from_tokenizer_model(bytes: &[u8], place: &str) -> Result<Tokenizer> {
        let hint = "put the model's tokenizer.json into the folder: transformers writes it with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)";
        let text = str::from_utf8(bytes).ok().filter(|_| begins_as_tiktoken(bytes));
        let Some(text) = text else {
            let what = "is a model of SentencePiece, or of another kind, must be a tiktoken file";
            return Err(Error::input(format!("{place} {what}")).hint(hint));
        };
        let own = text.lines().filter(|line| !line.is_empty()).count();
        if own != LLAMA_3 {
            let what = format!(
                "has {own} tokens, must have the {LLAMA_3} of Llama 3, whose pattern is known"
            );
            return Err(Error::input(format!("{place} {what}")).hint(hint));
        }
        let special = llama_3_special().into_iter().zip(LLAMA_3 as u32..);
        let mut tokenizer = Tokenizer::from_tiktoken(text, "llama3", special, place)?;
        tokenizer = tokenizer.with_template([LLAMA_3 as u32], [])?;
        Ok(tokenizer)
    }
}

/// Whether there is a file that begins as tiktoken's do.
pub(super) fn is_tiktoken(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(LONGEST_LINE).read_to_end(&mut bytes));
    file.is_ok() && begins_as_tiktoken(&bytes)
}

fn begins_as_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    str::from_utf8(line).is_ok_and(|line| token(line).is_some())
}

/// Returns the token and the rank on a line.
fn token(line: &str) -> Option<(Vec<u8>, u32)> {
    let (token, rank) = line.trim_end().split_once(' ')?;
    let token = STANDARD.decode(token).ok().filter(|token| !token.is_empty())?;
    Some((token, rank.parse().ok()?))
}

/// Returns all tokens by rank.
fn tokens(text: &str, place: &str) -> Result<Vec<Token>> {
    let mut lines: FxHashMap<u32, usize> = FxHashMap::default();
    let mut tokens = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.is_empty() {
            continue;
        }
        let at = |error: Error| error.at(format!("{place} line {number}"));
        let (token, rank) = token(line).ok_or_else(|| {
            at(Error::input(format!("{line:?} is not a token in base64, a blank and its rank"))
                .hint("give a file such as cl100k_base.tiktoken"))
        })?;
        if let Some(other) = lines.insert(rank, number) {
            return Err(at(Error::input(format!("the rank {rank} is that of line {other}, too"))
                .hint("the file is damaged: copy or download it again")));
        }
        tokens.push((rank, token));
    }
    tokens.sort_unstable();
    Ok(tokens)
}

/// Returns the merges in the order of the tokens that they make, and whether some token of several bytes is made by none.
fn merges(tokens: &[Token]) -> (Vec<Merge>, bool) {
    let ids: FxHashMap<&[u8], u32> =
        tokens.iter().map(|(id, bytes)| (bytes.as_slice(), *id)).collect();
    let (mut merges, mut falls_short) = (Vec::new(), false);
    for (id, bytes) in tokens.iter().filter(|(_, bytes)| bytes.len() > 1) {
        // The ends of the parts of the token.
        let mut ends: Vec<usize> = (0..=bytes.len()).collect();
        let part = |ends: &[usize], i: usize, many: usize| ids.get(&bytes[ends[i]..ends[i + many]]);
        while let Some((_, i)) = (0..ends.len().saturating_sub(2))
            .filter_map(|i| Some((*part(&ends, i, 2)?, i)))
            .filter(|(rank, _)| rank < id)
            .min()
        {
            ends.remove(i + 1);
        }
        let pair = (ends.len() == 3).then(|| (part(&ends, 0, 1), part(&ends, 1, 1)));
        match pair {
            Some((Some(&left), Some(&right))) => {
                merges.push(Merge { left, right, result: *id });
            }
            _ => falls_short = true,
        }
    }
    (merges, falls_short)
}
