//! Ranks that train on their own between syncs: is the outer step the paper's, do stopped runs go on bit for bit, and do
//! the ranks talk as rarely as they should? Ranks are threads here.

use std::fs;
use std::path::Path;
use std::slice::from_ref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use assert_cmd::Command;
use wgpt::backend::Device;
use wgpt::checkpoint::TensorFile;
use wgpt::config::{Local, Optimizer, Precision, Sum};
use wgpt::data::{Place as DataPlace, Tokens, batch};
use wgpt::dist::World;
use wgpt::engine::{Engine, MicroBatch, Tensor};
use wgpt::error::Kind;
use wgpt::finetune::Lora;
use wgpt::fit::Programs;
use wgpt::kernel::{Step, state};
use wgpt::model::{Program, Uses};
use wgpt::train::{Changes, Resumed, RunSettings, join, resume_on, start_with};
use wgpt::{Event, FineTune, Gpt, Result, Summary, TrainConfig, Trainer, tree};

use crate::common::full_gpu;
use crate::ranks::{Thread, ranks};
use crate::training::{Place, assert_same, devices, tiny, train};

/// Changes settings.
type Change<'a, T> = &'a dyn Fn(&mut T);

/// Runs `go` with the trainer of every rank, where `open` opens that of the first, and the others take turns with
/// `devices`; `world` makes the ranks' worlds of the
/// threads' own. Returns what came out, in the order of the ranks.
pub fn on_ranks(
    size: usize,
    devices: &[Device],
    world: &(impl Fn(Thread) -> Box<dyn World> + Sync),
    open: impl FnOnce() -> Result<Trainer>,
    go: &(impl Fn(usize, Trainer) -> Result<Summary> + Sync),
) -> Vec<Result<Summary>> {
    let mut all = ranks(size).into_iter();
    let first = all.next().expect("a rank");
    thread::scope(|scope| {
        let rank = |rank: Thread| {
            scope.spawn(move || {
                let number = rank.rank();
                let device = devices[number % devices.len()].clone();
                let joined = join(world(rank), |_| Ok(device))?;
                go(number, joined.expect("the run is not finished"))
            })
        };
        let others: Vec<_> = all.map(rank).collect();
        let lead = || {
            let mut trainer = open()?;
            trainer.lead(world(first))?;
            go(0, trainer)
        };
        let first = lead();
        let others = others.into_iter().map(|rank| rank.join().expect("no panic"));
        [first].into_iter().chain(others).collect()
    })
}

/// The threads' own world.
pub fn plain(rank: Thread) -> Box<dyn World> {
    Box::new(rank)
}

/// Begins a run and goes on with it each time, stopping after the updates of `stops` as the last rank is told to.
fn train_in_parts(settings: &RunSettings, device: &Device, stops: &[usize]) -> Vec<usize> {
    let size = settings.train.ranks;
    let dir = settings.train.out.as_deref().expect("a folder");
    let stops = stops.iter().copied().map(Some).chain([None]);
    let part = |stop: Option<usize>| {
        let go = |rank: usize, mut trainer: Trainer| {
            if let Some(step) = stop.filter(|_| rank + 1 == size) {
                trainer.stop_after(step);
            }
            trainer.run(&mut |_| {})
        };
        let open = || match dir.exists() {
            false => start_with(settings, device.clone(), &mut Programs::default(), &mut |_| {}),
            true => resume(dir, size, device),
        };
        on_ranks(size, from_ref(device), &plain, open, &go).swap_remove(0).unwrap().steps
    };
    stops.map(part).collect()
}

/// Opens a run again on the first of `size` ranks.
pub fn resume(dir: &Path, size: usize, device: &Device) -> Result<Trainer> {
    match resume_on(dir, size, Changes::default(), |_| Ok(device.clone()), &mut |_| {})? {
        Resumed::Running(trainer) => Ok(*trainer),
        Resumed::Finished(_) => panic!("the run is finished"),
    }
}

/// A run of 12 updates with dropout, evaluations and saves, whose ranks sync every 2 updates.
fn settings(place: &Place, ranks: usize) -> RunSettings {
    let mut settings = place.settings();
    let train = &mut settings.train;
    (train.ranks, train.grad_accum, train.local) = (ranks, ranks + 1, Some(Local::every(2, ranks)));
    (train.eval_every, train.save_every, train.keep) = (4, 4, 100);
    settings
}

