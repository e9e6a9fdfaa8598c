//! Ranks that take different numbers of micro-batches: the same bits for any split, measured once and kept by the run?

use std::fs;
use std::path::Path;
use std::slice::from_ref;
use std::sync::Mutex;

use serde_json::Value;
use wgpt::backend::Device;
use wgpt::config::{Local, RankBatch, Sum};
use wgpt::engine::Tensor;
use wgpt::error::Kind;
use wgpt::fit::Programs;
use wgpt::kernel::{Step, state};
use wgpt::model::Uses;
use wgpt::train::{RunSettings, start_with};
use wgpt::{Event, Result, Summary, TrainConfig, Trainer};

use crate::local::{on_ranks, plain, resume};
use crate::training::{Place, assert_same, devices, tiny, train};

/// A run with dropout, evaluations and saves, whose updates have `n` micro-batches, on `ranks` ranks that are measured.
fn settings(place: &Place, n: usize, ranks: usize) -> RunSettings {
    let mut settings = place.settings();
    let train = &mut settings.train;
    (train.grad_accum, train.ranks) = (n, ranks);
    (train.sum, train.rank_batch) = (Sum::Exact, RankBatch::Auto);
    settings
}

/// Begins a run, or goes on with it, until it ends or has made `stop` updates. Returns what the first rank says.
fn go(settings: &RunSettings, device: &Device, stop: usize) -> (Summary, Vec<String>) {
    let (dir, ranks) = (settings.train.out.as_deref().expect("a folder"), settings.train.ranks);
    let said = Mutex::new(vec![]);
    let go = |rank: usize, mut trainer: Trainer| {
        trainer.stop_after(stop);
        trainer.run(&mut |event| match event {
            Event::Note(note) if rank == 0 => said.lock().unwrap().push(note.clone()),
            _ => {}
        })
    };
    let open = || match dir.exists() {
        false => start_with(settings, device.clone(), &mut Programs::default(), &mut |_| {}),
        true => resume(dir, ranks, device),
    };
    let all = on_ranks(ranks, from_ref(device), &plain, open, &go);
    let all: Vec<Summary> = all.into_iter().map(Result::unwrap).collect();
    (all[0].clone(), said.into_inner().unwrap())
}

/// The split that a run keeps.
fn kept(run: &Path) -> Vec<usize> {
    let text = fs::read(run.join("run.json")).unwrap();
    let settings: RunSettings = serde_json::from_slice(&text).unwrap();
    settings.train.rank_shares
}

#[test]
fn any_split_gives_the_same_bits() {
    let alone = Place::new();
    let mut one = settings(&alone, 7, 1);
    one.train.rank_batch = RankBatch::Even;
    train(&one, &Device::Cpu).unwrap();
    let splits: [&[usize]; 5] = [&[5, 1, 1], &[3, 2, 2], &[1, 5, 1], &[1, 6], &[4, 3]];
    for shares in splits {
        for zero in [false, true] {
            let place = Place::new();
            let mut settings = settings(&place, 7, shares.len());
            (settings.train.rank_shares, settings.train.zero) = (shares.to_vec(), zero);
            let (summary, said) = go(&settings, &Device::Cpu, usize::MAX);
            assert_eq!(summary.rank_shares, shares);
            assert!(said[0].contains(&format!("rank 0 takes {} of 7", shares[0])), "{said:?}");
            assert_same(&place.run(), &alone.run(), &format!("{shares:?}, zero {zero}"));
        }
    }
}

#[test]
fn the_split_is_measured_once_and_kept() {
    for (_, device) in devices() {
        let (alone, place) = (Place::new(), Place::new());
        let of = |place: &Place, ranks| {
            let mut settings = settings(place, 5, ranks);
            (settings.train.max_iters, settings.train.save_every) = (4, 0);
            settings
        };
        let whole = go(&of(&alone, 1), &device, usize::MAX);
        assert!(whole.1.is_empty() && kept(&alone.run()).is_empty(), "one rank shares nothing");

        let (summary, said) = go(&of(&place, 2), &device, 1);
        let first = kept(&place.run());
        assert!(first.len() == 2 && first.iter().sum::<usize>() == 5 && !first.contains(&0));
        assert_eq!((summary.steps, &summary.rank_shares), (1, &first));
        assert!(said[0].contains("each), rank 1 takes"), "{said:?}");

        // A split that nothing would be measured as stays for as many ranks.
        let path = place.run().join("run.json");
        let mut run: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        run["train"]["rank_shares"] = serde_json::json!([1, 4]);
        fs::write(&path, run.to_string()).unwrap();
        let (summary, said) = go(&of(&place, 2), &device, 2);
        assert_eq!((summary.steps, &summary.rank_shares[..]), (2, &[1, 4][..]));
        assert!(said[0].ends_with("rank 1 takes 4, as measured at the start of the run"));
        // One rank alone leaves it, three are measured.
        assert!(go(&of(&place, 1), &device, 3).1.is_empty());
        assert_eq!(kept(&place.run()), [1, 4]);
        let (summary, said) = go(&of(&place, 3), &device, usize::MAX);
        assert!(said[0].contains("each), rank 1 takes") && summary.finished, "{said:?}");
        assert_eq!(kept(&place.run()), summary.rank_shares);
        assert_eq!(summary.rank_shares.len(), 3);

        for step in 1..4 {
            let _ = fs::remove_dir_all(place.run().join(format!("checkpoints/step-{step}")));
        }
        if !matches!(device, Device::Cpu) {
            // Not every number of ranks needs the same kernels.
            fs::copy(alone.run().join("variants.json"), place.run().join("variants.json")).unwrap();
        }
        assert_same(&place.run(), &alone.run(), "2, 1 and 3 ranks");
    }
}

