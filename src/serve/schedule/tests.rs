use std::sync::{Arc, Mutex};

use super::*;
use crate::backend::Device;
use crate::config::GptConfig;
use crate::generate::{GenerateOptions, generate};
use crate::model::Uses;

/// What a listener has heard.
#[derive(Default)]
struct Heard {
    tokens: Vec<u32>,
    scores: Vec<Scored>,
    prompt: Vec<Scored>,
    end: Option<Finish>,
    failure: Option<String>,
    is_gone: bool,
    panics: bool,
}

#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Heard>>);

impl Ear {
    fn get<T>(&self, see: impl FnOnce(&mut Heard) -> T) -> T {
        see(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn is_over(&self) -> bool {
        self.get(|heard| heard.end.is_some() || heard.failure.is_some())
    }
}

impl Listener for Ear {
    fn hear(&mut self, news: News) {
        self.get(|heard| match news {
            News::Token(..) if heard.panics => panic!("the listener fails on purpose"),
            News::Token(id, scored) => {
                heard.tokens.push(id);
                heard.scores.extend(scored);
            }
            News::Prompt(scores) => heard.prompt = scores,
            News::Ends(finish) => heard.end = Some(finish),
            News::Fails(error) => heard.failure = Some(error.to_string()),
        });
    }

    fn is_gone(&self) -> bool {
        self.get(|heard| heard.is_gone)
    }
}

const VOCABULARY: usize = 40;
const CONTEXT: usize = 150;

fn engine(slots: usize) -> Engine {
    let config = GptConfig {
        n_layer: 2,
        n_head: 3,
        n_embd: 24,
        vocab_size: VOCABULARY,
        n_positions: CONTEXT,
        ..GptConfig::small()
    };
    let uses = Uses { generation: Some(slots), serving: true, ..Uses::default() };
    let mut engine = Engine::new(&config, uses, &Device::Cpu).expect("the host has room");
    engine.initialize(7);
    engine
}

/// A prompt of `count` tokens; those of one number begin alike.
fn prompt(number: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i + 7 * i * number + number) % VOCABULARY) as u32).collect()
}

fn task(prompt: Vec<u32>, seed: u64, max_tokens: usize) -> (Task, Ear) {
    let ear = Ear::default();
    let options = GenerateOptions { max_tokens, seed, ..GenerateOptions::default() };
    let listener = Box::new(ear.clone());
    let task = Task { prompt, options, ends: Arc::new([]), top: None, scores: None, listener };
    (task, ear)
}

/// The new tokens of a task that runs alone, by the generator that has no scheduler.
fn alone(prompt: &[u32], seed: u64, max_tokens: usize) -> Vec<u32> {
    let options = GenerateOptions { max_tokens, seed, ..GenerateOptions::default() };
    generate(&mut engine(1), prompt, &options, &[], |_| Ok(true)).expect("the host is there")
}

/// Runs tasks, each as soon as there is room for it; returns the number of replays.
fn run(scheduler: &mut Scheduler<'_>, tasks: impl IntoIterator<Item = Task>) -> usize {
    let mut tasks = tasks.into_iter();
    let mut steps = 0;
    loop {
        while scheduler.has_room()
            && let Some(task) = tasks.next()
        {
            scheduler.begin(task);
        }
        if !scheduler.is_busy() {
            return steps;
        }
        scheduler.step().expect("the host is there");
        steps += 1;
        assert!(steps < 10_000, "the tasks never end");
    }
}

/// Long and short prompts, many that begin alike, more than there are slots: each gets the tokens that it gets alone.
#[test]
fn a_task_gets_what_it_gets_alone() {
    let (mut engine, metrics) = (engine(3), Metrics::new());
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let prompts =
        [(1, 100), (1, 70), (2, 3), (1, 100), (2, 90), (3, 1), (1, 120), (2, 91), (2, 40)];
    let made = prompts.into_iter().enumerate().map(|(i, (number, count))| {
        let (mut task, ear) = task(prompt(number, count), i as u64, 12);
        // Some have no likeness to take over, since every one of their rows is wanted.
        task.scores = (i % 4 == 3).then_some(0);
        (task, ear)
    });
    let (tasks, ears): (Vec<_>, Vec<_>) = made.unzip();
    run(&mut scheduler, tasks);
    for (i, ((number, count), ear)) in prompts.into_iter().zip(&ears).enumerate() {
        let expected = alone(&prompt(number, count), i as u64, 12);
        assert_eq!(ear.get(|heard| heard.tokens.clone()), expected, "task {i}");
        assert_eq!(ear.get(|heard| heard.end), Some(Finish::Length), "task {i}");
    }
    // Of the second, the seventh and the ninth prompt.
    assert_eq!(metrics.reused_tokens.get(), 69 + 100 + 39);
}

