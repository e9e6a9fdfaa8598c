//! Normalisation: how a text is changed before added tokens with `normalized` are searched in it, and before it is cut
//! and merged.
//!
//! The steps have one order: a Unicode normalisation form, then a text in front of each stretch, then characters that
//! are replaced by others. Llama 2 puts `▁` in front and replaces blanks by it; Qwen 2 has NFC alone. The forms are those
//! of Unicode 9, by which models were trained: Hugging Face's `tokenizers` has its tables, and leaves what came later alone.

use std::borrow::Cow;

use unicode_normalization_alignments::char::canonical_combining_class;
use unicode_normalization_alignments::{
    IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfd_quick, is_nfkc_quick, is_nfkd_quick,
};

/// A Unicode normalisation form (<https://www.unicode.org/reports/tr15/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// Returns the characters of an iterator that also says how far each moved.
fn characters(moved: impl Iterator<Item = (char, isize)>) -> String {
    moved.map(|(character, _)| character).collect()
}

impl Form {
    /// The forms by their names in files.
    pub(super) const NAMES: [(&str, Form); 4] =
        [("NFC", Form::Nfc), ("NFD", Form::Nfd), ("NFKC", Form::Nfkc), ("NFKD", Form::Nfkd)];

    /// Returns the form's name in files.
    pub(super) fn name(self) -> &'static str {
        Form::NAMES.iter().find(|(_, form)| *form == self).map_or("", |(name, _)| name)
    }

    /// Whether `text` has this form, as far as that can be seen from its characters alone.
    fn holds(self, text: impl Iterator<Item = char>) -> bool {
        let answer = match self {
            Form::Nfc => is_nfc_quick(text),
            Form::Nfd => is_nfd_quick(text),
            Form::Nfkc => is_nfkc_quick(text),
            Form::Nfkd => is_nfkd_quick(text),
        };
        answer == IsNormalized::Yes
    }

    /// Returns `text` in this form.
    pub(super) fn apply(self, text: &str) -> Cow<'_, str> {
        if text.is_ascii() || self.holds(text.chars()) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(match self {
            Form::Nfc => characters(text.nfc()),
            Form::Nfd => characters(text.nfd()),
            Form::Nfkc => characters(text.nfkc()),
            Form::Nfkd => characters(text.nfkd()),
        })
    }

    /// Returns the first characters of `text` in this form: those that its first one becomes, with the marks after it.
    pub(super) fn beginning(self, text: &str) -> Cow<'_, str> {
        let end = text.char_indices().skip(1).find(|(_, character)| self.keeps(*character));
        self.apply(&text[..end.map_or(text.len(), |(at, _)| at)])
    }

    /// Whether a character stays as it is and joins nothing before it. Between two such characters the form of a text is
    /// the forms of its two parts; only marks that follow the second one may still change it, which they do within its
    /// class of letters, or of other characters.
    pub(super) fn keeps(self, character: char) -> bool {
        character.is_ascii()
            || (canonical_combining_class(character) == 0 && self.holds(std::iter::once(character)))
    }
}

/// Characters that stand for others, such as a blank for `▁`: the one that is replaced, and the one in its place. No
/// character in whose place another is put is one that is put.
pub(super) type Folds = Vec<(char, char)>;

/// Returns the character in whose stead `character` is seen.
#[inline]
pub(super) fn fold(folds: &Folds, character: char) -> char {
    folds.iter().find(|(from, _)| *from == character).map_or(character, |(_, to)| *to)
}

/// The steps before a text is cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Normalizer {
    pub(super) form: Option<Form>,
    /// The text in front of each stretch between two added tokens that are found before normalisation.
    pub(super) prepend: String,
    pub(super) folds: Folds,
}

impl Normalizer {
    /// Whether every text stays as it is.
    pub(super) fn is_identity(&self) -> bool {
        self.form.is_none() && self.prepend.is_empty() && self.folds.is_empty()
    }

    /// Returns a stretch, without the text in front, after all other steps.
    pub(super) fn within<'a>(&self, stretch: &'a str) -> Cow<'a, str> {
        let formed = self.form.map_or(Cow::Borrowed(stretch), |form| form.apply(stretch));
        match formed.chars().any(|character| fold(&self.folds, character) != character) {
            true => formed.chars().map(|character| fold(&self.folds, character)).collect(),
            false => formed,
        }
    }

    /// Returns a stretch after all steps. An empty one stays empty.
    pub(super) fn whole<'a>(&self, stretch: &'a str) -> Cow<'a, str> {
        match self.within(stretch) {
            text if self.prepend.is_empty() || text.is_empty() => text,
            text => Cow::Owned(self.prepend.clone() + &text),
        }
    }
}
