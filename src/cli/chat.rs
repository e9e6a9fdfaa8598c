//! `wgpt chat`: talks with a model in the terminal, or answers the lines of standard input.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::json;
use wgpt::chat::{Asked, Session, Stop};
use wgpt::checkpoint::{EndOfText, TextFiles};
use wgpt::generate::{StopText, generate};
use wgpt::{Error, GenerateOptions, Gpt, Result, files};

use super::interrupt::{self, Running, set_running};
use super::options::{
    ChoiceArgs, DeviceArgs, PrecisionArgs, WeightsArgs, find_model, load, open, with_default,
};
use super::outcome::Outcome;
use super::output;

const EXAMPLES: &str = "\
Examples:
  wgpt chat --model runs/NAME/best
  wgpt chat --model org/name --system \"You answer in one sentence.\" --temperature 0.7
  echo \"What is a quark?\" | wgpt chat --model runs/NAME/best          each line gets a reply, all of them in one chat

In the chat:
  /system TEXT   begin again with this system message; without a text: with none
  /reset         begin again
  /save FILE     add the chat as a line to FILE.jsonl, which `wgpt train --data` reads
  /help          list these
  /exit          end; Ctrl-D does the same
Ctrl-C stops a reply, which stays in the chat as far as it got. A line that ends in \\ goes on in the next one.";

/// Talk with a model that was trained on conversations
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Use this model: a model folder, a run (its best model), a .safetensors or .gguf file, or a name on Hugging Face's hub [default: the newest run in runs/]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Begin with this system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// At most N tokens per reply [default: what the context has room for]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// See at most the last N tokens of the chat [default: the model's context, at most 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    #[arg(long, value_name = "X", help = with_default("Below 1: more likely tokens; above 1: more surprising ones; 0: always the most likely one", TEMPERATURE))]
    temperature: Option<f64>,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[arg(long, value_name = "N", help = with_default("Seed of the random draws", GenerateOptions::default().seed))]
    seed: Option<u64>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    weights: WeightsArgs,
}

/// The default context: caches take memory for all of it.
const CONTEXT: usize = 4096;
/// The default temperature: replies wander less than texts.
const TEMPERATURE: f64 = 0.7;

/// A line of the user.
enum Line<'a> {
    Say(&'a str),
    System(&'a str),
    Reset,
    Save(&'a str),
    Help,
    Exit,
    Unknown(&'a str),
    Nothing,
}

impl Line<'_> {
    fn of(line: &str) -> Line<'_> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Line::Nothing } else { Line::Say(line) };
        };
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match word {
            "system" => Line::System(rest.trim()),
            "reset" => Line::Reset,
            "save" => Line::Save(rest.trim()),
            "help" => Line::Help,
            "exit" | "quit" => Line::Exit,
            _ => Line::Unknown(line),
        }
    }
}

/// A chat in the terminal.
struct Chat {
    gpt: Gpt,
    session: Session,
    options: GenerateOptions,
    max_tokens: Option<usize>,
    /// The tokens that end a reply.
    ends: EndOfText,
    /// Set by Ctrl-C while a reply is written.
    stop: Arc<AtomicBool>,
    /// How many messages the model no longer sees.
    forgotten: usize,
    /// Whether something could not be done.
    failed: bool,
}

/// Talks until the input ends.
///
/// # Errors
///
/// If there is no model, it has no tokenizer or no usable template, or an option is out of range.
pub fn run(args: &Args) -> Result<Outcome> {
    let mut options = GenerateOptions {
        temperature: args.temperature.unwrap_or(TEMPERATURE),
        seed: args.seed.unwrap_or(GenerateOptions::default().seed),
        ..args.choice.options()
    };
    options.validate()?;
    let folder = find_model(args.model.as_deref())?;
    let device = open(args.device.device)?;
    let precision = args.precision.on(&device)?;
    let mut gpt = load(&folder, device)?;
    args.weights.set(&mut gpt, precision)?;
    let tokenizer = gpt.tokenizer().cloned().ok_or_else(|| {
        Error::input(format!("{} has no tokenizer to read messages with", folder.display()))
            .hint("put the model's tokenizer.json there")
    })?;
    let context = args.context.map_or(CONTEXT, |context| context as usize);
    let context = context.min(gpt.config().n_positions);
    gpt.set_context(Some(context));
    let files = TextFiles::read(&folder, gpt.config().vocab_size)?;
    let template = files.chat_template(&tokenizer)?;
    if !files.has_chat_template()? {
        output::log(
            "the model has no chat template and may not know the plain one: train it on conversations first",
        );
    }
    let mut session = Session::new(template, tokenizer, context);
    session.begin_again(args.system.clone());
    let mut ends = gpt.end_of_text().clone();
    match session.stop() {
        Some(Stop::Token(id)) => {
            ends = EndOfText::new(ends.ids().iter().copied().chain([id]).collect(), None);
        }
        Some(Stop::Text(text)) => options.stop.push(text),
        None => {}
    }
    interrupt::catch()?;
    let (max_tokens, stop) = (args.max_tokens, Arc::default());
    let mut chat =
        Chat { gpt, session, options, max_tokens, ends, stop, forgotten: 0, failed: false };
    if io::stdin().is_terminal() {
        chat.talk()?;
        return Ok(Outcome::Good);
    }
    chat.answer_lines()?;
    // A person has seen it, a script must be told.
    Ok(if chat.failed { Outcome::Bad } else { Outcome::Good })
}

