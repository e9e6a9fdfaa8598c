//! `GET /train/`: the page that trains in a browser (docs/browser.md), from a folder that is read when the server starts.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use super::app::App;
use super::error::ApiError;
use crate::disk;
use crate::error::{Error, Result};

/// The file without which a folder is no such page.
const FIRST: &str = "index.html";

/// The types of files that a page may have.
const KINDS: [(&str, &str); 5] = [
    ("html", "text/html; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("wasm", "application/wasm"),
];

/// The files by name, each with its type.
type Files = BTreeMap<String, (&'static str, Bytes)>;

/// Returns the routes of the page in a folder.
///
/// # Errors
///
/// If there is no page in it, or a file cannot be read.
pub fn routes(folder: &FilePath) -> Result<Router<Arc<App>>> {
    let files: Arc<Files> = Arc::new(read(folder)?);
    let first = Arc::clone(&files);
    let index = move || std::future::ready(file(&first, FIRST));
    let any = move |Path(name): Path<String>| std::future::ready(file(&files, &name));
    Ok(Router::new()
        // The page's own links are relative.
        .route("/train", get(|| std::future::ready(Redirect::permanent("train/"))))
        .route("/train/", get(index))
        .route("/train/{name}", get(any)))
}

fn read(folder: &FilePath) -> Result<Files> {
    let refused = |e| Error::io("reading", folder, &e);
    let mut files = Files::new();
    for entry in disk::read_dir(folder).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let ending = path.extension().unwrap_or_default();
        let Some((_, kind)) = KINDS.iter().find(|(known, _)| ending == *known) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = disk::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
        files.insert(name, (kind, bytes.into()));
    }
    if !files.contains_key(FIRST) {
        let message = format!("{} has no {FIRST}", folder.display());
        return Err(Error::input(message).hint("scripts/web.sh builds the page into a folder"));
    }
    Ok(files)
}

fn file(files: &Files, name: &str) -> Response {
    let Some((kind, bytes)) = files.get(name) else {
        let message = format!("there is no GET /train/{name}");
        return ApiError::new(StatusCode::NOT_FOUND, message).code("unknown_url").into_response();
    };
    let headers = [(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")];
    (headers, bytes.clone()).into_response()
}
