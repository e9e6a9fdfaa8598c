//! Are conversations read in every form, and is exactly that learned which should be?

use std::fs;

use serde_json::json;
use wgpt::Tokenizer;
use wgpt::chat::{ChatTemplate, Conversation, Fit, Labelled, Long, Session, Stop};
use wgpt::data::{ChatEncoding, ConversationFile, Counts, Sources, marks};

use super::{TURNS, conversation, template, tokens};
use crate::common::{json, oracle};

/// The learned parts of a text.
fn learned(labelled: &Labelled) -> Vec<String> {
    let (mut parts, mut is_on) = (vec![], false);
    for (range, learned) in labelled.ranges.iter().zip(&labelled.learned) {
        match (learned, is_on) {
            (true, false) => parts.push(labelled.text[range.clone()].to_owned()),
            (true, true) => parts.last_mut().unwrap().push_str(&labelled.text[range.clone()]),
            (false, _) => {}
        }
        is_on = *learned;
    }
    parts
}

fn label(source: &str, conversation: &Conversation) -> Labelled {
    template(source).label(&Tokenizer::bytes(), conversation).unwrap()
}

#[test]
fn every_form_is_the_same_conversation() {
    let said = conversation(&[("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho")]);
    let forms = [
        json!({"messages": said.messages, "id": 7}),
        json!({"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}),
        json!({"conversations": [{"from": "system", "value": "Be brief."}, {"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Ho"}]}),
    ];
    for form in forms {
        assert_eq!(Conversation::from_json(&form).unwrap(), said, "{form}");
    }
    let prompt = json!({"prompt": "Hi", "completion": "Ho"});
    let short = conversation(&[("user", "Hi"), ("assistant", "Ho")]);
    assert_eq!(Conversation::from_json(&prompt).unwrap().messages, short.messages);
    // What the assistant has said in a prompt is not learned.
    let lists = json!({
        "prompt": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3"}],
        "completion": [{"role": "assistant", "content": "4"}],
    });
    let lists = Conversation::from_json(&lists).unwrap();
    assert_eq!(lists.learned().collect::<Vec<_>>(), [3]);
    assert_eq!(learned(&label(TURNS, &lists)), [" 4<|endoftext|>\n"]);
}

#[test]
fn a_fault_names_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let cases = [
        (r#"{"messages": []}"#, "messages is empty"),
        (r#"{"messages": {}}"#, "messages is an object, wanted a list"),
        (r#"{"messages": [{"content": "a"}]}"#, "message 1 of messages has no role"),
        (r#"{"messages": [{"role": "user"}]}"#, "message 1 of messages has no content"),
        (
            r#"{"messages": [{"role": "user", "content": 3}]}"#,
            "content of message 1 of messages is a number",
        ),
        (
            r#"{"conversations": [{"from": "cat", "value": "a"}]}"#,
            "from of turn 1 of conversations is \"cat\"",
        ),
        (r#"{"conversations": [{"from": "gpt"}]}"#, "turn 1 of conversations has no value"),
        (r#"{"prompt": "a", "completion": 1}"#, "completion is a number"),
        (r#"{"text": "a"}"#, "it has no conversation: its fields are text"),
        (r"[1]", "it is a list, wanted an object"),
        (r#"{"messages": "#, "EOF"),
    ];
    for (bad, wanted) in cases {
        let path = folder.path().join("chats.jsonl");
        fs::write(&path, format!("{good}\n\n{bad}\n{good}\n")).unwrap();
        let read: Vec<_> = ConversationFile::open(&path).unwrap().collect();
        // Nothing comes after the fault.
        assert_eq!(read.len(), 2, "{bad}");
        let error = read[1].as_ref().unwrap_err();
        let said = error.to_string();
        assert!(said.contains("chats.jsonl, line 3: ") && said.contains(wanted), "{said}");
        assert!(error.advice().is_some(), "{said}");
    }
}

/// All values of an array may lie in one line, and faults of any kind come in the order of the file.
#[test]
fn a_fault_names_its_value_of_an_array() {
    let folder = tempfile::tempdir().unwrap();
    let (tokenizer, template) = (Tokenizer::bytes(), template(TURNS));
    let encoding =
        ChatEncoding { template: &template, tokenizer: &tokenizer, context: 30, long: Long::Cut };
    let encode = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        encoding.encode(&[path], &mut |_| Ok(()), &mut |_| {}).unwrap_err().to_string()
    };
    let good = json!({"prompt": "1", "completion": "2"});
    // The template cannot add a list to a text.
    let unlike = json!({"messages": [{"role": "assistant", "content": ["b"]}]});
    let error = encode("one.json", json!([good, good, {"prompt": 1}]).to_string());
    assert!(error.contains("one.json, line 1, value 3: "), "{error}");
    let error = encode("two.json", json!([good, unlike, {"prompt": 1}]).to_string());
    assert!(error.contains("two.json, line 1, value 2: "), "{error}");
    let error = encode("three.jsonl", format!("{good}\n{unlike}\n{good}\n{{\n"));
    assert!(error.contains("three.jsonl, line 2: "), "{error}");
    let error = encode("four.json", format!("[{good},\n{good},\n{{1]}}]"));
    assert!(error.contains("four.json, line 3, value 3: "), "{error}");
}

#[test]
fn conversations_are_not_mixed_with_texts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("chats.jsonl"), r#"{"prompt": "a", "completion": "b"}"#).unwrap();
    fs::write(path("texts.jsonl"), r#"{"text": "a"}"#).unwrap();
    let of = |names: &[&str]| {
        Sources::parse(&names.iter().map(|name| path(name)).collect::<Vec<_>>())
            .unwrap()
            .conversations()
    };
    assert_eq!(of(&["chats.jsonl"]).unwrap().unwrap().len(), 1);
    assert!(of(&["texts.jsonl"]).unwrap().is_none());
    let said = of(&["texts.jsonl", "chats.jsonl"]).unwrap_err().to_string();
    assert!(said.contains("chats.jsonl holds conversations and cannot be mixed"), "{said}");
}

#[test]
fn what_a_turn_adds_is_learned_and_its_end_too() {
    let said = conversation(&[
        ("system", "S"),
        ("user", "Hi"),
        ("assistant", "Ho"),
        ("user", "More?"),
        ("assistant", "No"),
        ("user", "Well"),
    ]);
    let labelled = label(TURNS, &said);
    // The last turn has no answer.
    assert_eq!(labelled.text, "s: S\nu: Hi\na: Ho<|endoftext|>\nu: More?\na: No<|endoftext|>\n");
    assert_eq!(learned(&labelled), [" Ho<|endoftext|>\n", " No<|endoftext|>\n"]);
    // Special tokens are their ids, and nothing is put before the text.
    let end = Tokenizer::bytes().end_of_text().unwrap();
    assert_eq!(labelled.ids.iter().filter(|id| **id == end).count(), 2);
    assert_eq!(labelled.ids.len(), labelled.text.len() - 2 * 12);
    // The first token is predicted from nothing.
    assert_eq!(labelled.to_learn(), 2 * 5);
}

/// What the data gives to a template does not take the place of the conversation.
#[test]
fn fields_for_the_template_leave_the_messages() {
    let said = conversation(&[("user", "Hi"), ("assistant", "Ho")]);
    let more = json!({"messages": [], "add_generation_prompt": true, "style": "!"});
    let given = json!({"messages": said.messages, "chat_template_kwargs": more});
    let given = Conversation::from_json(&given).unwrap();
    let source = format!("{{{{ style }}}}{TURNS}");
    let labelled = label(&source, &given);
    assert_eq!(labelled.text, "!u: Hi\na: Ho<|endoftext|>\n");
    assert_eq!(learned(&labelled), [" Ho<|endoftext|>\n"]);
}

/// A template that knows no tools would have an empty answer learned.
#[test]
fn calls_of_tools_are_written_or_refused() {
    let call = json!([{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]);
    let said = json!({"messages": [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "", "tool_calls": call},
    ]});
    let said = Conversation::from_json(&said).unwrap();
    let refused = template(TURNS).label(&Tokenizer::bytes(), &said).unwrap_err().to_string();
    assert!(refused.contains("message 2 calls the tool \"add\", which"), "{refused}");
    let calls = "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}";
    let source = TURNS.replace("m.content }}", &("m.content }}".to_owned() + calls));
    assert_ne!(source, TURNS);
    let labelled = label(&source, &said);
    let wanted = " {\"name\": \"add\", \"arguments\": {\"a\": 1}}<|endoftext|>\n";
    assert_eq!(learned(&labelled), [wanted]);
}

#[test]
fn generation_blocks_count() {
    let source = |open: &str, close: &str| {
        format!(
            "{{% for m in messages %}}\n{{{{ m.role }}}}:\n  {{% if m.role == 'assistant' %}}\n  {open}\n  {{{{ m.content }}}}  \n  {close}\n{{% else %}}{{{{ m.content }}}}{{% endif %}}\n{{% endfor %}}{{% if add_generation_prompt %}}assistant:\n{{% endif %}}"
        )
    };
    let said =
        conversation(&[("user", "Hi"), ("assistant", "Ho"), ("user", "a"), ("assistant", "b")]);
    for [open, close] in [
        ["{% generation %}", "{% endgeneration %}"],
        ["{%- generation -%}", "{%- endgeneration -%}"],
        ["{%- generation %}", "{% endgeneration -%}"],
        ["{%+ generation %}", "{%endgeneration%}"],
    ] {
        let marked = source(open, close);
        // Without the blocks, as the library writes it.
        let plain = template(
            &marked
                .replace("endgeneration", "endif")
                .replace("generation ", "if true ")
                .replace("add_if true ", "add_generation"),
        );
        let labelled = label(&marked, &said);
        assert_eq!(labelled.text, plain.render(&said, 4, false).unwrap(), "{open}");
        let parts = learned(&labelled);
        assert_eq!(parts.iter().map(|part| part.trim()).collect::<Vec<_>>(), ["Ho", "b"], "{open}");
        // Blanks that the tags leave alone belong to the block.
        let inner = if open.ends_with("-%}") { "" } else { "  " };
        assert!(parts[0].starts_with(&format!("{inner}Ho")), "{open}: {parts:?}");
    }
    // A comment about them is none.
    let comment = format!("{{# no {{% generation %}} #}}{TURNS}");
    assert!(!template(&comment).has_blocks());
}

#[test]
fn blocks_of_a_published_kind() {
    let all = json(&oracle().join("families/chat_templates.json"));
    let of = |name: &str| {
        let all = all["templates"].as_array().unwrap();
        let found = all.iter().find(|template| template["name"] == name).unwrap();
        found["template"].as_str().unwrap().to_owned()
    };
    let said =
        conversation(&[("user", "Hi"), ("assistant", "Ho"), ("user", "a"), ("assistant", "b")]);
    assert_eq!(learned(&label(&of("parts"), &said)), ["Ho", "b"]);
    // Without blocks the end of the turn is learned.
    assert_eq!(learned(&label(&of("brackets"), &said)), [" Ho<|endoftext|>", " b<|endoftext|>"]);
    assert_eq!(learned(&label(&of("turns"), &said)), ["Ho<|done|>\n", "b<|done|>\n"]);
    // It writes an earlier turn without the thoughts that it had as the last one.
    let refused = template(&of("thoughts")).label(&Tokenizer::bytes(), &said).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("the template is refused"), "{text}");
    assert!(text.contains("the first difference is at byte"), "{text}");
    assert!(text.contains("<think>"), "{text}");
    // With one turn it does not.
    let one = conversation(&[("user", "Hi"), ("assistant", "Ho")]);
    assert_eq!(learned(&label(&of("thoughts"), &one)), ["<think>\n\n</think>\n\nHo<|done|>\n"]);
}

#[test]
fn a_token_that_crosses_a_border_is_not_learned() {
    // The generation prompt ends with a blank, which belongs to the first token of the answer.
    let source = TURNS.replace("'a:'", "'a: '").replace("a:{%", "a: {%");
    let text = "a: Yes\nu: Yes Yes Yes a: Yes Yes\n".repeat(50);
    let tokenizer = Tokenizer::train(text.as_bytes(), 290).unwrap();
    let said = conversation(&[("user", "Yes"), ("assistant", "Yes Yes")]);
    let labelled = template(&source).label(&tokenizer, &said).unwrap();
    let border = labelled.text.find("a: ").unwrap() + 3;
    let crossing: Vec<usize> = (0..labelled.ids.len())
        .filter(|i| labelled.ranges[*i].start < border && border < labelled.ranges[*i].end)
        .collect();
    assert_eq!(crossing.len(), 1, "{:?}", labelled.ranges);
    for (i, range) in labelled.ranges.iter().enumerate() {
        assert_eq!(
            labelled.learned[i],
            range.start >= border,
            "{:?}",
            &labelled.text[range.clone()]
        );
    }
    assert!(!labelled.learned[crossing[0]] && labelled.learned[crossing[0] + 1]);
}

#[test]
fn long_conversations_are_cut_after_whole_turns() {
    let tokenizer = Tokenizer::bytes();
    let template = template(TURNS);
    let said =
        conversation(&[("user", "1"), ("assistant", "22"), ("user", "333"), ("assistant", "4444")]);
    let whole = template.label(&tokenizer, &said).unwrap();
    let first = template.label(&tokenizer, &said.cut(2)).unwrap();
    let fit = |context, long| template.fit(&tokenizer, &said, (context, long)).unwrap();
    let (all, turn) = (whole.ids.len(), first.ids.len());
    // The last token is only a target.
    assert_eq!(fit(all - 1, Long::Cut), Fit::Whole(whole.clone()));
    assert_eq!(fit(all - 1, Long::Drop), Fit::Whole(whole));
    assert_eq!(fit(all - 2, Long::Cut), Fit::Cut(first.clone()));
    assert_eq!(fit(all - 2, Long::Drop), Fit::TooLong);
    assert_eq!(fit(turn - 1, Long::Cut), Fit::Cut(first));
    assert_eq!(fit(turn - 2, Long::Cut), Fit::TooLong);
    let question = conversation(&[("user", "1")]);
    assert_eq!(template.fit(&tokenizer, &question, (99, Long::Cut)).unwrap(), Fit::Nothing);
}

#[test]
fn files_are_encoded_in_order_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let line = |question: &str, answer: &str| {
        json!({"prompt": question, "completion": answer}).to_string()
    };
    let long = "x".repeat(60);
    let files = ["a.jsonl", "b.jsonl"].map(|name| folder.path().join(name));
    fs::write(&files[0], [line("1", "2"), line(&long, "3")].join("\n")).unwrap();
    fs::write(&files[1], json!([{"prompt": "4", "completion": "5"}, {"messages": [{"role": "user", "content": "6"}]}]).to_string()).unwrap();
    let (tokenizer, template) = (Tokenizer::bytes(), template(TURNS));
    let encoding =
        ChatEncoding { template: &template, tokenizer: &tokenizer, context: 30, long: Long::Cut };
    let mut words = vec![];
    let mut push = |more: &[u32]| {
        words.extend_from_slice(more);
        Ok(())
    };
    let counts = encoding.encode(&files, &mut push, &mut |_| {}).unwrap();
    let text = |id: &u32| tokenizer.decode_lossy(&[id & !marks::ALL]).unwrap();
    let all: String = words.iter().map(text).collect();
    assert_eq!(all, "u: 1\na: 2<|endoftext|>\nu: 4\na: 5<|endoftext|>\n");
    let learned: String =
        words.iter().filter(|word| **word & marks::LEARNED != 0).map(text).collect();
    assert_eq!(learned, " 2<|endoftext|>\n 5<|endoftext|>\n");
    let begins = words.iter().filter(|word| **word & marks::BEGINS != 0).count();
    let wanted = Counts {
        conversations: 2,
        tokens: words.len(),
        learned: 8,
        cut: 0,
        too_long: 1,
        nothing: 1,
    };
    assert_eq!((counts, begins), (wanted, 2));
    assert_eq!(
        counts.to_string(),
        "2 conversations, 22 tokens, of which 8 are learned; 1 left out, longer than the context; 1 left out, with nothing to learn"
    );
}

#[test]
fn tokens_lie_where_they_are_spelled() {
    // Byte-level merges, with characters that several tokens share.
    for name in ["bpe_512", "bpe_2000"] {
        let tokenizer = Tokenizer::load(&oracle().join("tokenizer").join(name)).unwrap();
        for text in ["", "a b  c\n\n", "Grüße, 世界! 🎉🎉", "x<|endoftext|>\ny", "  blanks  "]
        {
            let ids = tokenizer.encode_with_special(text);
            let ranges = tokenizer.ranges(text, &ids).unwrap();
            let mut at = 0;
            for (id, range) in ids.iter().zip(&ranges) {
                assert_eq!(range.start, at, "{text:?}");
                let spelled = &text.as_bytes()[range.clone()];
                assert_eq!(tokenizer.token_bytes(*id).unwrap_or_default(), spelled, "{text:?}");
                at = range.end;
            }
            assert_eq!(at, text.len());
            // Ids of another text do not spell it.
            assert!(text.is_empty() || tokenizer.ranges(&format!("{text}z"), &ids).is_none());
        }
    }
}

#[test]
fn a_session_forgets_the_oldest_when_the_context_is_full() {
    let tokenizer = Tokenizer::bytes();
    let mut session = Session::new(template(TURNS), tokenizer.clone(), 48);
    assert_eq!(session.stop(), Some(Stop::Token(tokenizer.end_of_text().unwrap())));
    session.begin_again(Some("S".to_owned()));
    let text = |ids: &[u32]| tokenizer.decode_lossy(ids).unwrap();
    let asked = session.ask("one").unwrap();
    assert_eq!((text(&asked.ids), asked.forgotten), ("s: S\nu: one\na:".to_owned(), 0));
    assert_eq!(asked.room, 48 - asked.ids.len());
    session.reply("eins");
    assert_eq!(
        text(&session.ask("two").unwrap().ids),
        "s: S\nu: one\na: eins<|endoftext|>\nu: two\na:"
    );
    session.reply("zwei");
    let asked = session.ask("three").unwrap();
    assert_eq!(
        (text(&asked.ids), asked.forgotten),
        ("s: S\nu: two\na: zwei<|endoftext|>\nu: three\na:".to_owned(), 2)
    );
    // A message that has no room is not kept.
    let before = session.messages();
    session.take_back();
    assert!(session.ask(&"x".repeat(60)).unwrap_err().to_string().contains("must be at most 36"));
    assert_eq!(session.messages().len(), before.len() - 1);
    // Without a special token a text ends the turn.
    let plain = ChatTemplate::new(
        "{% for m in messages %}{{ m.content }} ##\n{% endfor %}",
        "it",
        tokens(),
    );
    assert_eq!(
        Session::new(plain.unwrap(), tokenizer, 9).stop(),
        Some(Stop::Text(" ##".to_owned()))
    );
}
