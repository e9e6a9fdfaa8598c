//! Waiting in a browser: WebAssembly stands still until a promise is kept, and the page goes on meanwhile (JavaScript
//! Promise Integration, JSPI). It works in functions that are exported with `#[wasm_bindgen(jspi)]`, one at a time.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use js_sys::{Function, Promise};
use wasm_bindgen::{JsCast, JsValue};

use crate::clock::Stopwatch;

/// How long it computes before it lets others run.
const TURN: Duration = Duration::from_millis(50);

thread_local! {
    /// Keeps the promise that is waited for.
    static KEEP: RefCell<Option<Function>> = const { RefCell::new(None) };
    /// When others were last let run.
    static LAST: Cell<Option<Stopwatch>> = const { Cell::new(None) };
}

struct Keep;

impl Wake for Keep {
    fn wake(self: Arc<Self>) {
        if let Some(keep) = KEEP.take() {
            let _ = keep.call0(&JsValue::NULL);
        }
    }
}

/// Waits for a future.
pub(super) fn for_future<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Keep));
    let mut context = Context::from_waker(&waker);
    loop {
        let promise = Promise::new(&mut |keep, _| KEEP.set(Some(keep)));
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        for_promise(&promise);
    }
}

/// Waits for some time.
pub(super) fn for_time(pause: Duration) {
    let promise = Promise::new(&mut |keep, _| {
        let global = js_sys::global();
        let timer = js_sys::Reflect::get(&global, &JsValue::from_str("setTimeout"));
        if let Ok(timer) = timer.and_then(|timer| timer.dyn_into::<Function>()) {
            let ms = JsValue::from_f64(pause.as_secs_f64() * 1e3);
            let _ = timer.call2(&global, &keep, &ms);
        }
    });
    for_promise(&promise);
}

/// Lets others run, unless that was a short while ago.
pub(super) fn for_others() {
    let is_due = |last: &Stopwatch| last.elapsed() >= TURN;
    match LAST.get() {
        Some(last) if !is_due(&last) => return,
        Some(_) => for_time(Duration::ZERO),
        None => {}
    }
    LAST.set(Some(Stopwatch::start()));
}

#[expect(deprecated, reason = "wasm-bindgen calls it experimental in this way")]
fn for_promise(promise: &Promise) {
    js_sys::futures::jspi_block_on_promise(promise).expect("nothing breaks this promise");
}
