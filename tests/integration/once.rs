//! Is what takes long done once: weights read, plans recorded, engines made? And does nothing wait for its own report?

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use assert_cmd::Command;
use wgpt::backend::Device;
use wgpt::checkpoint::{ModelFiles, TextFiles, write_model};
use wgpt::data::Tokens;
use wgpt::engine::Tensor;
use wgpt::fit::Programs;
use wgpt::model::{Uses, schema};
use wgpt::plan::Limits;
use wgpt::train::{RunSettings, TokenizerChoice, start, start_with};
use wgpt::{Event, FineTune, GenerateOptions, Gpt, GptConfig, TrainConfig, Trainer};

use crate::training::{Place, devices, go_on, metrics, tiny, train};

/// A model whose weights are most of what its folder holds; `broken` has one that is not a number.
fn write_some(dir: &Path, config: &GptConfig, broken: Option<(&str, usize)>) -> u64 {
    let model = ModelFiles {
        config,
        schema: schema(config, &FineTune::default()),
        dropout: 0.0,
        tokenizer: None,
        text_files: &TextFiles::default(),
        adapter: None,
    };
    let mut fill = |name: &str, offset: usize, out: &mut [f32]| {
        for (i, out) in out.iter_mut().enumerate() {
            *out = ((offset + i) % 97) as f32 * 1e-3;
        }
        if let Some((_, index)) = broken.filter(|(broken, _)| *broken == name)
            && (offset..offset + out.len()).contains(&index)
        {
            out[index - offset] = f32::NAN;
        }
        Ok(())
    };
    write_model(dir, &model, &mut fill).unwrap();
    fs::metadata(dir.join("model.safetensors")).unwrap().len()
}

/// Settings of a run from the model in `init`, on ids.
fn settings(place: &Place, init: &Path) -> RunSettings {
    let ids: Vec<u8> = (0..4_000_u16).flat_map(|i| (i * 7 % 257).to_le_bytes()).collect();
    fs::write(place.path("ids.bin"), ids).unwrap();
    let mut settings = place.settings();
    settings.data = vec![place.path("ids.bin").to_string_lossy().into_owned()];
    settings.tokenizer = TokenizerChoice::Train;
    settings.init = Some(init.to_owned());
    settings
}

/// Bytes that this process has read so far.
fn read_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    line.trim().parse().unwrap()
}

/// Set in the process that does nothing but begin this run.
const FOLDER: &str = "WGPT_TEST_ONCE";

/// Begins a run and prints how much it read of the weights, and how many programs it recorded.
fn begin(folder: &Path) {
    let place = Place::new();
    let settings = settings(&place, folder);
    let mut programs = Programs::default();
    // As the command line does to see what fits.
    let uses = Uses::training(&settings.train, &large());
    programs.of(&large(), uses, &settings.train.finetune, Device::Cpu.limits());
    let before = read_bytes();
    start_with(&settings, Device::Cpu, &mut programs, &mut |_| {}).unwrap();
    println!("\nread {} recorded {}", read_bytes() - before, programs.recorded());
}

/// Its weights take 8 MiB.
fn large() -> GptConfig {
    GptConfig { n_embd: 256, n_layer: 2, vocab_size: 2_048, ..tiny() }
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_from_a_model_reads_its_weights_once_and_records_one_plan() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return begin(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = write_some(folder.path(), &large(), None);
    let name = "once::a_run_from_a_model_reads_its_weights_once_and_records_one_plan";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(FOLDER, folder.path())
        .timeout(Duration::from_secs(120))
        .assert()
        .success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("read ")).unwrap();
    let (read, recorded) = line.split_once(" recorded ").unwrap();
    let share = read.parse::<f64>().unwrap() / bytes as f64;
    assert!((0.99..1.1).contains(&share), "{share} times the weights were read");
    assert_eq!(recorded, "1");
}

