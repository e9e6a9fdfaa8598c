//! Does a sequence depend on what is generated beside it? Every logit and every number of a cache, bit by bit, over random
//! schedules; what training and generation do to each other's memory; several continuations at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use wgpt::backend::Device;
use wgpt::config::{Optimizer, Precision};
use wgpt::engine::Engine;
use wgpt::finetune::Lora;
use wgpt::generate::{Event, GenerateOptions, Request, generate, generate_all};
use wgpt::kernel::{Draw, Feed, Step};
use wgpt::model::{EXTENDS, Uses};
use wgpt::ops::random;
use wgpt::plan::{Role, View};
use wgpt::{FineTune, Gpt, GptConfig, TrainConfig};

use crate::common::{full_gpu, gpu};

/// Less room for sequences takes less memory and changes nothing until it is full; training has room for its sequences.
#[test]
fn a_context_may_have_less_room_than_the_models() {
    let config = config([24, 3, 40]);
    for device in [Some(Device::Cpu), gpu().map(|gpu| Device::Gpu(Arc::clone(gpu)))] {
        let Some(device) = device else { continue };
        let options = GenerateOptions { max_tokens: 20, seed: 3, ..GenerateOptions::default() };
        let [whole, part, full] = [None, Some(32), Some(16)].map(|context| {
            let mut gpt = Gpt::new(config.clone(), device.clone(), 11).unwrap();
            gpt.set_context(context);
            let engine = gpt.engine().unwrap();
            let bytes = engine.program().plan.bytes(Role::Cache);
            let new = generate(engine, &[1, 2, 3, 4, 5, 6, 7, 8], &options, &[], |_| Ok(true));
            (bytes, engine.program().context(), new.unwrap())
        });
        assert_eq!((whole.1, part.1, full.1), (70, 32, 16));
        assert_eq!((70 * part.0, 70 * full.0), (32 * whole.0, 16 * whole.0));
        assert_eq!(part.2, whole.2);
        // The 9th new token is the first that more than 16 could see.
        assert_eq!(full.2[..9], whole.2[..9]);
        assert_ne!(full.2[9..], whole.2[9..]);
    }
    let uses =
        Uses::training(&TrainConfig { seq_len: Some(20), ..TrainConfig::default() }, &config);
    assert_eq!(uses.context(&config), 20);
    let uses = Uses::training(&TrainConfig::default(), &config);
    assert_eq!(uses.context(&config), 70);
}

/// Random numbers in order.
struct Random {
    seed: u32,
    drawn: u32,
}

impl Random {
    fn new(seed: u32) -> Random {
        Random { seed, drawn: 0 }
    }

    fn below(&mut self, end: usize) -> usize {
        self.drawn += 1;
        random::threefry([self.seed, 77], [self.drawn, 0])[0] as usize % end
    }
}

fn config([n_embd, n_head, vocab_size]: [usize; 3]) -> GptConfig {
    GptConfig { n_layer: 2, n_head, n_embd, vocab_size, n_positions: 70, ..GptConfig::small() }
}

/// An engine with random parameters, adapters among them.
fn engine(config: &GptConfig, uses: Uses, finetune: &FineTune, device: &Device) -> Engine {
    let mut engine = Engine::tuning(config, uses, finetune, device).expect("the device is there");
    engine.initialize(5);
    let params = Arc::clone(&engine.program().params);
    for param in params.iter() {
        // What begins as zero or one would hide what it is multiplied with.
        let random = |i: usize| random::unit(random::threefry([9, 9], [i as u32, 3])[0]) - 0.5;
        engine
            .write_param(param, wgpt::engine::Tensor::Value, |start, out| {
                out.iter_mut().enumerate().for_each(|(i, out)| *out = 0.6 * random(start + i));
                Ok(())
            })
            .expect("the device is there");
    }
    engine
}

/// The caches of all layers.
fn caches(engine: &Engine) -> Vec<View> {
    let plan = &engine.program().plan;
    let stores = plan.dispatches.iter().filter(|d| d.kernel.name == "attention_extend_store");
    let mut views: Vec<View> = stores.map(|dispatch| dispatch.args[2]).collect();
    views.truncate(engine.program().config.n_layer);
    views
}

