//! Several ranks train one model: do they give the same bits as one, whatever their number, and go on from each other's
//! saves? Ranks are threads here, which talk through channels.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use wgpt::backend::Device;
use wgpt::checkpoint::read_metrics;
use wgpt::config::{Precision, Sum};
use wgpt::dist::World;
use wgpt::fit::Programs;
use wgpt::generate::{Request, generate};
use wgpt::model::Uses;
use wgpt::plan::Role;
use wgpt::train::{Changes, Resumed, RunSettings, give_up, join, resume_on, start_with};
use wgpt::{Error, GenerateOptions, Gpt, Result, Summary, Trainer};

use crate::common::{full_gpu, gpu};
use crate::training::{Place, assert_same, tiny, train};

/// A rank that is a thread: what it sends to each other rank, and what it hears from each.
pub struct Thread {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Receiver<Vec<u8>>>,
}

/// As many ranks as are wanted.
pub fn ranks(size: usize) -> Vec<Thread> {
    let mut to: Vec<Vec<Sender<Vec<u8>>>> = (0..size).map(|_| vec![]).collect();
    let mut all = vec![];
    for rank in 0..size {
        let (senders, from) = (0..size).map(|_| channel()).unzip::<_, _, Vec<_>, Vec<_>>();
        to.iter_mut().zip(senders).for_each(|(to, sender)| to.push(sender));
        all.push((rank, from));
    }
    let rank = |((rank, from), to)| Thread { rank, to, from };
    all.into_iter().zip(to).map(rank).collect()
}

impl Thread {
    fn each_to_each(&mut self, out: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let gone = || Error::training("another rank is gone");
        for (to, out) in self.to.iter().zip(out) {
            to.send(out.clone()).map_err(|_| gone())?;
        }
        self.from.iter().map(|from| from.recv().map_err(|_| gone())).collect()
    }
}

impl World for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn gather(&mut self, own: &[u64]) -> Result<Vec<Vec<u64>>> {
        let bytes: Vec<u8> = own.iter().flat_map(|word| word.to_le_bytes()).collect();
        let all = self.each_to_each(&vec![bytes; self.size()])?;
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        Ok(all.iter().map(|bytes| bytes.as_chunks().0.iter().map(word).collect()).collect())
    }

    fn exchange(
        &mut self,
        sent: &[(usize, &[f32])],
        received: &mut [(usize, &mut [f32])],
    ) -> Result<()> {
        let gone = || Error::training("another rank is gone");
        for (rank, numbers) in sent {
            assert!(*rank != self.rank, "nobody sends itself");
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.to[*rank].send(bytes).map_err(|_| gone())?;
        }
        for (rank, out) in received {
            let bytes = self.from[*rank].recv().map_err(|_| gone())?;
            let numbers: Vec<f32> =
                bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            out.copy_from_slice(&numbers);
        }
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let out = if self.rank == 0 { bytes.clone() } else { vec![] };
        *bytes = self.each_to_each(&vec![out; self.size()])?.swap_remove(0);
        Ok(())
    }
}

/// A run on `size` ranks: `open` makes the first one's trainer. Returns what came out on the first.
fn on_ranks(
    size: usize,
    device: &Device,
    open: impl Fn() -> Result<Trainer> + Sync,
    stop_after: Option<usize>,
) -> Result<Summary> {
    let go = |mut trainer: Trainer| {
        if let Some(step) = stop_after {
            trainer.stop_after(step);
        }
        trainer.run(&mut |_| {})
    };
    let mut all = ranks(size).into_iter();
    let mut first = all.next().expect("a rank");
    thread::scope(|scope| {
        for rank in all {
            scope.spawn(|| {
                let joined = join(Box::new(rank), |_| Ok(device.clone()));
                joined.map(|trainer| trainer.map(|trainer| go(trainer).map(drop)))
            });
        }
        let mut trainer = open().inspect_err(|_| give_up(&mut first))?;
        trainer.lead(Box::new(first))?;
        go(trainer)
    })
}

