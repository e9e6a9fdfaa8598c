//! The model that is served, as far as texts need it.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use crate::chat::{ChatTemplate, Conversation, Session, Stop};
use crate::checkpoint::EndOfText;
use crate::error::Result;
use crate::sampler::encode_prompt;
use crate::tokenizer::Tokenizer;

/// A model's name, its texts and its sizes.
pub struct Model {
    /// The name by which requests ask for it.
    pub name: String,
    /// When it was loaded, in seconds since 1970.
    pub created: i64,
    /// The positions of a slot.
    pub context: usize,
    pub vocab_size: usize,
    pub tokenizer: Tokenizer,
    pub end: EndOfText,
    pub chat: Option<Chat>,
}

/// How a model chats.
pub struct Chat {
    pub template: ChatTemplate,
    /// What ends a reply, besides the tokens that end a text.
    pub stop: Option<Stop>,
}

impl Chat {
    /// Finds out what ends a reply.
    pub fn new(template: ChatTemplate, tokenizer: &Tokenizer, context: usize) -> Chat {
        let session = Session::new(template, tokenizer.clone(), context);
        let stop = session.stop();
        Chat { template: session.into_template(), stop }
    }
}

/// A prompt as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub ids: Vec<u32>,
    /// How many of them, at the beginning, are not part of the text that was given.
    pub added: usize,
    /// The text, if it was given as text.
    pub text: Option<String>,
}

impl Model {
    /// Checks that a request, by its field `model`, asks for this model.
    pub fn check_name(&self, name: Option<&str>) -> ApiResult<()> {
        match name {
            Some(name) if name != self.name => {
                let message =
                    format!("there is no model {name:?}: the one here is {:?}", self.name);
                Err(ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found"))
            }
            _ => Ok(()),
        }
    }

    /// Encodes a prompt that is given as text.
    pub fn prompt(&self, text: &str) -> Prompt {
        let (ids, added) = encode_prompt(&self.tokenizer, &self.end, text);
        Prompt { ids, added, text: Some(text.to_owned()) }
    }

    /// Checks a prompt's ids and their number.
    ///
    /// # Errors
    ///
    /// Names the id that is not in the vocabulary, or both numbers of a prompt that is too long.
    pub fn check(&self, ids: &[u32], field: &str) -> ApiResult<()> {
        if ids.is_empty() {
            return Err(ApiError::field(field, format!("{field} has no tokens")));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocab_size) {
            let message = format!(
                "{field} has the token {id}, but the model's vocabulary has {}",
                self.vocab_size
            );
            return Err(ApiError::field(field, message));
        }
        if ids.len() > self.context {
            let message = format!(
                "{field} has {} tokens, but the context has room for {}",
                ids.len(),
                self.context
            );
            return Err(ApiError::field(field, message).code("context_length_exceeded"));
        }
        Ok(())
    }

    /// Renders messages by the chat template, as the prompt of a reply.
    ///
    /// # Errors
    ///
    /// If the model has no chat template, or its template refuses the messages.
    pub fn chat_prompt(&self, messages: &Value, more: Option<&Value>) -> ApiResult<Prompt> {
        let chat = self.chat.as_ref().ok_or_else(|| {
            ApiError::bad(format!("the model {:?} has no chat template", self.name))
        })?;
        let mut said = json!({ "messages": messages });
        if let Some(more) = more {
            said["chat_template_kwargs"] = more.clone();
        }
        let wrong = |error: crate::Error| ApiError::field("messages", error.to_string());
        let conversation = Conversation::from_json(&said).map_err(wrong)?;
        let count = conversation.messages.len();
        let text = chat.template.render(&conversation, count, true).map_err(wrong)?;
        let ids = self.tokenizer.encode_with_special(&text);
        Ok(Prompt { ids, added: 0, text: Some(text) })
    }

    /// Returns the text of some tokens.
    ///
    /// # Errors
    ///
    /// Names the first id that is not in the tokenizer's vocabulary.
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode_lossy(ids)
    }

    /// Spells a token: as text if its bytes are UTF-8, otherwise byte by byte.
    pub fn spell(&self, id: u32) -> String {
        match self.tokenizer.token_bytes(id).map(str::from_utf8) {
            Some(Ok(text)) => text.to_owned(),
            Some(Err(_)) => self.spell_bytes(id),
            // A padded vocabulary has ids beyond the tokenizer.
            None => format!("id:{id}"),
        }
    }

    /// Spells a token by its bytes: `bytes:\xe2\x82`.
    pub fn spell_bytes(&self, id: u32) -> String {
        let bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        let digits: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("bytes:{digits}")
    }

    /// Returns the text of a special token.
    pub fn special(&self, id: Option<u32>) -> Option<&str> {
        let id = id?;
        let mut all = self.tokenizer.special_tokens();
        all.find(|(_, special)| *special == id).map(|(text, _)| text)
    }
}
