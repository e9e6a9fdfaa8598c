//! Downloads one file from a server; an interrupted download is resumed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;

use crate::error::{Error, Result};
use crate::wait;

/// The pauses before each further attempt at a busy server.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(8),
];

/// Progress callback: the bytes on this machine, and the total bytes, if the server announced them.
pub(crate) type OnBytes<'a> = dyn FnMut(u64, Option<u64>) + 'a;

/// The reason why one attempt did not complete the file.
pub(crate) enum Failure {
    /// The connection was interrupted; the next attempt resumes there.
    Cut(String),
    /// The server is busy.
    Busy(String),
    /// Further attempts will not succeed.
    Final(String),
}

impl Failure {
    /// Returns the failure for a status that means neither the file nor a part of it.
    pub(crate) fn of_status(status: u16) -> Failure {
        let cause = format!("the server answered {status}");
        if matches!(status, 429 | 500..) { Failure::Busy(cause) } else { Failure::Final(cause) }
    }
}

/// Repeats an attempt a few times, with growing pauses, while the server is busy.
///
/// # Errors
///
/// The cause of the last failure, in words.
pub(crate) fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, String> {
    let mut pauses = PAUSES.iter();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(Failure::Busy(cause)) => match pauses.next() {
                Some(pause) => wait::for_time(*pause),
                None => return Err(cause),
            },
            Err(Failure::Cut(cause) | Failure::Final(cause)) => return Err(cause),
        }
    }
}

/// A file on a server, and the data needed to download it.
pub(crate) struct Remote<'a> {
    /// The HTTP client.
    pub agent: &'a ureq::Agent,
    /// The URL of the file.
    pub url: &'a str,
    /// The value of the header Authorization, which is never sent to another host.
    pub authorization: Option<&'a str>,
}

impl Remote<'_> {
    /// Downloads the rest of the file to `part`, as long as every attempt makes progress.
    ///
    /// # Errors
    ///
    /// The cause, in words.
    pub(crate) fn download(&self, part: &mut File, on_bytes: &mut OnBytes) -> Result<(), String> {
        let mut last_length = None;
        patiently(|| {
            loop {
                let result = self.attempt(part, on_bytes);
                let Err(Failure::Cut(_)) = result else { return result };
                let length = part.metadata().ok().map(|file| file.len());
                if length == last_length || length == Some(0) {
                    return result;
                }
                last_length = length;
            }
        })
    }

    /// Makes one request for the bytes that `part` does not have yet.
    fn attempt(&self, part: &mut File, on_bytes: &mut OnBytes) -> Result<(), Failure> {
        let unwritable =
            |cause: std::io::Error| Failure::Final(format!("the file in the cache: {cause}"));
        let mut done_bytes = part.metadata().map_err(unwritable)?.len();
        let mut request = self.agent.get(self.url);
        if let Some(value) = self.authorization {
            request = request.header("Authorization", value);
        }
        if done_bytes > 0 {
            request = request.header("Range", format!("bytes={done_bytes}-"));
        }
        let mut response = request.call().map_err(|cause| Failure::Cut(cause.to_string()))?;
        let range = response.headers().get("Content-Range").and_then(|value| value.to_str().ok());
        let (first, total_bytes) = match (response.status().as_u16(), range.map(content_range)) {
            (200, _) => (0, response.body().content_length()),
            (206, Some(Some((Some(first), total)))) if first <= done_bytes => (first, total),
            (416, Some(Some((None, total)))) if total == Some(done_bytes) => return Ok(()),
            // The local part does not match the file on the server: restart from the beginning.
            (206 | 416, _) if done_bytes > 0 => {
                part.set_len(0).map_err(unwritable)?;
                return self.attempt(part, on_bytes);
            }
            (status, _) => return Err(Failure::of_status(status)),
        };
        if first < done_bytes {
            part.set_len(first).map_err(unwritable)?;
            done_bytes = first;
        }
        part.seek(SeekFrom::End(0)).map_err(unwritable)?;
        on_bytes(done_bytes, total_bytes);
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = body.read(&mut buffer).map_err(|cause| Failure::Cut(cause.to_string()))?;
            if read == 0 {
                break;
            }
            part.write_all(&buffer[..read]).map_err(unwritable)?;
            done_bytes += read as u64;
            on_bytes(done_bytes, total_bytes);
        }
        match total_bytes {
            Some(total) if total != done_bytes => Err(Failure::Cut(format!(
                "the connection ended after {done_bytes} of {total} bytes"
            ))),
            _ => Ok(()),
        }
    }
}

/// Returns the first byte and the total length in a Content-Range: `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
fn content_range(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let first = match range {
        "*" => None,
        range => Some(range.split_once('-')?.0.parse().ok()?),
    };
    Some((first, total))
}

/// Creates the HTTP client. Its timeout is for silence, not for the duration of a download.
pub(crate) fn agent(url: &str) -> ureq::Agent {
    let silence = Some(Duration::from_secs(30));
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("wgpt/", env!("CARGO_PKG_VERSION")))
        // A range of a compressed file would not be a range of the file itself.
        .accept_encoding("identity")
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .timeout_connect(silence)
        .timeout_recv_response(silence)
        .timeout_per_read(silence);
    if url.starts_with("http://127.0.0.1") || url.starts_with("http://localhost") {
        // A proxy cannot reach servers on this machine.
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Opens the incomplete file of the download called `name` exclusively for this process.
///
/// # Errors
///
/// If another process is downloading it, or a file operation fails.
pub(crate) fn open_alone(name: &str, path: &Path) -> Result<File> {
    let refused = |cause| Error::io("writing", path, &cause);
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).truncate(false).open(path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(cause)) => Err(refused(cause)),
        Err(TryLockError::WouldBlock) => {
            let message = format!("{name} is being downloaded by another process");
            Err(Error::input(message).hint("wait until it is done"))
        }
    }
}
