//! The bodies of requests: read within limits, and worked on where they hold up nobody else.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::app::App;
use super::error::{ApiError, ApiResult};

/// The largest body, in bytes.
pub const LARGEST: usize = 2 << 20;
/// How much of a body that is too large is read before the answer: most clients only listen when all is said.
const DRAINED: usize = 8 * LARGEST;
/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads the body of a request.
///
/// # Errors
///
/// If it is larger than [`LARGEST`], takes too long, or breaks off.
pub async fn read_body(request: Request) -> ApiResult<Bytes> {
    let late = |_| {
        let message = format!("the body did not come within {} seconds", PATIENCE.as_secs());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
    };
    timeout(PATIENCE, read(request)).await.map_err(late)?
}

async fn read(request: Request) -> ApiResult<Bytes> {
    let mut chunks = request.into_body().into_data_stream();
    let (mut body, mut length) = (vec![], 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|cause| ApiError::bad(format!("reading the body: {cause}")))?;
        length += chunk.len();
        if length <= LARGEST {
            body.extend_from_slice(&chunk);
        } else if length > DRAINED {
            break;
        }
    }
    if length > LARGEST {
        let message = format!("the body is larger than {LARGEST} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(body.into())
}

/// Does something that takes a while, such as encoding a long text, on a thread of its own.
///
/// # Errors
///
/// Those of the work.
pub async fn apart<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&App) -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.unwrap_or_else(|_| {
        let message = "the server failed while it read this request";
        Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message))
    })
}
