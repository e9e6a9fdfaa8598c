//! What a file's decoder makes of the spellings of tokens. The bytes of each token are found once, when the file is read;
//! only the beginning of a text is special.

/// A decoder of a vocabulary of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decoder {
    /// Texts in tokens and what stands there instead, in order.
    pub(super) replaced: Vec<(String, String)>,
    /// Whether tokens such as `<0x0A>` are bytes.
    pub(super) bytes: bool,
    pub(super) start: Start,
}

/// What is left out at the beginning of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Start {
    #[default]
    Nothing,
    /// Up to so many times this ASCII character.
    Strip { character: u8, most: usize },
    /// Every occurrence of this character in the spelling of the first token.
    Within(char),
}

impl Decoder {
    /// Returns the bytes of a token by its spelling.
    pub(super) fn decode(&self, spelling: &str) -> Vec<u8> {
        let text = self.text(spelling);
        match byte_of(&text).filter(|_| self.bytes) {
            Some(byte) => vec![byte],
            None => text.into_bytes(),
        }
    }

    /// Whether a token's spelling stands for a byte.
    pub(super) fn is_byte(&self, spelling: &str) -> bool {
        self.bytes && byte_of(&self.text(spelling)).is_some()
    }

    fn text(&self, spelling: &str) -> String {
        let replace = |text: String, (from, to): &(String, String)| text.replace(from, to);
        self.replaced.iter().fold(spelling.to_owned(), replace)
    }

    /// Returns the bytes of a token that is the first one of a text.
    pub(super) fn decode_first(&self, spelling: &str) -> Vec<u8> {
        match self.start {
            Start::Within(character) => self.decode(&spelling.replace(character, "")),
            Start::Nothing | Start::Strip { .. } => self.decode(spelling),
        }
    }
}

/// Returns the byte of a spelling such as `<0x0A>`.
fn byte_of(spelling: &str) -> Option<u8> {
    let digits = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}
