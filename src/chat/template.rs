//! Chat templates: Jinja as Hugging Face's `transformers` renders it.

use chrono::NaiveDateTime;
use serde_json::{Map, Value};

use super::conversation::Conversation;
use super::jinja::Jinja;
use super::spans::{self, CLOSE, OPEN};
use crate::clock;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The template of a model that has none: a line per turn, `Role: text`. The assistant's ends with the end-of-text token.
const PLAIN: &str = "\
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set text = message.content | trim %}
    {%- else %}
        {%- set text = message.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') | trim %}
    {%- endif %}
    {{- message.role | capitalize + ': ' + text }}
    {%- if message.role == 'assistant' %}
        {{- eos_token }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:' }}
{%- endif %}
";

/// Returns the template of a model that has none: a line per turn, `Role: text`, after the tokens that its tokenizer puts before a text. The
/// second value is where it comes from, for messages.
///
/// # Errors
///
/// If the tokenizer has no end-of-text token (`eos`): a reply would not end.
pub fn plain_template(tokenizer: &Tokenizer, eos: Option<u32>) -> Result<(String, String)> {
    if eos.is_none() {
        return Err(Error::input(
            "the model has no chat template, and no end-of-text token with which the plain one could end a turn",
        )
        .hint("put a chat_template.jinja into the model's folder, or take a tokenizer with <|endoftext|>"));
    }
    let (before, _) = tokenizer.template();
    let name = |id: &u32| tokenizer.special_tokens().find(|(_, added)| added == id);
    let before: String = before.iter().filter_map(name).map(|(text, _)| text).collect();
    let before = match before.as_str() {
        "" => String::new(),
        text => format!("{{{{- {} }}}}\n", Value::from(text)),
    };
    Ok((before + PLAIN, "the plain chat template".to_owned()))
}

/// A chat template, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    /// Where it comes from, for messages.
    place: String,
    /// The named tokens: `bos_token`, `eos_token`, …
    tokens: Map<String, Value>,
    plain: Jinja,
    /// The same with marks around what its generation blocks write, if it has any.
    marked: Option<Jinja>,
}

impl ChatTemplate {
    /// Compiles a template. `place` is where it comes from, for messages; `tokens` are the names of the tokenizer's tokens
    /// that it is given.
    ///
    /// # Errors
    ///
    /// If it is no template.
    pub fn new(source: &str, place: &str, tokens: Map<String, Value>) -> Result<ChatTemplate> {
        ChatTemplate::at(source, place, tokens, clock::local_time)
    }

    /// Does the same, at another time than now: `strftime_now` writes what `now` returns.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::new`].
    pub fn at(
        source: &str,
        place: &str,
        tokens: Map<String, Value>,
        now: impl Fn() -> NaiveDateTime + Clone + Send + Sync + 'static,
    ) -> Result<ChatTemplate> {
        let compile = |source: String| {
            Jinja::compile(source, now.clone()).map_err(|cause| {
                Error::input(format!("{place}: {cause}"))
                    .hint("a chat template is Jinja, as transformers renders it")
            })
        };
        let plain = compile(spans::without_blocks(source))?;
        let marked = spans::with_marks(source).map(compile).transpose()?;
        let (source, place) = (source.to_owned(), place.to_owned());
        Ok(ChatTemplate { source, place, tokens, plain, marked })
    }

    /// Returns its text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns where it comes from, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether it has generation blocks, which say what is learned.
    pub fn has_blocks(&self) -> bool {
        self.marked.is_some()
    }

    /// Renders the first `count` messages of a conversation, and if `prompts` what begins the assistant's next turn.
    ///
    /// # Errors
    ///
    /// If the template refuses the messages, or cannot be rendered with them.
    pub fn render(
        &self,
        conversation: &Conversation,
        count: usize,
        prompts: bool,
    ) -> Result<String> {
        self.render_by(&self.plain, conversation, count, prompts)
    }

    /// Renders the first `count` messages with the characters [`OPEN`] and [`CLOSE`] around each generation block; `None`
    /// if the template has no blocks.
    pub(super) fn render_marked(
        &self,
        conversation: &Conversation,
        count: usize,
    ) -> Result<Option<String>> {
        let Some(marked) = &self.marked else { return Ok(None) };
        if conversation.texts().any(|text| text.contains([OPEN, CLOSE])) {
            return Err(Error::input(
                "a message has the character U+FDD2 or U+FDD3, which are no text in Unicode",
            )
            .hint("remove it"));
        }
        self.render_by(marked, conversation, count, false).map(Some)
    }

    fn render_by(
        &self,
        template: &Jinja,
        conversation: &Conversation,
        count: usize,
        prompts: bool,
    ) -> Result<String> {
        let mut names = self.tokens.clone();
        names.insert("tools".to_owned(), Value::Null);
        names.insert("documents".to_owned(), Value::Null);
        names.extend(conversation.more.clone());
        // After what the data gives, which must not take their place.
        names.insert("messages".to_owned(), conversation.messages[..count].into());
        names.insert("add_generation_prompt".to_owned(), prompts.into());
        template.render(&names).map_err(|cause| {
            Error::input(format!("{}, with the first {count} messages: {cause}", self.place))
        })
    }
}