/// The parameters and moments of a trainer, and its device's counters.
fn contents(trainer: &mut Trainer) -> (Vec<[Vec<f32>; 3]>, [u32; state::LEN]) {
    let engine = trainer.engine();
    let params = engine.program().params.clone();
    let tensors = [Tensor::Value, Tensor::Moment(0), Tensor::Moment(1)];
    let of = |param| tensors.map(|tensor| engine.param_data(param, tensor).unwrap());
    let values = params.iter().map(of).collect();
    (values, engine.read_state().unwrap())
}

/// What is measured leaves parameters, moments and counters as they are.
#[test]
fn a_measurement_leaves_nothing_behind() {
    for (name, device) in devices() {
        let place = Place::new();
        let mut trainer = start_with(
            &settings(&place, 2, 1),
            device.clone(),
            &mut Programs::default(),
            &mut |_| {},
        )
        .unwrap();
        trainer.stop_after(2);
        trainer.run(&mut |_| {}).unwrap();
        let before = contents(&mut trainer);
        let rows = 3 * tiny().n_positions;
        let tokens: Vec<u32> = (0..rows as u32).map(|i| i % 50).collect();
        let step = Step { dropout: 1 << 30, seed: [1, 2], ..Step::default() };
        trainer.engine().try_micro_batch(&tokens, &tokens, step).unwrap();
        assert!(before == contents(&mut trainer), "{name}");
    }
}

/// Ranks that train on their own have shares of different lengths, too.
#[test]
fn ranks_that_train_on_their_own_are_measured() {
    let place = Place::new();
    let mut settings = settings(&place, 4, 2);
    let train = &mut settings.train;
    (train.local, train.eval_every, train.save_every) = (Some(Local::every(2, 2)), 4, 4);
    assert!(go(&settings, &Device::Cpu, 4).0.steps == 4);
    let shares = kept(&place.run());
    assert_eq!(shares.iter().sum::<usize>(), 4);
    let (summary, said) = go(&settings, &Device::Cpu, usize::MAX);
    assert!(summary.finished && summary.rank_shares == shares && !said.is_empty());
}

/// A program has room for the nodes of any share until the shares are known.
#[test]
fn there_is_room_for_every_share() {
    let nodes = |train: &TrainConfig| Uses::training(train, &tiny()).nodes;
    let unmeasured = TrainConfig {
        grad_accum: 8,
        ranks: 2,
        sum: Sum::Exact,
        rank_batch: RankBatch::Auto,
        ..TrainConfig::default()
    };
    assert_eq!(nodes(&unmeasured), 4);
    let of = |rank_shares| nodes(&TrainConfig { rank_shares, ..unmeasured.clone() });
    assert_eq!([vec![1, 7], vec![4, 4], vec![7, 1]].map(of), [4, 2, 2]);
    assert_eq!(nodes(&TrainConfig { rank_batch: RankBatch::Even, ..unmeasured.clone() }), 2);
}

#[test]
fn a_split_that_cannot_be_is_refused() {
    let measured = |rank_shares: &[usize]| TrainConfig {
        grad_accum: 4,
        ranks: 2,
        rank_batch: RankBatch::Auto,
        rank_shares: rank_shares.to_vec(),
        ..TrainConfig::default()
    };
    assert!(measured(&[3, 1]).validate(&tiny()).is_ok());
    for shares in [&[4, 0][..], &[2, 1], &[2, 1, 1], &[usize::MAX, 5]] {
        let error = measured(shares).validate(&tiny()).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("for each of the 2 ranks"), "{error}");
    }
    let pipeline = TrainConfig { pipeline: 2, ..measured(&[]) };
    let error = pipeline.validate(&tiny()).unwrap_err().with_names(str::to_owned);
    assert!(error.to_string().contains("rank_batch is not possible together with pipeline"));
}
