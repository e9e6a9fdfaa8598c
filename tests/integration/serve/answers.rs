//! Every route, whole and streamed.

use serde_json::{Value, json};
use wgpt::GenerateOptions;

use super::{CONTEXT, Model, request, text};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A completion is what the library generates with the same seed, and its stream has the same text in pieces.
#[test]
fn completions_are_the_models() {
    let model = Model::new();
    let (server, mut gpt) = (model.serve(&[]), model.load());
    let mut all_chunks = 0;
    for (seed, temperature, top_p) in [(1, 1.0, 1.0), (2, 0.7, 0.9), (3, 0.0, 1.0)] {
        let options =
            GenerateOptions { max_tokens: 30, seed, temperature, top_p, ..Default::default() };
        let expected = gpt.generate("The owl", &options).expect("a model");
        let asked = json!({
            "model": "tiny", "prompt": "The owl", "max_tokens": 30, "seed": seed, "temperature": temperature, "top_p": top_p,
            "user": "someone", "presence_penalty": 0, "no_such_field": [1],
        });
        let answer = server.good(COMPLETIONS, &asked);
        assert_eq!(text(&answer["choices"][0]), expected);
        assert_eq!(answer["object"], "text_completion");
        assert_eq!(answer["model"], "tiny");
        let prompt = gpt.encode_prompt("The owl").expect("a tokenizer").len();
        let tokens = answer["usage"]["completion_tokens"].as_u64().expect("a number");
        assert_eq!(answer["usage"]["prompt_tokens"], prompt);
        assert_eq!(answer["usage"]["total_tokens"], prompt as u64 + tokens);
        let is_full = answer["choices"][0]["finish_reason"] == "length";
        assert_eq!(is_full, tokens == 30, "{answer}");

        let mut streamed = asked.clone();
        streamed["stream"] = true.into();
        streamed["stream_options"] = json!({ "include_usage": true });
        let events = server.stream(COMPLETIONS, &streamed);
        let (usage, chunks) = events.split_last().expect("events");
        assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &answer["usage"]));
        let pieces: String = chunks.iter().map(|chunk| text(&chunk["choices"][0])).collect();
        assert_eq!(pieces, expected);
        all_chunks += chunks.len();
        let ends: Vec<&Value> =
            chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
        let (last, before) = ends.split_last().expect("chunks");
        assert_eq!(*last, &answer["choices"][0]["finish_reason"]);
        assert!(before.iter().all(|end| end.is_null()));
    }
    assert!(all_chunks > 20, "they come in {all_chunks} pieces");
    let [first, second] =
        [0, 1].map(|_| server.complete(&json!({"prompt": "The", "max_tokens": 40})));
    assert_ne!(first, second, "without a seed every answer is another one");
}

/// Prompts in all four forms, several continuations of each, and the prompt before them.
#[test]
fn prompts_have_four_forms() {
    let model = Model::new();
    let (server, mut gpt) = (model.serve(&["--slots", "3"]), model.load());
    let ids = |text: &str| gpt.encode_prompt(text).expect("a tokenizer");
    let (one, two) = (ids("The little fox"), ids("And so"));
    let ask = |prompt: Value, n: usize| {
        let asked = json!({ "prompt": prompt, "n": n, "seed": 7, "max_tokens": 9, "echo": true });
        let answer = server.good(COMPLETIONS, &asked);
        let choices = answer["choices"].as_array().expect("choices");
        let in_order = choices.iter().enumerate().all(|(i, choice)| choice["index"] == i);
        assert!(in_order, "{answer}");
        choices.iter().map(text).collect::<Vec<String>>()
    };
    let all = ask(json!(["The little fox", "And so"]), 2);
    assert_eq!(all.len(), 4);
    assert_eq!(all, ask(json!([one, two]), 2));
    assert_eq!(all[..2], ask(json!("The little fox"), 2));
    assert_eq!(all[2..], ask(json!(two), 2));
    for (i, echoed) in all.iter().enumerate() {
        let prompt = ["The little fox", "And so"][i / 2];
        let options =
            GenerateOptions { max_tokens: 9, seed: 7, sample: i as u32 % 2, ..Default::default() };
        assert_eq!(*echoed, prompt.to_owned() + &gpt.generate(prompt, &options).expect("a model"));
    }
    assert_eq!(ask(json!([one]), 1), all[..1]);
    let nothing = json!({ "prompt": "The owl", "max_tokens": 0, "echo": true });
    assert_eq!(server.complete(&nothing), "The owl");
}

