//! Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it (Post 2018), with its defaults.
//!
//! A line of the hypothesis is compared with its references, all of them as tokens of [`tokenize_13a`]. For n = 1..4,
//! over all lines:
//!
//! ```text
//! total_n = n-grams of the hypotheses;  count_n = those that a reference has: each at most as often as the one that has it most
//! p_n     = 100 count_n / total_n;  the i-th order without a match: 100 / (2^i total_n)      exponential smoothing, in per cent
//! bp      = 1 if sys_len >= ref_len, else exp(1 - ref_len / sys_len); 0 if sys_len is 0      brevity penalty
//! BLEU    = bp · exp((ln p_1 + … + ln p_4) / 4);  0 if nothing matches, or an order has no n-grams
//! ```
//!
//! `sys_len` is the total number of the hypotheses' tokens. `ref_len` is the sum over all lines of the length of the
//! reference that is closest to the hypothesis in length, or of the shorter one on a tie.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use serde::Serialize;

/// The length of the longest n-grams.
pub const ORDER: usize = 4;

/// The version of sacrebleu that this implementation matches.
const SACREBLEU: &str = "2.6.0";

/// The counts of the lines added so far.
///
/// ```
/// use wgpt::eval::BleuCounts;
/// let mut counts = BleuCounts::default();
/// counts.add("the cat sat on a mat", &["the cat sat on the mat", "a cat was on the mat"]);
/// let bleu = counts.bleu();
/// assert_eq!((bleu.counts, bleu.totals), ([6, 3, 2, 1], [6, 5, 4, 3]));
/// assert!((bleu.score - 100.0 * (1.0_f64 * 0.6 * 0.5 / 3.0).powf(0.25)).abs() < 1e-9);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BleuCounts {
    counts: [u64; ORDER],
    totals: [u64; ORDER],
    sys_len: u64,
    ref_len: u64,
    /// The minimum and the maximum number of references per line.
    references: Option<(usize, usize)>,
}

/// The BLEU of a corpus and its components, under sacrebleu's names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bleu {
    /// 0 to 100.
    pub score: f64,
    /// The brevity penalty, 0 to 1.
    pub bp: f64,
    /// Tokens of the hypotheses.
    pub sys_len: u64,
    /// Tokens of the closest references.
    pub ref_len: u64,
    /// n-grams that also occur in a reference, for n = 1..4.
    pub counts: [u64; ORDER],
    /// n-grams of the hypotheses.
    pub totals: [u64; ORDER],
    /// Per cent, smoothed.
    pub precisions: [f64; ORDER],
    /// The settings of the computation, in sacrebleu's notation.
    pub signature: String,
}

impl BleuCounts {
    /// Adds a line and its references.
    ///
    /// # Panics
    ///
    /// If there is no reference.
    pub fn add(&mut self, hypothesis: &str, references: &[impl AsRef<str>]) {
        let hypothesis = tokenize_13a(hypothesis);
        let references: Vec<Vec<String>> =
            references.iter().map(|reference| tokenize_13a(reference.as_ref())).collect();
        let len = hypothesis.len();
        let lens = references.iter().map(Vec::len);
        let closest = lens.min_by_key(|&reference| (reference.abs_diff(len), reference));
        self.sys_len += len as u64;
        self.ref_len += closest.expect("a line has a reference") as u64;
        for n in 1..=ORDER {
            let mut most = FxHashMap::default();
            for reference in &references {
                for (ngram, count) in ngrams(reference, n) {
                    let most = most.entry(ngram).or_insert(0);
                    *most = count.max(*most);
                }
            }
            for (ngram, count) in ngrams(&hypothesis, n) {
                self.totals[n - 1] += count;
                self.counts[n - 1] += count.min(most.get(ngram).copied().unwrap_or(0));
            }
        }
        let (least, most) = self.references.unwrap_or((references.len(), references.len()));
        self.references = Some((least.min(references.len()), most.max(references.len())));
    }