/// Begins a run on `size` ranks, and makes all its updates.
pub fn begin(settings: &RunSettings, size: usize, device: &Device) -> Result<Summary> {
    let mut settings = settings.clone();
    settings.train.ranks = size;
    let open = || start_with(&settings, device.clone(), &mut Programs::default(), &mut |_| {});
    on_ranks(size, device, open, None)
}

/// Goes on with a run on `size` ranks.
fn go_on(
    run: &Path,
    (size, stages): (usize, usize),
    device: &Device,
    stop_after: Option<usize>,
) -> Result<Summary> {
    let changes = Changes { pipeline: Some(stages), ..Changes::default() };
    let open = || match resume_on(run, size, changes, |_| Ok(device.clone()), &mut |_| {})? {
        Resumed::Running(trainer) => Ok(*trainer),
        Resumed::Finished(_) => panic!("the run is finished"),
    };
    on_ranks(size, device, open, stop_after)
}

/// A run with dropout, evaluations and saves, whose updates have `n` micro-batches.
fn settings(place: &Place, n: usize) -> RunSettings {
    let mut settings = place.settings();
    (settings.train.grad_accum, settings.train.sum) = (n, Sum::Exact);
    settings
}

#[test]
fn any_number_of_ranks_gives_the_same_bits() {
    for (n, sizes) in [(7, vec![2, 3, 7]), (4, vec![4])] {
        let alone = Place::new();
        assert!(train(&settings(&alone, n), &Device::Cpu).unwrap().finished);
        for size in sizes {
            let place = Place::new();
            let summary = begin(&settings(&place, n), size, &Device::Cpu).unwrap();
            assert!(summary.finished && summary.val_loss.is_some());
            assert_same(&place.run(), &alone.run(), &format!("{n} micro-batches on {size} ranks"));
        }
    }
}

#[test]
fn also_on_a_gpu_and_in_half_precision() {
    let devices =
        [(gpu(), Precision::F32), (full_gpu().filter(|gpu| gpu.has().f16), Precision::Mixed)];
    for (gpu, precision) in devices {
        let Some(gpu) = gpu else { continue };
        let device = Device::Gpu(Arc::clone(gpu));
        let with = |place: &Place| {
            let mut settings = settings(place, 3);
            (settings.train.precision, settings.train.max_iters) = (precision, 6);
            settings
        };
        let alone = Place::new();
        train(&with(&alone), &device).unwrap();
        for size in [2, 3] {
            let place = Place::new();
            begin(&with(&place), size, &device).unwrap();
            // Not every rank adds nodes, and so not every number of ranks needs a variant for that.
            fs::copy(alone.run().join("variants.json"), place.run().join("variants.json")).unwrap();
            assert_same(&place.run(), &alone.run(), &format!("{precision:?} on {size} ranks"));
        }
    }
}

#[test]
fn a_run_goes_on_with_other_ranks() {
    let (whole, parts) = (Place::new(), Place::new());
    train(&settings(&whole, 4), &Device::Cpu).unwrap();
    let mut begun = settings(&parts, 4);
    begun.train.ranks = 4;
    let open = || start_with(&begun, Device::Cpu, &mut Programs::default(), &mut |_| {});
    assert_eq!(on_ranks(4, &Device::Cpu, open, Some(3)).unwrap().steps, 3);
    for (size, stop_after, steps) in [(2, Some(5), 5), (1, Some(8), 8), (3, None, 12)] {
        let summary = go_on(&parts.run(), (size, 1), &Device::Cpu, stop_after).unwrap();
        assert_eq!(summary.steps, steps, "{size} ranks");
    }
    assert_same(&parts.run(), &whole.run(), "4, 2, 1 and 3 ranks");
}

