//! What all requests share.

use std::sync::Arc;

use axum::http::StatusCode;

use super::error::{ApiError, ApiResult};
use super::guard::Guard;
use super::metrics::Metrics;
use super::model::Model;
use super::schedule::Task;
use crate::wait::channels::{Sender, TrySendError};

/// The requests that wait for a slot; others are refused.
pub const QUEUE: usize = 64;

/// Writes a line.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

/// What all requests share.
pub struct App {
    pub model: Model,
    pub queue: Sender<Vec<Task>>,
    pub metrics: Arc<Metrics>,
    pub guard: Guard,
    pub log: Option<Log>,
}

impl App {
    /// Puts the tasks of a request into the queue.
    ///
    /// # Errors
    ///
    /// If the queue is full, or the server is stopping.
    pub fn submit(&self, tasks: Vec<Task>) -> ApiResult<()> {
        self.queue.try_send(tasks).map_err(|refused| match refused {
            TrySendError::Closed(_) => ApiError::stopping(),
            TrySendError::Full(_) => {
                let message = format!("{QUEUE} requests are waiting already: try again later");
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full")
            }
        })
    }

    /// Sets the metric of the requests that wait.
    pub fn count_waiting(&self) {
        let waiting = self.queue.max_capacity() - self.queue.capacity();
        self.metrics.waiting.set(waiting as i64);
    }
}
