//! Answers to requests for text, whole or streamed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::poll_fn;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::app::App;
use super::body::{apart, read_body};
use super::choice::{Choice, Passes, Piece, Style};
use super::error::{ApiError, ApiResult};
use super::fields::Fields;
use super::model::{Model, Prompt};
use super::schedule::{Finish, News, Task};
use crate::clock::{self, Stopwatch};
use crate::generate::GenerateOptions;
use crate::wait::channels::{Sender, UnboundedReceiver, channel, unbounded_channel};

/// The most choices of one request: prompts times continuations of each.
const MOST_CHOICES: usize = 128;
/// The most stop texts.
const MOST_STOPS: usize = 64;
/// The most alternatives of a token.
pub const MOST_TOP: usize = 20;
/// How many chunks a client may be behind before its answer waits for it.
const CHUNKS_AHEAD: usize = 16;
/// A stream that has nothing to say for so long says that it is alive, so that nobody on the way takes it for dead.
const ALIVE: Duration = Duration::from_secs(15);

/// How an answer is written.
pub trait Form: Send + Sync {
    /// What the answer's `object` is, whole or as a chunk of a stream.
    fn object(&self, is_chunk: bool) -> &'static str;

    /// The beginning of the answer's name.
    fn prefix(&self) -> &'static str;

    /// Writes a whole choice.
    fn choice(&self, model: &Model, index: usize, piece: &Piece) -> Value;

    /// Writes the part of a choice that a chunk has.
    fn chunk(&self, model: &Model, index: usize, piece: &Piece) -> Value;

    /// Writes the chunk before the first piece of a choice, if there is one.
    fn first_chunk(&self, index: usize) -> Option<Value>;
}

/// A request for text.
pub struct Asked {
    pub prompts: Vec<Prompt>,
    /// The number of continuations of each prompt.
    pub n: usize,
    pub options: GenerateOptions,
    pub style: Style,
    /// How many alternatives of each token are wanted.
    pub top: Option<usize>,
    pub is_streamed: bool,
    pub includes_usage: bool,
    pub form: &'static dyn Form,
}

impl Asked {
    /// Reads what both kinds of requests have: everything but the prompts and the style.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong.
    pub fn of(
        fields: &Fields,
        model: &Model,
        form: &'static dyn Form,
        max_tokens: usize,
    ) -> ApiResult<Asked> {
        let options = options(fields, max_tokens)?;
        let stream_options = fields.object("stream_options")?;
        let style = Style {
            stop: options.stop.clone(),
            ends: model.end.ids().into(),
            echo: false,
            shows: false,
            is_reply: false,
        };
        Ok(Asked {
            prompts: vec![],
            n: fields.count("n", 1, MOST_CHOICES)?.unwrap_or(1),
            options,
            style,
            top: None,
            is_streamed: fields.flag("stream")?,
            includes_usage: stream_options.flag("include_usage")?,
            form,
        })
    }

    /// Checks the number of choices, and the prompts.
    ///
    /// # Errors
    ///
    /// Names what is wrong with `field`.
    pub fn check(&self, model: &Model, field: &str) -> ApiResult<()> {
        let choices = self.prompts.len() * self.n;
        if choices > MOST_CHOICES {
            let message = format!(
                "{} prompts with n = {} are {choices} choices, must be at most {MOST_CHOICES}",
                self.prompts.len(),
                self.n
            );
            return Err(ApiError::field(field, message));
        }
        self.prompts.iter().try_for_each(|prompt| model.check(&prompt.ids, field))
    }

    /// Returns the choices, and their tasks.
    fn begin<'m>(
        &self,
        model: &'m Model,
    ) -> (Vec<Choice<'m>>, Vec<Task>, UnboundedReceiver<(usize, News)>) {
        let (sender, receiver) = unbounded_channel();
        let (mut choices, mut tasks) = (vec![], vec![]);
        for prompt in &self.prompts {
            for sample in 0..self.n {
                let choice = Choice::new(model, prompt.clone(), self.style.clone());
                let listener = Box::new(Passes {
                    choice: choices.len(),
                    sender: sender.clone(),
                    is_complete: Arc::clone(&choice.is_complete),
                });
                tasks.push(Task {
                    prompt: prompt.ids.clone(),
                    options: GenerateOptions { sample: sample as u32, ..self.options.clone() },
                    ends: Arc::clone(&self.style.ends),
                    top: self.top,
                    scores: self.top.filter(|_| self.style.echo),
                    listener,
                });
                choices.push(choice);
            }
        }
        (choices, tasks, receiver)
    }
}

