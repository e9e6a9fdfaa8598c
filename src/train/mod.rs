//! Training: updates from batches, evaluation, saves; a killed run resumes bit for bit.
//!
//! A step depends only on the seed and its own number (batches, dropout), so the whole state consists of parameters,
//! moments, the device's counters and a few numbers.

mod agree;
mod apart;
mod chats;
mod choice;
mod collect;
pub mod curve;
mod encoded;
mod evaluate;
mod halves;
mod kinds;
mod local;
mod profiling;
mod ranks;
pub mod report;
mod saves;
pub mod settings;
mod shares;
mod stages;
mod start;
mod text;
mod together;
mod update;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::Ticket;
use crate::checkpoint::{BaseSample, Metrics, RunDir, TensorFile, TrainState};
use crate::clock::Stopwatch;
use crate::config::TrainConfig;
use crate::data::{Split, Tokens};
use crate::dist::{Alone, Layout, Link, Times};
use crate::engine::{Engine, MicroBatch};
use crate::error::Result;
use crate::fit::Programs;
use crate::gpt::Gpt;
use crate::kernel::state;
use crate::model::{self, Uses};
use crate::params::ParamInfo;

use apart::Apart;
use profiling::Profiling;

pub use chats::Conversations;
pub use choice::TokenizerChoice;
pub use profiling::RankTimes;
pub use ranks::{finished, give_up, join};
pub use report::{Event, StepReport, Summary};
pub use settings::{Prepared, RunSettings, prepare};
pub use start::{Changes, Resumed, resume, resume_on, start, start_with};

/// The number of consecutive skipped updates after which a run stops.
pub const MAX_SKIPPED: u32 = 10;

/// The model that a run begins with.
struct Base {
    folder: PathBuf,
    /// A few of its numbers, where the run trains adapters.
    sample: Option<BaseSample>,
}

/// A training run in progress.
pub struct Trainer {
    gpt: Gpt,
    engine: Engine,
    tokens: Tokens,
    /// What became of the conversations, if the data are such.
    conversations: Option<Conversations>,
    train: Split,
    val: Split,
    config: TrainConfig,
    /// B and T.
    shape: (usize, usize),
    run: Option<RunDir>,
    /// Whether the parameters began as random numbers of the run's seed, which every rank makes for itself.
    is_seeded: bool,
    /// The model that the run began with, to which adapters belong.
    base: Option<Base>,
    /// The checkpoint that the run goes on from.
    restored: Option<PathBuf>,
    state: TrainState,
    metrics: Vec<Metrics>,
    stop: Arc<AtomicBool>,
    /// The update after which the run stops.
    stop_after: usize,
    /// Whether the newest checkpoint has the current state.
    saved: bool,
    /// The buffers of an evaluation's batch.
    batch: MicroBatch,
    /// The buffers of a micro-batch.
    micro_batch: MicroBatch,
    /// Seconds and tokens of training alone in this process, without profiled updates.
    busy: (f64, u64),
    /// The best speed of the device's products, in 10⁹ operations per second, where it was measured.
    best_gflops: Option<f64>,
    profiling: Profiling,
    /// Updates that were made, or are in progress on the device, and are not reported yet, the oldest first.
    unreported: VecDeque<Made>,
    /// The link to the ranks that train together.
    link: Link,
    /// What they add up, where there are several.
    layout: Option<Layout>,
    /// Whether the run stops now, because a rank was told to.
    stops: bool,
    /// How long a micro-batch takes on each rank, in nanoseconds, if this process has measured it.
    rank_times: Vec<u64>,
    /// The time of the exchange between the ranks in this process, without profiled updates.
    times: Times,
    /// The first rank whose gradient was not finite in the last update, where there are several.
    broken: Option<usize>,
    /// What this rank has for local training, once that has begun.
    apart: Option<Apart>,
    /// What the checkpoint has of all ranks for local training, until that begins.
    of_ranks: Vec<TensorFile>,
}

/// An update that was submitted to the device.
struct Made {
    /// The update's number, from 1.
    step: usize,
    /// Tokens trained on up to this update, since the beginning of the run.
    tokens: u64,
    learning_rate: f64,
    /// Whether it is a line of metrics.jsonl.
    logged: bool,
    /// Whether it had a target that counts; otherwise it was left out.
    applied: bool,
    /// The request for its results, if they are read.
    ticket: Option<Ticket>,
}

