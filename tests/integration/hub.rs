//! Are models found by name and by path: downloaded once, whole, and refused with the way out?
//!
//! The hub is a server on this machine, which serves the reference folders as Hugging Face's does.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::common::{json, oracle};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";

/// The folder of the reference values whose weights lie in several files.
const SHARDED: &str = "gpt2_tiny_a_sharded";

/// The names of the files that the index in a folder of the reference values names.
fn shards(folder: &str) -> BTreeSet<String> {
    let index = json(&oracle().join(folder).join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    let shards: BTreeSet<String> =
        map.values().map(|shard| shard.as_str().unwrap().to_owned()).collect();
    assert!(shards.len() > 1, "{shards:?}");
    shards
}

/// What goes wrong with the hub.
#[derive(Default)]
struct Faults {
    /// So many answers are 500 before the first good one.
    busy: AtomicUsize,
    /// A connection ends after so many bytes of a large file.
    cut: Option<usize>,
    /// So many bytes more are announced than there are.
    announced_more: usize,
    /// The last byte of large files is another.
    flipped: bool,
    /// Nothing is given to those without the token.
    gated: bool,
    /// It is some other server, which does not know the hub's headers.
    ordinary: bool,
}

struct Request {
    line: String,
    range: Option<usize>,
    authorization: Option<String>,
}

/// A hub; it lives as long as the process.
struct Server {
    /// Folders ORG/NAME/ with the repositories' files.
    repositories: TempDir,
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Server {
    fn new(faults: Faults) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let repositories = tempfile::tempdir().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (root, seen) = (repositories.path().to_owned(), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read_request(&stream);
                let bytes = answer(&root, port, &request, &faults);
                seen.lock().unwrap().push(request);
                // Who is asked by somebody who has gone does not mind.
                let _ = stream.write_all(&bytes);
            }
        });
        Server { repositories, port, requests }
    }

    /// The same, with `folder` of the reference values as the repository `org/model`.
    fn with(folder: &str, faults: Faults) -> Server {
        let server = Server::new(faults);
        server.add("org/model", folder);
        server
    }

    fn path(&self, repository: &str) -> PathBuf {
        self.repositories.path().join(repository)
    }

    /// Adds the files of a folder of the reference values to a repository.
    fn add(&self, repository: &str, folder: &str) {
        let path = self.path(repository);
        fs::create_dir_all(&path).unwrap();
        for entry in fs::read_dir(oracle().join(folder)).unwrap() {
            let file = entry.unwrap().path();
            fs::copy(&file, path.join(file.file_name().unwrap())).unwrap();
        }
    }

    /// What was asked for, as METHOD PATH, since the last call.
    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// The program, whose home of models is `home`.
    fn wgpt(&self, home: &TempDir, arguments: &[&str]) -> Command {
        let mut command = wgpt(home.path(), arguments);
        command.env("HF_ENDPOINT", format!("http://127.0.0.1:{}", self.port));
        command
    }

    /// The ids that the model continues with.
    fn ids(&self, home: &TempDir, model: &str) -> Value {
        ids(&mut self.wgpt(home, &generate(model)))
    }

    /// The error of asking for `org/model`, and its hint.
    fn refusal(&self, home: &TempDir) -> String {
        error_of(&mut self.wgpt(home, &generate("org/model")))
    }
}

fn read_request(stream: &TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let line = lines.next().unwrap_or_default();
    let headers: HashMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    let range = headers
        .get("range")
        .map(|range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap());
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    Request { line, range, authorization: headers.get("authorization").cloned() }
}

