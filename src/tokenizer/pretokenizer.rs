//! Pre-tokenisation: cuts a text into pieces before pairs are merged.
//!
//! The patterns are published as regular expressions. Each of their alternatives is a run of one or two classes of
//! characters, so here a text is cut by looking at each character a few times, without backtracking:
//!
//! | pattern | models | expression |
//! |---|---|---|
//! | [`Pattern::Gpt2`] | GPT-2 | `'s\|'t\|'re\|'ve\|'m\|'ll\|'d\| ?\p{L}+\| ?\p{N}+\| ?[^\s\p{L}\p{N}]+\|\s+(?!\S)\|\s+` |
//! | [`Pattern::Cl100k`] | GPT-4, Llama 3, Qwen 2 | `(?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d)\|[^\r\n\p{L}\p{N}]?\p{L}+\|\p{N}{1,3}\| ?[^\s\p{L}\p{N}]+[\r\n]*\|\s*[\r\n]+\|\s+(?!\S)\|\s+` |
//! | [`Pattern::O200k`] | GPT-4o | `[^\r\n\p{L}\p{N}]?U*W+C?\|[^\r\n\p{L}\p{N}]?U+W*C?\|\p{N}{1,3}\| ?[^\s\p{L}\p{N}]+[\r\n/]*\|\s*[\r\n]+\|\s+(?!\S)\|\s+` |
//!
//! In the last one, `U` is `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, `W` is `[\p{Ll}\p{Lm}\p{Lo}\p{M}]` and `C` stands for the
//! contractions of the second one.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// `\p{L}`.
const LETTER: u8 = 1;
/// `\p{N}`.
const NUMBER: u8 = 2;
/// `\s`, the property `White_Space`.
const SPACE: u8 = 4;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`: characters that may begin a capitalised word.
const UPPER: u8 = 8;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`: characters that may continue a word.
const LOWER: u8 = 16;
/// `[\r\n]`.
const LINE_END: u8 = 32;
/// A slash.
const SLASH: u8 = 64;
/// The end of the text, which is not a character.
const END: u8 = 128;
/// Characters in none of these classes are `[^\s\p{L}\p{N}]`: punctuation, symbols, control characters, marks.
const NOT_OTHER: u8 = LETTER | NUMBER | SPACE | END;

const CLASSES: [(&str, u8); 6] = [
    (r"\p{L}", LETTER),
    (r"\p{N}", NUMBER),
    (r"\s", SPACE),
    (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", UPPER),
    (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", LOWER),
    (r"[\r\n]", LINE_END),
];

/// The classes of every code point. It has a megabyte, of which a text uses the few pages of its scripts.
static TABLE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut table = vec![0; char::MAX as usize + 1];
    for (pattern, class) in CLASSES {
        let parsed = regex_syntax::parse(pattern).map(|hir| hir.into_kind());
        let Ok(HirKind::Class(Class::Unicode(characters))) = parsed else {
            unreachable!("{pattern} is a class of characters")
        };
        for range in characters.ranges() {
            for classes in &mut table[range.start() as usize..=range.end() as usize] {
                *classes |= class;
            }
        }
    }
    table[usize::from(b'/')] |= SLASH;
    table.into()
});

/// The rules for cutting texts into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    /// If numbers are cut out before the pattern is applied to the text between them: the maximum number of characters
    /// of `\p{N}` in a piece.
    pub(super) numbers: Option<usize>,
    pub(super) pattern: Pattern,
    pub(super) prefix: Prefix,
}

/// The maximum length of a number in characters if a pattern cuts out numbers. With `Digits` it is 1 or unlimited.
const BY_PATTERN: usize = 3;

/// The places where a space is put in front of text that does not begin with one, as `add_prefix_space` requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    None,
    /// In front of each stretch of text between added tokens.
    Stretches,
    /// In front of each part from the first stage of a sequence: numbers and other text, or the pattern's pieces.
    Parts,
}

/// A pattern, by the vocabulary that it was published with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Gpt2,
    Cl100k {
        /// The maximum number of characters of `\p{N}` in a piece: 3, or 1 as in Qwen 2.
        numbers: usize,
    },
    O200k,
}

impl PreTokenizer {
    pub(super) const GPT2: PreTokenizer =
        PreTokenizer { numbers: None, pattern: Pattern::Gpt2, prefix: Prefix::None };

