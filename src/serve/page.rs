//! `GET /`: a page to see what the model thinks. It is one file, and asks no other host for anything.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page.html");

/// What a browser lets the page do: run its own script, wear its own style, ask this server. Both are named by their digests.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = |tag: &str| {
        let (_, rest) = PAGE.split_once(&format!("<{tag}>")).expect("the page has it");
        let (text, _) = rest.split_once(&format!("</{tag}>")).expect("the page has its end");
        format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest("script"),
        digest("style")
    )
});

/// Returns the page.
pub async fn get() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page needs nothing that its policy forbids.
    #[test]
    fn the_page_is_one_file() {
        assert!(POLICY.contains("script-src 'sha256-") && POLICY.contains("style-src 'sha256-"));
        for tag in ["<script", "<style", "<link", "<img", "<iframe", "<form"] {
            let count = PAGE.matches(tag).count();
            assert_eq!(count, usize::from(["<script", "<style"].contains(&tag)), "{tag}");
        }
        for word in ["http://", "https://", " style=", "onclick=\"", "innerHTML"] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }
}
