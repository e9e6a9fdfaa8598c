//! Is the validation loss the mean over the split's tokens, and is the best model the first of the best?

use std::fs;

use serde_json::Value;
use wgpt::data::{self, Tokens};
use wgpt::engine::Engine;
use wgpt::model::Uses;
use wgpt::ops::cross_entropy::IGNORE;
use wgpt::train::start;
use wgpt::{Event, Gpt, TrainConfig, Trainer};

use super::{Place, devices, tiny};

/// Of 1,030 tokens the last 103 are for validation, and so 102 are predicted: in windows of 16 and batches of
/// 3, the last batch has 6 of them in one window, and two windows that are padding alone.
#[test]
fn the_loss_of_the_split_counts_its_tokens_and_no_padding() {
    const T: usize = 16;
    let ids: Vec<u32> = (0..1_030).map(|i| i * i * 7 % 257).collect();
    for (name, device) in devices() {
        let config = TrainConfig {
            max_iters: 30,
            batch_size: 3,
            learning_rate: 1e-2,
            eval_every: 0,
            ..TrainConfig::default()
        };
        let gpt = Gpt::new(tiny(), device.clone(), 5).unwrap();
        let mut trainer = Trainer::new(gpt, Tokens::from_ids(ids.clone()), config).unwrap();
        let (mut whole, mut batches) = (false, 0);
        let summary = trainer
            .run(&mut |event| match event {
                Event::Evaluating { total, .. } => batches = *total,
                Event::Evaluated { whole: all, .. } => whole = *all,
                _ => {}
            })
            .unwrap();
        assert_eq!((whole, batches), (true, 3), "{name}");

        // Each window alone, in a batch of one.
        let uses = Uses { batch: 1, seq: T, ..Uses::default() };
        let mut alone = Engine::new(&tiny(), uses, &device).unwrap();
        alone.copy_from(trainer.engine()).unwrap();
        let (mut sum, mut count) = (0.0, 0);
        for start in (927..1_029).step_by(T) {
            let end = (start + T).min(1_029);
            let padded = |ids: &[u32], with| {
                let mut ids = ids.to_vec();
                ids.resize(T, with);
                ids
            };
            let (x, y) = (padded(&ids[start..end], 0), padded(&ids[start + 1..=end], IGNORE));
            sum += alone.evaluate(&x, &y).unwrap();
            count += end - start;
        }
        assert_eq!(count, 102);
        let (got, want) = (summary.val_loss.unwrap(), sum / f64::from(count as u32));
        assert!((got - want).abs() <= 1e-5 * want, "{name}: got {got}, want {want}");
    }
}

/// The loss of an update is that of all its micro-batches, each of which is another text.
#[test]
fn every_micro_batch_of_an_update_is_another_text() {
    const SHAPE: (usize, usize) = (2, 16);
    let tokens = || Tokens::from_ids((0..1_030).map(|i| i * i * 7 % 257).collect());
    for (name, device) in devices() {
        let config = TrainConfig {
            max_iters: 1,
            batch_size: SHAPE.0,
            grad_accum: 3,
            learning_rate: 0.0,
            log_every: 1,
            eval_every: 0,
            ..TrainConfig::default()
        };
        let seed = config.seed;
        let gpt = Gpt::new(tiny(), device.clone(), 5).unwrap();
        let mut trainer = Trainer::new(gpt, tokens(), config).unwrap();
        let mut reported = None;
        trainer
            .run(&mut |event| {
                if let Event::Step(report) = event {
                    reported = report.loss;
                }
            })
            .unwrap();

        let uses = Uses { batch: SHAPE.0, seq: SHAPE.1, ..Uses::default() };
        let mut alone = Engine::new(&tiny(), uses, &device).unwrap();
        alone.copy_from(trainer.engine()).unwrap();
        let (tokens, mut x, mut y) = (tokens(), vec![0; 32], vec![0; 32]);
        let losses = [0, 1, 2].map(|micro| {
            let place = data::Place { seed, step: 0, micro };
            data::batch(&tokens, tokens.split(None).0, place, SHAPE, &mut x, &mut y).unwrap();
            alone.evaluate(&x, &y).unwrap() / 32.0
        });
        let (got, want) = (f64::from(reported.unwrap()), losses.iter().sum::<f64>() / 3.0);
        assert!((got - want).abs() <= 1e-5 * want, "{name}: got {got}, want {want}");
        assert!((losses[0] - want).abs() > 1e-3 * want, "{name}: {losses:?} tell texts apart");
    }
}

/// Evaluations on the way are of the validation split, and of the same few batches each time.
#[test]
fn evaluations_on_the_way_are_of_the_same_batches_of_the_split() {
    // What is trained on says nothing of the split, in which no two windows are alike.
    let trained = (0..927).map(|i| 1 + i % 2);
    let ids: Vec<u32> = trained.chain((0..103).map(|i| 20 + (i * i * 31) % 200)).collect();
    for (name, device) in devices() {
        let on_the_way = |learning_rate| {
            let config = TrainConfig {
                max_iters: 40,
                batch_size: 3,
                learning_rate,
                eval_every: 10,
                eval_iters: 1,
                ..TrainConfig::default()
            };
            let gpt = Gpt::new(tiny(), device.clone(), 5).unwrap();
            let tokens = Tokens::from_ids(ids.clone());
            let mut losses = vec![];
            Trainer::new(gpt, tokens, config)
                .unwrap()
                .run(&mut |event| {
                    if let Event::Evaluated { whole: false, val_loss, .. } = event {
                        losses.push(*val_loss);
                    }
                })
                .unwrap();
            losses
        };
        let of_one_model = on_the_way(0.0);
        assert!(of_one_model.len() >= 3, "{name}: {of_one_model:?}");
        assert!(
            of_one_model.iter().all(|loss| *loss == of_one_model[0]),
            "{name}: {of_one_model:?}"
        );
        let learned = on_the_way(1e-2);
        assert!(learned.last().is_some_and(|loss| *loss > 4.0), "{name}: {learned:?}");
    }
}

#[test]
fn of_equal_models_the_first_is_the_best() {
    for (name, device) in devices() {
        let place = Place::new();
        let mut settings = place.settings();
        settings.train = TrainConfig {
            // So many that each evaluation is of the whole split, as the last one is.
            eval_iters: 1_000,
            eval_every: 4,
            learning_rate: 0.0,
            ..settings.train
        };
        let mut found = vec![];
        start(&settings, device, &mut |_| {})
            .unwrap()
            .run(&mut |event| {
                if let Event::Evaluated { step, val_loss, best, .. } = event {
                    found.push((*step, *val_loss, *best));
                }
            })
            .unwrap();
        let loss = found[0].1;
        assert_eq!(found, [(4, loss, true), (8, loss, false), (12, loss, false)], "{name}");
        let state = place.run().join("checkpoints/step-12/train_state.json");
        let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
        assert_eq!((&state["best_step"], &state["best_val_loss"]), (&4.into(), &loss.into()));
    }
}
