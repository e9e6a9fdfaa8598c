//! Are templates rendered as transformers renders them?

use chrono::DateTime;
use serde_json::{Map, Value};
use wgpt::chat::{ChatTemplate, Conversation};

use crate::common::{json, oracle};

/// A list of messages, without what is null, as transformers does.
fn messages(value: &Value) -> Vec<Value> {
    let kept = |message: &Value| match message {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
        }
        other => other.clone(),
    };
    value.as_array().unwrap().iter().map(kept).collect()
}

#[test]
fn every_case_is_as_transformers_has_it() {
    let all = json(&oracle().join("families/chat_templates.json"));
    let mut tokens = Map::new();
    for name in ["bos_token", "eos_token"] {
        tokens.insert(name.to_owned(), all[name].clone());
    }
    let now = || DateTime::from_timestamp(1_720_256_703, 0).unwrap().naive_utc();
    assert_eq!(now().to_string(), "2024-07-06 09:05:03");
    let (mut failed, mut count) = (vec![], 0);
    for template in all["templates"].as_array().unwrap() {
        let name = template["name"].as_str().unwrap();
        let source = template["template"].as_str().unwrap();
        let compiled = ChatTemplate::at(source, name, tokens.clone(), now).unwrap();
        for (i, case) in template["cases"].as_array().unwrap().iter().enumerate() {
            count += 1;
            let mut more = case["kwargs"].as_object().cloned().unwrap_or_default();
            if !case["tools"].is_null() {
                more.insert("tools".to_owned(), case["tools"].clone());
            }
            let messages = messages(&case["messages"]);
            let prompts = case["add_generation_prompt"].as_bool().unwrap_or(false);
            let n = messages.len();
            let conversation = Conversation { messages, more, first: 0 };
            let got = compiled.render(&conversation, n, prompts);
            let is_right = match (&got, case["error"].as_str()) {
                (Ok(text), None) => Some(text.as_str()) == case["text"].as_str(),
                (Err(error), Some(wanted)) => error.to_string().contains(wanted),
                _ => false,
            };
            if !is_right {
                let wanted = case.get("text").or(case.get("error"));
                failed.push(format!("{name} {i}: {got:?}\n  wanted {wanted:?}"));
            }
        }
    }
    assert!(count > 0);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
