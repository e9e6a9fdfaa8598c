//! Templates: the tokens that a file's post-processor puts around a whole text.

use serde_json::{Value, json};

use super::schema::Part;
use crate::error::{Error, Result};

/// The tokens before and after a text, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

impl Template {
    /// Returns what a post-processor puts around one text. The stages of a `Sequence` put theirs around those of the
    /// stages before them.
    ///
    /// # Errors
    ///
    /// Names a stage that is not supported, or a token without an id.
    pub(super) fn of(post_processor: &Part) -> Result<Template> {
        let mut template = Template::default();
        for stage in post_processor.stages() {
            let (before, after) = match stage.r#type.as_str() {
                "ByteLevel" => continue,
                "TemplateProcessing" => around(stage)?,
                "RobertaProcessing" | "BertProcessing" => {
                    (vec![numbered(stage, "cls")?], vec![numbered(stage, "sep")?])
                }
                kind => {
                    return Err(Error::input(format!(
                        "the post_processor {kind} is not supported, must be ByteLevel or TemplateProcessing"
                    ))
                    .hint("use a tokenizer whose post_processor puts tokens around a text"));
                }
            };
            template.before.splice(0..0, before);
            template.after.extend(after);
        }
        Ok(template)
    }

    /// Checks that every id is that of a token.
    ///
    /// # Errors
    ///
    /// Names the first one that is not.
    pub(super) fn check(&self, is_token: impl Fn(u32) -> bool) -> Result<()> {
        match self.before.iter().chain(&self.after).find(|id| !is_token(**id)) {
            Some(id) => Err(Error::input(format!(
                "the token with the id {id} is put around texts, and is not in the vocabulary"
            ))
            .hint("name tokens of the vocabulary in the post_processor")),
            None => Ok(()),
        }
    }

    /// Returns the template without the tokens whose ids are not kept.
    pub(super) fn retaining(mut self, is_kept: impl Fn(u32) -> bool) -> Template {
        self.before.retain(|id| is_kept(*id));
        self.after.retain(|id| is_kept(*id));
        self
    }

    /// Whether nothing is put around a text.
    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    /// Returns the ids of a text with the tokens around it.
    pub(super) fn put_around(&self, ids: Vec<u32>) -> Vec<u32> {
        if self.is_empty() {
            return ids;
        }
        [&self.before[..], &ids, &self.after].concat()
    }

    /// Returns the JSON of a post-processor with these tokens; `text` gives their texts.
    pub(super) fn to_json(&self, text: impl Fn(u32) -> String) -> Value {
        let token = |id: &u32| json!({"SpecialToken": {"id": text(*id), "type_id": 0}});
        let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
        let with = |sequence: Value| -> Vec<Value> {
            let before = self.before.iter().map(token);
            before.chain([sequence]).chain(self.after.iter().map(token)).collect()
        };
        let known = self
            .before
            .iter()
            .chain(&self.after)
            .map(|&id| (text(id), json!({"id": text(id), "ids": [id], "tokens": [text(id)]})));
        let pair = [with(sequence("A", 0)), with(sequence("B", 1))].concat();
        json!({
            "type": "TemplateProcessing",
            "single": with(sequence("A", 0)),
            "pair": pair,
            "special_tokens": Value::Object(known.collect()),
        })
    }
}

/// Returns the ids before and after the text in a template.
fn around(stage: &Part) -> Result<(Vec<u32>, Vec<u32>)> {
    let (mut sides, mut side) = ([vec![], vec![]], 0);
    let pieces = || stage.single.iter().flatten();
    let all = pieces().filter(|piece| piece.get("Sequence").is_some()).count();
    if all != 1 {
        return Err(Error::input(format!(
            "the post_processor's template has the text {all} times, must be once"
        ))
        .hint("use a tokenizer whose template has the text once"));
    }
    for piece in pieces() {
        if piece.get("Sequence").is_some() {
            side = 1;
        } else if let Some(name) = piece["SpecialToken"]["id"].as_str() {
            let ids = stage
                .more
                .get("special_tokens")
                .and_then(|tokens| tokens.get(name)?["ids"].as_array());
            let ids: Option<Vec<u32>> = ids.and_then(|ids| ids.iter().map(id_of).collect());
            sides[side].extend(ids.ok_or_else(|| without_id(name))?);
        }
    }
    Ok(sides.into())
}

/// Returns the id of a setting such as `"cls": ["<s>", 0]`.
fn numbered(stage: &Part, name: &str) -> Result<u32> {
    stage.more.get(name).and_then(|token| id_of(&token[1])).ok_or_else(|| without_id(name))
}

fn id_of(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn without_id(name: &str) -> Error {
    Error::input(format!("the post_processor names the token {name:?} without its id"))
        .hint("give its id as the tokenizer's library writes it")
}