/// A stop text is not part of the text, nor are the tokens after it; a text also ends at the end of the context.
#[test]
fn texts_end_where_they_should() {
    let model = Model::new();
    let server = model.serve(&[]);
    let asked = json!({ "prompt": "The", "seed": 3, "max_tokens": 60, "logprobs": 0 });
    let whole = text(&server.good(COMPLETIONS, &asked)["choices"][0]);
    let stop: String = whole.chars().skip(10).take(3).collect();
    let (before, _) = whole.split_once(stop.as_str()).expect("it is there");
    for stream in [false, true] {
        let mut stopped = asked.clone();
        stopped["stop"] = json!(["@@never@@", stop]);
        stopped["stream"] = stream.into();
        let choices: Vec<Value> = match stream {
            false => vec![server.good(COMPLETIONS, &stopped)["choices"][0].clone()],
            true => server
                .stream(COMPLETIONS, &stopped)
                .iter()
                .map(|e| e["choices"][0].clone())
                .collect(),
        };
        assert_eq!(choices.iter().map(text).collect::<String>(), before);
        assert_eq!(choices.last().expect("one")["finish_reason"], "stop");
        let offsets = choices.iter().flat_map(|c| c["logprobs"]["text_offset"].as_array().cloned());
        let offsets: Vec<u64> =
            offsets.flatten().map(|at| at.as_u64().expect("a number")).collect();
        assert!(offsets.is_sorted() && !offsets.is_empty());
        assert!(offsets.iter().all(|at| (*at as usize) < before.chars().count()), "{offsets:?}");
    }
    assert_eq!(server.metric("wgpt_abandoned_sequences_total"), 0.0);
    let long: Vec<u32> = (0..CONTEXT as u32 - 2).map(|i| 40 + i % 50).collect();
    // Of many seeds, one does not end the text by itself.
    let full = (0..20).any(|seed| {
        let asked = json!({ "prompt": long, "max_tokens": 1000, "seed": seed });
        let answer = server.good(COMPLETIONS, &asked);
        let tokens = answer["usage"]["completion_tokens"].as_u64().expect("a number");
        assert!(tokens <= 3, "{answer}");
        tokens == 3 && answer["choices"][0]["finish_reason"] == "length"
    });
    assert!(full);
}

/// A chat is rendered by the plain template, since the model has none; its reply is what follows the rendered text.
#[test]
fn chats_go_through_the_template() {
    let model = Model::new();
    let server = model.serve(&["--context", "64"]);
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "Who?" }] },
    ]);
    let asked = json!({
        "model": "tiny", "messages": messages, "seed": 4, "max_tokens": 12, "temperature": 0.5, "tools": [],
    });
    let answer = server.good(CHAT, &asked);
    let rendered = "System: Be brief.\nUser: Who?\nAssistant:";
    let plain = json!({ "prompt": rendered, "seed": 4, "max_tokens": 12, "temperature": 0.5 });
    let expected = server.complete(&plain);
    let choice = &answer["choices"][0];
    let reply = choice["message"]["content"].as_str().expect("a text");
    assert_eq!(reply, expected.trim_start());
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(answer["object"], "chat.completion");

    let mut streamed = asked.clone();
    streamed["stream"] = true.into();
    let events = server.stream(CHAT, &streamed);
    assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
    let delta = |event: &Value| {
        event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(events.iter().map(delta).collect::<String>(), reply);

    let mut scored = asked.clone();
    (scored["logprobs"], scored["top_logprobs"]) = (true.into(), 2.into());
    scored["temperature"] = 0.into();
    let answer = server.good(CHAT, &scored);
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().expect("tokens");
    for token in tokens {
        let top = token["top_logprobs"].as_array().expect("alternatives");
        assert_eq!(top.len(), 2);
        assert_eq!((&top[0]["logprob"], &top[0]["token"]), (&token["logprob"], &token["token"]));
        assert!(token["bytes"].as_array().is_some_and(|bytes| !bytes.is_empty()));
    }
    // As much as there is room for, unless it is said otherwise.
    let open =
        json!({ "messages": [{ "role": "user", "content": "Go on" }], "max_completion_tokens": 5 });
    let answer = server.good(CHAT, &open);
    assert!(answer["usage"]["completion_tokens"].as_u64().is_some_and(|tokens| tokens <= 5));
}

