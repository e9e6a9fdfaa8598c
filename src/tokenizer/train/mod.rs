//! The trainer: byte-pair encoding (Sennrich et al. 2016, <https://arxiv.org/abs/1508.07909>) over
//! GPT-2's pieces.
//!
//! Each round merges the pair with the highest count over all pieces, and among equals the one with the
//! smaller (left id, right id). Id 0 is the end of text; then come other special tokens, the bytes in the order of
//! their letters, and one id for each merge whose result is new.
//!
//! `count` turns a stream of text into counts of distinct pieces; `merge` finds the merges from them. The
//! result does not depend on the order of pieces or the number of threads.

mod count;
mod merge;

use std::cmp::Reverse;
use std::sync::{Mutex, PoisonError};

use super::alphabet;
use super::bpe::Tokenizer;
use super::cut::Cutter;
use super::normalizer::Normalizer;
use super::rules::Rules;
use super::special::{self, Added, AddedTokens, Flags, spelled_bytes};
use super::token::{BASE, END_OF_TEXT};
use crate::error::{Error, Result, field};

pub use count::Dropped;
use count::{BATCH_BYTES, Counter};
use merge::Merger;

/// The memory that training needs independent of the text's length, in bytes: the program, the texts of two batches,
/// the threads' tables.
const FIXED_BYTES: u64 = 128_000_000;

/// Trains tokenizers with a given size, special tokens and memory limit.
///
/// The text comes as a stream of documents, of which only a few are in memory at a time, besides a table of the
/// distinct pieces. If this table would exceed the memory limit, the rarest pieces are dropped; [`Trained::dropped`]
/// reports them.
///
/// ```
/// use wgpt::tokenizer::TokenizerTrainer;
///
/// let trainer = TokenizerTrainer::new(261).special_tokens(["<|user|>", "<|assistant|>"]);
/// let documents = ["<|user|>abab", "abab<|assistant|>abab"];
/// let trained = trainer.train(documents.map(Ok), &mut |_| {})?;
/// let tokenizer = trained.tokenizer;
/// assert_eq!(tokenizer.vocab_size(), 261);
/// assert_eq!(tokenizer.encode_with_special("<|assistant|>abab"), [2, 260]);
/// assert!(trained.dropped.is_none());
/// # Ok::<(), wgpt::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerTrainer {
    vocab: usize,
    special: Vec<String>,
    max_memory: u64,
}

/// The progress of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Pieces are being counted; the bytes of text so far.
    Counting(u64),
    /// Pairs are being merged; the tokens so far.
    Merging(usize),
}

/// A tokenizer, and statistics of its training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trained {
    /// The tokenizer. Its vocabulary is smaller than requested if no pair occurs at least twice any more.
    pub tokenizer: Tokenizer,
    /// Bytes of text.
    pub bytes: u64,
    /// Distinct pieces of at least two bytes that were used for training.
    pub pieces: usize,
    /// The pieces that were dropped to limit memory; `None`: none were.
    pub dropped: Option<Dropped>,
}

impl TokenizerTrainer {
    /// The default of [`max_memory`](TokenizerTrainer::max_memory) in bytes: 4 GB
    /// on every machine, so that the merges are the same.
    pub const MAX_MEMORY: u64 = 4_000_000_000;
    /// The smallest memory limit, in bytes.
    pub const LEAST_MEMORY: u64 = 256_000_000;

    /// Creates a trainer of at most `vocab` ids: the end of text, the special tokens, the bytes, and merges.
    pub fn new(vocab: usize) -> TokenizerTrainer {
        TokenizerTrainer { vocab, special: Vec::new(), max_memory: TokenizerTrainer::MAX_MEMORY }
    }