/// Reads how tokens are drawn.
fn options(fields: &Fields, max_tokens: usize) -> ApiResult<GenerateOptions> {
    let default = GenerateOptions::default();
    // -1 stands for all tokens where others take it.
    let top_k = fields.integer("top_k")?.filter(|k| *k != -1).unwrap_or(0);
    let top_k = usize::try_from(top_k).map_err(|_| {
        ApiError::field("top_k", format!("top_k is {top_k}, must be 0 or more, or -1 for all"))
    })?;
    let seed = fields.integer("seed")?.map(i64::cast_unsigned);
    let options = GenerateOptions {
        max_tokens: fields.count("max_tokens", 0, usize::MAX)?.unwrap_or(max_tokens),
        temperature: fields.number("temperature")?.unwrap_or(default.temperature),
        top_k,
        top_p: fields.number("top_p")?.unwrap_or(default.top_p),
        min_p: fields.number("min_p")?.unwrap_or(default.min_p),
        repetition_penalty: fields
            .number("repetition_penalty")?
            .unwrap_or(default.repetition_penalty),
        seed: seed.unwrap_or_else(rand::random),
        sample: 0,
        stop: fields.texts("stop")?,
    };
    if options.stop.len() > MOST_STOPS {
        let message =
            format!("stop has {} texts, at most {MOST_STOPS} are taken", options.stop.len());
        return Err(ApiError::field("stop", message));
    }
    options.validate().map_err(|error| {
        let message = error.to_string();
        // An error about an option begins with its name.
        let name = message.split(' ').next().unwrap_or_default().to_owned();
        ApiError::field(&name, message)
    })?;
    Ok(options)
}

/// What all parts of an answer begin with.
struct Head {
    id: String,
    created: i64,
    model: String,
    form: &'static dyn Form,
}

impl Head {
    fn new(app: &App, form: &'static dyn Form) -> Head {
        let id = format!("{}-{:032x}", form.prefix(), rand::random::<u128>());
        Head { id, created: clock::unix_seconds(), model: app.model.name.clone(), form }
    }

    fn answer(&self, is_chunk: bool, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut answer = json!({
            "id": self.id,
            "object": self.form.object(is_chunk),
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            answer["usage"] = usage;
        }
        answer
    }
}

/// The choices of an answer while they are made.
struct Making<'m> {
    choices: Vec<Choice<'m>>,
    news: UnboundedReceiver<(usize, News)>,
    prompt_tokens: usize,
    clock: Stopwatch,
    app: &'m App,
}

