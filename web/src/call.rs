//! What the functions of a page have in common: one computation at a time, which can be stopped; JSON; errors.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use js_sys::Function;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wasm_bindgen::JsValue;
use wgpt::{Error, Result, wait};

thread_local! {
    static IS_BUSY: Cell<bool> = const { Cell::new(false) };
}

static IS_STOPPED: AtomicBool = AtomicBool::new(false);

/// What is called with the events of a computation, each as a line of JSON.
pub struct Tell<'a>(pub &'a Function);

impl Tell<'_> {
    /// Tells an event, and lets the page's messages in, which may stop the computation.
    pub fn say(&self, event: &Value) {
        // A page that fails to show an event does not spoil the computation.
        let _ = self.0.call1(&JsValue::NULL, &JsValue::from_str(&event.to_string()));
        wait::for_others();
    }
}

/// Stops the computation that runs.
pub fn stop() {
    IS_STOPPED.store(true, Ordering::Relaxed);
}

/// Whether the computation that runs is to stop.
pub fn is_stopped() -> bool {
    IS_STOPPED.load(Ordering::Relaxed)
}

/// Computes something, if nothing else does.
pub fn alone(compute: impl FnOnce() -> Result<Value>) -> std::result::Result<String, JsValue> {
    if IS_BUSY.replace(true) {
        return Err(failed("Something else is being computed: wait for its end, or stop it."));
    }
    IS_STOPPED.store(false, Ordering::Relaxed);
    let result = compute();
    IS_BUSY.set(false);
    answer(result)
}

/// Reads the options of a call.
///
/// # Errors
///
/// If they are not JSON, or have a field that is unknown or of another type.
pub fn options<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::usage(format!("the options: {error}")))
}

/// Returns a result to the page.
pub fn answer(result: Result<Value>) -> std::result::Result<String, JsValue> {
    result.map(|value| value.to_string()).map_err(|error| thrown(&error))
}

/// An error as the page sees it, with what to do on a line of its own.
pub fn thrown(error: &Error) -> JsValue {
    match error.advice() {
        Some(advice) => failed(&format!("{error}\n{advice}")),
        None => failed(&error.to_string()),
    }
}

/// An error with this message.
pub fn failed(message: &str) -> JsValue {
    js_sys::Error::new(message).into()
}
