//! A chat in progress: what was said, and the prompt for the next reply.

use serde_json::{Value, json};

use super::conversation::{ASSISTANT, Conversation};
use super::template::ChatTemplate;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What ends a reply, besides the tokens that end a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A token.
    Token(u32),
    /// A text.
    Text(String),
}

/// The prompt of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// How many tokens the reply may have.
    pub room: usize,
    /// How many of the oldest messages the model no longer sees, because the context is full.
    pub forgotten: usize,
}

/// A chat between a user and a model.
#[derive(Debug)]
pub struct Session {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    /// The model's context in tokens.
    context: usize,
    system: Option<String>,
    messages: Vec<Value>,
}

impl Session {
    /// Begins a chat with a model of this context.
    pub fn new(template: ChatTemplate, tokenizer: Tokenizer, context: usize) -> Session {
        Session { template, tokenizer, context, system: None, messages: vec![] }
    }

    /// Sets or removes the system message, and forgets all other messages.
    pub fn begin_again(&mut self, system: Option<String>) {
        self.system = system;
        self.messages.clear();
    }

    /// Returns the system message.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Returns the messages so far, the system message first.
    pub fn messages(&self) -> Vec<Value> {
        self.seen_from(0)
    }

    /// Returns the system message and those from number `first` on.
    fn seen_from(&self, first: usize) -> Vec<Value> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        system.chain(self.messages[first..].iter().cloned()).collect()
    }

    /// Adds a message of the user and returns the prompt of the reply, which gets at least a quarter of the context: the oldest messages are
    /// forgotten where there is no room for them.
    ///
    /// # Errors
    ///
    /// If the template refuses the messages, or the last one alone leaves no room. The message is then not added.
    pub fn ask(&mut self, text: &str) -> Result<Asked> {
        self.messages.push(json!({"role": "user", "content": text}));
        self.prompt().inspect_err(|_| {
            self.messages.pop();
        })
    }

    fn prompt(&self) -> Result<Asked> {
        let is_users = |(_, message): &(usize, &Value)| message["role"] == "user";
        let last = self.messages.len() - 1;
        for (first, _) in self.messages.iter().enumerate().filter(is_users) {
            let messages = self.seen_from(first);
            let count = messages.len();
            let text = self.template.render(&Conversation::of(messages), count, true)?;
            let ids = self.tokenizer.encode_with_special(&text);
            let least = self.context.div_ceil(4);
            if ids.len() + least <= self.context {
                let room = self.context - ids.len();
                return Ok(Asked { ids, room, forgotten: first });
            }
            if first == last {
                return Err(Error::input(format!(
                    "the message and what comes before it have {} tokens, must be at most {}: three quarters of the model's context",
                    ids.len(),
                    self.context - least
                ))
                .hint("write a shorter one, or several"));
            }
        }
        unreachable!("the last message is the user's")
    }

    /// Adds the reply.
    pub fn reply(&mut self, text: &str) {
        self.messages.push(json!({"role": ASSISTANT, "content": text}));
    }

    /// Takes back the last message of the user, which got no reply.
    pub fn take_back(&mut self) {
        self.messages.pop();
    }

    /// Ends the chat, and returns its template.
    pub fn into_template(self) -> ChatTemplate {
        self.template
    }

    /// Returns what the template writes after a reply: its first special token, or else the text up to the next turn.
    pub fn stop(&self) -> Option<Stop> {
        const REPLY: &str = "Yes";
        let said = [
            json!({"role": "user", "content": "Is it?"}),
            json!({"role": ASSISTANT, "content": REPLY}),
        ];
        let text = self.template.render(&Conversation::of(said.into()), 2, false).ok()?;
        let after = &text[text.rfind(REPLY)? + REPLY.len()..];
        let ids = self.tokenizer.encode_with_special(after);
        let is_special =
            |id: &&u32| self.tokenizer.special_tokens().any(|(_, added)| added == **id);
        if let Some(id) = ids.iter().find(is_special) {
            return Some(Stop::Token(*id));
        }
        Some(after.trim_end())
            .filter(|after| !after.is_empty())
            .map(|text| Stop::Text(text.to_owned()))
    }
}