    /// Sets tokens that stand for themselves, with the ids from 1 on. The text is cut at these tokens, the longest
    /// first, and they are not used for training.
    #[must_use]
    pub fn special_tokens<T: Into<String>>(self, tokens: impl IntoIterator<Item = T>) -> Self {
        TokenizerTrainer { special: tokens.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets the memory limit of training in bytes. It is for the whole process, except for documents of more than a
    /// few megabytes, which are kept in memory whole.
    #[must_use]
    pub fn max_memory(self, bytes: u64) -> Self {
        TokenizerTrainer { max_memory: bytes, ..self }
    }

    /// Trains on several documents; no piece crosses the end of a document.
    ///
    /// # Errors
    ///
    /// If the vocabulary has no room for the bytes and the special tokens, a special token is invalid, or the memory
    /// limit is less than [`LEAST_MEMORY`](TokenizerTrainer::LEAST_MEMORY); the first error of the documents; for a
    /// document that is not UTF-8, its number counted from 1, and the place of the first wrong byte.
    pub fn train<D: AsRef<[u8]> + Send + Sync>(
        &self,
        documents: impl IntoIterator<Item = Result<D>>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Trained> {
        self.check()?;
        let mut counter = Counter::new(self.max_memory - FIXED_BYTES);
        let bytes = self.count(documents.into_iter(), &mut counter, on_progress)?;
        let (counts, dropped) = counter.finish();
        let pieces = counts.len();
        let mut on_token = |tokens| on_progress(Progress::Merging(tokens));
        let merger = Merger::new(counts, self.first_tokens());
        let (tokens, merges) = merger.merge(self.vocab, &mut on_token);
        let tokenizer =
            Tokenizer::build((0..).zip(tokens).collect(), merges, self.added(), Rules::default())?;
        let dropped = (dropped.pieces > 0).then_some(dropped);
        Ok(Trained { tokenizer, bytes, pieces, dropped })
    }

    fn check(&self) -> Result<()> {
        let least = BASE + self.special.len();
        if self.vocab < least {
            let special = match self.special.len() {
                0 => String::new(),
                1 => ", a special token".to_owned(),
                n => format!(", {n} special tokens"),
            };
            return Err(Error::usage(format!(
                "a vocabulary of {} tokens is too small",
                self.vocab
            ))
            .hint(format!("{least} is the least: the end of text{special} and the 256 bytes")));
        }
        special::check_trained(&self.special, &[Added::end_of_text(0)])?;
        if self.max_memory < TokenizerTrainer::LEAST_MEMORY {
            return Err(Error::usage(format!(
                "{} bytes of memory are too little to train a tokenizer in",
                self.max_memory
            ))
            .hint(format!(
                "{} is {}MB at least",
                field("max_memory"),
                TokenizerTrainer::LEAST_MEMORY / 1_000_000
            )));
        }
        Ok(())
    }

    /// Returns the tokens that exist before any merge, by id.
    fn first_tokens(&self) -> Vec<Vec<u8>> {
        // A special token spelled in the byte alphabet is also the token of these bytes: a file has one per spelling.
        let special = self.special.iter().map(|token| spelled_bytes(token));
        let bytes = alphabet::in_letter_order().map(|byte| vec![byte]);
        std::iter::once(END_OF_TEXT.into()).chain(special).chain(bytes).collect()
    }

    fn added(&self) -> Vec<Added> {
        std::iter::once(Added::end_of_text(0)).chain(self.added_special()).collect()
    }

    fn added_special(&self) -> impl Iterator<Item = Added> {
        let flags = Flags::SPECIAL;
        (1..).zip(self.special.iter().cloned()).map(move |(id, content)| Added {
            id,
            content,
            flags,
            in_vocabulary: true,
        })
    }

    /// Returns the cutter for long documents; their pieces are counted as those of the whole documents.
    ///
    /// # Errors
    ///
    /// If there are too many special tokens, or they are too long.
    pub fn cutter(&self) -> Result<Cutter<'static>> {
        let tokens = AddedTokens::new(self.added_special().collect(), &Normalizer::default())?;
        Ok(Cutter::of_training(tokens))
    }

    /// Counts the pieces of all documents, one batch while the next is read. Returns the bytes of text.
    fn count<D: AsRef<[u8]> + Send + Sync>(
        &self,
        mut documents: impl Iterator<Item = Result<D>>,
        counter: &mut Counter,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<u64> {
        let special = self.longest_first();
        let (mut bytes, mut number) = (0, 0);
        let mut batch = next_batch(&mut documents)?;
        while !batch.is_empty() {
            let counted = Mutex::new(Ok(()));
            let (first, mut next) = (number, Ok(Vec::new()));
            rayon::in_place_scope(|scope| {
                scope.spawn(|_| {
                    let texts = texts(&batch, first, &special);
                    let result = texts.map(|texts| counter.count(texts));
                    *counted.lock().unwrap_or_else(PoisonError::into_inner) = result;
                });
                next = next_batch(&mut documents);
            });
            counted.into_inner().unwrap_or_else(PoisonError::into_inner)?;
            number += batch.len();
            bytes += batch.iter().map(|document| document.as_ref().len() as u64).sum::<u64>();
            on_progress(Progress::Counting(bytes));
            batch = next?;
        }
        Ok(bytes)
    }

    fn longest_first(&self) -> Vec<&str> {
        let mut special: Vec<&str> = self.special.iter().map(String::as_str).collect();
        special.sort_by_key(|token| Reverse(token.len()));
        special
    }
}

/// Returns the next documents to count together.
fn next_batch<D: AsRef<[u8]>>(documents: &mut impl Iterator<Item = Result<D>>) -> Result<Vec<D>> {
    let (mut batch, mut size) = (Vec::new(), 0);
    while size < BATCH_BYTES
        && let Some(document) = documents.next().transpose()?
    {
        size += document.as_ref().len();
        batch.push(document);
    }
    Ok(batch)
}

/// Returns the texts of documents, cut at special tokens; `before` is the number of earlier documents.
fn texts<'a, D: AsRef<[u8]>>(
    documents: &'a [D],
    before: usize,
    special: &[&str],
) -> Result<Vec<&'a str>> {
    let mut texts = Vec::with_capacity(documents.len());
    for (document, number) in documents.iter().zip(before + 1..) {
        let text = str::from_utf8(document.as_ref()).map_err(|error| {
            let place = error.valid_up_to();
            Error::input(format!(
                "document {number} is not UTF-8: the first wrong byte is at {place}"
            ))
            .hint("convert the text to UTF-8")
        })?;
        cut_out(text, special, &mut texts);
    }
    Ok(texts)
}

/// Appends the text between the special tokens of a text.
fn cut_out<'a>(text: &'a str, special: &[&str], texts: &mut Vec<&'a str>) {
    match special {
        [] => texts.push(text),
        [token, rest @ ..] => text.split(token).for_each(|part| cut_out(part, rest, texts)),
    }
}