#[test]
fn the_other_routes_answer() {
    let model = Model::new();
    let (server, gpt) = (model.serve(&["--slots", "2"]), model.load());
    assert_eq!(server.get("/health"), (200, json!({ "status": "ok" })));
    let (_, list) = server.get("/v1/models");
    assert_eq!(
        (list["data"][0]["id"].as_str(), list["data"].as_array().map(Vec::len)),
        (Some("tiny"), Some(1))
    );
    assert_eq!(server.get("/v1/models/tiny"), (200, list["data"][0].clone()));
    assert_eq!(list["data"][0]["max_model_len"], CONTEXT);

    let tokenizer = gpt.tokenizer().expect("a tokenizer");
    for said in ["The naïve owl — 😀<|endoftext|>", ""] {
        let tokens =
            server.good("/tokenize", &json!({ "prompt": said, "return_token_strs": true }));
        let ids = tokenizer.encode_with_special(said);
        assert_eq!((&tokens["tokens"], &tokens["count"]), (&json!(ids), &json!(ids.len())));
        let back = server.good("/detokenize", &json!({ "tokens": ids }));
        assert_eq!(back, json!({ "prompt": said }));
    }
    // The four bytes of a character that is no token are spelled so that they differ.
    let strs = &server.good("/tokenize", &json!({ "prompt": "😀", "return_token_strs": true }))["token_strs"];
    assert_eq!(*strs, json!(["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80"]));
    let chat = json!({ "messages": [{ "role": "user", "content": "Who?" }] });
    let ids = tokenizer.encode_with_special("User: Who?\nAssistant:");
    assert_eq!(server.good("/tokenize", &chat)["tokens"], json!(ids));
    let (_, info) = server.get("/tokenizer_info");
    assert_eq!(info["eos_token"], "<|endoftext|>");

    server.complete(&request("The owl", 1, 5));
    assert_eq!(server.metric("wgpt_slots"), 2.0);
    assert_eq!(server.metric("wgpt_running_sequences"), 0.0);
    assert!(server.metric("wgpt_generated_tokens_total") >= 1.0);
    assert_eq!(server.metric("wgpt_time_to_first_token_seconds_count"), 1.0);
    assert_eq!(server.metric("wgpt_requests_total{route=\"/v1/completions\",status=\"200\"}"), 1.0);
    let (_, text) = server.get_text("/metrics");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let page = server.agent.get(server.url("/")).call().expect("an answer");
    let policy = page.headers()["content-security-policy"].to_str().expect("a text");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
}

/// The page's files are read when the server starts; nothing beside them is reached.
#[test]
fn the_page_that_trains_is_answered_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in
        [("index.html", "<p>page"), ("a.js", "1"), ("w.wasm", "2"), ("key.txt", "3")]
    {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let model = Model::new();
    let server = model.serve(&["--train-page", folder.path().to_str().unwrap()]);
    for (path, wanted, kind) in [
        ("/train", "<p>page", "text/html"),
        ("/train/", "<p>page", "text/html"),
        ("/train/a.js", "1", "text/javascript"),
        ("/train/w.wasm", "2", "application/wasm"),
    ] {
        let mut answer = server.agent.get(server.url(path)).call().expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        let got = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(got.starts_with(kind), "{path} is {got}");
        assert_eq!(answer.body_mut().read_to_string().unwrap(), wanted);
    }
    for path in ["/train/key.txt", "/train/..%2Fkey.txt", "/train/none.js", "/train/a.js/b"] {
        assert_eq!(server.get(path).0, 404, "{path}");
    }
    std::fs::remove_file(folder.path().join("index.html")).unwrap();
    let mut command = assert_cmd::Command::cargo_bin("wgpt").unwrap();
    command.args(["serve", "--device", "cpu", "--port", "0", "--train-page"]).arg(folder.path());
    let refused = command.arg("--model").arg(model.path()).assert().failure().code(1);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("has no index.html") && said.contains("scripts/web.sh"), "{said}");
}