#[test]
fn another_use_is_another_program() {
    let mut programs = Programs::default();
    let (config, all) = (tiny(), FineTune::default());
    let frozen = FineTune { freeze: vec!["wte.*".into()], ..FineTune::default() };
    let uses = Uses { batch: 1, seq: 8, ..Uses::default() };
    let wider = GptConfig { n_embd: 32, ..tiny() };
    let training = Uses::training(&TrainConfig::default(), &config);
    let cases = [
        (&config, uses, &all, Limits::NONE, 1),
        (&config, uses, &all, Limits::NONE, 1),
        (&wider, uses, &all, Limits::NONE, 2),
        (&config, uses, &all, Limits::NONE, 3),
        (&config, uses, &all, Limits::WEBGPU, 4),
        (&config, training, &all, Limits::WEBGPU, 5),
        (&config, training, &frozen, Limits::WEBGPU, 6),
        (&config, training, &frozen, Limits::WEBGPU, 6),
    ];
    for (config, uses, finetune, limits, recorded) in cases {
        let program = programs.of(config, uses, finetune, limits);
        assert_eq!((&program.config, program.uses), (config, uses));
        assert_eq!((&program.finetune, program.limits), (finetune, limits));
        assert_eq!(programs.recorded(), recorded);
    }
}

/// The bits of all parameters.
fn bits(gpt: &mut Gpt) -> Vec<u32> {
    let engine = gpt.engine().unwrap();
    let params = Arc::clone(&engine.program().params);
    let data = params.iter().flat_map(|param| engine.param_data(param, Tensor::Value).unwrap());
    data.map(f32::to_bits).collect()
}

/// A model that is scored and generates in turn: one engine, after it has done each once.
#[test]
fn one_engine_scores_and_generates() {
    for (name, device) in devices() {
        for trained in [false, true] {
            let mut gpt = Gpt::new(tiny(), device.clone(), 5).unwrap();
            if trained {
                let ids = (0..2_000).map(|i| i * i * 7 % 257).collect();
                let config = TrainConfig { max_iters: 2, batch_size: 2, ..TrainConfig::default() };
                let mut trainer = Trainer::new(gpt, Tokens::from_ids(ids), config).unwrap();
                trainer.run(&mut |_| {}).unwrap();
                gpt = trainer.into_model();
            }
            let (before, options) =
                (bits(&mut gpt), GenerateOptions { max_tokens: 30, ..GenerateOptions::default() });
            let (x, y): (Vec<u32>, Vec<u32>) = ((0..24).collect(), (1..25).collect());
            let ids = gpt.generate_ids(&[1, 2, 3], &options).unwrap();
            let losses = gpt.batch_engine(3, 8).unwrap().row_losses(&x, &y).unwrap();
            let plan = Arc::clone(&gpt.batch_engine(3, 8).unwrap().program().plan);
            for _ in 0..2 {
                assert_eq!(gpt.generate_ids(&[1, 2, 3], &options).unwrap(), ids, "{name}");
                let again = gpt.batch_engine(3, 8).unwrap().row_losses(&x, &y).unwrap();
                assert_eq!(again, losses, "{name}");
            }
            assert!(Arc::ptr_eq(&plan, &gpt.engine().unwrap().program().plan), "{name}");
            // Other batches, and the parameters are what they were.
            gpt.batch_engine(2, 12).unwrap().row_losses(&x, &y).unwrap();
            assert_eq!(gpt.generate_ids(&[1, 2, 3], &options).unwrap(), ids, "{name}");
            assert!(bits(&mut gpt) == before, "{name}, trained: {trained}");
        }
    }
}

/// Reports come late and in order, each with the numbers of its own update.
#[test]
fn late_reports_are_those_of_their_updates() {
    for (name, device) in devices() {
        let report = |eval_every| {
            let ids = (0..2_000).map(|i| i * i * 7 % 257).collect();
            let config = TrainConfig {
                max_iters: 23,
                batch_size: 2,
                log_every: 1,
                eval_every,
                eval_iters: 1,
                ..TrainConfig::default()
            };
            let gpt = Gpt::new(tiny(), device.clone(), 5).unwrap();
            let mut trainer = Trainer::new(gpt, Tokens::from_ids(ids), config).unwrap();
            let mut steps = vec![];
            let seen = &mut |event: &Event| {
                if let Event::Step(report) = event {
                    let numbers =
                        (report.loss.map(f32::to_bits), report.grad_norm.map(f32::to_bits));
                    steps.push((report.step, report.tokens, numbers));
                }
            };
            trainer.run(seen).unwrap();
            steps
        };
        // An evaluation after each update waits for its report.
        let (late, at_once) = (report(0), report(1));
        assert_eq!(late, at_once, "{name}");
        assert!(late.iter().map(|(step, ..)| *step).eq(1..=23), "{name}");
        assert!(late.iter().all(|(.., (loss, norm))| loss.is_some() && norm.is_some()), "{name}");
    }
}