fn bits(numbers: Vec<f32>) -> Vec<u32> {
    numbers.into_iter().map(f32::to_bits).collect()
}

/// The keys and values of the first `length` positions of a slot, layer by layer.
fn cached(engine: &mut Engine, slot: usize, length: usize) -> Vec<Vec<u32>> {
    let GptConfig { n_embd: c, n_positions: s, .. } = engine.program().config;
    let mut all = vec![];
    for view in caches(engine) {
        for side in 0..2 {
            let mut numbers = vec![0.0; length * c];
            let view = view.slice((2 * slot + side) * s * c, length * c);
            engine.backend().read(view, &mut numbers).expect("the device is there");
            all.push(bits(numbers));
        }
    }
    all
}

/// A sequence with its logits after each token and its caches, computed alone, token by token.
struct Alone {
    ids: Vec<u32>,
    logits: Vec<Vec<u32>>,
    cached: Vec<Vec<u32>>,
}

impl Alone {
    fn new(engine: &mut Engine, ids: Vec<u32>) -> Alone {
        engine.begin_sequence(0);
        engine.write_sequence(0, 0, &ids);
        let logits = (0..ids.len()).map(|position| {
            let draw = Some(Draw::default());
            engine.extend(&[Feed { slot: 0, position, count: 1, draw }]);
            bits(engine.read_logits(0).expect("the device is there"))
        });
        let logits = logits.collect();
        let cached = cached(engine, 0, ids.len());
        Alone { ids, logits, cached }
    }
}

/// A sequence that begins with a copy of another slot's, or with what its own slot held, goes on as if all of it had been
/// computed; and every row of a replay has the logits that a draw after it would see.
#[test]
fn a_copied_beginning_and_the_logits_of_rows_are_as_if_computed() {
    let config = config([24, 3, 40]);
    let uses = Uses { generation: Some(3), serving: true, ..Uses::default() };
    for device in [Some(Device::Cpu), gpu().map(|gpu| Device::Gpu(Arc::clone(gpu)))] {
        let Some(device) = device else { continue };
        let mut engine = engine(&config, uses, &FineTune::default(), &device);
        let mut random = Random::new(17);
        let mut ids = |count: usize| -> Vec<u32> {
            (0..count).map(|_| random.below(config.vocab_size) as u32).collect()
        };
        let first = Alone::new(&mut engine, ids(60));
        for (kept, to) in [(37, 2), (60, 1), (1, 1), (23, 0)] {
            let other = Alone::new(&mut engine, [&first.ids[..kept], &ids(9)].concat());
            // The first one's sequence again, since both were computed in its slot.
            engine.prefill(0, &first.ids, Draw::default());
            match to {
                0 => engine.begin_sequence_after(0, kept, &other.ids),
                _ => {
                    engine.begin_sequence_after(to, 0, &other.ids);
                    engine.copy_sequence(0, to, kept);
                }
            }
            engine.write_sequence(to, 0, &other.ids);
            let feed = |slot, position, count| Feed { slot, position, count, draw: None };
            // The rows of another sequence lie before those that go on.
            let beside = if to == 0 { 1 } else { 0 };
            engine.write_sequence(beside, 0, &first.ids);
            engine.extend(&[feed(beside, 0, 3), feed(to, kept, 9)]);
            let logits = engine.row_logits(2..12).expect("the device is there");
            let expected = [&first.logits[2..3], &other.logits[kept..]].concat();
            for (row, (got, expected)) in logits.into_iter().zip(expected).enumerate() {
                assert_eq!(bits(got), expected, "row {row} after {kept} in slot {to}");
            }
            assert_eq!(cached(&mut engine, to, kept + 9), other.cached, "{kept} in slot {to}");
        }
    }
}