    /// Returns the pieces of `text`. None of them is empty, and joined they are the text.
    pub(super) fn pieces(self, text: &str) -> Pieces<'_> {
        Pieces { pre_tokenizer: self, scanner: Scanner { end: 0, ..Scanner::new(text) }, at: 0 }
    }

    /// Calls `visit` with each of the parts of `text` in the sense of [`Prefix::Parts`].
    pub(super) fn for_each_part<'a>(self, text: &'a str, mut visit: impl FnMut(&'a str)) {
        let (mut pieces, mut scanner, mut at) = (self.pieces(text), Scanner::new(text), 0);
        while at < text.len() {
            let mut end = [at];
            if self.numbers.is_some() {
                scanner = scanner.next_stretch(at, self.numbers);
                end[0] = scanner.end;
            } else {
                pieces.next_ends(&mut end);
            }
            visit(&text[at..end[0]]);
            at = end[0];
        }
    }

    /// Calls `visit` with the bytes of each piece of `text`.
    pub(super) fn for_each_piece<'a>(self, text: &'a str, mut visit: impl FnMut(&'a [u8])) {
        let (mut pieces, mut start, mut ends) = (self.pieces(text), 0, [0; BATCH]);
        loop {
            let count = pieces.next_ends(&mut ends);
            for &end in &ends[..count] {
                visit(&text.as_bytes()[start..end]);
                start = end;
            }
            if count < BATCH {
                return;
            }
        }
    }
}

/// The number of pieces that are cut at a time, so that the loops that cut and that use pieces are both tight.
pub(super) const BATCH: usize = 64;

/// The pieces of a text.
pub(super) struct Pieces<'a> {
    pre_tokenizer: PreTokenizer,
    /// The stretch that is being cut.
    scanner: Scanner<'a>,
    at: usize,
}

impl Pieces<'_> {
    /// Writes the ends of the next pieces to `ends` and returns their number: as many as there is room for, or fewer at
    /// the end of the text.
    pub(super) fn next_ends(&mut self, ends: &mut [usize]) -> usize {
        match self.pre_tokenizer.pattern {
            Pattern::Gpt2 => self.fill(ends, |scanner, at| scanner.gpt2(at)),
            Pattern::Cl100k { numbers } => {
                self.fill(ends, |scanner, at| scanner.cl100k(at, numbers))
            }
            Pattern::O200k => self.fill(ends, |scanner, at| scanner.o200k(at)),
        }
    }

    #[inline(always)]
    fn fill(&mut self, ends: &mut [usize], end_of: impl Fn(Scanner, usize) -> usize) -> usize {
        let (mut scanner, mut at) = (self.scanner, self.at);
        let mut count = 0;
        for end in ends {
            if at == scanner.end {
                if at == scanner.text.len() {
                    break;
                }
                scanner = scanner.next_stretch(at, self.pre_tokenizer.numbers);
            }
            at = end_of(scanner, at);
            *end = at;
            count += 1;
        }
        (self.scanner, self.at) = (scanner, at);
        count
    }
}