/// A run in memory over ids that nothing is special about.
fn in_memory(config: &TrainConfig) -> Result<Trainer> {
    Trainer::new(Gpt::new(tiny(), Device::Cpu, config.seed)?, ids(), config.clone())
}

fn ids() -> Tokens {
    Tokens::from_ids((0..2000).map(|i| i * i * 7 % 257).collect())
}

fn parameters(engine: &mut Engine) -> Vec<Vec<f32>> {
    let params = engine.program().params.clone();
    params.iter().map(|param| engine.param_data(param, Tensor::Value).unwrap()).collect()
}

fn set_parameters(engine: &mut Engine, values: &[Vec<f64>]) {
    let params = engine.program().params.clone();
    for (param, values) in params.iter().zip(values) {
        let fill = |start: usize, out: &mut [f32]| {
            out.iter_mut().zip(&values[start..]).for_each(|(out, x)| *out = *x as f32);
            Ok(())
        };
        engine.write_param(param, Tensor::Value, fill).unwrap();
    }
}

/// Algorithm 1 of DiLoCo by itself, in double precision: k engines, each trained by AdamW on its micro-batches; the outer
/// gradient is the mean of the parameters' differences, for PyTorch's SGD with Nesterov's momentum.
fn diloco(config: &TrainConfig) -> Vec<Vec<f64>> {
    let local = config.local.expect("local training");
    let tokens = ids();
    let (range, shape) = (tokens.split(config.val_tokens).0, (config.batch_size, 16));
    let uses = Uses { generation: None, ..Uses::training(config, &tiny()) };
    let engine = || {
        let mut engine = Engine::new(&tiny(), uses, &Device::Cpu).unwrap();
        engine.initialize(config.seed);
        engine
    };
    let mut workers: Vec<Engine> = (0..local.ranks).map(|_| engine()).collect();
    let wide = |all: Vec<Vec<f32>>| -> Vec<Vec<f64>> {
        all.into_iter().map(|one| one.into_iter().map(f64::from).collect()).collect()
    };
    let mut theta = wide(parameters(&mut workers[0]));
    let mut buffer: Vec<Vec<f64>> = theta.iter().map(|one| vec![0.0; one.len()]).collect();
    for iter in 0..config.max_iters {
        let step = Step {
            learning_rate: config.learning_rate_at(iter),
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay,
            grad_clip: config.grad_clip,
            ..Step::default()
        };
        for (rank, worker) in workers.iter_mut().enumerate() {
            let share = tree::share(config.grad_accum, rank, local.ranks);
            let mut one = MicroBatch {
                tokens: vec![0; shape.0 * 16],
                targets: vec![0; shape.0 * 16],
                starts: vec![],
                seed: [0; 2],
            };
            let fill = |micro: usize, one: &mut MicroBatch| {
                let micro = (share.start + micro) as u64;
                let place = DataPlace { seed: config.seed, step: iter as u64, micro };
                batch(&tokens, range.clone(), place, shape, &mut one.tokens, &mut one.targets)
            };
            worker.train_update(share.len(), &mut one, fill, step).unwrap();
        }
        if (iter + 1) % local.sync_every > 0 && iter + 1 < config.max_iters {
            continue;
        }
        let all: Vec<_> = workers.iter_mut().map(|worker| wide(parameters(worker))).collect();
        for (p, theta) in theta.iter_mut().enumerate() {
            for (i, theta) in theta.iter_mut().enumerate() {
                let mean = all.iter().map(|of| of[p][i]).sum::<f64>() / all.len() as f64;
                let gradient = *theta - mean;
                let buffer = &mut buffer[p][i];
                *buffer = local.outer_momentum * *buffer + gradient;
                *theta -= local.outer_rate * (gradient + local.outer_momentum * *buffer);
            }
        }
        workers.iter_mut().for_each(|worker| set_parameters(worker, &theta));
    }
    theta
}

