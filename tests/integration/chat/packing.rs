//! Do packed conversations see nothing of each other, on anything that computes?

use std::collections::BTreeSet;
use std::sync::Arc;

use wgpt::GptConfig;
use wgpt::backend::Device;
use wgpt::backend::gpu::{Choice, Gpu};
use wgpt::check::packing::{Proof, prove};
use wgpt::config::{Optimizer, Precision};
use wgpt::data::{IGNORE, Packed, Place, Rows, Tokens, marks, split};
use wgpt::engine::Engine;
use wgpt::kernel::Step;
use wgpt::model::{Program, Uses, open as open_model};
use wgpt::ops::attention;
use wgpt::plan::{Limits, Phase};

use crate::common::{Model, On, Subject, full_gpu, oracle, unchecked_gpu};

/// The places of a window.
const T: usize = 64;

/// Conversations of these lengths, whose tokens from the second third on are learned.
fn conversations(lengths: &[usize], vocab: usize) -> Tokens {
    let mut words = vec![];
    for (n, length) in lengths.iter().enumerate() {
        let ids: Vec<u32> =
            (0..*length).map(|i| ((i * 7 + n * 13 + i * i) % vocab) as u32).collect();
        let learned: Vec<bool> = (0..*length).map(|i| i >= length / 3).collect();
        words.extend(marks::marked(&ids, &learned));
    }
    Tokens::from_conversations(words, None)
}

const LENGTHS: [usize; 7] = [20, 33, 9, 40, 23, 31, 17];

#[test]
fn a_window_has_whole_conversations_side_by_side() {
    let tokens = conversations(&LENGTHS, 50);
    let packed = Packed::new(&tokens, &(0..tokens.len()), T).unwrap();
    let (mut found, mut targets) = (BTreeSet::new(), 0);
    for window in 0..packed.len() {
        let (mut x, mut y, mut starts) = (vec![7; T], vec![7; T], vec![7; T]);
        let rows = Rows { tokens: &mut x, targets: &mut y, starts: &mut starts };
        targets += packed.fill(&tokens, window, rows);
        let mut at = 0;
        for one in packed.conversations(window) {
            assert!(found.insert(one.start), "once");
            let mut words = vec![0; one.len()];
            tokens.copy_marked(one.clone(), &mut words);
            for (i, pair) in words.windows(2).enumerate() {
                assert_eq!((x[at + i], starts[at + i]), (pair[0] & !marks::ALL, at as u32));
                let target =
                    if pair[1] & marks::LEARNED == 0 { IGNORE } else { pair[1] & !marks::ALL };
                assert_eq!(y[at + i], target);
            }
            at += one.len() - 1;
        }
        assert!(at <= T);
        assert!(y[at..].iter().all(|target| *target == IGNORE));
        assert!(starts[at..].iter().all(|start| *start as usize == at));
    }
    assert_eq!(found.len(), LENGTHS.len());
    let learned: usize = LENGTHS.iter().map(|n| n - n / 3).sum();
    assert_eq!(targets, learned);
    // 166 places in windows of 64.
    assert_eq!(packed.len(), 3);
    assert!(
        Packed::new(&tokens, &(0..tokens.len()), 38).unwrap_err().to_string().contains("40 tokens")
    );
}

#[test]
fn an_epoch_has_every_window_once() {
    let tokens = conversations(&[40; 30], 50);
    let packed = Packed::new(&tokens, &(0..tokens.len()), 39).unwrap();
    assert_eq!(packed.len(), 30);
    let (b, micros) = (4, 3);
    let mut drawn = vec![];
    for step in 0..5 {
        for micro in 0..micros as u64 {
            let mut batch = [vec![0; b * 39], vec![0; b * 39], vec![0; b * 39]];
            let [x, y, starts] = &mut batch;
            let place = Place { seed: 5, step, micro };
            packed.draw(&tokens, place, micros, Rows { tokens: x, targets: y, starts });
            drawn.extend(x.chunks(39).map(<[u32]>::to_vec));
        }
    }
    let [first, second] = [&drawn[..30], &drawn[30..]];
    assert_ne!(first, second, "in another order");
    for epoch in [first, second] {
        assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), 30);
    }
}

