//! Conversations: templates, what is learned of them, packing, training, and the commands.

mod command;
mod labels;
mod packing;
mod templates;
mod training;

use serde_json::{Map, Value, json};
use wgpt::chat::{ChatTemplate, Conversation};

/// A template of turns with marks, whose end of turn is a token of every tokenizer of ours.
pub const TURNS: &str = "{%- for m in messages %}{{ m.role[0] + ': ' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}";

/// The names of tokens that templates are given.
pub fn tokens() -> Map<String, Value> {
    let named = [("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>")];
    named.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect()
}

/// Compiles a template.
pub fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "the template", tokens()).unwrap()
}

/// A conversation of turns: a role and a text each.
pub fn conversation(turns: &[(&str, &str)]) -> Conversation {
    let message = |(role, content): &(&str, &str)| json!({"role": role, "content": content});
    Conversation::of(turns.iter().map(message).collect())
}