#[test]
fn the_outer_step_is_the_papers() {
    // One with an end between two syncs; H = 1; other rates than the paper's, and a rank with two micro-batches; sums along
    // the tree, of ranks whose first micro-batch is no multiple of anything.
    let paper = |h, ranks| Local::every(h, ranks);
    let other = Local { outer_rate: 0.4, outer_momentum: 0.5, ..paper(3, 3) };
    let cases = [
        (paper(5, 2), 2, Sum::Fast),
        (paper(1, 2), 2, Sum::Fast),
        (other, 4, Sum::Fast),
        (paper(4, 3), 8, Sum::Exact),
    ];
    for (local, grad_accum, sum) in cases {
        let config = TrainConfig {
            max_iters: 12,
            batch_size: 2,
            grad_accum,
            sum,
            ranks: local.ranks,
            local: Some(local),
            eval_every: 0,
            save_every: 0,
            ..TrainConfig::default()
        };
        let want = diloco(&config);
        let check = |rank: usize, mut trainer: Trainer| {
            let summary = trainer.run(&mut |_| {})?;
            let mut moved: f64 = 0.0;
            for (got, want) in parameters(trainer.engine()).iter().zip(&want) {
                for (got, want) in got.iter().zip(want) {
                    // Both round: the difference grows over 12 updates of Adam.
                    let apart = (f64::from(*got) - want).abs();
                    assert!(apart <= 2e-5, "{local:?}, rank {rank}: {got} instead of {want}");
                    moved = moved.max(apart);
                }
            }
            Ok(summary)
        };
        let open = || in_memory(&config);
        for summary in on_ranks(local.ranks, &[Device::Cpu], &plain, open, &check) {
            assert!(summary.unwrap().finished);
        }
    }
}

/// A rate of 1 without momentum takes over what the rank has learned.
#[test]
fn one_rank_can_train_as_without_syncs() {
    for (name, device) in devices() {
        let (with, without) = (Place::new(), Place::new());
        let mut settings = settings(&with, 1);
        let local = Local { outer_rate: 1.0, outer_momentum: 0.0, ..Local::every(2, 1) };
        (settings.train.local, settings.train.max_iters) = (Some(local), 8);
        train(&settings, &device).unwrap();
        for step in [4, 8] {
            let file = format!("checkpoints/step-{step}/train_state.outer.safetensors");
            fs::remove_file(with.run().join(file)).unwrap();
        }
        (settings.train.local, settings.train.out) = (None, Some(without.run()));
        train(&settings, &device).unwrap();
        assert_same(&with.run(), &without.run(), name);
    }
}

#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    let frozen = FineTune { freeze: vec!["h.0.*".into(), "wpe.*".into()], ..FineTune::default() };
    let cases: [(usize, Change<'_, RunSettings>); 4] = [
        (4, &|_| {}),
        (3, &|settings| settings.train.finetune = frozen.clone()),
        (2, &|settings| settings.train.optimizer = Optimizer::Sgd),
        (1, &|_| {}),
    ];
    for (size, change) in cases {
        let (whole, parts) = (Place::new(), Place::new());
        let of = |place: &Place| {
            let mut settings = settings(place, size);
            change(&mut settings);
            settings
        };
        assert_eq!(train_in_parts(&of(&whole), &Device::Cpu, &[]), [12]);
        // All stop at the next sync, at which nothing else may be due.
        assert_eq!(train_in_parts(&of(&parts), &Device::Cpu, &[1, 3, 9]), [2, 4, 10, 12]);
        // Only the stopped run has these.
        for step in [2, 10] {
            fs::remove_dir_all(parts.run().join(format!("checkpoints/step-{step}"))).unwrap();
        }
        assert_same(&parts.run(), &whole.run(), &format!("{size} ranks"));
    }
}

#[test]
fn also_on_a_gpu_in_half_precision_and_with_adapters() {
    let gpu = full_gpu().filter(|gpu| gpu.has().f16);
    let mut devices = vec![(Device::Cpu, Precision::F32)];
    devices.extend(gpu.map(|gpu| (Device::Gpu(Arc::clone(gpu)), Precision::Mixed)));
    for (device, precision) in devices {
        let [base, whole, parts] = [(); 3].map(|()| Place::new());
        let mut first = base.settings();
        first.train.max_iters = 2;
        train(&first, &Device::Cpu).unwrap();
        let of = |place: &Place| {
            let mut settings = settings(place, 2);
            (settings.init, settings.train.precision) = (Some(base.run()), precision);
            settings.train.finetune.lora = Some(Lora::of_rank(2));
            settings.train.max_iters = 6;
            settings
        };
        train_in_parts(&of(&whole), &device, &[]);
        assert_eq!(train_in_parts(&of(&parts), &device, &[3]), [4, 6]);
        assert_same(&parts.run(), &whole.run(), &format!("{precision:?}"));
    }
}

