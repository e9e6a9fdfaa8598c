//! GPT-2's byte alphabet: a printable character for each of the 256 bytes, in which tokenizer files
//! spell their tokens.
//!
//! The 188 printable bytes of Latin-1 stand for themselves; the others are U+0100, U+0101, … in the
//! order of the bytes, so a space is `Ġ` and a newline `Ċ`.

/// The last character of the alphabet is U+0143.
const END: usize = 0x144;

/// The letter for each byte.
const LETTERS: [char; 256] = letters();

/// The byte of each character below [`END`]; -1 where there is none.
const BYTES: [i16; END] = bytes();

const fn stands_for_itself(byte: usize) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

const fn letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let (mut byte, mut above) = (0, 0x100);
    while byte < 256 {
        if stands_for_itself(byte) {
            letters[byte] = byte as u8 as char;
        } else if let Some(letter) = char::from_u32(above) {
            letters[byte] = letter;
            above += 1;
        }
        byte += 1;
    }
    letters
}

const fn bytes() -> [i16; END] {
    let mut bytes = [-1; END];
    let mut byte = 0;
    while byte < 256 {
        bytes[LETTERS[byte] as usize] = byte as i16;
        byte += 1;
    }
    bytes
}

/// Returns the bytes of a token spelled in the alphabet, or the first character that is not in the alphabet.
pub(super) fn to_bytes(spelling: &str) -> Result<Vec<u8>, char> {
    let byte = |letter: char| BYTES.get(letter as usize).and_then(|&byte| u8::try_from(byte).ok());
    spelling.chars().map(|letter| byte(letter).ok_or(letter)).collect()
}

/// Returns the spelling of a token's bytes.
pub(super) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| LETTERS[usize::from(byte)]).collect()
}

/// Returns all bytes in the order of their letters' code points, which is the order of the trainer's first ids.
pub(super) fn in_letter_order() -> impl Iterator<Item = u8> {
    BYTES.iter().filter_map(|&byte| u8::try_from(byte).ok())
}