    /// Returns the score of the lines so far.
    pub fn bleu(&self) -> Bleu {
        let (sys, reference) = (self.sys_len as f64, self.ref_len as f64);
        let bp = match () {
            () if self.sys_len >= self.ref_len => 1.0,
            () if self.sys_len == 0 => 0.0,
            () => (1.0 - reference / sys).exp(),
        };
        let precisions = self.precisions();
        let logs = precisions.iter().map(|precision| precision.ln());
        // The logarithm of 0 is -inf, which makes the score 0.
        let score = bp * (logs.sum::<f64>() / ORDER as f64).exp();
        let references = match self.references {
            Some((least, most)) if least == most => least.to_string(),
            Some(_) => "var".to_owned(),
            None => "0".to_owned(),
        };
        Bleu {
            score,
            bp,
            sys_len: self.sys_len,
            ref_len: self.ref_len,
            counts: self.counts,
            totals: self.totals,
            precisions,
            signature: format!(
                "nrefs:{references}|case:mixed|eff:no|tok:13a|smooth:exp|version:{SACREBLEU}"
            ),
        }
    }

    fn precisions(&self) -> [f64; ORDER] {
        let mut precisions = [0.0; ORDER];
        if self.counts == [0; ORDER] {
            return precisions;
        }
        let mut smoothing = 1.0;
        for (n, precision) in precisions.iter_mut().enumerate() {
            let (count, total) = (self.counts[n] as f64, self.totals[n] as f64);
            if self.totals[n] == 0 {
                break;
            }
            if self.counts[n] == 0 {
                smoothing *= 2.0;
            }
            *precision =
                if count > 0.0 { 100.0 * count / total } else { 100.0 / (smoothing * total) };
        }
        precisions
    }
}

/// Counts the occurrences of each n-gram.
fn ngrams(tokens: &[String], n: usize) -> FxHashMap<&[String], u64> {
    let mut counts = FxHashMap::default();
    for ngram in tokens.windows(n) {
        match counts.entry(ngram) {
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(place) => drop(place.insert(1)),
        }
    }
    counts
}

/// Divides a line into tokens like mteval-v13a.pl, the script that was long used to score machine translation.
///
/// ```
/// use wgpt::eval::tokenize_13a;
/// assert_eq!(tokenize_13a("It's 3.5, &quot;not&quot; 1990-94."), [
///     "It's", "3.5", ",", "\"", "not", "\"", "1990", "-", "94", "."
/// ]);
/// ```
pub fn tokenize_13a(line: &str) -> Vec<String> {
    let mut line = line.trim_end_matches(is_space).replace("<skipped>", "");
    line = line.replace("-\n", "").replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        line = line.replace(entity, character);
    }
    let mut text: Vec<char> = Vec::with_capacity(2 * line.len() + 2);
    for c in [' '].into_iter().chain(line.chars()).chain([' ']) {
        if is_punctuation(c) { text.extend([' ', c, ' ']) } else { text.push(c) }
    }
    // Each rule is applied in one pass from left to right, and never examines a character twice.
    let mark = |c: char| c == '.' || c == ',';
    text = split_pairs(&text, |a, b| !a.is_ascii_digit() && mark(b), |a, b| [a, ' ', b, ' ']);
    text = split_pairs(&text, |a, b| mark(a) && !b.is_ascii_digit(), |a, b| [' ', a, ' ', b]);
    text = split_pairs(&text, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']);
    let words = text.split(|&c| is_space(c)).filter(|word| !word.is_empty());
    words.map(|word| word.iter().collect()).collect()
}

/// Replaces neighbours for which `found` is true, from left to right.
fn split_pairs(
    text: &[char],
    found: impl Fn(char, char) -> bool,
    replacement: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 4);
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        match after.split_first() {
            Some((&second, after)) if found(first, second) => {
                out.extend(replacement(first, second));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// Whether this is ASCII punctuation that is split off everywhere: all but `'`, `,`, `-` and `.`; includes the space.
fn is_punctuation(c: char) -> bool {
    matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/')
}

/// Whether this is white space in Python's definition.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
