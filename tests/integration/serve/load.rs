//! Many clients at once, clients that leave, a full queue, and the end of the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Model, Server, request};

/// Waits until something is so.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}: not after 15 seconds");
}

/// Opens a connection and sends a request whose answer is streamed; returns the status, when the head has come, and the
/// connection.
fn try_stream(server: &Server, asked: &Value) -> (String, BufReader<TcpStream>) {
    let mut asked = asked.clone();
    asked["stream"] = true.into();
    let body = asked.to_string();
    let mut stream = TcpStream::connect(&server.address).expect("a connection");
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("it is sent");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a head");
    (line.split(' ').nth(1).expect("a status").to_owned(), reader)
}

/// Does the same for a request that is answered.
fn open_stream(server: &Server, asked: &Value) -> BufReader<TcpStream> {
    let (status, reader) = try_stream(server, asked);
    assert_eq!(status, "200");
    reader
}

/// A request that goes on until the context is full.
fn endless(seed: u64) -> Value {
    json!({ "prompt": "The little fox", "max_tokens": 100_000, "seed": seed, "temperature": 0, "repetition_penalty": 1.2 })
}

/// The same seed gives the same text under load: long prompts, short ones, streams, several continuations at once.
#[test]
fn a_text_does_not_depend_on_the_load() {
    let model = Model::new();
    let server = model.serve(&["--slots", "4"]);
    let long = super::TEXT.chars().take(150).collect::<String>();
    let prompts = ["The owl", long.as_str(), "A", "And so on, once more"];
    let ask = |i: usize| server.complete(&request(prompts[i % 4], i as u64, 25));
    let alone: Vec<String> = (0..12).map(ask).collect();
    let together: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|i| scope.spawn(move || ask(i))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    assert_eq!(together, alone);
    assert!(server.metric("wgpt_reused_prompt_tokens_total") > 0.0);
}

/// A client that leaves in the middle of its answer, or while it waits for one, frees its slot.
#[test]
fn who_leaves_frees_the_slot() {
    // A text takes so long that, however busy the machine is, it does not end before its reader leaves.
    let model = Model::with_context(8192);
    let server = model.serve(&["--slots", "1"]);
    for _ in 0..5 {
        let first = open_stream(&server, &endless(1));
        // The second one waits for the only slot and leaves first.
        let second = open_stream(&server, &endless(2));
        drop(second);
        drop(first);
    }
    assert!(!server.complete(&request("The owl", 1, 5)).is_empty());
    wait_until("no sequence runs", || server.metric("wgpt_running_sequences") == 0.0);
    assert_eq!(server.metric("wgpt_abandoned_sequences_total"), 10.0);
}

/// When the queue is full, requests are refused at once and told when to try again.
#[test]
fn a_full_queue_refuses() {
    let model = Model::new();
    let server = model.serve(&["--slots", "1", "--context", "128"]);
    let many =
        json!({ "prompt": vec!["The little fox"; 64], "max_tokens": 100, "n": 2, "seed": 1 });
    let mut open = vec![];
    // One runs, one has begun to be taken out of the queue, and 64 wait.
    let refused = (0..70).any(|_| {
        let (status, reader) = try_stream(&server, &many);
        open.push(reader);
        status == "429"
    });
    assert!(refused, "{} requests wait", open.len());
    let response = server.send("/v1/completions", many.to_string().as_bytes());
    assert_eq!(response.status().as_u16(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(open.len() > 64, "{} are too few to fill the queue", open.len());
    drop(open);
    wait_until("the queue is empty", || server.metric("wgpt_waiting_requests") == 0.0);
    assert!(!server.complete(&request("The owl", 1, 5)).is_empty());
}

/// SIGTERM lets the requests that are there end, refuses new ones, and the program ends well.
#[test]
fn a_server_that_is_told_to_stop_answers_first() {
    let model = Model::new();
    let mut server = model.serve(&["--slots", "1"]);
    let expected = server.complete(&endless(1));
    let mut stream = open_stream(&server, &endless(1));
    let waiting = open_stream(&server, &endless(1));
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill is there").success());
    wait_until("no new connection", || TcpStream::connect(&server.address).is_err());
    for stream in [&mut stream, &mut { waiting }] {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("it ends in order");
        assert!(rest.contains("data: [DONE]"), "{rest}");
        let pieces = rest.lines().filter_map(|line| line.strip_prefix("data: {"));
        let pieces = pieces.map(|data| serde_json::from_str(&format!("{{{data}")).expect("JSON"));
        let text: String = pieces.map(|event: Value| super::text(&event["choices"][0])).collect();
        assert_eq!(text, expected);
    }
    assert_eq!(server.child.wait().expect("it has ended").code(), Some(0));
}