/// The flag ends a run soon: what is under way is still done, and reported, logged and saved.
#[test]
fn a_stopped_run_reports_what_was_under_way() {
    for (name, device) in devices() {
        let place = Place::new();
        let mut settings = place.settings();
        settings.train = TrainConfig {
            max_iters: 60,
            eval_every: 0,
            save_every: 0,
            log_every: 1,
            ..settings.train
        };
        let mut trainer = start(&settings, device.clone(), &mut |_| {}).unwrap();
        let (flag, mut last) = (trainer.stop_flag(), 0);
        let summary = trainer.run(&mut |event| {
            if let Event::Step(report) = event {
                assert_eq!(report.step, last + 1);
                last = report.step;
                flag.store(last >= 5, Ordering::Relaxed);
            }
        });
        let summary = summary.unwrap();
        let most = 5 + trainer.engine().run_ahead();
        assert!((5..most).contains(&summary.steps) && !summary.finished, "{name}: {summary:?}");
        assert_eq!(last, summary.steps, "{name}");
        assert_eq!(metrics(&place.run()).len(), last, "{name}");
        assert!(place.run().join(format!("checkpoints/step-{last}")).is_dir(), "{name}");
    }
}

/// What is not finite among a model's weights is found as they are read, by whatever reads them, and named.
#[test]
fn weights_that_are_not_finite_are_found_as_they_are_read() {
    let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
    let config = GptConfig { vocab_size: 257, ..large() };
    write_some(folder.path(), &config, Some(("h.1.mlp.c_fc.weight", 200_003)));
    let says = |error: wgpt::Error, what: &str| {
        let place =
            format!("h.1.mlp.c_fc.weight is NaN at [{}, {}]", 200_003 / 1024, 200_003 % 1024);
        assert!(error.to_string().contains(&place), "{what}: {error}");
        assert!(error.advice().unwrap().contains("diverged"), "{what}: {error:?}");
    };
    for (name, device) in devices() {
        let load = || Gpt::load(folder.path(), device.clone()).unwrap();
        says(load().generate_ids(&[1], &GenerateOptions::default()).unwrap_err(), name);
        // It is not forgotten after the first time.
        let mut gpt = load();
        for _ in 0..2 {
            says(gpt.batch_engine(1, 4).err().unwrap(), name);
        }
        let copy = place.path("copy");
        says(load().save(&copy).unwrap_err(), name);
        assert!(!copy.exists(), "{name}: nothing is left of it");
        let settings = settings(&place, folder.path());
        says(start(&settings, device.clone(), &mut |_| {}).err().unwrap(), name);
        assert!(!place.run().exists(), "{name}: the same command can be given again");
    }
}

/// Of a checkpoint that is not finite the way out is the one before it.
#[test]
fn a_checkpoint_that_is_not_finite_is_to_be_removed() {
    let place = Place::new();
    train(&place.settings(), &Device::Cpu).unwrap();
    let saved = place.run().join("checkpoints/step-12");
    let path = saved.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let run = fs::read_to_string(place.run().join("run.json")).unwrap();
    fs::write(place.run().join("run.json"), run.replace("\"max_iters\": 12", "\"max_iters\": 14"))
        .unwrap();
    let error = go_on(&place.run(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("is infinite at"), "{error}");
    assert!(error.advice().unwrap().contains("remove the folder"), "{error:?}");
    fs::remove_dir_all(saved).unwrap();
    assert!(go_on(&place.run(), &Device::Cpu).unwrap().finished);
}