impl Chat {
    /// Talks in a terminal, with a line that can be edited and earlier ones at the arrow keys.
    fn talk(&mut self) -> Result<()> {
        let refused = |cause| Error::input(format!("reading from the terminal: {cause}"));
        let mut editor = DefaultEditor::new().map_err(refused)?;
        output::log("/help lists what else there is; Ctrl-D ends the chat.");
        loop {
            let mut text = String::new();
            loop {
                let prompt = if text.is_empty() { "> " } else { ". " };
                match editor.readline(prompt) {
                    Ok(line) => text += &line,
                    Err(ReadlineError::Interrupted) => text.clear(),
                    Err(ReadlineError::Eof) => return Ok(()),
                    Err(cause) => return Err(refused(cause)),
                }
                match text.strip_suffix('\\') {
                    Some(more) => text = format!("{more}\n"),
                    None => break,
                }
            }
            // A line that cannot be kept is only missing at the arrow keys.
            let _ = editor.add_history_entry(text.as_str());
            if !self.heed(&text) {
                return Ok(());
            }
        }
    }

    /// Answers each line of the input.
    fn answer_lines(&mut self) -> Result<()> {
        let mut text = String::new();
        for line in io::stdin().lock().lines() {
            text += &line.map_err(|cause| Error::input(format!("reading the input: {cause}")))?;
            if let Some(more) = text.strip_suffix('\\') {
                text = format!("{more}\n");
                continue;
            }
            if !self.heed(&std::mem::take(&mut text)) {
                break;
            }
        }
        Ok(())
    }

    /// Does what a line says; returns whether to go on. A fault is said, and the chat goes on.
    fn heed(&mut self, line: &str) -> bool {
        let done = match Line::of(line) {
            Line::Nothing => Ok(()),
            Line::Exit => return false,
            Line::Help => {
                let commands = EXAMPLES.split("In the chat:\n").nth(1).unwrap_or_default();
                output::log(commands);
                Ok(())
            }
            Line::Reset => {
                let system = self.session.system().map(str::to_owned);
                self.begin_again(system);
                Ok(())
            }
            Line::System(text) => {
                self.begin_again(Some(text.to_owned()).filter(|text| !text.is_empty()));
                Ok(())
            }
            Line::Save(name) => self.save(name),
            Line::Unknown(line) => {
                Err(Error::usage(format!("{line} is no command")).hint("/help lists them"))
            }
            Line::Say(text) => self.say(text),
        };
        if let Err(error) = done {
            output::error(&error);
            self.failed = true;
        }
        true
    }

    fn begin_again(&mut self, system: Option<String>) {
        output::log(match &system {
            Some(_) => "a new chat, with the system message",
            None => "a new chat",
        });
        self.session.begin_again(system);
        self.forgotten = 0;
    }

    /// Adds the chat to a file, as a line that can be trained on.
    fn save(&self, name: &str) -> Result<()> {
        let messages = self.session.messages();
        if !messages.iter().any(|message| message["role"] == "assistant") {
            return Err(Error::usage(format!("/save {name}: there is no reply to save yet"))
                .hint("say something first"));
        }
        let path = Path::new(name);
        if path.extension().is_none_or(|ending| ending != "jsonl") {
            return Err(Error::usage(format!(
                "/save {name}: wanted the name of a file that ends in .jsonl"
            ))
            .hint("for example /save chats.jsonl"));
        }
        let mut text = match std::fs::read(path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => vec![],
            Err(cause) => return Err(Error::io("reading", path, &cause)),
        };
        if text.last().is_some_and(|byte| *byte != b'\n') {
            text.push(b'\n');
        }
        text.extend(json!({ "messages": messages }).to_string().bytes());
        text.push(b'\n');
        files::write_bytes(path, &text)?;
        output::log(&format!("saved to {name}"));
        Ok(())
    }

    /// Writes the reply to a message.
    fn say(&mut self, text: &str) -> Result<()> {
        let Asked { ids, room, forgotten } = self.session.ask(text)?;
        if forgotten > self.forgotten {
            output::log(&format!(
                "the context is full: the model no longer sees the first {forgotten} messages"
            ));
            self.forgotten = forgotten;
        }
        self.stop.store(false, Ordering::Relaxed);
        set_running(Running::Replying(Arc::clone(&self.stop)));
        let reply = self.reply(&ids, room);
        set_running(Running::Nothing);
        output::line("");
        match reply {
            Ok(reply) if !reply.is_empty() => self.session.reply(&reply),
            Ok(_) => self.session.take_back(),
            Err(error) => {
                self.session.take_back();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Streams a reply, and returns it.
    fn reply(&mut self, ids: &[u32], room: usize) -> Result<String> {
        let tokenizer = self.gpt.tokenizer().cloned().expect("it was looked at");
        let most = self.max_tokens.map_or(room, |most| most.min(room));
        let options = GenerateOptions { max_tokens: most, ..self.options.clone() };
        // The next reply to the same words is another one.
        self.options.seed = self.options.seed.wrapping_add(1);
        let (ends, stop) = (self.ends.clone(), Arc::clone(&self.stop));
        let mut decoder = tokenizer.decode_stream_after(ids);
        let (mut held, mut reply) = (StopText::new(options.stop.clone()), String::new());
        let mut show = |piece: &str| {
            // The blank after the generation prompt is none of the reply.
            let piece = if reply.is_empty() { piece.trim_start() } else { piece };
            output::text(piece);
            reply.push_str(piece);
        };
        generate(self.gpt.engine()?, ids, &options, ends.ids(), |id| {
            // An id beyond the tokenizer has no text.
            if !ends.contains(id) && tokenizer.token_bytes(id).is_some() {
                show(&held.push(&decoder.push(id)?));
            }
            Ok(!held.stopped() && !stop.load(Ordering::Relaxed))
        })?;
        show(&held.push(&decoder.finish()));
        show(&held.finish());
        Ok(reply.trim_end().to_owned())
    }
}