/// Sequences of one prompt that begin together read it once.
#[test]
fn one_prompt_is_read_once() {
    let (mut engine, metrics) = (engine(4), Metrics::new());
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let (tasks, ears): (Vec<_>, Vec<_>) = (0..4).map(|seed| task(prompt(5, 129), seed, 4)).unzip();
    // Two replays read 128 tokens, the third has the last token of each sequence, and the others draw three more.
    assert_eq!(run(&mut scheduler, tasks), 3 + 3);
    assert_eq!(metrics.reused_tokens.get(), 3 * 128);
    for (seed, ear) in ears.iter().enumerate() {
        let expected = alone(&prompt(5, 129), seed as u64, 4);
        assert_eq!(ear.get(|heard| heard.tokens.clone()), expected);
    }
}

/// The next turn of a chat goes on in the slot of the one before, and what was free for the longest time is given away first.
#[test]
fn a_longer_prompt_goes_on_where_the_shorter_one_is() {
    let (mut engine, metrics) = (engine(2), Metrics::new());
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let (first, ear) = task(prompt(1, 30), 1, 10);
    run(&mut scheduler, [first]);
    let (other, _) = task(prompt(2, 30), 1, 10);
    run(&mut scheduler, [other]);
    // The last token that was drawn has no keys and values yet.
    let longer = [prompt(1, 30), ear.get(|heard| heard.tokens.clone()), prompt(3, 20)].concat();
    let (next, ear) = task(longer.clone(), 2, 5);
    run(&mut scheduler, [next]);
    assert_eq!(metrics.reused_tokens.get(), 39);
    assert_eq!(ear.get(|heard| heard.tokens.clone()), alone(&longer, 2, 5));
    // Both slots still have what they had.
    let (again, _) = task(prompt(2, 30), 1, 1);
    run(&mut scheduler, [again]);
    assert_eq!(metrics.reused_tokens.get(), 39 + 29);
}

/// A short prompt is answered while a long one is still being read, and those that decode get a token from every replay.
#[test]
fn long_prompts_hold_up_nobody() {
    let (mut engine, metrics) = (engine(3), Metrics::new());
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let (decoding, decoded) = task(prompt(1, 1), 1, 60);
    scheduler.begin(decoding);
    scheduler.step().expect("the host is there");
    let (long, read) = task(prompt(2, 149), 1, 1);
    let (short, answered) = task(prompt(3, 20), 1, 1);
    scheduler.begin(long);
    scheduler.begin(short);
    for step in 0..3 {
        assert_eq!(decoded.get(|heard| heard.tokens.len()), step + 1);
        assert_eq!((read.is_over(), answered.is_over()), (false, step > 0));
        scheduler.step().expect("the host is there");
    }
    assert!(read.is_over());
}

/// More sequences than a small replay has rows take turns.
#[test]
fn sequences_that_decode_take_turns() {
    let (mut engine, metrics) = (engine(24), Metrics::new());
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let (tasks, ears): (Vec<_>, Vec<_>) = (0..24).map(|i| task(prompt(i, 1), 1, 9)).unzip();
    tasks.into_iter().for_each(|task| scheduler.begin(task));
    for step in 1..=6 {
        scheduler.step().expect("the host is there");
        let counts: Vec<usize> =
            ears.iter().map(|ear| ear.get(|heard| heard.tokens.len())).collect();
        assert_eq!(counts.iter().sum::<usize>(), 16 * step);
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{counts:?}");
    }
    while scheduler.is_busy() {
        scheduler.step().expect("the host is there");
    }
    for (i, ear) in ears.iter().enumerate() {
        assert_eq!(ear.get(|heard| heard.tokens.clone()), alone(&prompt(i, 1), 1, 9));
    }
}

/// All rows are shared out as long as somebody needs them, and nobody gets more than it needs.
#[test]
fn rows_are_shared() {
    assert_eq!(share(64, &[(0, 100), (1, 5), (2, 100)]), [(0, 30), (1, 5), (2, 29)]);
    assert_eq!(share(2, &[(4, 9), (1, 9), (2, 9)]), [(4, 1), (1, 1)]);
    assert_eq!(share(64, &[(0, 10)]), [(0, 10)]);
    assert_eq!(share(0, &[(0, 10)]), []);
}

