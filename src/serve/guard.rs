//! Who may ask what: hosts, keys, kinds of content.
//!
//! A page of any site can make a browser send requests to this machine. It cannot read the answers, unless its own name is
//! made to stand for this machine's address: so the name by which the server is called must be known. And it cannot send
//! JSON without being allowed to: so whatever changes something must be JSON.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::app::App;
use super::error::{ApiError, ApiResult};
use super::metrics::Answered;
use crate::clock::Stopwatch;

/// The route that needs no key.
pub const HEALTH: &str = "/health";

/// The ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client has reached.
    pub here: SocketAddr,
}

/// What a request must have.
#[derive(Clone, Default)]
pub struct Guard {
    key: Option<Key>,
    /// Names of hosts, beside the addresses and `localhost`.
    hosts: Vec<String>,
}

/// A key that requests must have. Only its digest is kept, so that all comparisons take the same time.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// Takes a key.
    pub fn new(key: &str) -> Key {
        Key(Sha256::digest(key.as_bytes()).into())
    }

    /// Whether a key is this one.
    fn opens(&self, key: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        self.0.ct_eq(&digest).into()
    }
}

impl Guard {
    /// Creates a guard.
    pub fn new(key: Option<Key>, hosts: Vec<String>) -> Guard {
        Guard { key, hosts }
    }

    /// Checks that a request calls this server by a name that it has. `here` is the address that the request has reached.
    fn check_host(&self, headers: &HeaderMap, here: IpAddr) -> ApiResult<()> {
        let host =
            headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let name = without_port(host);
        let is_here = name.parse::<IpAddr>().is_ok_and(|address| address == here);
        let is_named = self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_here || name.eq_ignore_ascii_case("localhost") || is_named {
            return Ok(());
        }
        let message = format!("this server does not answer to the host {name:?}");
        Err(ApiError::new(StatusCode::FORBIDDEN, message).code("unknown_host"))
    }

    fn check_key(&self, headers: &HeaderMap) -> ApiResult<()> {
        let Some(key) = &self.key else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let given = given.and_then(|value| {
            let (scheme, key) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key.trim_ascii())
        });
        match given {
            Some(given) if key.opens(given) => Ok(()),
            Some(_) => Err(unauthorized("the API key is not the one of this server")),
            None => Err(unauthorized("an API key is needed: Authorization: Bearer KEY")),
        }
    }
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
}

/// Returns the name of a host without its port; an IPv6 address without its brackets.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(host, |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn check_content(request: &Request) -> ApiResult<()> {
    if request.method() != Method::POST {
        return Ok(());
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = format!("the Content-Type is {kind:?}, must be \"application/json\"");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// Checks the host of a request.
pub async fn host(
    State(app): State<Arc<App>>,
    Extension(ends): Extension<Ends>,
    request: Request,
    next: Next,
) -> Response {
    match app.guard.check_host(request.headers(), ends.here.ip()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Checks the key and the kind of content of a request.
pub async fn key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let is_open = request.uri().path() == HEALTH;
    let checked = if is_open { Ok(()) } else { app.guard.check_key(request.headers()) };
    match checked.and_then(|()| check_content(&request)) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Counts a request, and writes a line about it if there is an access log. The line has no header and no part of the body.
pub async fn count(
    State(app): State<Arc<App>>,
    Extension(ends): Extension<Ends>,
    request: Request,
    next: Next,
) -> Response {
    let clock = Stopwatch::start();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("other", |route| route.as_str()).to_owned();
    let line = app.log.as_ref().map(|log| {
        let path: String = request.uri().path().chars().take(200).collect();
        (log, format!("{} {} {path}", ends.client.ip(), request.method()))
    });
    let response = next.run(request).await;
    let status = response.status().as_u16();
    app.metrics.requests.get_or_create(&Answered { route, status }).inc();
    if let Some((log, line)) = line {
        log(&format!("{line} {status} {:.3} s", clock.seconds()));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header's value"))])
    }

    #[test]
    fn only_known_hosts_are_answered() {
        let guard = Guard::new(None, vec!["gpu.example".into()]);
        let here: IpAddr = "127.0.0.1".parse().expect("an address");
        let check = |host: &str| guard.check_host(&headers(header::HOST, host), here).is_ok();
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "gpu.example", "GPU.example:1"]
        {
            assert!(check(host), "{host}");
        }
        for host in ["", "evil.example", "127.0.0.2", "localhost.evil.example", "[::1]:80", "gpu"] {
            assert!(!check(host), "{host}");
        }
        let six: IpAddr = "::1".parse().expect("an address");
        assert!(guard.check_host(&headers(header::HOST, "[::1]:8000"), six).is_ok());
        assert!(guard.check_host(&HeaderMap::new(), here).is_err());
    }

    #[test]
    fn only_the_key_opens() {
        let guard = Guard::new(Some(Key::new("abc")), vec![]);
        let check = |value: &str| guard.check_key(&headers(header::AUTHORIZATION, value)).is_ok();
        assert!(check("Bearer abc") && check("bearer abc "));
        for wrong in ["abc", "Bearer", "Bearer ab", "Bearer abcd", "Basic abc", "Bearer  "] {
            assert!(!check(wrong), "{wrong}");
        }
        assert!(guard.check_key(&HeaderMap::new()).is_err());
        assert!(Guard::default().check_key(&HeaderMap::new()).is_ok());
    }
}