/// Moments that the ranks split make no difference to what is written, on any device, and a run goes on from it with other
/// ranks.
#[test]
fn a_split_state_gives_the_same_bits() {
    let mut devices = vec![(Device::Cpu, Precision::F32)];
    devices.extend(gpu().map(|gpu| (Device::Gpu(Arc::clone(gpu)), Precision::F32)));
    let full = full_gpu().filter(|gpu| gpu.has().f16);
    devices.extend(full.map(|gpu| (Device::Gpu(Arc::clone(gpu)), Precision::Mixed)));
    for (device, precision) in devices {
        let with = |place: &Place, zero| {
            let mut settings = settings(place, 4);
            (settings.train.precision, settings.train.zero) = (precision, zero);
            settings.train.max_iters = if matches!(device, Device::Cpu) { 12 } else { 6 };
            settings
        };
        let (whole, parts) = (Place::new(), Place::new());
        train(&with(&whole, false), &device).unwrap();
        let mut begun = with(&parts, true);
        begun.train.ranks = 3;
        let open = || start_with(&begun, device.clone(), &mut Programs::default(), &mut |_| {});
        assert_eq!(on_ranks(3, &device, open, Some(3)).unwrap().steps, 3);
        let all = [(2, Some(5), 5), (1, Some(8), 8), (4, None, 12)];
        // A software driver is slow.
        let parts_of = if matches!(device, Device::Cpu) { &all[..] } else { &[(2, None, 6)] };
        for &(size, stop_after, steps) in parts_of {
            let summary = go_on(&parts.run(), (size, 1), &device, stop_after).unwrap();
            assert_eq!(summary.steps, steps, "{size} ranks");
        }
        if precision == Precision::Mixed || matches!(device, Device::Gpu(_)) {
            // Not every rank adds nodes, and so not every number of ranks needs a variant for that.
            fs::copy(whole.run().join("variants.json"), parts.run().join("variants.json")).unwrap();
        }
        assert_same(&parts.run(), &whole.run(), &format!("{precision:?}"));
    }
}

#[test]
fn a_split_state_takes_less_memory() {
    let config = wgpt::GptConfig::small();
    let train =
        wgpt::TrainConfig { grad_accum: 4, ranks: 4, sum: Sum::Exact, ..Default::default() };
    let moments = |rank, zero| {
        let train = wgpt::TrainConfig { rank, zero, ..train.clone() };
        let uses = Uses::training(&train, &config);
        wgpt::model::Program::record(&config, uses, Device::Cpu.limits()).plan.bytes(Role::Moments)
    };
    let whole = moments(0, false);
    let shares: Vec<u64> = (0..4).map(|rank| moments(rank, true)).collect();
    assert!(shares.iter().all(|share| *share * 16 <= whole * 5), "{shares:?} of {whole}");
    // Each share begins at a multiple of 64 numbers.
    let sum: u64 = shares.iter().sum();
    assert!((whole..whole + 100_000).contains(&sum), "{shares:?} of {whole}");
}

/// In mixed precision a rank has the matrices in single precision for its shares alone, and copies of half the size of all.
#[test]
fn split_weights_take_less_memory() {
    let config = wgpt::GptConfig::small();
    let program = |rank, zero| {
        let train = wgpt::TrainConfig {
            grad_accum: 4,
            ranks: 4,
            precision: Precision::Mixed,
            rank,
            zero,
            ..Default::default()
        };
        let uses = Uses::training(&train, &config);
        wgpt::model::Program::record(&config, uses, Device::Cpu.limits())
    };
    let whole = program(0, false);
    let of = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let matrices: u64 =
        whole.params.iter().filter(|p| p.shape.len() == 2).map(|p| of(&p.shape)).sum();
    let bytes = |program: &wgpt::model::Program| program.plan.bytes(Role::Parameters);
    assert!(bytes(&whole) >= 6 * matrices, "single precision and copies");
    let mut owned = 0;
    for rank in 0..4 {
        let part = program(rank, true);
        assert!(part.splits_weights());
        let saved = bytes(&whole) - bytes(&part);
        let single = 4 * matrices - saved;
        assert!(single * 16 <= 4 * matrices * 5, "rank {rank}: {single} of {}", 4 * matrices);
        owned += single;
    }
    assert!((4 * matrices..4 * matrices + 100_000).contains(&owned), "{owned} of {}", 4 * matrices);
}