/// The tasks that are due after an update.
#[derive(Clone, Copy)]
struct Due {
    logs: bool,
    syncs: bool,
    evaluates: bool,
    saves: bool,
}

fn summary(
    state: &TrainState,
    steps: usize,
    config: &TrainConfig,
    run_dir: Option<PathBuf>,
) -> Summary {
    Summary {
        steps,
        train_loss: state.train_loss,
        val_loss: state.val_loss,
        best_val_loss: state.best_val_loss,
        skipped: state.device_words.get(state::SKIPPED).copied().unwrap_or(0),
        tokens_per_s: if state.seconds > 0.0 { state.tokens as f64 / state.seconds } else { 0.0 },
        seconds: state.seconds,
        run_dir,
        rank_shares: config.rank_shares.clone(),
        ended_early: state.ended,
        conversations: None,
        finished: (steps >= config.max_iters || state.ended) && state.unevaluated.is_none(),
    }
}

impl Trainer {
    /// Creates a run over token ids, the last of which are for validation: a tenth, but at most `val_tokens`. Of conversations it is
    /// the last tenth of them. See [`Tokens::split`].
    ///
    /// # Errors
    ///
    /// If a setting is out of range, there are too few tokens, an id is outside the model's vocabulary,
    /// or the device cannot hold the model.
    pub fn new(gpt: Gpt, tokens: Tokens, config: TrainConfig) -> Result<Trainer> {
        Trainer::with(gpt, tokens, config, &mut Programs::default())
    }

    /// Does the same as [`Trainer::new`], with programs that were recorded before.
    fn with(
        mut gpt: Gpt,
        tokens: Tokens,
        config: TrainConfig,
        programs: &mut Programs,
    ) -> Result<Trainer> {
        config.validate(gpt.config())?;
        model::check_finetune(gpt.config(), &config.finetune)?;
        tokens.check(gpt.config().vocab_size)?;
        let uses = Uses::training(&config, gpt.config());
        let shape = (uses.batch, uses.seq);
        let (train, val) = tokens.split(config.val_tokens);
        let train = Split::new(&tokens, train, shape.1, shape.1)?;
        let val = Split::new(&tokens, val, shape.1, 1)?;
        gpt.set_dropout(config.dropout);
        gpt.set_precision(config.precision);
        let limits = gpt.device().limits();
        let program = programs.of(gpt.config(), uses, &config.finetune, limits).clone();
        let is_seeded = gpt.seed() == Some(config.seed);
        let mut engine = gpt.take_engine(program)?;
        engine.initialize_adapters(config.seed);
        let rows = shape.0 * shape.1;
        let buffers = MicroBatch {
            tokens: vec![0; rows],
            targets: vec![0; rows],
            starts: if tokens.are_conversations() { vec![0; rows] } else { vec![] },
            ..MicroBatch::default()
        };
        Ok(Trainer {
            gpt,
            engine,
            train,
            val,
            shape,
            run: None,
            is_seeded,
            base: None,
            restored: None,
            state: TrainState {
                seed: config.seed,
                data_fingerprint: tokens.fingerprint(),
                ..TrainState::default()
            },
            tokens,
            conversations: None,
            metrics: vec![],
            stop: Arc::default(),
            stop_after: usize::MAX,
            saved: false,
            batch: buffers.clone(),
            micro_batch: buffers,
            busy: (0.0, 0),
            best_gflops: None,
            profiling: Profiling::default(),
            unreported: VecDeque::new(),
            link: Link::new(Box::new(Alone), 1),
            layout: None,
            stops: false,
            rank_times: vec![],
            times: Times::default(),
            broken: None,
            apart: None,
            of_ranks: vec![],
            config,
        })
    }

    /// Returns a flag that ends the run after the current step when it is set, from any thread; finished updates are
    /// saved. An unfinished evaluation is left to the resumed run. On a GPU, whose updates are reported when they are
    /// done, a few more updates may be in progress than were reported.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Ends the run after update number `step`, counted from 1, as if the flag were set at that moment.
    pub fn stop_after(&mut self, step: usize) {
        self.stop_after = step;
    }

    /// Returns the number of updates that were made.
    pub fn steps_made(&self) -> usize {
        self.state.step as usize
    }

