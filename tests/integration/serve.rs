//! `wgpt serve`, as clients see it: the program is started on a port of its own with a tiny model that the test makes, and
//! spoken to over HTTP.

mod answers;
mod load;
mod refusals;
mod scores;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use assert_cmd::cargo::CommandCargoExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;
use ureq::http::Response;
use wgpt::backend::Device;
use wgpt::{Gpt, GptConfig};

/// The positions of the model.
const CONTEXT: usize = 128;

/// Texts that the model's tokenizer is trained on, and that prompts are cut from.
const TEXT: &str = "Once upon a time there was a little fox, née Renard, who lived in the wood. \
                    The fox said: “I am a fox — and you?” The owl said: “I am an owl.” And so on, once more, \
                    and the little owl sat in the little wood, and once upon a time it said naïve things. ";

/// A folder with a tiny model.
struct Model {
    dir: TempDir,
}

impl Model {
    /// Makes a model with random parameters; large ones, so that its probabilities differ.
    fn new() -> Model {
        Model::with_context(CONTEXT)
    }

    /// Makes one that sees so many positions.
    fn with_context(positions: usize) -> Model {
        let config = GptConfig {
            n_layer: 2,
            n_head: 2,
            n_embd: 32,
            n_positions: positions,
            ..GptConfig::small()
        };
        let mut gpt = Gpt::new(config, Device::Cpu, 5).expect("sound sizes");
        gpt.train_tokenizer(TEXT, 300).expect("a new model");
        let dir = TempDir::new().expect("a folder");
        let model = Model { dir };
        gpt.save(&model.path()).expect("a folder that can be written");
        model
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("tiny")
    }

    fn load(&self) -> Gpt {
        Gpt::load(&self.path(), Device::Cpu).expect("a sound model")
    }

    /// Starts a server with these further arguments, as one process and on two threads.
    fn serve(&self, arguments: &[&str]) -> Server {
        Server::start(&self.path(), arguments)
    }
}

/// A server, which ends with this.
struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    address: String,
    agent: Agent,
    key: Option<String>,
}

impl Server {
    fn start(model: &Path, arguments: &[&str]) -> Server {
        let mut child = Command::cargo_bin("wgpt")
            .expect("the program is built")
            .args(["--threads", "2", "serve", "--device", "cpu", "--port", "0", "--model"])
            .arg(model)
            .args(arguments)
            .env_remove("WGPT_API_KEY")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it can be read");
        let Some(address) = line.trim().strip_prefix("listening on http://").map(str::to_owned)
        else {
            let mut said = String::new();
            let stderr = child.stderr.as_mut().expect("it is piped");
            stderr.read_to_string(&mut said).expect("it can be read");
            panic!("the server does not listen: {line}{said}");
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        Server { child, address, agent, key: None }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.get_text(path);
        (status, serde_json::from_str(&text).expect("JSON"))
    }

    fn get_text(&self, path: &str) -> (u16, String) {
        let mut request = self.agent.get(self.url(path));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("a text"))
    }

    /// Sends a body as it is.
    fn send(&self, path: &str, body: &[u8]) -> Response<ureq::Body> {
        let mut request =
            self.agent.post(self.url(path)).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        request.send(body).expect("an answer")
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut response = self.send(path, body.to_string().as_bytes());
        let text = response.body_mut().read_to_string().expect("a text");
        (response.status().as_u16(), serde_json::from_str(&text).expect("JSON"))
    }

    /// Sends a request that must be answered well.
    fn good(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{body}: {answer}");
        answer
    }

    /// The text of a completion.
    fn complete(&self, body: &Value) -> String {
        text(&self.good("/v1/completions", body)["choices"][0])
    }

    /// The events of a stream, which must end as it should.
    fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut response = self.send(path, body.to_string().as_bytes());
        let kind = response.headers()["content-type"].to_str().expect("a text").to_owned();
        let said = response.body_mut().read_to_string().expect("a text");
        assert_eq!(kind, "text/event-stream", "{said}");
        let mut events: Vec<&str> = said.split("\n\n").collect();
        assert_eq!(events.pop(), Some(""));
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let parse = |event: &str| {
            let data = event.strip_prefix("data: ").expect("an event with data");
            serde_json::from_str(data).expect("JSON")
        };
        events.into_iter().map(parse).collect()
    }

    /// The value of a metric.
    fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.get_text("/metrics");
        assert_eq!(status, 200);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(choice: &Value) -> String {
    choice["text"].as_str().unwrap_or_else(|| panic!("no text in {choice}")).to_owned()
}

/// The message of an error, which must have OpenAI's form.
fn message(answer: &Value) -> &str {
    let error = &answer["error"];
    let fields: Vec<&String> = error.as_object().expect("an error").keys().collect();
    assert_eq!(fields, ["message", "type", "param", "code"]);
    error["message"].as_str().expect("a text")
}

/// A request that draws from the whole distribution.
fn request(prompt: &str, seed: u64, max_tokens: usize) -> Value {
    json!({ "prompt": prompt, "seed": seed, "max_tokens": max_tokens })
}