impl Tokenizer {
    /// Trains on one document to a vocabulary of `vocab` ids: the end of text, the bytes, and
    /// `vocab` - 257 merges.
    ///
    /// If no pair in the text occurs at least twice any more, no more merges are made, and
    /// [`vocab_size`](Tokenizer::vocab_size) is smaller than `vocab`.
    ///
    /// ```
    /// let tokenizer = wgpt::Tokenizer::train(b"abab abab", 258)?;
    /// assert_eq!(tokenizer.vocab_size(), 258);
    /// assert_eq!(tokenizer.encode("abab"), [257, 257]);
    /// # Ok::<(), wgpt::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `vocab` is under 257, or the text is not UTF-8 (the error gives the place of the first
    /// wrong byte).
    pub fn train(text: &[u8], vocab: usize) -> Result<Tokenizer> {
        Tokenizer::train_documents([text], vocab)
    }

    /// Trains on several documents; no piece crosses the end of a
    /// document.
    ///
    /// # Errors
    ///
    /// As [`train`](Tokenizer::train); the error for text that is not UTF-8 also gives the document,
    /// counted from 1.
    pub fn train_documents<D>(
        documents: impl IntoIterator<Item = D>,
        vocab: usize,
    ) -> Result<Tokenizer>
    where
        D: AsRef<[u8]> + Send + Sync,
    {
        TokenizerTrainer::new(vocab)
            .train(documents.into_iter().map(Ok), &mut |_| {})
            .map(|trained| trained.tokenizer)
    }

    /// Returns the tokenizer without merges: 257 ids, 0 for the end of text, then the bytes in the order of
    /// their letters. It is the result of training with a vocabulary of 257.
    pub fn bytes() -> Tokenizer {
        let bytes = alphabet::in_letter_order().map(|byte| vec![byte]);
        let tokens = std::iter::once(END_OF_TEXT.as_bytes().to_vec()).chain(bytes);
        let vocabulary = (0..).zip(tokens).collect();
        Tokenizer::build(vocabulary, Vec::new(), vec![Added::end_of_text(0)], Rules::default())
            .unwrap_or_else(|error| unreachable!("the bytes are a vocabulary: {error}"))
    }
}
