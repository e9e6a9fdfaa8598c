//! The tokenizer's routes: `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Value, json};

use super::app::App;
use super::body::{apart, read_body};
use super::error::{ApiError, ApiResult};
use super::fields::{Fields, kind};
use super::model::Model;

/// Encodes a text, or the messages of a chat.
///
/// # Errors
///
/// Names what is wrong with the request.
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> ApiResult<Json<Value>> {
    let body = read_body(request).await?;
    apart(&app, move |app| tokens(&app.model, &body)).await.map(Json)
}

fn tokens(model: &Model, body: &[u8]) -> ApiResult<Value> {
    let fields = Fields::read(body)?;
    model.check_name(fields.text("model")?)?;
    let ids = match (fields.text("prompt")?, fields.get("messages")) {
        (Some(text), _) if fields.get("add_special_tokens") == Some(&Value::Bool(false)) => {
            model.tokenizer.encode_with_special(text)
        }
        // Nothing is put in the place of an empty text.
        (Some(""), _) => model.tokenizer.template().0.to_vec(),
        (Some(text), _) => model.prompt(text).ids,
        (None, Some(messages)) => {
            model.chat_prompt(messages, fields.get("chat_template_kwargs"))?.ids
        }
        (None, None) => return Err(ApiError::field("prompt", "prompt is missing")),
    };
    let mut answer = json!({ "count": ids.len(), "max_model_len": model.context, "tokens": ids, "token_strs": null });
    if fields.flag("return_token_strs")? {
        answer["token_strs"] = ids.iter().map(|id| model.spell(*id)).collect();
    }
    Ok(answer)
}

/// Decodes ids.
///
/// # Errors
///
/// Names what is wrong with the request.
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> ApiResult<Json<Value>> {
    let body = read_body(request).await?;
    apart(&app, move |app| text(&app.model, &body)).await.map(Json)
}

fn text(model: &Model, body: &[u8]) -> ApiResult<Value> {
    let fields = Fields::read(body)?;
    model.check_name(fields.text("model")?)?;
    let wrong = |value: &Value| {
        ApiError::field("tokens", format!("tokens has {}, must be a list of ids", kind(value)))
    };
    let value = fields.need("tokens")?;
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let all = value.as_array().ok_or_else(|| wrong(value))?;
    let ids = all.iter().map(|one| id(one).ok_or_else(|| wrong(one)));
    let ids = ids.collect::<ApiResult<Vec<u32>>>()?;
    let text = model.text(&ids).map_err(|e| ApiError::field("tokens", e.to_string()))?;
    Ok(json!({ "prompt": text }))
}

/// Describes the tokenizer.
pub async fn info(State(app): State<Arc<App>>) -> Json<Value> {
    let model = &app.model;
    let separator = model.special(model.end.separator());
    Json(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": separator,
        "bos_token": model.special(model.end.opening()),
        "pad_token": separator,
        "vocab_size": model.tokenizer.vocab_size(),
        "model_max_length": model.context,
        "chat_template": model.chat.as_ref().map(|chat| chat.template.source()),
    }))
}