/// Scores are those of the logits after each row, whatever runs beside them, and the token that is drawn greedily is the most
/// probable one to the last bit.
#[test]
fn prompts_and_tokens_are_scored() {
    let (mut engine, metrics) = (engine(3), Metrics::new());
    let ids = prompt(4, 100);
    engine.begin_sequence(0);
    engine.write_sequence(0, 0, &ids);
    let mut expected = vec![];
    for position in 0..ids.len() {
        let draw = Some(crate::kernel::Draw::default());
        engine.extend(&[Feed { slot: 0, position, count: 1, draw }]);
        let logits = engine.read_logits(0).expect("the host is there");
        expected.push(logits);
    }
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let scored = |scores, max_tokens| {
        let (mut task, ear) = task(ids.clone(), 1, max_tokens);
        (task.scores, task.top, task.options.temperature) = (Some(scores), Some(1), 0.0);
        (task, ear)
    };
    let ((first, one), (second, none)) = (scored(3, 1), scored(0, 0));
    let (beside, _) = task(prompt(2, 80), 3, 9);
    run(&mut scheduler, [beside, first, second]);
    let pairs = || expected.iter().zip(&ids[1..]);
    let of = |top| pairs().map(|(logits, id)| Scored::of(logits, *id, top)).collect::<Vec<_>>();
    assert_eq!(one.get(|heard| heard.prompt.clone()), of(3));
    assert_eq!(none.get(|heard| heard.prompt.clone()), of(0));
    let last = |top, id| Scored::of(&expected[99], id, top);
    let id = one.get(|heard| heard.tokens[0]);
    assert_eq!(one.get(|heard| heard.scores.clone()), [last(1, id)]);
    assert_eq!(one.get(|heard| heard.scores[0].top[0]), (id, last(1, id).logprob));
    assert_eq!(none.get(|heard| (heard.tokens.len(), heard.end)), (0, Some(Finish::Length)));
    // All rows are computed again, although a slot holds them.
    let (third, again) = scored(2, 1);
    run(&mut scheduler, [third]);
    assert_eq!(again.get(|heard| heard.prompt.clone()), of(2));
}

/// A text ends with a token that ends texts, or where the context does.
#[test]
fn texts_end() {
    let (mut engine, metrics) = (engine(2), Metrics::new());
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let tokens = alone(&prompt(1, 5), 1, 20);
    let (mut stops, stopped) = task(prompt(1, 5), 1, 20);
    stops.ends = Arc::new([tokens[7]]);
    let (fills, filled) = task(prompt(2, CONTEXT - 3), 1, 20);
    let (full, one) = task(prompt(3, CONTEXT), 1, 20);
    run(&mut scheduler, [stops, fills, full]);
    let first = tokens.iter().position(|token| *token == tokens[7]).expect("it is there");
    assert_eq!(stopped.get(|heard| heard.tokens.clone()), tokens[..=first]);
    assert_eq!(stopped.get(|heard| heard.end), Some(Finish::Stop));
    let lengths = [&filled, &one].map(|ear| ear.get(|heard| (heard.tokens.len(), heard.end)));
    assert_eq!(lengths, [(4, Some(Finish::Length)), (1, Some(Finish::Length))]);
}

/// A task to which nobody listens frees its slot before the next token; one in the queue never begins.
#[test]
fn who_leaves_frees_the_slot() {
    let (mut engine, metrics) = (engine(1), Metrics::new());
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let (task_1, ear) = task(prompt(1, 5), 1, 100);
    scheduler.begin(task_1);
    scheduler.step().expect("the host is there");
    ear.get(|heard| heard.is_gone = true);
    scheduler.step().expect("the host is there");
    assert_eq!(ear.get(|heard| heard.tokens.len()), 1);
    assert!(scheduler.has_room() && !scheduler.is_busy());
    let (task_2, ear) = task(prompt(1, 5), 1, 100);
    ear.get(|heard| heard.is_gone = true);
    scheduler.begin(task_2);
    assert!(!scheduler.is_busy());
}

/// A fault in one task ends that task alone, and the server goes on.
#[test]
fn a_panic_ends_one_task() {
    let (mut engine, metrics) = (engine(2), Metrics::new());
    let mut scheduler = Scheduler::new(&mut engine, &metrics);
    let (good, ear) = task(prompt(1, 5), 1, 10);
    let (panics, other) = task(prompt(2, 5), 1, 10);
    other.get(|heard| heard.panics = true);
    let (wrong, third) = task(vec![1, VOCABULARY as u32], 1, 10);
    run(&mut scheduler, [good, panics, wrong]);
    assert_eq!(ear.get(|heard| heard.tokens.clone()), alone(&prompt(1, 5), 1, 10));
    let failures = [&other, &third].map(|ear| ear.get(|heard| heard.failure.clone()));
    assert!(failures.iter().all(Option::is_some), "{failures:?}");
    assert!(scheduler.has_room());
}