#[test]
fn the_validation_split_is_whole_conversations() {
    let tokens = conversations(&[10; 25], 50);
    assert_eq!(tokens.split(None), (0..220, 220..250));
    assert_eq!(tokens.split(Some(15)), (0..240, 240..250));
    assert_eq!(tokens.split(Some(5)), (0..240, 240..250));
    assert_eq!(split(250).1.len(), 25, "a text is split anywhere");
    let mut words = vec![0; 250];
    tokens.copy_marked(0..250, &mut words);
    let tokens = Tokens::from_conversations(words, Some(100));
    assert_eq!(tokens.split(None), (0..100, 100..250));
    assert_eq!(tokens.split(Some(29)), (0..100, 100..120));
    assert_eq!(tokens.split(Some(2)), (0..100, 100..110));
}

/// Models of all kinds: positions in a table; rotated, with windows and shared keys.
fn models() -> Vec<std::path::PathBuf> {
    ["gpt2_tiny_a", "families/mistral_window", "families/qwen3"]
        .map(|name| oracle().join(name))
        .into()
}

fn uses(precision: Precision, t: usize) -> Uses {
    Uses { batch: 2, seq: t, training: Some(Optimizer::Sgd), precision, ..Uses::default() }
}

/// The tokens, the targets and the starts of a batch of two windows, and where one of its conversations lies.
struct Batch {
    rows: [Vec<u32>; 3],
    own: std::ops::Range<usize>,
}

fn batch(config: &GptConfig) -> (Batch, Tokens, Packed) {
    let t = T.min(config.n_positions);
    let tokens = conversations(&LENGTHS, config.vocab_size);
    let packed = Packed::new(&tokens, &(0..tokens.len()), t).unwrap();
    let mut rows = [vec![0; 2 * t], vec![0; 2 * t], vec![0; 2 * t]];
    let [x, y, starts] = &mut rows;
    packed.fill(&tokens, 0, Rows { tokens: x, targets: y, starts });
    // The second conversation of the first window.
    let start = packed.conversations(0)[0].len() - 1;
    let own = start..start + packed.conversations(0)[1].len() - 1;
    y.iter_mut().enumerate().filter(|(i, _)| !own.contains(i)).for_each(|(_, y)| *y = IGNORE);
    (Batch { rows, own }, tokens, packed)
}

impl Batch {
    /// The same with other tokens outside of the conversation.
    fn replaced(&self, vocab: usize) -> Batch {
        let mut rows = self.rows.clone();
        for (i, id) in rows[0].iter_mut().enumerate().filter(|(i, _)| !self.own.contains(i)) {
            *id = (*id + 1 + (i % (vocab - 1)) as u32) % vocab as u32;
        }
        Batch { rows, own: self.own.clone() }
    }
}

/// The bits of the loss and of all gradients.
fn measured(model: &mut Model, batch: &Batch) -> Vec<u64> {
    let [x, y, starts] = &batch.rows;
    let views = model.program.batch.unwrap();
    model.on.write_u32(views.starts, starts);
    let count = y.iter().filter(|target| **target != IGNORE).count();
    let step = Step { loss_scale: 1.0 / count as f64, ..Step::default() };
    model.run_batch(x, y, &[Phase::Forward, Phase::Backward], &step);
    let summed = model.program.summed.clone();
    summed.iter().flat_map(|view| model.on.read(*view)).map(f64::to_bits).collect()
}

fn assert_apart(what: &str, model: &mut Model, vocab: usize, batch: &Batch) {
    let base = measured(model, batch);
    assert!(
        base.iter().filter(|bits| f64::from_bits(**bits) != 0.0).count() > base.len() / 4,
        "{what}"
    );
    let other = batch.replaced(vocab);
    assert_eq!(measured(model, &other), base, "{what}: the others are seen");
    // With all of a row in one document they are.
    let together = |batch: &Batch| Batch {
        rows: [batch.rows[0].clone(), batch.rows[1].clone(), vec![0; batch.rows[2].len()]],
        own: batch.own.clone(),
    };
    assert_ne!(measured(model, &together(batch)), measured(model, &together(&other)), "{what}");
}

