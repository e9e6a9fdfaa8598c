//! Conversations as text and as labelled tokens: what a chat template writes, and which of its tokens are learned.
//!
//! ```text
//! a line of JSON ─▶ Conversation ─ChatTemplate::render─▶ text ─tokenizer─▶ tokens, each learned or not (Labelled)
//! ```
//!
//! The template is the model's own, in Jinja as Hugging Face's `transformers` renders it, or else [`plain_template`]. What is
//! learned is what an assistant's turn adds after the generation prompt, its end-of-turn token included; or what the template
//! itself marks by `{% generation %}`.

mod conversation;
#[cfg_attr(not(feature = "jinja"), path = "no_jinja.rs")]
mod jinja;
mod labels;
mod session;
mod spans;
mod template;

pub use conversation::{ASSISTANT, Conversation, is_conversation};
pub use labels::{Fit, Labelled, Long};
pub use session::{Asked, Session, Stop};
pub use spans::Rendered;
pub use template::{ChatTemplate, plain_template};
