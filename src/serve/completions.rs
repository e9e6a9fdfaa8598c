//! `POST /v1/completions`: prompts as text or as ids, with the log-probabilities that evaluation harnesses read.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{Asked, Form, MOST_TOP, reason, respond};
use super::app::App;
use super::choice::{Piece, Shown};
use super::error::{ApiError, ApiResult};
use super::fields::{Fields, kind};
use super::model::{Model, Prompt};

/// The new tokens that OpenAI's API adds if it is not told how many.
const MAX_TOKENS: usize = 16;

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
    let form: &'static dyn Form = match fields.flag("return_token_ids")? {
        false => &Completion { has_ids: false },
        true => &Completion { has_ids: true },
    };
    let mut asked = Asked::of(&fields, model, form, MAX_TOKENS)?;
    asked.top = fields.count("logprobs", 0, MOST_TOP)?;
    asked.style.echo = fields.flag("echo")?;
    asked.style.shows = asked.top.is_some();
    asked.prompts = prompts(fields.need("prompt")?, model)?;
    asked.check(model, "prompt")?;
    Ok(asked)
}

/// Reads a text, a list of texts, a list of ids, or a list of lists of ids.
fn prompts(value: &Value, model: &Model) -> ApiResult<Vec<Prompt>> {
    let wrong = |what: String| {
        ApiError::field(
            "prompt",
            format!(
                "{what}, must be a text, a list of texts, a list of ids, or a list of lists of ids"
            ),
        )
    };
    let ids = |value: &Value| {
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| wrong(format!("prompt has {} among its ids", kind(value))))
        };
        let ids = value.as_array().map(|all| all.iter().map(id).collect::<ApiResult<Vec<u32>>>());
        ids.unwrap_or_else(|| Err(wrong(format!("prompt has {} among its lists", kind(value)))))
    };
    let of_ids = |ids| Prompt { ids, added: 0, text: None };
    let text = |value: &Value| {
        let text = value.as_str().map(|text| model.prompt(text));
        text.ok_or_else(|| wrong(format!("prompt has {} among its texts", kind(value))))
    };
    match value {
        Value::String(text) => Ok(vec![model.prompt(text)]),
        Value::Array(all) => match all.first() {
            None => Err(wrong("prompt is an empty list".into())),
            Some(Value::String(_)) => all.iter().map(text).collect(),
            Some(Value::Array(_)) => all.iter().map(|one| ids(one).map(of_ids)).collect(),
            Some(_) => Ok(vec![of_ids(ids(value)?)]),
        },
        other => Err(wrong(format!("prompt is {}", kind(other)))),
    }
}

/// The form of a completion.
struct Completion {
    /// Whether tokens are named by their ids, too.
    has_ids: bool,
}

impl Form for Completion {
    fn object(&self, _: bool) -> &'static str {
        "text_completion"
    }

    fn prefix(&self) -> &'static str {
        "cmpl"
    }

    fn choice(&self, model: &Model, index: usize, piece: &Piece) -> Value {
        let mut logprobs = logprobs(model, &piece.shown);
        if self.has_ids && !logprobs.is_null() {
            let ids =
                |shown: &Shown| named(model, shown).into_iter().map(|(_, id, _)| id).collect();
            let tops: Vec<Vec<u32>> = piece.shown.iter().map(ids).collect();
            logprobs["token_ids"] = piece.shown.iter().map(|shown| shown.id).collect();
            logprobs["top_token_ids"] = json!(tops);
        }
        json!({
            "index": index,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": reason(piece.finish),
        })
    }

    fn chunk(&self, model: &Model, index: usize, piece: &Piece) -> Value {
        self.choice(model, index, piece)
    }

    fn first_chunk(&self, _: usize) -> Option<Value> {
        None
    }
}

/// Returns the alternatives of a token, itself among them, each with its name, its id and its log-probability. No two have one
/// name: if they have the same text, the less probable one is spelled by its bytes.
fn named(model: &Model, shown: &Shown) -> Vec<(String, u32, f64)> {
    let Some(scored) = &shown.scored else { return vec![] };
    let own = (shown.id, scored.logprob);
    let is_missing = !scored.top.contains(&own);
    let mut all: Vec<(String, u32, f64)> = vec![];
    for (id, logprob) in scored.top.iter().copied().chain(is_missing.then_some(own)) {
        let name = model.spell(id);
        let is_taken = all.iter().any(|(taken, ..)| *taken == name);
        all.push((if is_taken { model.spell_bytes(id) } else { name }, id, logprob));
    }
    all
}

/// Writes tokens in four lists, one entry a token in each; the alternatives of a token are an object.
fn logprobs(model: &Model, shown: &[Shown]) -> Value {
    if shown.is_empty() {
        return Value::Null;
    }
    let top = |shown: &Shown| {
        let all = named(model, shown).into_iter().map(|(name, _, logprob)| (name, json!(logprob)));
        shown.scored.as_ref().map(|_| Value::Object(all.collect()))
    };
    json!({
        "tokens": shown.iter().map(|shown| model.spell(shown.id)).collect::<Vec<_>>(),
        "token_logprobs":
            shown.iter().map(|shown| shown.scored.as_ref().map(|one| one.logprob)).collect::<Vec<_>>(),
        "top_logprobs": shown.iter().map(top).collect::<Vec<_>>(),
        "text_offset": shown.iter().map(|shown| shown.offset).collect::<Vec<_>>(),
    })
}