/// Each rank rounds as its device does, but what they go on with after a sync has the same bits.
#[test]
fn ranks_on_different_devices_have_one_model() {
    let Some(gpu) = full_gpu() else { return };
    let config = TrainConfig {
        max_iters: 4,
        batch_size: 2,
        grad_accum: 2,
        ranks: 2,
        local: Some(Local::every(2, 2)),
        eval_every: 0,
        save_every: 0,
        ..TrainConfig::default()
    };
    let models = Mutex::new(vec![]);
    let go = |_: usize, mut trainer: Trainer| {
        let summary = trainer.run(&mut |_| {})?;
        models.lock().unwrap().push(parameters(trainer.engine()));
        Ok(summary)
    };
    let devices = [Device::Cpu, Device::Gpu(Arc::clone(gpu))];
    let all = on_ranks(2, &devices, &plain, || in_memory(&config), &go);
    assert!(all.into_iter().all(|summary| summary.unwrap().finished));
    let models = models.into_inner().unwrap();
    assert!(models[0] == models[1] && models.len() == 2);
}

/// The counters of a rank's device count its own updates, and go on with it.
#[test]
fn each_rank_keeps_its_own_counters() {
    let place = Place::new();
    let settings = settings(&place, 2);
    let go = |rank: usize, mut trainer: Trainer| {
        if rank == 1 {
            let mut words = trainer.engine().read_state()?;
            words[state::SKIPPED] = 5;
            trainer.engine().write_state(&words);
        }
        trainer.stop_after(4);
        trainer.run(&mut |_| {})
    };
    let open = || start_with(&settings, Device::Cpu, &mut Programs::default(), &mut |_| {});
    on_ranks(2, &[Device::Cpu], &plain, open, &go).swap_remove(0).unwrap();
    train_in_parts(&settings, &Device::Cpu, &[]);
    let numbers = place.run().join("checkpoints/step-12/train_state.json");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(numbers).unwrap()).unwrap();
    let words = [&json["device_words"], &json["words_of_others"][0]];
    assert_eq!(words.map(|words| words[state::APPLIED].as_u64()), [Some(12); 2]);
    assert_eq!(words.map(|words| words[state::SKIPPED].as_u64()), [Some(0), Some(5)]);
}

/// A run goes on without local training: its checkpoint is also that of an ordinary run.
#[test]
fn the_first_rank_can_go_on_alone() {
    let place = Place::new();
    let settings = settings(&place, 3);
    let go = |_: usize, mut trainer: Trainer| {
        trainer.stop_after(4);
        trainer.run(&mut |_| {})
    };
    let open = || start_with(&settings, Device::Cpu, &mut Programs::default(), &mut |_| {});
    on_ranks(3, &[Device::Cpu], &plain, open, &go).swap_remove(0).unwrap();
    let written = place.run().join("run.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&written).unwrap()).unwrap();
    json["train"].as_object_mut().unwrap().remove("local").expect("it is kept");
    fs::write(&written, json.to_string()).unwrap();
    assert!(resume(&place.run(), 1, &Device::Cpu).unwrap().run(&mut |_| {}).unwrap().finished);
    let last = place.run().join("checkpoints/step-12");
    assert!(last.is_dir() && !last.join("train_state.outer.safetensors").exists());
}

/// A world that counts what a rank sends, and at which of its updates.
struct Counted {
    rank: Thread,
    bytes: Arc<AtomicUsize>,
    /// This rank's updates so far.
    done: Arc<AtomicUsize>,
    /// The updates after which it may talk; 0: always.
    every: usize,
}

impl Counted {
    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let done = self.done.load(Ordering::Relaxed);
        assert!(done.is_multiple_of(self.every.max(1)), "a message after update {done}");
    }
}

impl World for Counted {
    fn rank(&self) -> usize {
        self.rank.rank()
    }

    fn size(&self) -> usize {
        self.rank.size()
    }

    fn gather(&mut self, own: &[u64]) -> Result<Vec<Vec<u64>>> {
        self.count(size_of_val(own));
        self.rank.gather(own)
    }

    fn exchange(
        &mut self,
        sent: &[(usize, &[f32])],
        received: &mut [(usize, &mut [f32])],
    ) -> Result<()> {
        self.count(sent.iter().map(|(_, numbers)| size_of_val(*numbers)).sum());
        self.rank.exchange(sent, received)
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.count(bytes.len());
        self.rank.broadcast(bytes)
    }
}