/// A stretch of a text that ends at `end`.
#[derive(Clone, Copy)]
struct Scanner<'a> {
    text: &'a str,
    end: usize,
    table: &'static [u8],
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, end: text.len(), table: &TABLE }
    }

    /// Returns the stretch from `at` on: a number of at most `together` characters, or all text before the next number.
    fn next_stretch(self, at: usize, together: Option<usize>) -> Scanner<'a> {
        let whole = Scanner { end: self.text.len(), ..self };
        let Some(together) = together else { return whole };
        let by_pattern = together == BY_PATTERN;
        let number = |at| whole.number(at, by_pattern);
        let mut end = at;
        for _ in 0..together {
            let Some(after) = number(end) else { break };
            end = after;
        }
        if end == at {
            while end < whole.end && number(end).is_none() {
                end = whole.look(end).1;
            }
        }
        Scanner { end, ..whole }
    }

    /// Returns the end of the number's character at byte `at`, if it is one: judged by `\p{N}`, or for `Digits` by the
    /// standard library, whose Unicode version may be newer than the patterns'.
    #[inline(always)]
    fn number(self, at: usize, by_pattern: bool) -> Option<usize> {
        let (classes, after) = self.look(at);
        let is_number = if by_pattern || after <= at + 1 {
            classes & NUMBER != 0
        } else {
            self.text[at..after].chars().all(char::is_numeric)
        };
        is_number.then_some(after)
    }

    /// Returns the classes of the character at byte `at`, and the place of the next one.
    #[inline(always)]
    fn look(self, at: usize) -> (u8, usize) {
        if at >= self.end {
            return (END, at);
        }
        let first = self.text.as_bytes()[at];
        if first < 0x80 { (self.table[usize::from(first)], at + 1) } else { self.look_wide(at) }
    }

    fn look_wide(self, at: usize) -> (u8, usize) {
        let character = self.text[at..].chars().next();
        character.map_or((END, at), |c| (self.table[c as usize], at + c.len_utf8()))
    }

    /// Returns the end of the run of characters of some classes that continues at `at`.
    #[inline(always)]
    fn run(self, belongs: impl Fn(u8) -> bool, mut at: usize) -> usize {
        loop {
            let (classes, after) = self.look(at);
            if !belongs(classes) {
                return at;
            }
            at = after;
        }
    }

    #[inline(always)]
    fn letters(self, mut at: usize) -> usize {
        while let Some(bytes) = self.text.as_bytes()[at..self.end].first_chunk() {
            let letters = leading_letters(*bytes);
            at += letters;
            if letters < 8 {
                break;
            }
        }
        self.run(|classes| classes & LETTER != 0, at)
    }

    #[inline(always)]
    fn others(self, at: usize) -> usize {
        self.run(|classes| classes & NOT_OTHER == 0, at)
    }

    /// Returns the end of a run of at most `most` characters of `\p{N}`.
    #[inline(always)]
    fn numbers(self, mut at: usize, most: usize) -> usize {
        for _ in 0..most {
            let (classes, after) = self.look(at);
            if classes & NUMBER == 0 {
                break;
            }
            at = after;
        }
        at
    }

    /// Returns the end of the piece that begins at `start`, by GPT-2's pattern.
    #[inline(always)]
    fn gpt2(self, start: usize) -> usize {
        let byte = self.text.as_bytes()[start];
        let (mut classes, mut after) = self.look(start);
        if byte == b'\'' {
            let length = contraction(&self.text.as_bytes()[after..self.end]);
            if length > 0 {
                return after + length;
            }
        } else if byte == b' ' {
            let (next, beyond) = self.look(after);
            if next & (SPACE | END) == 0 {
                (classes, after) = (next, beyond);
            }
        }
        match classes & (LETTER | NUMBER | SPACE) {
            LETTER => self.letters(after),
            NUMBER => self.numbers(after, usize::MAX),
            SPACE => self.blanks(start),
            _ => self.others(after),
        }
    }

    /// Returns the end of the piece that begins at `start`, by the pattern of `cl100k_base`.
    #[inline(always)]
    fn cl100k(self, start: usize, numbers: usize) -> usize {
        let (classes, after) = self.look(start);
        if let Some(end) = self.folded_contraction(start) {
            return end;
        }
        if classes & LETTER != 0 {
            return self.letters(after);
        }
        if classes & (NUMBER | LINE_END) == 0 && self.look(after).0 & LETTER != 0 {
            return self.letters(after);
        }
        self.no_word(start, numbers, LINE_END)
    }

    /// Returns the end of the piece that begins at `start`, by the pattern of `o200k_base`.
    #[inline(always)]
    fn o200k(self, start: usize) -> usize {
        let (classes, after) = self.look(start);
        let lead = (classes & (LETTER | NUMBER | LINE_END) == 0).then_some(after);
        // In the order of the alternatives: each with the character in front of the word, then without it.
        let word = lead.and_then(|from| self.capitalised(from));
        let word = word.or_else(|| self.capitalised(start));
        let word = word.or_else(|| lead.and_then(|from| self.capitals(from)));
        match word.or_else(|| self.capitals(start)) {
            Some(end) => self.folded_contraction(end).unwrap_or(end),
            None => self.no_word(start, 3, LINE_END | SLASH),
        }
    }

    /// Returns the end of `U*W+`: capitals, then at least one small letter, which may count as both.
    fn capitalised(self, from: usize) -> Option<usize> {
        let (mut at, mut both) = (from, None);
        loop {
            let (classes, after) = self.look(at);
            if classes & UPPER == 0 {
                break;
            }
            if classes & LOWER != 0 {
                both = Some(after);
            }
            at = after;
        }
        let end = self.run(|classes| classes & LOWER != 0, at);
        if end > at { Some(end) } else { both }
    }

    /// Returns the end of `U+W*`, where [`capitalised`](Scanner::capitalised) has found nothing.
    fn capitals(self, from: usize) -> Option<usize> {
        let end = self.run(|classes| classes & UPPER != 0, from);
        (end > from).then_some(end)
    }

    /// Returns the end of a piece that is not a word: numbers, others (with a space before and line ends after), or
    /// white space.
    #[inline(always)]
    fn no_word(self, start: usize, numbers: usize, tail: u8) -> usize {
        let (mut classes, mut after) = self.look(start);
        if self.text.as_bytes()[start] == b' ' {
            let (next, beyond) = self.look(after);
            if next & NOT_OTHER == 0 {
                (classes, after) = (next, beyond);
            }
        }
        match classes & (NUMBER | SPACE) {
            NUMBER => self.numbers(start, numbers),
            SPACE => self.blanks_and_lines(start),
            _ => self.run(|classes| classes & tail != 0, self.others(after)),
        }
    }

    /// Returns the end of `\s+(?!\S)|\s+`: the run of white space that begins at `start` leaves its last character to
    /// the word that follows, unless that is its only character.
    fn blanks(self, start: usize) -> usize {
        let (mut last, mut at) = (start, start);
        loop {
            match self.look(at) {
                (classes, after) if classes & SPACE != 0 => (last, at) = (at, after),
                _ => return if at == self.end || last == start { at } else { last },
            }
        }
    }

    /// Returns the end of `\s*[\r\n]+|\s+(?!\S)|\s+`: like [`blanks`](Scanner::blanks), but up to the last line end
    /// if there is one.
    fn blanks_and_lines(self, start: usize) -> usize {
        let (mut lines, mut at) = (None, start);
        loop {
            let (classes, after) = self.look(at);
            if classes & SPACE == 0 {
                return lines.unwrap_or_else(|| self.blanks(start));
            }
            if classes & LINE_END != 0 {
                lines = Some(after);
            }
            at = after;
        }
    }

    /// Returns the end of `(?i:'s|'t|'re|'ve|'m|'ll|'d)` at `start`.
    #[inline(always)]
    fn folded_contraction(self, start: usize) -> Option<usize> {
        let bytes = &self.text.as_bytes()[start..self.end];
        let &[b'\'', first, ref rest @ ..] = bytes else { return None };
        let second = rest.first().map_or(0, u8::to_ascii_lowercase);
        let length = match first.to_ascii_lowercase() {
            // With case folding, U+017F, the long s, is an s.
            0xc5 if second == 0xbf => 2,
            first => contraction(&[first, second]),
        };
        (length > 0).then_some(start + 1 + length)
    }
}