#[test]
fn other_conversations_change_no_bit() {
    for path in models() {
        let (config, weights) = open_model(&path).unwrap();
        let batch = batch(&config).0;
        let t = batch.rows[0].len() / 2;
        let mut fill = |name: &str, out: &mut [f32]| weights.read(name, 0, out).unwrap();
        for on in On::all() {
            let mut model = Model::record(&config, uses(Precision::F32, t), on, on.limits());
            model.fill(&mut fill);
            assert_apart(
                &format!("{} on {on:?}", path.display()),
                &mut model,
                config.vocab_size,
                &batch,
            );
        }
        // Every variant of attention, and what else has one of its name.
        let Some(gpu) = unchecked_gpu() else { continue };
        for variant in attention::FORWARD.variants {
            let is_half = variant.name.starts_with("coop");
            if variant.needs.lacking(gpu.has()).is_some() || (is_half && !gpu.has().f16) {
                continue;
            }
            let precision = if is_half { Precision::Mixed } else { Precision::F32 };
            let program = Program::record(&config, uses(precision, t), gpu.limits());
            let named = Choice::Named(variant.name);
            let backend = Gpu::with(gpu, Arc::clone(&program.plan), named).unwrap();
            let mut model = Model { program, on: Subject::Single(Box::new(backend)) };
            model.fill(&mut fill);
            if is_half {
                model.on.run(Phase::Cast, &Step::default());
            }
            let what = format!("{} by {:?}", path.display(), variant.name);
            assert_apart(&what, &mut model, config.vocab_size, &batch);
        }
    }
}

#[test]
fn a_conversation_is_the_same_alone_and_packed() {
    for path in models() {
        let (config, weights) = open_model(&path).unwrap();
        let (batch, ..) = batch(&config);
        let t = batch.rows[0].len() / 2;
        let inference = Uses { batch: 2, seq: t, ..Uses::default() };
        let mut model = Model::record(&config, inference, On::Cpu, Limits::NONE);
        model.fill(|name, out| weights.read(name, 0, out).unwrap());
        let mut losses = |[x, y, starts]: &[Vec<u32>; 3]| {
            let views = model.program.batch.unwrap();
            model.on.write_u32(views.starts, starts);
            model.run_batch(x, y, &[Phase::Forward, Phase::Evaluate], &Step::default());
            model.on.read(views.row_loss)
        };
        let packed = losses(&batch.rows);
        // The same at the beginning of a row that is one document.
        let mut alone = [vec![0; 2 * t], vec![IGNORE; 2 * t], vec![0; 2 * t]];
        let own = batch.own.clone();
        for (alone, packed) in alone.iter_mut().zip(&batch.rows).take(2) {
            alone[..own.len()].copy_from_slice(&packed[own.clone()]);
        }
        let alone = losses(&alone);
        for (i, (packed, alone)) in packed[own].iter().zip(&alone).enumerate() {
            assert!(
                (packed - alone).abs() <= 1e-5,
                "{}: place {i}: {packed} {alone}",
                path.display()
            );
        }
    }
}

#[test]
fn the_proof_sees_what_it_should() {
    let (config, weights) = open_model(&oracle().join("gpt2_tiny_a")).unwrap();
    let (_, tokens, packed) = batch(&config);
    let t = T.min(config.n_positions);
    let devices = [Some(Device::Cpu), full_gpu().map(|gpu| Device::Gpu(Arc::clone(gpu)))];
    for device in devices.into_iter().flatten() {
        let mut engine = Engine::new(&config, uses(Precision::F32, t), &device).unwrap();
        for param in engine.program().params.clone().iter() {
            let fill = |start, out: &mut [f32]| weights.read(&param.name, start, out);
            engine.write_param(param, wgpt::engine::Tensor::Value, fill).unwrap();
        }
        let proof = prove(&mut engine, &tokens, &packed, 5, &mut |_| {}).unwrap();
        assert!(proof.holds(), "{proof:?}");
        assert_eq!(proof.conversations, 5);
        assert!(proof.numbers > 1000 && proof.replaced > 100 && proof.labels > 10, "{proof:?}");
        for broken in [
            Proof { loss_change: [0.0, 1e-30], ..proof },
            Proof { gradient_change: [f64::NAN, 0.0], ..proof },
            Proof { control: 0.0, ..proof },
            Proof { conversations: 0, ..proof },
        ] {
            assert!(!broken.holds());
        }
    }
    let alone = conversations(&[60, 60], config.vocab_size);
    let packed = Packed::new(&alone, &(0..alone.len()), t).unwrap();
    let mut engine = Engine::new(&config, uses(Precision::F32, t), &Device::Cpu).unwrap();
    let said = prove(&mut engine, &alone, &packed, 5, &mut |_| {}).unwrap_err().to_string();
    assert!(said.contains("no two conversations"), "{said}");
}