/// A run of 4 layers, whose updates have 8 sequences.
fn deep(place: &Place) -> RunSettings {
    let mut settings = settings(place, 4);
    (settings.model.n_layer, settings.train.batch_size) = (4, 2);
    settings
}

/// Asserts that two runs have the losses and norms of each logged update within `tolerance`.
pub fn assert_alike(got: &Path, want: &Path, tolerance: f64, what: &str) {
    let [got, want] = [got, want].map(|run| read_metrics(run).unwrap());
    assert_eq!(got.len(), want.len(), "{what}");
    for (a, b) in got.iter().zip(&want) {
        let pairs = [(a.loss, b.loss), (a.grad_norm, b.grad_norm)];
        for (a, b) in pairs.map(|(a, b)| (f64::from(a.unwrap()), f64::from(b.unwrap()))) {
            assert!((a - b).abs() <= tolerance * b, "{what}: {a}, not {b}");
        }
        assert_eq!((a.val_loss.is_some(), a.step), (b.val_loss.is_some(), b.step), "{what}");
    }
}

#[test]
fn a_pipeline_learns_as_one_rank_does() {
    let mut devices = vec![(Device::Cpu, Precision::F32, 1e-4)];
    devices.extend(gpu().map(|gpu| (Device::Gpu(Arc::clone(gpu)), Precision::F32, 1e-4)));
    let full = full_gpu().filter(|gpu| gpu.has().f16);
    devices.extend(full.map(|gpu| (Device::Gpu(Arc::clone(gpu)), Precision::Mixed, 2e-2)));
    for (device, precision, tolerance) in devices {
        let alone = Place::new();
        let with = |place: &Place| {
            let mut settings = deep(place);
            settings.train.precision = precision;
            settings.train.max_iters = if matches!(device, Device::Cpu) { 12 } else { 4 };
            settings
        };
        train(&with(&alone), &device).unwrap();
        let all = [(2, 2), (4, 2), (3, 3), (4, 4)];
        // A software driver is slow, and the stages' kernels are compared elsewhere.
        let grids = if matches!(device, Device::Cpu) { &all[..] } else { &all[1..2] };
        for &(size, stages) in grids {
            let place = Place::new();
            let mut settings = with(&place);
            settings.train.pipeline = stages;
            let summary = begin(&settings, size, &device).unwrap();
            assert!(summary.finished && summary.val_loss.is_some());
            let what = format!("{size} ranks in {stages} stages, {precision:?}");
            assert_alike(&place.run(), &alone.run(), tolerance, &what);
        }
    }
}

#[test]
fn a_run_goes_on_on_another_grid() {
    let (whole, parts) = (Place::new(), Place::new());
    train(&deep(&whole), &Device::Cpu).unwrap();
    let mut begun = deep(&parts);
    (begun.train.ranks, begun.train.pipeline) = (4, 2);
    let open = || start_with(&begun, Device::Cpu, &mut Programs::default(), &mut |_| {});
    assert_eq!(on_ranks(4, &Device::Cpu, open, Some(3)).unwrap().steps, 3);
    for (grid, stop_after, steps) in
        [((2, 2), Some(5), 5), ((1, 1), Some(8), 8), ((3, 3), None, 12)]
    {
        let summary = go_on(&parts.run(), grid, &Device::Cpu, stop_after).unwrap();
        assert_eq!(summary.steps, steps, "{grid:?}");
    }
    assert_alike(&parts.run(), &whole.run(), 1e-4, "4, 2, 1 and 3 ranks");
    let files = |run: &Path| {
        let mut all: Vec<_> =
            fs::read_dir(run.join("best")).unwrap().map(|file| file.unwrap().file_name()).collect();
        all.sort();
        all
    };
    assert_eq!(files(&parts.run()), files(&whole.run()));
}