/// Returns the number of leading ASCII letters. All eight bytes are tested together, since words are short and of
/// different lengths.
#[inline(always)]
fn leading_letters(bytes: [u8; 8]) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let bytes = u64::from_le_bytes(bytes);
    // The highest bits of the bytes of these sums tell whether a byte is at least 'a', and whether it is above 'z'.
    let small = (bytes | (0x20 * EACH)) & (0x7f * EACH);
    let (from_a, past_z) =
        (small + (0x80 - b'a' as u64) * EACH, small + (0x7f - b'z' as u64) * EACH);
    let letters = from_a & !past_z & !bytes & (0x80 * EACH);
    (!letters & (0x80 * EACH)).trailing_zeros() as usize / 8
}

/// Returns the length of an English contraction's letters at the start of `rest`; 0 if there is none.
fn contraction(rest: &[u8]) -> usize {
    match rest {
        [b's' | b't' | b'm' | b'd', ..] => 1,
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => 2,
        _ => 0,
    }
}

impl PreTokenizer {
    /// Whether a text may be cut between two characters. At such a place, no pattern has a piece that contains it, or a
    /// piece that ends there and looks past it; no pattern looks back.
    ///
    /// - Before white space that follows another character; before a line end only if that is a letter or a number,
    ///   since in all patterns but GPT-2's, pieces of other characters include the line ends after them.
    /// - Between a letter and a number; and between these and another character, unless it is an apostrophe or a mark,
    ///   which may belong to a word.
    #[inline]
    pub(super) fn may_cut(self, before: char, after: char) -> bool {
        let (before, classes) = (TABLE[before as usize], TABLE[after as usize]);
        const WORD: u8 = LETTER | NUMBER;
        const LINE: u8 = SPACE | LINE_END;
        if self.prefix == Prefix::Parts && self.numbers.is_some() && after != ' ' {
            // If the cut is within a part, its rest would get a space. A character without a class may be a digit of
            // newer Unicode.
            const KNOWN: u8 = WORD | SPACE;
            let is_known = before & KNOWN != 0 && (classes & KNOWN != 0 || after.is_ascii());
            if !is_known || (before ^ classes) & NUMBER == 0 {
                return false;
            }
        }
        match classes & (SPACE | LINE_END) {
            SPACE => before & SPACE == 0,
            LINE if self.pattern == Pattern::Gpt2 => before & SPACE == 0,
            0 if classes & WORD != 0 => before & WORD == WORD & !classes,
            0 if classes & (UPPER | LOWER) != 0 || after == '\'' => false,
            _ => before & WORD != 0,
        }
    }
}