/// The repetition penalty counts the prompt's tokens: the first token is the largest of the logits after it.
#[test]
fn the_prompt_is_penalised() {
    let config = config([12, 2, 11]);
    let uses = Uses { generation: Some(1), ..Uses::default() };
    let mut engine = engine(&config, uses, &FineTune::default(), &Device::Cpu);
    let (penalty, mut changed) = (5.0, 0);
    let largest = |logits: &[f32]| {
        (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("logits") as u32
    };
    for left_out in 0..11_u32 {
        let prompt: Vec<u32> = (0..11).filter(|id| *id != left_out).collect();
        engine.begin_sequence(0);
        engine.prefill(0, &prompt, Draw::default());
        let mut logits = engine.read_logits(0).expect("the device is there");
        let plain = largest(&logits);
        for &id in &prompt {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        let options = GenerateOptions {
            max_tokens: 1,
            temperature: 0.0,
            repetition_penalty: f64::from(penalty),
            ..GenerateOptions::default()
        };
        let got = generate(&mut engine, &prompt, &options, &[], |_| Ok(true)).expect("a token");
        assert_eq!(got, [largest(&logits)], "without {left_out}");
        changed += usize::from(largest(&logits) != plain);
    }
    assert!(changed > 0, "the penalty changes a token");
}

/// Sequences join and leave slots and are fed in chunks, side by side; returns how many logits were compared.
fn schedule(engine: &mut Engine, known: &[Alone], seed: u32) -> usize {
    let mut random = Random::new(seed);
    let mut slots: Vec<Option<(usize, usize)>> = vec![None; engine.slots()];
    let mut compared = 0;
    for _ in 0..10 {
        for (slot, held) in slots.iter_mut().enumerate() {
            let full = held.is_some_and(|(which, fed)| fed == known[which].ids.len());
            if full || random.below(4) == 0 {
                *held = (random.below(3) > 0).then(|| (random.below(known.len()), 0));
                if let Some((which, _)) = held {
                    engine.begin_sequence(slot);
                    engine.write_sequence(slot, 0, &known[*which].ids);
                }
            }
        }
        let mut room = EXTENDS[random.below(EXTENDS.len())] as usize;
        let mut feeds = vec![];
        let first = random.below(slots.len());
        for i in 0..slots.len() {
            let slot = (first + i) % slots.len();
            let Some((which, fed)) = &mut slots[slot] else { continue };
            let most = room.min(known[*which].ids.len() - *fed);
            if most == 0 || random.below(5) == 0 {
                continue;
            }
            let count = if random.below(2) == 0 { 1 } else { 1 + random.below(most) };
            let draw = (random.below(3) > 0).then(Draw::default);
            feeds.push(Feed { slot, position: *fed, count, draw });
            *fed += count;
            room -= count;
        }
        if feeds.is_empty() {
            continue;
        }
        engine.extend(&feeds);
        for Feed { slot, position, count, .. } in feeds.iter().filter(|feed| feed.draw.is_some()) {
            let (which, _) = slots[*slot].expect("it was fed");
            let got = bits(engine.read_logits(*slot).expect("the device is there"));
            let want = &known[which].logits[position + count - 1];
            assert!(got == *want, "schedule {seed}: sequence {which} after {feeds:?}");
            compared += 1;
        }
    }
    for (slot, held) in slots.iter().enumerate() {
        let Some((which, fed)) = *held else { continue };
        let c = engine.program().config.n_embd;
        let got = cached(engine, slot, fed);
        for (part, (got, want)) in got.iter().zip(&known[which].cached).enumerate() {
            assert!(got[..] == want[..fed * c], "schedule {seed}: cache {part} of slot {slot}");
        }
    }
    compared
}

/// Random schedules of one model on one device, against engines of one slot.
fn schedules(
    device: &Device,
    sizes: [usize; 3],
    precision: Precision,
    finetune: &FineTune,
    count: u32,
) {
    let config = config(sizes);
    // With adapters the engine is one of training: whoever only generates merges them.
    let training = finetune.lora.as_ref().map(|_| Optimizer::Adamw);
    let batch = usize::from(training.is_some());
    let uses = |slots| Uses {
        batch,
        seq: 8 * batch,
        training,
        generation: Some(slots),
        precision,
        ..Uses::default()
    };
    let mut one = engine(&config, uses(1), finetune, device);
    let mut random = Random::new(1);
    let known: Vec<Alone> = [70, 70, 66, 9, 3, 1]
        .map(|len| (0..len).map(|_| random.below(sizes[2]) as u32).collect())
        .map(|ids| Alone::new(&mut one, ids))
        .into();
    let mut several = engine(&config, uses(4), finetune, device);
    let compared: usize = (0..count).map(|seed| schedule(&mut several, &known, seed)).sum();
    assert!(compared as u32 > 5 * count, "{compared} logits compared in {count} schedules");
}

#[test]
fn what_is_beside_a_sequence_changes_no_bit_on_the_cpu() {
    let whole = FineTune::default();
    schedules(&Device::Cpu, [24, 2, 75], Precision::F32, &whole, 200);
    schedules(&Device::Cpu, [14, 2, 33], Precision::F32, &whole, 50);
    schedules(&Device::Cpu, [24, 2, 75], Precision::Mixed, &whole, 20);
}

#[test]
fn what_is_beside_a_sequence_changes_no_bit_on_a_gpu() {
    let Some(device) = full_gpu() else { return };
    let device = Device::Gpu(Arc::clone(device));
    schedules(&device, [24, 2, 75], Precision::F32, &FineTune::default(), 200);
    schedules(&device, [14, 2, 33], Precision::F32, &FineTune::default(), 20);
}

#[test]
fn nor_by_the_portable_kernels_nor_in_half_precision() {
    let Some(portable) = gpu() else { return };
    let whole = FineTune::default();
    schedules(&Device::Gpu(Arc::clone(portable)), [24, 2, 75], Precision::F32, &whole, 30);
    let Some(full) = full_gpu().filter(|gpu| gpu.has().f16) else { return };
    schedules(&Device::Gpu(Arc::clone(full)), [24, 2, 75], Precision::Mixed, &whole, 30);
}

#[test]
fn nor_with_adapters() {
    let lora = Lora { targets: vec!["c_attn".into(), "c_proj".into()], ..Lora::of_rank(3) };
    let finetune = FineTune { lora: Some(lora), ..FineTune::default() };
    let gpu = full_gpu().map(|gpu| Device::Gpu(Arc::clone(gpu)));
    for device in [Device::Cpu].into_iter().chain(gpu) {
        schedules(&device, [24, 2, 75], Precision::F32, &finetune, 20);
    }
}

/// Keys and values lie in the memory of the gradients.
#[test]
fn sequences_and_gradients_do_not_share_memory_unnoticed() {
    let uses = Uses {
        batch: 1,
        seq: 8,
        training: Some(Optimizer::Sgd),
        generation: Some(1),
        ..Uses::default()
    };
    let mut engine = engine(&config([24, 2, 75]), uses, &FineTune::default(), &Device::Cpu);
    let ids: Vec<u32> = (1..9).collect();
    let refusal = |engine: &mut Engine, act: &dyn Fn(&mut Engine)| {
        let panicked = catch_unwind(AssertUnwindSafe(|| act(engine))).expect_err("it is refused");
        panicked
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panicked.downcast_ref::<&str>().map(|text| (*text).to_owned()))
    };
    let feed = |position| Feed { slot: 0, position, count: 1, draw: None };
    engine.begin_sequence(0);
    engine.prefill(0, &ids[..4], Draw::default());
    engine.train_batch(&ids, &ids, (0, 8), Step::default());
    for act in [&|e: &mut Engine| e.begin_sequence(0), &|e: &mut Engine| e.extend(&[feed(0)])]
        as [&dyn Fn(&mut Engine); 2]
    {
        let said = refusal(&mut engine, act).expect("it says why");
        assert!(said.contains("call `Engine::update`"), "{said}");
    }
    engine.update(&Step::default());
    // The sequence is gone with the gradients that came in its place.
    let said = refusal(&mut engine, &|engine| engine.extend(&[feed(4)])).expect("it says why");
    assert!(said.contains("holds 0 positions"), "{said}");
    engine.prefill(0, &ids[..4], Draw::default());
    engine.extend(&[feed(4)]);
}

#[test]
fn what_cannot_be_fed_is_refused() {
    let uses = Uses { generation: Some(2), ..Uses::default() };
    let mut engine = engine(&config([24, 2, 75]), uses, &FineTune::default(), &Device::Cpu);
    let feed = |slot, position, count| Feed { slot, position, count, draw: None };
    let wrong = [
        vec![feed(0, 0, 1), feed(0, 0, 1)],
        vec![feed(2, 0, 1)],
        vec![feed(0, 1, 1)],
        vec![feed(0, 0, 0)],
        vec![feed(0, 0, 71)],
        vec![feed(0, 0, 64), feed(1, 0, 1)],
    ];
    for feeds in wrong {
        engine.begin_sequence(0);
        let panicked = catch_unwind(AssertUnwindSafe(|| engine.extend(&feeds)));
        assert!(panicked.is_err(), "{feeds:?}");
    }
}

/// More requests than slots, prompts of several lengths, sequences that leave the context or end early: each gets the
/// tokens that it gets alone.
#[test]
fn several_continuations_are_those_of_one_after_the_other() {
    let config = config([24, 2, 75]);
    let gpu = full_gpu().map(|gpu| Device::Gpu(Arc::clone(gpu)));
    let uses = |slots| Uses { generation: Some(slots), ..Uses::default() };
    let prompts: Vec<Vec<u32>> =
        [3, 66, 1, 80, 9, 20, 3].map(|len| (0..len).map(|i| i * 31 % 75).collect()).into();
    let all: Vec<GenerateOptions> = (0..7)
        .map(|sample| GenerateOptions {
            max_tokens: [12, 9, 30, 5, 0, 1, 20][sample as usize],
            temperature: 0.9,
            top_k: 40 * (sample as usize % 2),
            top_p: 0.95,
            repetition_penalty: 1.0 + 0.1 * f64::from(sample % 3),
            sample,
            ..GenerateOptions::default()
        })
        .collect();
    for device in [Device::Cpu].into_iter().chain(gpu) {
        let new = |slots| engine(&config, uses(slots), &FineTune::default(), &device);
        let mut one = new(1);
        let requests: Vec<Request<'_>> =
            prompts.iter().zip(&all).map(|(prompt, options)| Request { prompt, options }).collect();
        let ends = [7, 60];
        let want: Vec<Vec<u32>> = requests
            .iter()
            .map(|r| generate(&mut one, r.prompt, r.options, &ends, |_| Ok(true)).unwrap())
            .collect();
        for slots in [1, 2, 3, 8] {
            let mut seen = vec![vec![]; requests.len()];
            let got = generate_all(&mut new(slots), &requests, &ends, |index, event| {
                seen[index].push(event);
                Ok(true)
            });
            assert_eq!(got.unwrap(), want, "{slots} slots");
            for (events, tokens) in seen.iter().zip(&want) {
                let tokens = tokens.iter().map(|token| Event::Token(*token));
                let all: Vec<Event> =
                    [Event::Begins].into_iter().chain(tokens).chain([Event::Ends]).collect();
                assert_eq!(*events, all, "{slots} slots");
            }
        }
    }
}

/// The repetition penalty knows the tokens of its own text alone.
#[test]
fn a_second_text_is_not_penalised_for_the_first() {
    let options = GenerateOptions {
        max_tokens: 12,
        temperature: 0.0,
        repetition_penalty: 100.0,
        ..GenerateOptions::default()
    };
    let config = GptConfig { vocab_size: 30, n_positions: 32, ..GptConfig::small() };
    let new = || Gpt::new(config.clone(), Device::Cpu, 3).unwrap();
    let mut gpt = new();
    let first = gpt.generate_ids(&[1, 2, 3], &options).unwrap();
    let second = gpt.generate_ids(&[1, 2, 3], &options).unwrap();
    assert_eq!(first, second);
    assert_eq!(second, new().generate_ids(&[1, 2, 3], &options).unwrap());
    let different: std::collections::BTreeSet<u32> = first.iter().copied().collect();
    assert_eq!(different.len(), first.len(), "the penalty is at work: {first:?}");
}
