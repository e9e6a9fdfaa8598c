//! What the server counts and measures, as Prometheus reads it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The upper bounds of the histograms, in seconds.
const BOUNDS_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// An answered request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// The route as it is written in the list of routes, or `other`.
    pub route: String,
    /// The status of the answer.
    pub status: u16,
}

/// The metrics of a server. Their descriptions are given where they are registered.
pub struct Metrics {
    registry: Registry,
    /// Answered requests.
    pub requests: Family<Answered, Counter>,
    /// Sequences whose client left.
    pub abandoned: Counter,
    /// Tokens of prompts.
    pub prompt_tokens: Counter,
    /// Those of them that were not read again.
    pub reused_tokens: Counter,
    /// New tokens.
    pub generated_tokens: Counter,
    /// Sequences that can run at once.
    pub slots: Gauge,
    /// Sequences that run.
    pub running: Gauge,
    /// Requests in the queue.
    pub waiting: Gauge,
    /// Seconds to the first token.
    pub first_token_s: Histogram,
    /// Seconds to the last token.
    pub request_s: Histogram,
}

impl Metrics {
    /// Creates metrics at 0.
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("wgpt"),
            requests: Family::default(),
            abandoned: Counter::default(),
            prompt_tokens: Counter::default(),
            reused_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            slots: Gauge::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            first_token_s: Histogram::new(BOUNDS_S),
            request_s: Histogram::new(BOUNDS_S),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Metrics { registry, .. } = self;
        registry.register(
            "requests",
            "Answered requests, by route and status",
            self.requests.clone(),
        );
        registry.register(
            "abandoned_sequences",
            "Sequences whose client left before their end",
            self.abandoned.clone(),
        );
        registry.register(
            "prompt_tokens",
            "Tokens of the prompts of all sequences that have begun",
            self.prompt_tokens.clone(),
        );
        registry.register(
            "reused_prompt_tokens",
            "Those of them that were taken over from an earlier sequence instead of being read",
            self.reused_tokens.clone(),
        );
        registry.register("generated_tokens", "New tokens", self.generated_tokens.clone());
        registry.register("slots", "Sequences that can run at once", self.slots.clone());
        registry.register("running_sequences", "Sequences that run", self.running.clone());
        registry.register(
            "waiting_requests",
            "Requests in the queue, of which no sequence has begun",
            self.waiting.clone(),
        );
        registry.register(
            "time_to_first_token_seconds",
            "From the arrival of a request to its first token",
            self.first_token_s.clone(),
        );
        registry.register(
            "request_seconds",
            "From the arrival of a completion's request to its last token",
            self.request_s.clone(),
        );
    }

    /// Returns all metrics as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes all that is written");
        text
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}