/// The bytes that `ranks` ranks send in a run of so many updates, without saves.
fn bytes(ranks: usize, updates: usize, sync_every: Option<usize>) -> usize {
    let config = TrainConfig {
        max_iters: updates,
        batch_size: 1,
        grad_accum: ranks,
        ranks,
        local: sync_every.map(|h| Local::every(h, ranks)),
        eval_every: 0,
        save_every: 0,
        ..TrainConfig::default()
    };
    let bytes = Arc::new(AtomicUsize::new(0));
    let done: Vec<_> = (0..ranks).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let world = |rank: Thread| {
        let (bytes, done) = (Arc::clone(&bytes), Arc::clone(&done[rank.rank()]));
        Box::new(Counted { rank, bytes, done, every: sync_every.unwrap_or(0) }) as Box<dyn World>
    };
    let go = |rank: usize, mut trainer: Trainer| {
        trainer.run(&mut |event| {
            if let Event::Step(step) = event {
                done[rank].store(step.step, Ordering::Relaxed);
            }
        })
    };
    let all = on_ranks(ranks, &[Device::Cpu], &world, || in_memory(&config), &go);
    assert!(all.into_iter().all(|summary| summary.unwrap().finished));
    bytes.load(Ordering::Relaxed)
}

#[test]
fn ranks_talk_only_at_syncs_and_send_the_hth_part() {
    // What 24 updates send more than 12 is what 12 updates send.
    let of = |every| bytes(3, 24, every) - bytes(3, 12, every);
    let synchronous = of(None);
    for h in [1, 4, 12] {
        let local = of(Some(h));
        assert!(local * h <= synchronous, "{local} bytes with H = {h}, {synchronous} without");
        assert!(local * h * 10 >= synchronous * 9, "{local} bytes with H = {h} were not counted");
    }
}

