//! What is refused, how it is said, and that nothing malformed does any harm.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use assert_cmd::cargo::CommandCargoExt;
use serde_json::{Value, json};

use super::{CONTEXT, Model, Server, message, request};

/// Sends bytes as they are, and returns all that is answered. A client that `leaves` sends no more, so that the server does
/// not wait for the rest of what it was promised.
fn raw(server: &Server, bytes: &[u8], leaves: bool) -> String {
    let mut stream = TcpStream::connect(&server.address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    // The server may have answered and closed before all is sent.
    let _ = stream.write_all(bytes);
    if leaves {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer to a GET with these lines in its head.
fn status(server: &Server, path: &str, lines: &str) -> u16 {
    let answer = raw(
        server,
        format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{lines}\r\n").as_bytes(),
        false,
    );
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer}"));
    status.parse().expect("a number")
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let model = Model::new();
    let server = model.serve(&["--slots", "1"]);
    let with = |field: &str, value: Value| {
        let mut asked = request("The owl", 1, 2);
        asked[field] = value;
        asked
    };
    let long = vec![40; CONTEXT + 1];
    let wrong = [
        (
            with("model", json!("gpt-5")),
            404,
            "there is no model \"gpt-5\": the one here is \"tiny\"",
        ),
        (with("temperature", json!("hot")), 400, "temperature is \"hot\", must be a number"),
        (with("temperature", json!(-1)), 400, "temperature is -1, must be 0 to 100"),
        (with("max_tokens", json!(1.5)), 400, "max_tokens is 1.5, must be a whole number"),
        (with("max_tokens", json!(-1)), 400, "max_tokens is -1, must be 0 or more"),
        (with("logprobs", json!(21)), 400, "logprobs is 21, must be 0 to 20"),
        (with("stop", json!([1])), 400, "stop is a list, must be a text or a list of texts"),
        (with("stop", json!("")), 400, "stop is empty: it would end every text at once"),
        (with("n", json!(0)), 400, "n is 0, must be 1 to 128"),
        (with("echo", json!("yes")), 400, "echo is \"yes\", must be true or false"),
        (with("stream_options", json!(1)), 400, "stream_options is 1, must be an object"),
        (
            with("prompt", json!({})),
            400,
            "prompt is an object, must be a text, a list of texts, a list of ids, or a list of lists of ids",
        ),
        (
            with("prompt", json!([1, "a"])),
            400,
            "prompt has \"a\" among its ids, must be a text, a list of texts, a list of ids, or a list of lists of ids",
        ),
        (
            with("prompt", json!([[1], 2])),
            400,
            "prompt has 2 among its lists, must be a text, a list of texts, a list of ids, or a list of lists of ids",
        ),
        (with("prompt", json!([[]])), 400, "prompt has no tokens"),
        (
            with("prompt", json!([300])),
            400,
            "prompt has the token 300, but the model's vocabulary has 300",
        ),
        (
            with("prompt", json!(long)),
            400,
            "prompt has 129 tokens, but the context has room for 128",
        ),
        (with("prompt", Value::Null), 400, "prompt is missing"),
        (
            with("prompt", json!(vec!["a"; 129])),
            400,
            "129 prompts with n = 1 are 129 choices, must be at most 128",
        ),
    ];
    for (asked, status, expected) in wrong {
        let (got, answer) = server.post("/v1/completions", &asked);
        assert_eq!((got, message(&answer)), (status, expected));
    }
    let (_, answer) = server.post("/v1/completions", &with("top_p", json!(2)));
    assert_eq!(answer["error"]["param"], "top_p");
    let user = json!([{ "role": "user", "content": "Hello" }]);
    let wrong = [
        (json!({}), "messages is missing"),
        (json!({ "messages": [] }), "messages is empty"),
        (json!({ "messages": [{ "content": "a" }] }), "message 1 of messages has no role"),
        (
            json!({ "messages": user, "tools": [{}] }),
            "tools are not supported: this server only writes text",
        ),
        (json!({ "messages": user, "top_logprobs": 21 }), "top_logprobs is 21, must be 0 to 20"),
    ];
    for (asked, expected) in wrong {
        let (status, answer) = server.post("/v1/chat/completions", &asked);
        assert_eq!(status, 400, "{answer}");
        assert!(message(&answer).starts_with(expected), "{answer}");
    }
    let (status, answer) = server.post("/detokenize", &json!({ "tokens": [1, 1000] }));
    assert_eq!(
        (status, message(&answer)),
        (400, "token id 1000 is not in the vocabulary of 300 tokens")
    );
    let (status, answer) = server.get("/v1/nothing");
    assert_eq!((status, message(&answer)), (404, "there is no GET /v1/nothing"));
    assert_eq!(server.get("/v1/models/other").0, 404);
    assert_eq!(server.get("/v1/completions").0, 405);
    let large = format!("{{\"prompt\": \"{}\"}}", "a".repeat(3 << 20));
    assert_eq!(server.send("/v1/completions", large.as_bytes()).status().as_u16(), 413);
    for body in [&b"{\"prompt\": \"\xff\"}"[..], b"{", b"", b"[1]"] {
        assert_eq!(server.send("/v1/completions", body).status().as_u16(), 400);
    }
    assert!(!server.complete(&request("The owl", 1, 5)).is_empty());
}

/// Other hosts, other kinds of content and other keys are refused; /health needs no key.
#[test]
fn only_those_who_may_are_answered() {
    let model = Model::new();
    let key = model.dir.path().join("key.txt");
    std::fs::write(&key, " a long key \n").expect("a file");
    let key = key.to_str().expect("UTF-8");
    let server = model.serve(&["--allow-host", "gpu.example", "--api-key-file", key]);
    let given = "Authorization: Bearer a long key\r\n";
    for (host, expected) in [
        (server.address.as_str(), 200),
        ("localhost:99", 200),
        ("gpu.example", 200),
        ("evil.example", 403),
        ("127.0.0.2", 403),
    ] {
        assert_eq!(
            status(&server, "/v1/models", &format!("Host: {host}\r\n{given}")),
            expected,
            "{host}"
        );
    }
    let lines = "Host: localhost\r\n";
    for path in ["/v1/models", "/metrics", "/tokenizer_info", "/nothing", "/"] {
        assert_eq!(status(&server, path, lines), 401, "{path}");
        let wrong = format!("{lines}Authorization: Bearer another key\r\n");
        assert_eq!(status(&server, path, &wrong), 401, "{path}");
    }
    assert_eq!(status(&server, "/health", lines), 200);
    assert_eq!(status(&server, "/health", "Host: evil.example\r\n"), 403);
    let post = |kind: &str| {
        let body = request("The owl", 1, 2).to_string();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        let answer =
            raw(&server, format!("{head}{lines}{given}{kind}\r\n{body}").as_bytes(), false);
        answer.split(' ').nth(1).expect("an answer").to_owned()
    };
    assert_eq!(post("Content-Type: text/plain\r\n"), "415");
    assert_eq!(post(""), "415");
    // No page of another site is told that it may.
    let asked = format!("{lines}{given}Origin: http://evil.example\r\n");
    let answer = raw(
        &server,
        format!("GET /v1/models HTTP/1.1\r\nConnection: close\r\n{asked}\r\n").as_bytes(),
        false,
    );
    assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
    let open = model.serve(&["--allow-origin", "https://chat.example"]);
    for (origin, is_allowed) in [("https://chat.example", true), ("http://evil.example", false)] {
        let asked = format!(
            "OPTIONS /v1/completions HTTP/1.1\r\nConnection: close\r\n{lines}Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\r\n"
        );
        let answer = raw(&open, asked.as_bytes(), false).to_lowercase();
        let line = format!("access-control-allow-origin: {origin}");
        assert_eq!(answer.contains(&line), is_allowed, "{answer}");
    }
}

/// A server that other machines reach needs a key, and slots that do not fit are refused with the most that do.
#[test]
fn a_server_that_should_not_start_does_not() {
    let model = Model::new();
    let refused = |arguments: &[&str]| {
        let output = std::process::Command::cargo_bin("wgpt")
            .expect("the program is built")
            .args(["serve", "--device", "cpu", "--port", "0", "--model"])
            .arg(model.path())
            .args(arguments)
            .env_remove("WGPT_API_KEY")
            .output()
            .expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = refused(&["--host", "0.0.0.0"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("there is no key") && said.contains("--api-key-file"), "{said}");
    let (code, said) = refused(&["--slots", "65"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("--slots is 65, must be 1 to 64"), "{said}");
    let (code, said) = refused(&["--host", "here"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("wanted an address"), "{said}");
}

/// Ten thousand damaged requests: the server says no, or closes the connection, and goes on.
#[test]
fn damaged_requests_do_no_harm() {
    let model = Model::new();
    let server = model.serve(&["--slots", "2"]);
    let body = json!({ "prompt": ["The owl", "A"], "max_tokens": 2, "logprobs": 1, "echo": true, "stop": ["x"] }).to_string();
    let whole = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut seed = 1_u32;
    let mut random = |end: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % end.max(1)
    };
    let mut answers = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..10_000 {
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            if bytes.len() < 2 {
                break;
            }
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, random(256) as u8),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let answer = raw(&server, &bytes, true);
        let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        *answers.entry(status).or_default() += 1;
    }
    assert!(answers.get("400").is_some_and(|count| *count > 1000), "{answers:?}");
    assert!(!answers.keys().any(|status| status.starts_with('5')), "{answers:?}");
    assert!(!server.complete(&request("The owl", 1, 5)).is_empty());
    assert_eq!(server.metric("wgpt_running_sequences"), 0.0);
}
