//! Training data: from the `--data` argument and its text to batches of token ids.
//!
//! ```text
//! --data ─▶ Sources ─documents()─▶ encode() ─▶ Tokens ─split()─▶ batch()    random windows, for training
//!  stories · files · folders       all threads  (memory,       ╰─▶ windows()  every token once, for the final loss
//!  downloads (fetch)                             mapped files)
//! ```
//!
//! Conversations become marked tokens ([`marks`]) by a chat template, and batches by packing ([`Packed`]).
//!
//! The order is fixed, and random choices depend only on their position, so a resumed run needs no state of the data.

mod batches;
mod conversations;
mod download;
mod json;
mod kept;
pub mod marks;
mod packed;
pub(crate) mod random;
mod shards;
mod source;
mod split;
pub mod stories;
mod text;
mod tokens;
mod unicode;

pub use batches::{IGNORE, Place, Windows, batch, check_length, split, windows};
pub use conversations::{ChatEncoding, ConversationFile, Counts, sample_of_conversations};
pub use download::{DATASETS, Dataset, Downloads, Progress};
pub use kept::{Encoded, EncodedCache, EncodedKey, Fill, hash_file};
pub use packed::{Packed, Rows, target};
pub use shards::Shards;
pub use source::{LeftOut, Source, Sources};
pub use split::Split;
pub use text::{CutText, Document, SEPARATOR};
pub use tokens::{TokenWriter, Tokens, encode};
pub use unicode::read_text;