impl<'m> Making<'m> {
    fn begin(app: &'m App, asked: &Asked) -> ApiResult<Making<'m>> {
        let (choices, tasks, news) = asked.begin(&app.model);
        app.submit(tasks)?;
        let prompt_tokens = asked.prompts.iter().map(|prompt| prompt.ids.len()).sum();
        Ok(Making { choices, news, prompt_tokens, clock: Stopwatch::start(), app })
    }

    /// Waits for the next piece; `None` if there are no more.
    async fn next(&mut self) -> ApiResult<Option<(usize, Piece)>> {
        loop {
            if self.choices.iter().all(Choice::is_over) {
                self.app.metrics.request_s.observe(self.clock.seconds());
                return Ok(None);
            }
            let Some((index, news)) = self.news.recv().await else {
                return Err(ApiError::stopping());
            };
            let is_first = matches!(news, News::Token(..)) && self.new_tokens() == 0;
            if is_first {
                self.app.metrics.first_token_s.observe(self.clock.seconds());
            }
            let piece = self.choices[index].hear(news).map_err(|e| ApiError::internal(&e))?;
            if !piece.is_empty() {
                return Ok(Some((index, piece)));
            }
        }
    }

    fn new_tokens(&self) -> usize {
        self.choices.iter().map(|choice| choice.new).sum()
    }

    fn usage(&self) -> Value {
        let (prompt, new) = (self.prompt_tokens, self.new_tokens());
        json!({ "prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new })
    }
}

impl Drop for Making<'_> {
    /// Counts the choices that are not complete: their client has left.
    fn drop(&mut self) {
        let left = self.choices.iter().filter(|choice| !choice.is_over()).count();
        self.app.metrics.abandoned.inc_by(left as u64);
    }
}

/// Answers a request, of whose body `read` makes what is asked.
///
/// # Errors
///
/// Those of `read`, and if the queue is full, the server is stopping, or the model fails.
pub async fn respond(
    app: Arc<App>,
    request: Request,
    read: fn(&Model, &[u8]) -> ApiResult<Asked>,
) -> ApiResult<Response> {
    let body = read_body(request).await?;
    let asked = apart(&app, move |app| read(&app.model, &body)).await?;
    answer(app, asked).await
}

/// Answers what is asked, whole or as a stream.
async fn answer(app: Arc<App>, asked: Asked) -> ApiResult<Response> {
    if asked.is_streamed {
        return stream(app, asked).await;
    }
    let head = Head::new(&app, asked.form);
    let mut making = Making::begin(&app, &asked)?;
    let mut whole = vec![Piece::default(); making.choices.len()];
    while let Some((index, piece)) = making.next().await? {
        whole[index].add(piece);
    }
    let choices = whole.iter().enumerate();
    let choices = choices.map(|(i, piece)| asked.form.choice(&app.model, i, piece)).collect();
    Ok(Json(head.answer(false, choices, Some(making.usage()))).into_response())
}

/// Answers a request in chunks, each as soon as it is there.
async fn stream(app: Arc<App>, asked: Asked) -> ApiResult<Response> {
    let (out, mut chunks) = channel::<Bytes>(CHUNKS_AHEAD);
    // What refuses a request is to be answered before a stream begins.
    let (began, begins) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut making = match Making::begin(&app, &asked) {
            Ok(making) => making,
            Err(error) => return drop(began.send(Err(error))),
        };
        if began.send(Ok(())).is_ok() {
            write_chunks(&app, &asked, &mut making, &out).await;
        }
    });
    begins.await.map_err(|_| ApiError::stopping())??;
    let body = Body::from_stream(poll_fn(move |context| {
        chunks.poll_recv(context).map(|chunk| chunk.map(Ok::<_, Infallible>))
    }));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Writes all chunks; ends early when the client leaves.
async fn write_chunks(app: &App, asked: &Asked, making: &mut Making<'_>, out: &Sender<Bytes>) {
    let head = Head::new(app, asked.form);
    let usage = || asked.includes_usage.then_some(Value::Null);
    let chunk = |choice| event(&head.answer(true, vec![choice], usage()));
    for index in 0..making.choices.len() {
        if let Some(first) = asked.form.first_chunk(index)
            && out.send(chunk(first)).await.is_err()
        {
            return;
        }
    }
    loop {
        let next = tokio::select! {
            () = out.closed() => return,
            next = timeout(ALIVE, making.next()) => next,
        };
        let bytes = match next {
            Err(_) => Bytes::from_static(b": still here\n\n"),
            Ok(Ok(Some((index, piece)))) => chunk(asked.form.chunk(&app.model, index, &piece)),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                let _ = out.send(event(&error.to_json())).await;
                return;
            }
        };
        if out.send(bytes).await.is_err() {
            return;
        }
    }
    if asked.includes_usage {
        // If the client has left, the next one is not received either.
        let _ = out.send(event(&head.answer(true, vec![], Some(making.usage())))).await;
    }
    let _ = out.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
}

/// Writes a server-sent event.
fn event(data: &Value) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// Returns why a choice has ended, as clients read it.
pub fn reason(finish: Option<Finish>) -> Value {
    match finish {
        None => Value::Null,
        Some(Finish::Stop) => "stop".into(),
        Some(Finish::Length) => "length".into(),
    }
}