/// What the hub says: small files itself, large ones by sending the client elsewhere.
fn answer(root: &Path, port: u16, request: &Request, faults: &Faults) -> Vec<u8> {
    let (method, path) = request.line.split_once(' ').unwrap();
    let head = |head: String| format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").into_bytes();
    let none = |status: &str, code: &str| {
        head(format!("{status}\r\nX-Error-Code: {code}\r\nContent-Length: 0"))
    };
    if let Some(path) = path.strip_prefix("/elsewhere/") {
        return large(&root.join(path), request.range, faults);
    }
    if faults.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        return none("500 Internal Server Error", "");
    }
    if faults.gated && request.authorization.as_deref() != Some("Bearer hf_secret") {
        return none("401 Unauthorized", "GatedRepo");
    }
    let (repository, rest) = path[1..].split_once("/resolve/").unwrap();
    // A repository that has another name now.
    if let Some(name) = repository.strip_prefix("old/") {
        let to = format!("Location: /org/{name}/resolve/{rest}");
        return head(format!("307 Temporary Redirect\r\n{to}\r\nContent-Length: 0"));
    }
    let (revision, file) = rest.split_once('/').unwrap();
    if !root.join(repository).is_dir() {
        return none("404 Not Found", "RepoNotFound");
    }
    if !["main", "v1", COMMIT].contains(&revision) {
        return none("404 Not Found", "RevisionNotFound");
    }
    let Ok(content) = fs::read(root.join(repository).join(file)) else {
        return none("404 Not Found", "EntryNotFound");
    };
    if faults.ordinary {
        return head(format!("200 OK\r\nContent-Length: {}", content.len()));
    }
    let (size, hash) = (content.len() + faults.announced_more, sha256(&content));
    let commit = format!("X-Repo-Commit: {COMMIT}");
    if file.ends_with(".safetensors") || file.ends_with(".bin") {
        // Another host for the client, who must not tell it the token.
        let to = format!("Location: http://localhost:{port}/elsewhere/{repository}/{file}");
        let linked = format!("X-Linked-Size: {size}\r\nX-Linked-Etag: \"{hash}\"");
        return head(format!("302 Found\r\n{commit}\r\n{linked}\r\n{to}\r\nContent-Length: 0"));
    }
    let about = format!("200 OK\r\n{commit}\r\nETag: W/\"{}\"", &hash[..40]);
    let begin = head(format!("{about}\r\nContent-Length: {}", content.len()));
    if method == "HEAD" { begin } else { [begin, content].concat() }
}

/// A large file, from the byte that is asked for.
fn large(path: &Path, range: Option<usize>, faults: &Faults) -> Vec<u8> {
    let mut content = fs::read(path).unwrap();
    let (total, first) = (content.len(), range.unwrap_or(0));
    if faults.flipped {
        content[total - 1] ^= 1;
    }
    let status = match range {
        None => "200 OK".to_owned(),
        Some(first) if first >= total => {
            format!("416 Range\r\nContent-Range: bytes */{total}")
        }
        Some(first) => {
            format!("206 Partial\r\nContent-Range: bytes {first}-{}/{total}", total - 1)
        }
    };
    let end = faults.cut.map_or(total, |most| total.min(first + most));
    let length = total - first.min(total);
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), &content[first.min(end)..end]].concat()
}

/// The program, with nothing of this machine's settings for the hub.
fn wgpt(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("wgpt").expect("the program is built");
    for name in [
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("WGPT_CACHE", env!("CARGO_TARGET_TMPDIR"));
    // Nobody is there.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.args(arguments);
    command
}

fn generate(model: &str) -> Vec<&str> {
    let ids = ["--prompt-ids=1,2,3", "--max-tokens=6", "--greedy", "--json", "--device=cpu"];
    [&["generate", "--model", model], &ids[..]].concat()
}

fn ids(command: &mut Command) -> Value {
    let output = command.assert().success().get_output().clone();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["samples"][0]["ids"].clone()
}

/// What a command says that fails.
fn error_of(command: &mut Command) -> String {
    let output = command.assert().code(1).get_output().stderr.clone();
    let text = String::from_utf8(output).unwrap();
    assert!(text.starts_with("error: ") && text.contains("\nhint: "), "{text}");
    text
}

/// The ids that the model in a folder of the reference values continues with.
fn ids_of_folder(folder: &str) -> Value {
    let path = std::path::absolute(oracle().join(folder)).unwrap();
    let home = tempfile::tempdir().unwrap();
    ids(&mut wgpt(home.path(), &generate(path.to_str().unwrap())))
}

fn lines(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.line.as_str()).collect()
}

/// The model's folder in the cache.
fn cached(home: &TempDir) -> PathBuf {
    home.path().join("hub/models--org--model")
}

/// The names in a folder of the cache; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_model_is_downloaded_once_and_kept_as_python_keeps_it() {
    let (server, home) = (Server::with("gpt2_tiny_a", Faults::default()), TempDir::new().unwrap());
    fs::write(home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let wanted = ids_of_folder("gpt2_tiny_a");
    assert_eq!(server.ids(&home, "org/model"), wanted);

    let requests = server.asked();
    let first = "HEAD /org/model/resolve/main/config.json";
    assert_eq!(requests[0].line, first);
    let (elsewhere, hub): (Vec<&Request>, Vec<&Request>) =
        requests.iter().partition(|request| request.line.contains("/elsewhere/"));
    assert!(hub.iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_secret")));
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].authorization, None, "the token is the hub's alone");

    let folder = cached(&home);
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let weights = fs::read(server.path("org/model").join("model.safetensors")).unwrap();
    let link = folder.join("snapshots").join(COMMIT).join("model.safetensors");
    assert_eq!(fs::read(&link).unwrap(), weights);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../../blobs").join(sha256(&weights)));
    assert!(folder.join(".no_exist").join(COMMIT).join("tokenizer.json").is_file());
    let whole = |name: &String| name.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(names(&folder.join("blobs")).iter().all(whole));

    assert_eq!(server.ids(&home, "org/model"), wanted);
    assert_eq!(server.ids(&home, &format!("org/model@{COMMIT}")), wanted);
    assert_eq!(ids(server.wgpt(&home, &generate("org/model")).env("HF_HUB_OFFLINE", "1")), wanted);
    assert!(server.asked().is_empty(), "the second time it is there");
}

