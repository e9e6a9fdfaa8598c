//! `POST /v1/chat/completions`: replies by the model's chat template.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{Asked, Form, MOST_TOP, reason, respond};
use super::app::App;
use super::choice::{Piece, Shown};
use super::error::{ApiError, ApiResult};
use super::fields::Fields;
use super::model::Model;
use crate::chat::{ASSISTANT, Stop};

/// Answers a request.
///
/// # Errors
///
/// Names what is wrong with the request.
pub async fn post(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    respond(app, request, asked).await
}

fn asked(model: &Model, body: &[u8]) -> ApiResult<Asked> {
    let fields = Fields::read(body)?;
    model.check_name(fields.text("model")?)?;
    refuse_tools(&fields)?;
    // Without a number, a reply may be as long as there is room.
    let mut asked = Asked::of(&fields, model, &Reply, usize::MAX)?;
    if let Some(most) = fields.count("max_completion_tokens", 0, usize::MAX)? {
        asked.options.max_tokens = most;
    }
    let top = fields.count("top_logprobs", 0, MOST_TOP)?;
    asked.top = fields.flag("logprobs")?.then_some(top.unwrap_or(0));
    asked.style.shows = asked.top.is_some();
    asked.style.is_reply = true;
    match model.chat.as_ref().and_then(|chat| chat.stop.as_ref()) {
        Some(Stop::Token(id)) => {
            asked.style.ends = asked.style.ends.iter().copied().chain([*id]).collect();
        }
        Some(Stop::Text(text)) => asked.style.stop.push(text.clone()),
        None => {}
    }
    let messages = fields.need("messages")?;
    asked.prompts = vec![model.chat_prompt(messages, fields.get("chat_template_kwargs"))?];
    asked.check(model, "messages")?;
    Ok(asked)
}

/// Refuses what would have to be part of the reply and cannot be.
fn refuse_tools(fields: &Fields) -> ApiResult<()> {
    for name in ["tools", "functions"] {
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        if fields.get(name).is_some_and(|value| !is_empty(value)) {
            let message = format!("{name} are not supported: this server only writes text");
            return Err(ApiError::field(name, message));
        }
    }
    Ok(())
}

/// The form of a reply.
struct Reply;

impl Form for Reply {
    fn object(&self, is_chunk: bool) -> &'static str {
        if is_chunk { "chat.completion.chunk" } else { "chat.completion" }
    }

    fn prefix(&self) -> &'static str {
        "chatcmpl"
    }

    fn choice(&self, model: &Model, index: usize, piece: &Piece) -> Value {
        json!({
            "index": index,
            "message": { "role": ASSISTANT, "content": piece.text, "refusal": null },
            "logprobs": logprobs(model, &piece.shown),
            "finish_reason": reason(piece.finish),
        })
    }

    fn chunk(&self, model: &Model, index: usize, piece: &Piece) -> Value {
        let delta = match piece.text.as_str() {
            "" => json!({}),
            text => json!({ "content": text }),
        };
        json!({
            "index": index,
            "delta": delta,
            "logprobs": logprobs(model, &piece.shown),
            "finish_reason": reason(piece.finish),
        })
    }

    fn first_chunk(&self, index: usize) -> Option<Value> {
        let delta = json!({ "role": ASSISTANT, "content": "" });
        Some(json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null }))
    }
}

/// Writes a list with an object for each token.
fn logprobs(model: &Model, shown: &[Shown]) -> Value {
    if shown.is_empty() {
        return Value::Null;
    }
    let token = |id: u32, logprob: f64| {
        let bytes = model.tokenizer.token_bytes(id);
        json!({ "token": model.spell(id), "logprob": logprob, "bytes": bytes })
    };
    let one = |shown: &Shown| {
        let scored = shown.scored.as_ref()?;
        let mut one = token(shown.id, scored.logprob);
        one["top_logprobs"] = scored.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        Some(one)
    };
    json!({ "content": shown.iter().filter_map(one).collect::<Vec<_>>(), "refusal": null })
}
