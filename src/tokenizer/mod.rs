//! Byte-level byte-pair encoding as in GPT-2: training, encoding, decoding, and Hugging Face's
//! files.
//!
//! ```text
//! text ─▶ pieces (GPT-2's pattern) ─▶ bytes ─▶ merges, best rank first ─▶ ids ─▶ bytes ─▶ text
//! ```
//!
//! - `pretokenizer` cuts texts by GPT-2's pattern or a newer one; `merge` merges a piece, using the table in `ranks`;
//!   `alphabet` spells bytes as printable characters, as the files do; `special` finds added tokens;
//! - `llama_cpp` finds llama.cpp's name for a tokenizer;
//! - `train`, `encode` and `decode` do what their names say; `cut` finds the places where a text that comes in pieces
//!   may be cut;
//! - `files` reads and writes tokenizer.json, and vocab.json with merges.txt: `schema` defines the form of
//!   tokenizer.json, `beside` reads additions from other files, `vocabulary` combines everything.
//!
//! Invariants of every [`Tokenizer`]: each byte has a token, so any text can be encoded without
//! loss; no two tokens have the same id; both parts of each merge and its result are tokens.

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
