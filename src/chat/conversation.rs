//! Conversations in their three forms of JSON.
//!
//! | form | fields |
//! |---|---|
//! | messages | `messages`: a list of objects with `role` and `content` |
//! | prompt and completion | `prompt` and `completion`: two texts, or two lists of messages |
//! | ShareGPT | `conversations`: a list of objects with `from` and `value`; `system`: a text, if there is one |
//!
//! `tools`, `documents` and the fields of `chat_template_kwargs` are given to the template as they are.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// The role whose turns are learned.
pub const ASSISTANT: &str = "assistant";

/// The expected forms, for hints.
const FORMS: &str = "a conversation is an object with \"messages\" (each with \"role\" and \"content\"), with \"prompt\" and \"completion\", or \
                     with \"conversations\" (each with \"from\" and \"value\")";

/// The names of roles in ShareGPT's form.
const ROLES: [(&str, &[&str]); 4] = [
    ("system", &["system"]),
    ("user", &["human", "user"]),
    (ASSISTANT, &["gpt", "assistant", "model", "chatgpt", "bing", "bard"]),
    ("tool", &["tool", "function", "observation"]),
];

/// The fields beside a conversation that a template is given.
const GIVEN: [&str; 2] = ["tools", "documents"];

/// A conversation: messages, and what else its template is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages: objects with a `role`, a `content` and maybe more. No field is null.
    pub messages: Vec<Value>,
    /// The number of the first message that may be learned: those of a prompt are not.
    pub first: usize,
    /// Further names that the template is given.
    pub more: Map<String, Value>,
}

/// Whether a value has the form of a conversation, judged by its fields.
pub fn is_conversation(value: &Value) -> bool {
    let has = |field: &str| value.get(field).is_some();
    has("messages") || has("conversations") || (has("prompt") && has("completion"))
}

impl Conversation {
    /// Makes a conversation of messages.
    pub fn of(messages: Vec<Value>) -> Conversation {
        Conversation { messages, ..Conversation::default() }
    }

    /// Reads a conversation in any of the forms.
    ///
    /// # Errors
    ///
    /// Names the field that is missing or wrong, and the number of its message.
    pub fn from_json(value: &Value) -> Result<Conversation> {
        read(value).map_err(|error| error.hint(FORMS))
    }

    /// Returns the same conversation with only its first `count` messages.
    #[must_use]
    pub fn cut(&self, count: usize) -> Conversation {
        Conversation { messages: self.messages[..count].to_vec(), ..self.clone() }
    }

    /// Returns the numbers of the messages that are learned.
    pub fn learned(&self) -> impl Iterator<Item = usize> + '_ {
        (self.first..self.messages.len()).filter(|i| self.is_assistants(*i))
    }

    /// Whether message number `i` is the assistant's.
    pub(super) fn is_assistants(&self, i: usize) -> bool {
        self.messages[i]["role"] == ASSISTANT
    }

    /// Returns the texts of all messages.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.messages.iter().flat_map(|message| match &message["content"] {
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            content => content.as_str().into_iter().collect::<Vec<_>>(),
        })
    }
}

