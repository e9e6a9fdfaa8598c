//! Do downloads come whole, go on after a cut, and fail with the way out?

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use wgpt::data::{DATASETS, Dataset, Downloads, Progress};

/// A file as long as several reads, the same every time.
fn content() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// The content under the SHA-256 that Python's hashlib has for it.
static GOOD: Dataset = Dataset {
    name: "good",
    file: "good.txt",
    url: "http://127.0.0.1:1/nowhere",
    sha256: Some("136f334d647619879743ff33fde1ac6547f40e314692441f2a125e087cad47c9"),
};

/// The same file under a wrong SHA-256.
static WRONG: Dataset = Dataset {
    name: "wrong",
    file: "good.txt",
    url: "http://127.0.0.1:1/nowhere",
    sha256: Some("0000000000000000000000000000000000000000000000000000000000000000"),
};

/// How the server answers.
#[derive(Clone, Copy)]
enum Manner {
    /// Serves ranges, but no more than so many bytes a connection.
    Cutting(usize),
    /// Ignores ranges, and says no length.
    Plain,
    /// Has nothing.
    Missing,
}

/// A server of one file on this machine; its address, and the requests so far: path and first byte.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

type Request = (String, Option<usize>);

fn serve(manner: Manner) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
            let mut first = None;
            for line in lines.take_while(|line| !line.is_empty()) {
                let lower = line.to_lowercase();
                if let Some(range) = lower.strip_prefix("range: bytes=") {
                    first = Some(range.trim_end_matches('-').parse::<usize>().unwrap());
                }
            }
            seen.lock().unwrap().push((path, first));
            stream.write_all(&answer(manner, first)).unwrap();
        }
    });
    Server { url, requests }
}

fn answer(manner: Manner, first: Option<usize>) -> Vec<u8> {
    let content = content();
    let total = content.len();
    let (head, body) = match (manner, first) {
        (Manner::Missing, _) => {
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n".to_owned(), &[][..])
        }
        (Manner::Plain, _) => ("HTTP/1.1 200 OK\r\n".to_owned(), &content[..]),
        (Manner::Cutting(_), Some(first)) if first >= total => (
            format!(
                "HTTP/1.1 416 Range\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\n"
            ),
            &[][..],
        ),
        (Manner::Cutting(most), Some(first)) => (
            format!(
                "HTTP/1.1 206 Partial\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{total}\r\n",
                total - first,
                total - 1
            ),
            &content[first..total.min(first.saturating_add(most))],
        ),
        (Manner::Cutting(most), None) => {
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n"), &content[..total.min(most)])
        }
    };
    [head.as_bytes(), b"Connection: close\r\n\r\n", body].concat()
}

fn fetch(
    server: &Server,
    cache: &TempDir,
    dataset: &'static Dataset,
) -> wgpt::Result<Vec<Progress>> {
    let mut heard = Vec::new();
    let from = Downloads::new(cache.path(), Some(format!("{}/", server.url)));
    let path = from.fetch(dataset, &mut |progress| heard.push(progress))?;
    assert_eq!(path, cache.path().join(dataset.file));
    assert!(fs::read(&path).unwrap() == content());
    Ok(heard)
}

/// The names in a folder.
fn names(cache: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(cache.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_whole_download_is_kept() {
    let (server, cache) = (serve(Manner::Cutting(usize::MAX)), TempDir::new().unwrap());
    let heard = fetch(&server, &cache, &GOOD).unwrap();
    let last = heard.last().unwrap();
    assert_eq!((last.done_bytes, last.total_bytes), (300_000, Some(300_000)));
    assert!(heard.is_sorted_by_key(|progress| progress.done_bytes));
    assert_eq!(names(&cache), ["good.txt"]);
    assert!(fetch(&server, &cache, &GOOD).unwrap().is_empty(), "the second time it is there");
    assert_eq!(*server.requests.lock().unwrap(), [("/good.txt".to_owned(), None)]);
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let (server, cache) = (serve(Manner::Cutting(110_000)), TempDir::new().unwrap());
    let heard = fetch(&server, &cache, &GOOD).unwrap();
    assert!(heard.is_sorted_by_key(|progress| progress.done_bytes));
    let starts: Vec<_> = server.requests.lock().unwrap().iter().map(|(_, first)| *first).collect();
    assert_eq!(starts, [None, Some(110_000), Some(220_000)]);
}

#[test]
fn a_part_of_an_earlier_run_is_used() {
    let cache = TempDir::new().unwrap();
    for (length, wanted) in [(1000, Some(1000)), (300_000, Some(300_000)), (0, None)] {
        let server = serve(Manner::Cutting(usize::MAX));
        fs::write(cache.path().join("good.txt.part"), &content()[..length]).unwrap();
        fetch(&server, &cache, &GOOD).unwrap();
        assert_eq!(server.requests.lock().unwrap()[0].1, wanted);
        assert_eq!(server.requests.lock().unwrap().len(), 1);
        fs::remove_file(cache.path().join("good.txt")).unwrap();
    }
}

#[test]
fn a_part_that_is_too_long_or_of_no_use_begins_anew() {
    let cache = TempDir::new().unwrap();
    for manner in [Manner::Cutting(usize::MAX), Manner::Plain] {
        let server = serve(manner);
        fs::write(cache.path().join("good.txt.part"), vec![7; 300_001]).unwrap();
        fetch(&server, &cache, &GOOD).unwrap();
        fs::remove_file(cache.path().join("good.txt")).unwrap();
    }
}

#[test]
fn a_connection_that_brings_nothing_ends_it() {
    let (server, cache) = (serve(Manner::Cutting(0)), TempDir::new().unwrap());
    assert!(fetch(&server, &cache, &GOOD).is_err());
    assert!(server.requests.lock().unwrap().len() <= 2);
    assert!(names(&cache).is_empty());
    // What an earlier try brought stays for a later one.
    fs::write(cache.path().join("good.txt.part"), &content()[..1000]).unwrap();
    assert!(fetch(&server, &cache, &GOOD).is_err());
    assert_eq!(fs::read(cache.path().join("good.txt.part")).unwrap(), &content()[..1000]);
}

#[test]
fn a_wrong_checksum_is_refused_and_removed() {
    let (server, cache) = (serve(Manner::Cutting(usize::MAX)), TempDir::new().unwrap());
    let error = fetch(&server, &cache, &WRONG).unwrap_err().to_string();
    assert!(error.contains("SHA-256") && error.contains("0000000000"), "{error}");
    assert!(names(&cache).is_empty(), "{:?}", names(&cache));
}

#[test]
fn a_missing_file_or_server_says_what_to_do() {
    let cache = TempDir::new().unwrap();
    let absent = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let absent = Server { url: absent, requests: Arc::default() };
    for (server, cause) in [(serve(Manner::Missing), "404"), (absent, "")] {
        let error = fetch(&server, &cache, &GOOD).unwrap_err();
        let hint = error.advice().unwrap();
        let message = error.to_string();
        let url = format!("{}/good.txt", server.url);
        assert!(message.contains(cause) && message.contains(&url), "{message}");
        let kept = cache.path().join("good.txt").display().to_string();
        for part in ["data PATH", "WGPT_DATA_URL", &kept, &url] {
            assert!(hint.contains(part), "{part} in {hint}");
        }
        assert!(names(&cache).is_empty());
    }
}

#[test]
fn published_addresses_are_secure() {
    for dataset in DATASETS {
        let from = Downloads::new("cache", None);
        assert!(from.url(dataset).starts_with("https://"), "{}", dataset.name);
        assert!(dataset.sha256.is_none_or(|sum| sum.len() == 64));
    }
}
