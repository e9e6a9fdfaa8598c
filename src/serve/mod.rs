//! The server: OpenAI's API over HTTP, for one model.
//!
//! ```text
//! connections ─▶ guard ─▶ routes ─tasks─▶ queue ─▶ Scheduler ─feeds─▶ Engine
//!                           ▲                          │
//!                           └───────────news───────────┘
//! ```
//!
//! [`schedule`] has no HTTP, and everything else here has no engine. The thread that calls [`run`] has the engine and runs
//! the scheduler; a few other threads have the connections. They meet in a queue of tasks, which is bounded, and in a channel
//! of news for each request. A request that is dropped drops its channel, which the scheduler sees before the next replay.

mod answer;
mod app;
mod body;
mod chat;
mod choice;
mod completions;
mod connections;
mod error;
mod fields;
mod guard;
pub mod metrics;
mod model;
mod page;
pub mod room;
pub mod schedule;
mod texts;
mod train_page;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::chat::ChatTemplate;
use crate::clock;
use crate::error::{Error, Result, field};
use crate::gpt::Gpt;
use crate::wait;
use crate::wait::channels::{Receiver, channel};
pub use app::Log;
use app::{App, QUEUE};
use error::{ApiError, ApiResult};
pub use guard::Key;
use guard::{Guard, HEALTH};
use metrics::Metrics;
use model::{Chat, Model};
use room::Room;
use schedule::{Scheduler, Task};

/// The port that is listened on unless another is asked for.
pub const PORT: u16 = 8000;
/// The threads of connections: the scheduler's are the others.
const THREADS: usize = 2;

/// How a model is served.
#[derive(Clone)]
pub struct Settings {
    /// The name by which requests ask for the model.
    pub name: String,
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0: any.
    pub port: u16,
    /// The sequences that run at once.
    pub slots: usize,
    /// The positions that a sequence has room for; `None`: the model's, but at most [`room::CONTEXT`].
    pub context: Option<usize>,
    /// The key that requests must have.
    pub key: Option<Key>,
    /// Names by which the server is called, beside its address and `localhost`.
    pub hosts: Vec<String>,
    /// The origins of pages that may use the server from a browser.
    pub origins: Vec<String>,
    /// The folder of the page that trains in a browser, if there is one: it is answered at `/train/`.
    pub train_page: Option<PathBuf>,
    /// Writes a line of the access log.
    pub log: Option<Log>,
}

/// What is told when requests are answered from now on.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The address that is listened on.
    pub address: SocketAddr,
    /// What is taken in memory.
    pub room: Room,
}

/// Serves a model until the process is told to stop (SIGTERM or Ctrl-C); requests that are there are then answered first,
/// unless it is told once more. `ready` is called when the server listens.
///
/// # Errors
///
/// If the address cannot be listened on, or must not be without a key; the model has no tokenizer; the slots do not fit the
/// device; or the device is lost.
pub fn run(
    gpt: &mut Gpt,
    template: Option<ChatTemplate>,
    settings: &Settings,
    ready: &mut dyn FnMut(Ready),
) -> Result<()> {
    let runtime = runtime()?;
    let listener = listen(&runtime, settings)?;
    let listens = |cause: std::io::Error| Error::input(format!("listening: {cause}"));
    let address = listener.local_addr().map_err(listens)?;
    let context = settings.context.unwrap_or(room::CONTEXT).min(gpt.config().n_positions);
    gpt.set_context(Some(context));
    let model = model(gpt, template, settings, context)?;
    let uses = gpt.uses_of_serving(settings.slots);
    let program = room::record(gpt.config(), uses, gpt.device())?;
    let room = Room::of(&program);
    let engine = gpt.load_into(program)?;

    let metrics = Arc::new(Metrics::new());
    let (queue, tasks) = channel(QUEUE);
    let guard = Guard::new(settings.key.clone(), settings.hosts.clone());
    let app = App { model, queue, metrics: Arc::clone(&metrics), guard, log: settings.log.clone() };
    let page = settings.train_page.as_deref().map(train_page::routes).transpose()?;
    let routes = routes(Arc::new(app), page, &origins(&settings.origins)?);
    let [stop, at_once] = signals(&runtime)?;
    runtime.spawn(connections::serve(listener, routes, stop, at_once));
    ready(Ready { address, room });
    let done = run_tasks(Scheduler::new(engine, &metrics), tasks);
    // What is still there after an error, or after a second signal, is dropped.
    runtime.shutdown_background();
    done
}

/// Runs tasks until there can be no more.
fn run_tasks(mut scheduler: Scheduler<'_>, mut queue: Receiver<Vec<Task>>) -> Result<()> {
    let mut waiting = vec![].into_iter();
    loop {
        while scheduler.has_room() {
            if let Some(task) = waiting.next() {
                scheduler.begin(task);
            } else if scheduler.is_busy() {
                match queue.try_recv() {
                    Ok(tasks) => waiting = tasks.into_iter(),
                    Err(_) => break,
                }
            } else {
                match wait::for_future(queue.recv()) {
                    Some(tasks) => waiting = tasks.into_iter(),
                    None => return Ok(()),
                }
            }
        }
        scheduler.step()?;
    }
}

fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.map_err(|cause| Error::input(format!("starting threads: {cause}")))
}

/// Listens on the address of the settings.
fn listen(runtime: &Runtime, settings: &Settings) -> Result<TcpListener> {
    let Settings { host, port, .. } = *settings;
    if !host.is_loopback() && settings.key.is_none() {
        return Err(Error::usage(format!(
            "{} {host} can be reached from other machines, and there is no key",
            field("host")
        ))
        .hint(format!(
            "write a long random text into a file and name it with {}",
            field("api_key_file")
        )));
    }
    let address = SocketAddr::new(host, port);
    let _in_runtime = runtime.enter();
    let listener = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    listener.map_err(|cause| {
        Error::input(format!("listening on {address}: {cause}")).hint(format!(
            "choose another one with {}, such as 0 for any that is free",
            field("port")
        ))
    })
}

/// Takes from a model what texts need.
fn model(
    gpt: &Gpt,
    template: Option<ChatTemplate>,
    settings: &Settings,
    context: usize,
) -> Result<Model> {
    let tokenizer = gpt.tokenizer().cloned().ok_or_else(|| {
        Error::input("the model has no tokenizer to read and write texts with")
            .hint("put its tokenizer.json into its folder")
    })?;
    Ok(Model {
        name: settings.name.clone(),
        created: clock::unix_seconds(),
        context,
        vocab_size: gpt.config().vocab_size,
        end: gpt.end_of_text().clone(),
        chat: template.map(|template| Chat::new(template, &tokenizer, context)),
        tokenizer,
    })
}

/// Returns two futures: the first is ready when the process is told to stop, the second when it is told again.
fn signals(runtime: &Runtime) -> Result<[impl Future<Output = ()> + use<>; 2]> {
    let _in_runtime = runtime.enter();
    let (first, stop) = tokio::sync::oneshot::channel::<()>();
    let (second, at_once) = tokio::sync::oneshot::channel::<()>();
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())
            .map_err(|cause| Error::input(format!("listening for SIGTERM: {cause}")))?
    };
    runtime.spawn(async move {
        for heard in [first, second] {
            #[cfg(unix)]
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            #[cfg(not(unix))]
            let _ = tokio::signal::ctrl_c().await;
            // The server may have ended already.
            let _ = heard.send(());
        }
    });
    let is_heard = |signal: tokio::sync::oneshot::Receiver<()>| async move {
        let _ = signal.await;
    };
    Ok([stop, at_once].map(is_heard))
}

/// Parses the origins that may use the server.
fn origins(origins: &[String]) -> Result<Vec<HeaderValue>> {
    let parse = |origin: &String| {
        HeaderValue::from_str(origin)
            .map_err(|_| Error::usage(format!("{} {origin:?} is no origin", field("allow_origin"))))
    };
    origins.iter().map(parse).collect()
}

/// Returns all routes, each behind the guard.
fn routes(app: Arc<App>, train_page: Option<Router<Arc<App>>>, origins: &[HeaderValue]) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE]);
    let failed = |_| {
        let message = "the server failed while it answered this request";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
    };
    let routes = Router::new()
        .route("/v1/completions", post(completions::post))
        .route("/v1/chat/completions", post(chat::post))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(one_model))
        .route("/tokenize", post(texts::tokenize))
        .route("/detokenize", post(texts::detokenize))
        .route("/tokenizer_info", get(texts::info))
        .route("/metrics", get(measured))
        .route(HEALTH, get(health))
        .route("/", get(page::get))
        .merge(train_page.unwrap_or_default())
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(CatchPanicLayer::custom(failed))
        .layer(from_fn_with_state(Arc::clone(&app), guard::key));
    let routes = if origins.is_empty() { routes } else { routes.layer(cors) };
    routes
        .layer(from_fn_with_state(Arc::clone(&app), guard::host))
        .layer(map_response(no_sniffing))
        .layer(from_fn_with_state(Arc::clone(&app), guard::count))
        .with_state(app)
}

/// Tells browsers to take every answer for what it says it is.
async fn no_sniffing(mut response: Response) -> Response {
    let name = header::X_CONTENT_TYPE_OPTIONS;
    response.headers_mut().insert(name, HeaderValue::from_static("nosniff"));
    response
}

async fn unknown_route(method: Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("there is no {method} {}", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, message).code("unknown_url")
}

async fn unknown_method(method: Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{} is not there for {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn measured(State(app): State<Arc<App>>) -> Response {
    app.count_waiting();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response()
}

/// Describes a model as the list of models does.
fn described(model: &Model) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "wgpt",
        "max_model_len": model.context,
    })
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [described(&app.model)] }))
}

async fn one_model(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> ApiResult<Json<Value>> {
    app.model.check_name(Some(&name))?;
    Ok(Json(described(&app.model)))
}