fn read(value: &Value) -> Result<Conversation> {
    let Value::Object(fields) = value else {
        return Err(Error::input(format!("it is {}, wanted an object", kind(value))));
    };
    let (messages, first) = if let Some(messages) = fields.get("messages") {
        (messages_of("messages", messages)?, 0)
    } else if let Some(turns) = fields.get("conversations") {
        (sharegpt("conversations", turns, fields.get("system"))?, 0)
    } else if let (Some(prompt), Some(completion)) =
        (fields.get("prompt"), fields.get("completion"))
    {
        let mut messages = side("prompt", prompt, "user")?;
        let first = messages.len();
        messages.extend(side("completion", completion, ASSISTANT)?);
        (messages, first)
    } else {
        let names: Vec<&str> = fields.keys().map(String::as_str).take(8).collect();
        return Err(Error::input(format!(
            "it has no conversation: its fields are {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        )));
    };
    let given =
        GIVEN.iter().filter_map(|name| Some(((*name).to_owned(), fields.get(*name)?.clone())));
    let mut more: Map<String, Value> = given.filter(|(_, value)| !value.is_null()).collect();
    match fields.get("chat_template_kwargs") {
        None | Some(Value::Null) => {}
        Some(Value::Object(names)) => more.extend(names.clone()),
        Some(other) => return Err(wanted("chat_template_kwargs", other, "an object")),
    }
    Ok(Conversation { messages, first, more })
}

/// Returns the messages of a prompt or a completion, which may be a text of this role.
fn side(field: &str, value: &Value, role: &str) -> Result<Vec<Value>> {
    match value {
        Value::String(text) => Ok(vec![json!({"role": role, "content": text})]),
        Value::Array(_) => messages_of(field, value),
        other => Err(wanted(field, other, "a text or a list of messages")),
    }
}

/// Returns a list that must not be empty.
fn list<'a>(field: &str, value: &'a Value) -> Result<&'a [Value]> {
    match value {
        Value::Array(all) if all.is_empty() => Err(Error::input(format!("{field} is empty"))),
        Value::Array(all) => Ok(all),
        other => Err(wanted(field, other, "a list")),
    }
}

/// Returns a field of a message that must be a text.
fn text<'a>(place: &str, message: &'a Value, field: &str) -> Result<&'a str> {
    match message.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wanted(&format!("{field} of {place}"), other, "a text")),
        None => Err(Error::input(format!("{place} has no {field}"))),
    }
}

/// Checks messages, and drops their fields that are null, as `transformers` does.
fn messages_of(field: &str, value: &Value) -> Result<Vec<Value>> {
    let numbered = list(field, value)?.iter().enumerate();
    let check = |(i, message): (usize, &Value)| {
        let place = format!("message {} of {field}", i + 1);
        let Value::Object(fields) = message else {
            return Err(wanted(&place, message, "an object"));
        };
        text(&place, message, "role")?;
        let content = fields.get("content").filter(|content| !content.is_null());
        match content {
            Some(Value::String(_) | Value::Array(_)) => {}
            Some(other) => {
                return Err(wanted(
                    &format!("content of {place}"),
                    other,
                    "a text or a list of parts",
                ));
            }
            // A call of tools has no text.
            None if fields.get("tool_calls").is_some_and(Value::is_array) => {}
            None => return Err(Error::input(format!("{place} has no content"))),
        }
        let kept = fields.iter().filter(|(_, value)| !value.is_null());
        Ok(Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect()))
    };
    numbered.map(check).collect()
}

/// Returns the messages of ShareGPT's form.
fn sharegpt(field: &str, value: &Value, system: Option<&Value>) -> Result<Vec<Value>> {
    let mut messages = vec![];
    match system {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => messages.push(json!({"role": "system", "content": text})),
        Some(other) => return Err(wanted("system", other, "a text")),
    }
    for (i, turn) in list(field, value)?.iter().enumerate() {
        let place = format!("turn {} of {field}", i + 1);
        if !turn.is_object() {
            return Err(wanted(&place, turn, "an object"));
        }
        let from = text(&place, turn, "from")?;
        let role = ROLES.iter().find(|(_, names)| names.contains(&from)).map(|(role, _)| *role);
        let role = role.ok_or_else(|| {
            let known: Vec<&str> =
                ROLES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
            Error::input(format!(
                "from of {place} is {from:?}, must be one of {}",
                known.join(", ")
            ))
        })?;
        messages.push(json!({"role": role, "content": text(&place, turn, "value")?}));
    }
    Ok(messages)
}

/// Returns the error for a value of the wrong kind.
fn wanted(what: &str, found: &Value, wanted: &str) -> Error {
    Error::input(format!("{what} is {}, wanted {wanted}", kind(found)))
}

/// Returns the kind of a value in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