    /// Returns the engine, for example to read the parameters during a run.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Returns the first token of the data, with which a text can begin if no token begins texts.
    pub fn first_token(&self) -> u32 {
        let mut first = [0];
        self.tokens.copy_to(0..1, &mut first);
        first[0]
    }

    /// Whether it is trained on conversations.
    pub fn learns_conversations(&self) -> bool {
        self.tokens.are_conversations()
    }

    /// Returns the model: its sizes, tokenizer and device; the parameters are in the trainer's engine.
    pub fn model(&self) -> &Gpt {
        &self.gpt
    }

    /// Returns the trained model. In mixed precision some parameters have the precision of products: those of other ranks, where
    /// ranks split the parameters in single precision (ZeRO), and below adapters the model's own matrices. Load a saved
    /// model for all of their digits.
    pub fn into_model(self) -> Gpt {
        let mut gpt = self.gpt;
        gpt.set_context(self.engine.program().uses.context);
        gpt.put_engine(self.engine);
        gpt
    }

    /// Makes the remaining updates, evaluates and saves during them, and at the end evaluates the whole validation
    /// split.
    ///
    /// # Errors
    ///
    /// If several consecutive updates were skipped, the loss is not finite at the end, a file cannot be written, or the
    /// device is lost.
    pub fn run(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<Summary> {
        let first_step = self.state.step as usize;
        self.settle_halves(on_event)?;
        self.begin_apart()?;
        let all = model::schema(self.gpt.config(), &self.config.finetune).parameters;
        let trained = all.iter().filter(|info| self.config.finetune.trains(&info.name, info.role));
        on_event(&Event::Started {
            parameters: all.iter().map(ParamInfo::len).sum(),
            trained: trained.map(ParamInfo::len).sum(),
            device: self.engine.describe(),
            plan_bytes: self.engine.program().plan.total_bytes(),
            run_dir: self.run.as_ref().map(|run| run.path().to_owned()),
            first_step,
            train_tokens: self.train.len(),
            val_tokens: self.val.len(),
        });
        self.say_shares().into_iter().for_each(|line| on_event(&Event::Note(line)));
        if let Some(metrics) = self.state.unevaluated.take() {
            self.after_update(metrics, on_event)?;
        }
        self.agree_to_stop()?;
        for iter in first_step..self.config.max_iters {
            if self.stops_now() || self.state.ended {
                break;
            }
            self.step(iter, on_event)?;
        }
        self.report_made(0, on_event)?;
        if self.stops_now() {
            self.save(on_event)?;
        }
        let path = self.run.as_ref().map(|run| run.path().to_owned());
        let summary = summary(&self.state, self.state.step as usize, &self.config, path);
        Ok(Summary { conversations: self.conversations.map(Box::new), ..summary })
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.state.step as usize >= self.stop_after
    }

    /// One update, and what is due after it.
    ///
    /// The report of an update is requested, and taken when it is ready: meanwhile the device makes the next updates.
    /// Only tasks on the host, an evaluation or a save, wait for it.
    fn step(&mut self, iter: usize, on_event: &mut dyn FnMut(&Event)) -> Result<()> {
        let (step, due) = (iter + 1, self.due_after(iter + 1));
        let run_ahead = self.engine.run_ahead().max(1);
        let full = step.is_multiple_of(run_ahead);
        let reads = due.logs || due.syncs || due.evaluates || due.saves || full;

        let learning_rate = self.config.learning_rate_at(iter);
        let profiles = self.profiling.left > 0 && self.busy.1 > 0;
        if profiles && self.profiling.done == 0 {
            self.start_profile()?;
        }
        // What evaluations and saves take is no time of training.
        self.link.take_times();
        let clock = Stopwatch::start();
        let applied = self.update(iter, learning_rate)?;
        let ticket = (reads && applied).then(|| self.engine.request_update());
        let tokens = self.tokens_an_update();
        self.state.step = step as u64;
        self.state.data_position = step as u64;
        self.state.tokens += tokens;
        self.saved = false;
        // Ranks that train on their own speak to each other only at a sync.
        if self.apart.is_none() {
            self.agree_to_stop()?;
        }
        if profiles {
            self.profiled();
            self.state.seconds += clock.seconds();
        } else {
            self.spend(clock.seconds());
            self.busy.1 += tokens;
            self.count_times();
        }
        let tokens = self.state.tokens;
        let made = Made { step, tokens, learning_rate, logged: due.logs, applied, ticket };
        self.unreported.push_back(made);
        if !due.syncs && !due.evaluates && !due.saves {
            return self.report_made(self.engine.reads_ahead(), on_event).map(drop);
        }
        let metrics = self.report_made(0, on_event)?;
        if due.syncs {
            self.sync()?;
        }
        metrics.map_or(Ok(()), |metrics| self.after_update(metrics, on_event))
    }

    /// Returns the tasks that are due after update number `step`.
    fn due_after(&self, step: usize) -> Due {
        let due = |every: usize| self.config.is_due(every, step);
        Due {
            logs: due(self.config.log_every) || step == 1,
            syncs: self.config.local.is_some_and(|local| due(local.sync_every)),
            evaluates: due(self.config.eval_every),
            saves: due(self.config.save_every),
        }
    }

    /// Adds to the time of training alone.
    fn spend(&mut self, seconds: f64) {
        self.busy.0 += seconds;
        self.state.seconds += seconds;
    }

    /// Reports the finished updates, in order, and waits until at most `most` are unreported. Returns the last one's
    /// line if it is not written yet, because an evaluation belongs to it.
    fn report_made(
        &mut self,
        most: usize,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Option<Metrics>> {
        let mut open = None;
        while let Some(made) = self.unreported.front() {
            let is_done = made.ticket.as_ref().is_none_or(|ticket| self.engine.is_ready(ticket));
            if !is_done && self.unreported.len() <= most {
                break;
            }
            let made = self.unreported.pop_front().expect("it was looked at");
            open = self.report_one(made, on_event)?;
        }
        Ok(open)
    }

    /// Reports an update; waits for it.
    fn report_one(
        &mut self,
        made: Made,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Option<Metrics>> {
        let Made { step, tokens, learning_rate, logged, applied, ticket } = made;
        let clock = Stopwatch::start();
        let update = ticket.map(|ticket| self.engine.take_update(ticket)).transpose()?;
        self.spend(clock.seconds());
        if !applied {
            on_event(&Event::NothingToLearn { step });
        }
        let tokens_per_s = self.busy.1 as f64 / self.busy.0.max(1e-9);
        let report = StepReport {
            step,
            steps: self.config.max_iters,
            tokens,
            loss: update.map(|update| update.loss),
            learning_rate,
            grad_norm: update.map(|update| update.grad_norm),
            tokens_per_s,
            mfu: self.mfu(tokens_per_s / self.link.grid().size as f64),
            exchange: self.exchange(),
            broken_rank: self.broken,
            logged,
            skipped: update.map_or(0, |update| update.state[state::SKIPPED]),
        };
        on_event(&Event::Step(report));
        if let Some(update) = update {
            self.state.device_words = update.state.to_vec();
            let skipped = update.state[state::SKIPPED_IN_A_ROW];
            match &mut self.apart {
                // The ranks end together, at the next sync.
                Some(apart) => apart.most_skipped = apart.most_skipped.max(skipped),
                None => self.check(&update, step)?,
            }
        }
        let due = self.due_after(step);
        if due.evaluates || due.saves {
            return Ok(Some(report.metrics()));
        }
        if logged {
            self.log(report.metrics())?;
        }
        Ok(None)
    }

    /// Evaluates, writes the line of the log, and saves, where they are due. If an evaluation is cut short, all of them
    /// are left for later.
    fn after_update(
        &mut self,
        mut metrics: Metrics,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        let done = self.state.step as usize;
        let (due, last) = (self.due_after(done), done == self.config.max_iters);
        if due.evaluates {
            metrics.val_loss = self.evaluate(last, on_event)?;
            if metrics.val_loss.is_none() {
                self.state.unevaluated = Some(metrics);
                return Ok(());
            }
        }
        if due.evaluates || due.logs {
            self.log(metrics)?;
        }
        if last && self.state.val_loss.is_none() {
            return Err(self.diverged(&format!(
                "the validation loss is not finite after {done} updates, {} of them skipped since a loss or gradient was not",
                metrics.skipped
            )));
        }
        if due.saves || self.state.ended {
            self.save(on_event)?;
        }
        Ok(())
    }

    fn log(&mut self, metrics: Metrics) -> Result<()> {
        self.state.train_loss = metrics.loss.map(f64::from);
        self.metrics.push(metrics);
        match &self.run {
            Some(run) => run.append_metrics(&metrics),
            None => Ok(()),
        }
    }
}
