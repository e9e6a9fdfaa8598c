//! Byte-pair encoding: byte-level as in GPT-2, and of characters as in Llama 2; training (byte-level), encoding,
//! decoding, and the files of Hugging Face and tiktoken.
//!
//! ```text
//! text ─▶ normal form ─▶ pieces ─▶ bytes or characters ─▶ merges, best rank first ─▶ ids ─▶ bytes ─▶ text
//! ```
//!
//! - `normalizer` changes texts before anything else; `places` says where a text may be cut;
//! - `pretokenizer` cuts texts by GPT-2's pattern or a newer one; `merge` merges a piece, using the table in `ranks`;
//!   `alphabet` spells bytes as printable characters, as the files do; `special` finds added tokens;
//! - `characters` is a vocabulary of characters, `decoder` what its tokens are as text;
//! - `from_gguf` reads the tokenizers of llama.cpp's files;
//! - `llama_cpp` says what llama.cpp is told of a tokenizer;
//! - `train`, `encode` and `decode` do what their names say; `cut` finds the places where a text that comes in pieces
//!   may be cut;
//! - `files` reads and writes tokenizer.json, and vocab.json with merges.txt: `schema` defines the form of
//!   tokenizer.json, `rules` and `patterns` say what its settings mean, `template` what is put around a text, `beside`
//!   reads additions from other files, `vocabulary` combines everything; `tiktoken` reads tiktoken's files.
//!
//! Invariants of every [`Tokenizer`]: each byte has a token, so any text can be encoded without loss, or each character
//! has one or stands as the unknown token; no two tokens have the same id; both parts of each merge and its result are
//! tokens.

mod alphabet;
mod beside;
mod bpe;
mod characters;
mod cut;
mod decode;
mod decoder;
mod encode;
mod files;
mod from_gguf;
mod llama_cpp;
mod merge;
mod normalizer;
mod patterns;
mod places;
mod pretokenizer;
mod ranges;
mod ranks;
mod reading;
mod rules;
mod schema;
mod special;
mod template;
mod tiktoken;
mod token;
mod train;
mod vocabulary;

pub use bpe::Tokenizer;
pub(crate) use cut::Held;
pub use cut::{AddedAs, Cutter, EncodeStream, TextEncoder};
pub use decode::DecodeStream;
pub(crate) use llama_cpp::LlamaCpp;
pub use token::END_OF_TEXT;
pub use train::{Dropped, Progress, TokenizerTrainer, Trained};