#[test]
fn a_rank_without_finite_losses_ends_all_at_a_sync() {
    let config = TrainConfig {
        max_iters: 40,
        grad_accum: 3,
        ranks: 3,
        local: Some(Local::every(14, 3)),
        eval_every: 0,
        save_every: 0,
        ..TrainConfig::default()
    };
    let go = |rank: usize, mut trainer: Trainer| {
        if rank == 2 {
            let engine = trainer.engine();
            let param = engine.program().param("wpe.weight").unwrap().clone();
            engine.write_elements(&param, Tensor::Value, 3, &[f32::NAN]);
        }
        let mut last = 0;
        let result = trainer.run(&mut |event| {
            if let Event::Step(step) = event {
                last = step.step;
            }
        });
        assert_eq!(last, 14, "rank {rank}");
        result
    };
    for result in on_ranks(3, &[Device::Cpu], &plain, || in_memory(&config), &go) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Training);
        assert!(error.to_string().contains("on rank 2 in 14 updates in a row"), "{error}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let place = Place::new();
    let cases: [(&str, Change<'_, TrainConfig>); 9] = [
        ("sync_every is 0", &|train| train.local = Some(Local::every(0, 4))),
        ("eval_every is 3, must be a multiple of local.sync_every, 2", &|train| {
            train.eval_every = 3
        }),
        ("save_every is 5, must be a multiple of local.sync_every, 2", &|train| {
            train.save_every = 5
        }),
        ("the number of ranks is 3, must be 4", &|train| train.ranks = 3),
        ("local.outer_rate is NaN, must be 0 to 10", &|train| {
            train.local = Some(Local { outer_rate: f64::NAN, ..Local::every(2, 4) });
        }),
        ("local.outer_momentum is 1, must be 0 to 0.999999", &|train| {
            train.local = Some(Local { outer_momentum: 1.0, ..Local::every(2, 4) });
        }),
        ("grad_accum is 3, must be at least the number of ranks, 4", &|train| train.grad_accum = 3),
        ("zero is not possible together with local.sync_every", &|train| train.zero = true),
        ("local.sync_every is not possible together with pipeline", &|train| train.pipeline = 2),
    ];
    for (what, change) in cases {
        let mut settings = settings(&place, 4);
        change(&mut settings.train);
        let error = settings.train.validate(&tiny()).unwrap_err();
        assert!(error.to_string().contains(what), "{error} instead of {what}");
        assert_eq!(error.kind(), Kind::Usage, "{what}");
    }
}

#[test]
fn a_run_goes_on_only_with_its_own_ranks_and_files() {
    let place = Place::new();
    train_in_parts(&settings(&place, 2), &Device::Cpu, &[]);
    fs::remove_dir_all(place.run().join("checkpoints/step-12")).unwrap();
    let resumed = |size| resume(&place.run(), size, &Device::Cpu).err();
    for size in [1, 3] {
        let error = resumed(size).unwrap();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
        assert!(error.to_string().contains(&format!("is {size}, must be 2")), "{error}");
        assert!(error.advice().unwrap().contains("mpirun -n 2"), "{:?}", error.advice());
    }
    assert!(resumed(2).is_none());
    let moments = place.run().join("checkpoints/step-8/train_state.1.safetensors");
    let whole = fs::read(&moments).unwrap();
    fs::write(&moments, &whole[..whole.len() - 4]).unwrap();
    let error = resumed(2).unwrap();
    assert!(error.to_string().contains("train_state.1.safetensors"), "{error}");
    fs::remove_file(&moments).unwrap();
    let error = resumed(2).unwrap();
    assert!(error.to_string().contains("train_state.1.safetensors"), "{error}");
    fs::write(&moments, whole).unwrap();
    let numbers = place.run().join("checkpoints/step-8/train_state.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&numbers).unwrap()).unwrap();
    json["words_of_others"] = serde_json::json!([]);
    fs::write(&numbers, json.to_string()).unwrap();
    let error = resumed(2).unwrap();
    assert!(error.to_string().contains("the counters of 1 ranks, the run has 2"), "{error}");
}

/// Each rank's moments are its own, and what a checkpoint has of the outer momentum is the whole.
#[test]
fn a_checkpoint_has_what_all_ranks_have() {
    let place = Place::new();
    train_in_parts(&settings(&place, 3), &Device::Cpu, &[]);
    let open =
        |name: &str| TensorFile::open(&place.run().join("checkpoints/step-12").join(name)).unwrap();
    let files = ["train_state", "train_state.1", "train_state.2"]
        .map(|name| open(&format!("{name}.safetensors")));
    let outer = open("train_state.outer.safetensors");
    let program = Program::record(
        &tiny(),
        Uses::training(&place.settings().train, &tiny()),
        Device::Cpu.limits(),
    );
    for param in program.params.iter() {
        let moments = files.each_ref().map(|file| {
            let mut numbers = vec![0.0; param.len()];
            file.read(&format!("adam.m.{}", param.name), 0, &mut numbers).unwrap();
            numbers
        });
        assert!(moments[0] != moments[1] && moments[1] != moments[2], "{}", param.name);
        let mut numbers = vec![0.0; param.len()];
        outer.read(&format!("outer.m.{}", param.name), 0, &mut numbers).unwrap();
        assert!(numbers.iter().any(|x| *x != 0.0), "{} has no outer momentum", param.name);
    }
}

#[test]
fn the_command_line_names_its_own_options() {
    let place = Place::new();
    let wgpt = || Command::cargo_bin("wgpt").unwrap();
    let refused = |arguments: &[&str], what: &str| {
        let out = wgpt().args(arguments).current_dir(place.path(".")).assert().code(2);
        let said = String::from_utf8_lossy(&out.get_output().stderr).into_owned();
        assert!(said.contains(what), "{said} instead of {what}");
    };
    let what = "--eval-every is 500, must be a multiple of --sync-every, 7";
    refused(&["train", "--sync-every", "7", "--max-iters", "1"], what);
    refused(&["train", "--outer-rate", "0.4"], "--sync-every");
    let small = ["plan", "--layers=2", "--heads=1", "--embd=8", "--device=cpu", "--ranks=2"];
    let refused_beside = |option, what: &str| {
        refused(&[&small[..], &["--sync-every=2", option]].concat(), what);
    };
    refused_beside("--zero", "--zero is not possible together with --sync-every");
    refused_beside("--pipeline=2", "--sync-every is not possible together with --pipeline");
    let plan =
        ["plan", "--layers=1", "--heads=1", "--embd=8", "--device=cpu", "--ranks=4", "--json"];
    let bytes = |more: &[&str]| {
        let out = wgpt().args(plan).args(more).assert().success();
        let json: serde_json::Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
        (json["outer_bytes"].as_u64(), json["trained"].as_u64().unwrap())
    };
    let (none, trained) = bytes(&[]);
    assert_eq!((none, bytes(&["--sync-every=7"]).0), (None, Some(8 * trained.div_ceil(4))));
}