#[test]
fn shards_old_names_and_revisions_are_followed() {
    let server = Server::with(SHARDED, Faults::default());
    let wanted = ids_of_folder("gpt2_tiny_a");
    for model in ["org/model", "old/model", "org/model@v1", &format!("org/model@{COMMIT}")] {
        let home = TempDir::new().unwrap();
        assert_eq!(server.ids(&home, model), wanted, "{model}");
    }
    let home = TempDir::new().unwrap();
    let error = error_of(&mut server.wgpt(&home, &generate("org/model@v2")));
    assert!(error.contains("404") && error.contains("org/model@v2"), "{error}");
}

#[test]
fn the_cache_is_where_the_variables_say() {
    let server = Server::with("gpt2_tiny_c", Faults { gated: true, ..Faults::default() });
    let (home, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut command = server.wgpt(&home, &generate("org/model"));
    command.env("HF_HUB_CACHE", cache.path()).env("HF_TOKEN", TOKEN);
    assert_eq!(ids(&mut command), ids_of_folder("gpt2_tiny_c"));
    assert!(cache.path().join("models--org--model/refs/main").is_file());
    assert!(names(home.path()).is_empty());
}

#[test]
fn a_server_without_time_is_asked_again() {
    let faults = Faults { busy: AtomicUsize::new(2), ..Faults::default() };
    let (server, home) = (Server::with("gpt2_tiny_c", faults), TempDir::new().unwrap());
    assert_eq!(server.ids(&home, "org/model"), ids_of_folder("gpt2_tiny_c"));
}

#[test]
fn a_cut_connection_goes_on_where_it_stopped() {
    let wanted = ids_of_folder("gpt2_tiny_a");
    let faults = Faults { cut: Some(70_000), ..Faults::default() };
    let (server, home) = (Server::with("gpt2_tiny_a", faults), TempDir::new().unwrap());
    let weights = fs::read(server.path("org/model").join("model.safetensors")).unwrap();
    assert_eq!(server.ids(&home, "org/model"), wanted);
    let starts = |requests: Vec<Request>| -> Vec<Option<usize>> {
        let large = requests.iter().filter(|request| request.line.contains("/elsewhere/"));
        large.map(|request| request.range).collect()
    };
    let cuts = (70_000..weights.len()).step_by(70_000).map(Some);
    assert_eq!(starts(server.asked()), [None].into_iter().chain(cuts).collect::<Vec<_>>());

    // What a process left that was killed.
    let home = TempDir::new().unwrap();
    let blobs = cached(&home).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", sha256(&weights)));
    fs::write(&part, &weights[..weights.len() - 1000]).unwrap();
    assert_eq!(server.ids(&home, "org/model"), wanted);
    assert_eq!(starts(server.asked()), [Some(weights.len() - 1000)]);
    assert!(!part.exists());
}

#[test]
fn what_is_not_as_announced_is_refused_and_removed() {
    let cases = [
        (Faults { announced_more: 7, ..Faults::default() }, "bytes came"),
        (Faults { flipped: true, ..Faults::default() }, "SHA-256"),
    ];
    for (faults, words) in cases {
        let (server, home) = (Server::with("gpt2_tiny_a", faults), TempDir::new().unwrap());
        let error = server.refusal(&home);
        assert!(error.contains(words) && error.contains("model.safetensors"), "{error}");
        let hash = sha256(&fs::read(server.path("org/model").join("model.safetensors")).unwrap());
        let left = names(&cached(&home).join("blobs"));
        // Where a system makes no links, the configuration is in the snapshot itself.
        assert!(cfg!(windows) || !left.is_empty());
        assert!(!left.iter().any(|name| name.contains(&hash)), "{left:?}");
        assert_eq!(names(&cached(&home).join("snapshots").join(COMMIT)), ["config.json"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let (server, home) = (Server::with("gpt2_tiny_a", Faults::default()), TempDir::new().unwrap());
    let weights = fs::read(server.path("org/model").join("model.safetensors")).unwrap();
    let part = cached(&home).join("blobs").join(format!("{}.incomplete", sha256(&weights)));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", part).unwrap();
    let error = server.refusal(&home);
    assert!(error.contains("No space left"), "{error}");
}

#[test]
fn refusals_name_the_cause_and_the_way_out() {
    let refusal = |server: &Server| server.refusal(&TempDir::new().unwrap());

    let nothing = Server::new(Faults::default());
    let error = refusal(&nothing);
    assert!(error.contains("404") && error.contains("no such model"), "{error}");

    let gated = Server::with("gpt2_tiny_a", Faults { gated: true, ..Faults::default() });
    let error = refusal(&gated);
    assert!(error.contains("401") && error.contains("set HF_TOKEN"), "{error}");

    let ordinary = Server::with("gpt2_tiny_a", Faults { ordinary: true, ..Faults::default() });
    let error = refusal(&ordinary);
    assert!(error.contains("not a hub") && error.contains("HF_ENDPOINT"), "{error}");

    let without = |file: &str, folder: &str| {
        let server = Server::with(folder, Faults::default());
        fs::remove_file(server.path("org/model").join(file)).unwrap();
        server
    };
    let error = refusal(&without("config.json", "gpt2_tiny_a"));
    assert!(error.contains("no config.json in org/model"), "{error}");
    for shard in shards(SHARDED) {
        let error = refusal(&without(&shard, SHARDED));
        assert!(error.contains(&shard), "{error}");
    }

    let pickled = without("model.safetensors", "gpt2_tiny_a");
    let error = refusal(&pickled);
    assert!(error.contains("no model.safetensors in org/model"), "{error}");
    fs::write(pickled.path("org/model").join("pytorch_model.bin"), "pickled").unwrap();
    let error = refusal(&pickled);
    assert!(error.contains("pytorch_model.bin") && error.contains("safetensors"), "{error}");

    let absent = TempDir::new().unwrap();
    let error = error_of(&mut wgpt(absent.path(), &generate("org/model")));
    assert!(error.contains("http://127.0.0.1:9/org/model/resolve/main/config.json"), "{error}");
}

#[test]
fn another_architecture_is_refused_before_its_weights_come() {
    for folder in ["bad/config_model_type", "bad/either_relu"] {
        let (server, home) = (Server::with(folder, Faults::default()), TempDir::new().unwrap());
        let error = server.refusal(&home);
        assert!(error.contains("org/model on the hub"), "{error}");
        assert!(lines(&server.asked()).iter().all(|line| line.ends_with("/config.json")));
    }
}

#[test]
fn offline_nothing_is_asked() {
    let (server, home) = (Server::with("gpt2_tiny_a", Faults::default()), TempDir::new().unwrap());
    for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        let error = error_of(server.wgpt(&home, &generate("org/model")).env(variable, "true"));
        assert!(error.contains("config.json") && error.contains("HF_HUB_OFFLINE"), "{error}");
        assert!(server.asked().is_empty(), "{variable} is set");
    }
    assert!(names(home.path()).is_empty());
}

#[test]
fn a_model_by_name_is_trained_with_its_tokenizer() {
    let (server, home) = (Server::with("gpt2_tiny_b", Faults::default()), TempDir::new().unwrap());
    server.add("org/model", "tokenizer/bpe_512");
    // Only the older of a tokenizer's two forms.
    fs::remove_file(server.path("org/model").join("tokenizer.json")).unwrap();
    let text = "The cat saw the birds.\n".repeat(200);
    fs::write(home.path().join("data.txt"), text).unwrap();
    let train = ["train", "--init=org/model", "--data=data.txt", "--out=run", "--device=cpu"];
    let sizes = ["--max-iters=2", "--seq-len=16", "--batch-size=2", "--eval-iters=1", "--json"];
    let mut command = server.wgpt(&home, &[&train[..], &sizes].concat());
    command.current_dir(home.path()).assert().success();
    assert!(home.path().join("run/best/tokenizer.json").is_file());
    server.asked();

    // A run's folder is its best model; a weights file of the usual name is its folder's.
    let of = |model: &str| ids(wgpt(home.path(), &generate(model)).current_dir(home.path()));
    assert_eq!(of("run"), of("run/best"));
    assert_eq!(of("run/model.safetensors"), of("./run/checkpoints/step-2"));
    assert!(server.asked().is_empty());
}

#[test]
fn every_command_that_takes_a_model_takes_a_name() {
    let (server, home) = (Server::with("gpt2_tiny_a", Faults::default()), TempDir::new().unwrap());
    let out = home.path().join("exported");
    let export = ["export", "--model=org/model", "--out", out.to_str().unwrap()];
    server.wgpt(&home, &export).assert().success();
    assert_eq!(server.ids(&home, out.to_str().unwrap()), ids_of_folder("gpt2_tiny_a"));
    let ids = home.path().join("ids.bin");
    fs::write(&ids, [1_u8, 0, 2, 0, 3, 0, 4, 0]).unwrap();
    let eval = ["eval", ids.to_str().unwrap(), "--model=org/gone", "--device=cpu"];
    let error = error_of(&mut server.wgpt(&home, &eval));
    assert!(error.contains("org/gone is no path here"), "{error}");
}

#[test]
fn a_weights_file_of_any_name_is_a_model() {
    let home = TempDir::new().unwrap();
    let source = oracle().join("gpt2_tiny_a");
    fs::copy(source.join("config.json"), home.path().join("config.json")).unwrap();
    fs::copy(source.join("model.safetensors"), home.path().join("mine.safetensors")).unwrap();
    let mut command = wgpt(home.path(), &generate("mine.safetensors"));
    assert_eq!(ids(command.current_dir(home.path())), ids_of_folder("gpt2_tiny_a"));

    for shard in shards(SHARDED) {
        let shard = std::path::absolute(oracle().join(SHARDED).join(shard)).unwrap();
        let error = error_of(&mut wgpt(home.path(), &generate(shard.to_str().unwrap())));
        let said = error.contains("missing") && error.contains("hint: this is one of several");
        assert!(said, "{error}");
    }
}

#[test]
fn a_path_that_is_not_there_is_not_asked_of_the_hub() {
    let (server, home) = (Server::new(Faults::default()), TempDir::new().unwrap());
    fs::create_dir(home.path().join("runs")).unwrap();
    for model in ["./gone", "runs/gone", "a/b/c", "gone.safetensors", "gone/", "C:\\gone", "--x"] {
        let mut command = server.wgpt(&home, &generate(model));
        if model == "--x" {
            command = server.wgpt(&home, &["generate", "--model=--x", "--prompt-ids=1"]);
        }
        let error = error_of(command.current_dir(home.path()));
        assert!(error.contains("does not exist") && error.contains("on the hub"), "{error}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn adapters_name_the_hub_s_model_and_find_it_again() {
    let (server, home) = (Server::with("gpt2_tiny_a", Faults::default()), TempDir::new().unwrap());
    let work = TempDir::new().unwrap();
    let config = fs::read(server.path("org/model").join("config.json")).unwrap();
    let vocab = serde_json::from_slice::<Value>(&config).unwrap()["vocab_size"].as_u64().unwrap();
    let (tokens, run) = (work.path().join("tokens.bin"), work.path().join("run"));
    let bytes = (0..2000).flat_map(|i| ((i * i % vocab) as u16).to_le_bytes());
    fs::write(&tokens, bytes.collect::<Vec<u8>>()).unwrap();
    let [data, out] = [&tokens, &run].map(|path| path.to_str().unwrap());
    let train = ["train", "--init", "org/model", "--data", data, "--out", out, "--lora-rank", "2"];
    let steps = ["--max-iters", "2", "--batch-size", "2", "--seq-len", "8", "--device", "cpu"];
    server.wgpt(&home, &[&train[..], &steps].concat()).assert().success();

    let best = run.join("best");
    let config = fs::read(best.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], "org/model");
    assert_eq!(config["revision"], COMMIT);
    let best = best.to_str().unwrap();
    let wanted = server.ids(&home, best);
    server.asked();
    let another_home = TempDir::new().unwrap();
    assert_eq!(server.ids(&another_home, best), wanted);
    assert!(!server.asked().is_empty(), "another machine downloads the model");

    let text = error_of(&mut wgpt(TempDir::new().unwrap().path(), &generate(best)));
    assert!(text.contains("the model of the adapters in"), "{text}");
}

/// A name is one or two words, of which none leaves the cache's folder.
#[test]
fn what_is_no_name_of_a_model_is_none() {
    for name in ["gpt2", "org/name", "org/na.me_1-2", "name@main", "name@refs/pr/1"] {
        assert!(wgpt::hub::ModelName::parse(name).is_some(), "{name}");
    }
    for name in ["", "a/b/c", "..", "../a", "a..b", "a/..", ".a", "a--b", "a/", "a b", "a@../b"] {
        assert_eq!(wgpt::hub::ModelName::parse(name), None, "{name}");
    }
}
