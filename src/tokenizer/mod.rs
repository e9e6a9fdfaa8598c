//! Byte-level byte-pair encoding, as GPT-2 has it: training, encoding, decoding, and Hugging Face's
//! files.
//!
//! ```text
//! text ─▶ pieces (GPT-2's pattern) ─▶ bytes ─▶ merges, best rank first ─▶ ids ─▶ bytes ─▶ text
//! ```
//!
//! - `pretokenizer` cuts texts, by GPT-2's pattern or a newer one; `merge` merges a piece, `ranks` is the table that it
//!   asks; `alphabet` spells bytes as printable characters, as the files do; `special` finds added tokens;
//! - `llama_cpp` is what llama.cpp calls a tokenizer;
//! - `train`, `encode`, `decode` do what their names say; `cut` tells where a text that comes in pieces may be cut;
//! - `files` reads and writes tokenizer.json, and vocab.json with merges.txt: `schema` is the form of the first, `beside`
//!   reads what other files add, `vocabulary` puts it all together.
//!
//! Invariants of every [`Tokenizer`]: each byte has a token, so any text can be encoded and nothing
//! is dropped; no two tokens have one id; both parts of each merge and its result are tokens.

mod alphabet;
mod beside;
mod bpe;
mod cut;
mod decode;
mod encode;
mod files;
mod llama_cpp;
mod merge;
mod pretokenizer;
mod ranks;
mod reading;
mod schema;
mod special;
mod token;
mod train;
mod vocabulary;

pub use bpe::Tokenizer;
pub(crate) use cut::Held;
pub use cut::{AddedAs, Cutter, EncodeStream, TextEncoder};
pub use decode::DecodeStream;
pub use token::END_OF_TEXT;
pub use train::{Dropped, Progress, TokenizerTrainer, Trained};