/// The last stage draws, and the first one feeds what it drew: the text is that of the model that was saved.
#[test]
fn stages_write_the_text_of_the_whole_model() {
    let place = Place::new();
    let mut settings = deep(&place);
    (settings.train.ranks, settings.train.pipeline, settings.train.max_iters) = (3, 3, 2);
    let (prompt, options) =
        ([1, 2, 3], GenerateOptions { max_tokens: 20, ..GenerateOptions::default() });
    let mut all = ranks(3).into_iter();
    let first = all.next().expect("a rank");
    let mut text = vec![];
    thread::scope(|scope| {
        for rank in all {
            scope.spawn(|| {
                let mut trainer = join(Box::new(rank), |_| Ok(Device::Cpu)).unwrap().unwrap();
                trainer.run(&mut |_| {}).unwrap();
                trainer.help_to_generate().unwrap();
            });
        }
        let programs = &mut Programs::default();
        let mut trainer = start_with(&settings, Device::Cpu, programs, &mut |_| {}).unwrap();
        trainer.lead(Box::new(first)).unwrap();
        trainer.run(&mut |_| {}).unwrap();
        let mut seen = |token| {
            text.push(token);
            Ok(())
        };
        let request = Request { prompt: &prompt, options: &options };
        trainer.generate_on_stages(request, &[], &mut seen).unwrap();
    });
    let mut whole = Gpt::load(&place.run(), Device::Cpu).unwrap();
    let engine = whole.engine().unwrap();
    let want = generate(engine, &prompt, &options, &[], |_| Ok(true)).unwrap();
    assert_eq!(text, want);
}

#[test]
fn a_grid_that_cannot_be_is_refused() {
    for (size, stages, zero, says) in [
        (2, 5, false, "a pipeline of 5 stages"),
        (3, 2, false, "must divide the number of ranks, 3"),
        (2, 2, true, "not possible together"),
    ] {
        let place = Place::new();
        let mut settings = deep(&place);
        (settings.train.pipeline, settings.train.zero) = (stages, zero);
        let error = begin(&settings, size, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(!place.run().exists());
    }
}

/// The sum along the tree is the sum in place, but for rounding.
#[test]
fn both_sums_learn_alike() {
    let (exact, fast) = (Place::new(), Place::new());
    train(&settings(&exact, 5), &Device::Cpu).unwrap();
    let mut in_place = settings(&fast, 5);
    in_place.train.sum = Sum::Fast;
    train(&in_place, &Device::Cpu).unwrap();
    let losses = [&exact, &fast].map(|place| read_metrics(&place.run()).unwrap());
    for (a, b) in losses[0].iter().zip(&losses[1]) {
        let (a, b) = (a.loss.unwrap(), b.loss.unwrap());
        assert!((a - b).abs() <= 1e-4 * b, "{a} along the tree, {b} in place");
    }
}

#[test]
fn a_rank_that_cannot_begin_ends_all() {
    let place = Place::new();
    // There are fewer micro-batches than ranks.
    let error = begin(&settings(&place, 2), 3, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("number of ranks, 3"), "{error}");
    assert!(!place.run().exists());
}

/// No rank may wait for the first one, which takes part in nothing more, though it is still there.
#[test]
fn the_others_hear_that_the_first_rank_gives_up() {
    let [mut first, other] = <[Thread; 2]>::try_from(ranks(2)).ok().expect("two ranks");
    let joined = thread::spawn(|| join(Box::new(other), |_| Ok(Device::Cpu)).map(drop));
    give_up(&mut first);
    let error = joined.join().expect("no panic").unwrap_err();
    assert!(error.to_string().contains("rank 0 could not open the run"), "{error}");
}

#[test]
fn the_plan_has_room_for_the_nodes_that_wait() {
    let mut train = settings(&Place::new(), 8).train;
    let bytes = |train: &wgpt::TrainConfig| {
        let uses = Uses { generation: None, ..Uses::training(train, &tiny()) };
        let limits = Device::Cpu.limits();
        wgpt::model::Program::record(&tiny(), uses, limits).plan.bytes(Role::Gradients)
    };
    let eight = bytes(&train);
    train.sum = Sum::Fast;
    let none = bytes(&train);
    train.ranks = 8;
    assert_eq!(bytes(&train), none, "a rank with one micro-batch has no node to wait");
    // Each node keeps the loss, too.
    assert_eq!(eight, 4 * none + 3 * 4);
}
