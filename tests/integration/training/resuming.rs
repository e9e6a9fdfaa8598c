//! A run that was stopped and resumed ends as if it never had been: the same bytes in every file.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use wgpt::Event;
use wgpt::backend::Device;
use wgpt::backend::gpu::{Choices, DeviceChoice, Kinds};
use wgpt::checkpoint::{Metrics, read_metrics};
use wgpt::config::{Optimizer, Precision};
use wgpt::data::{TokenWriter, Tokens};
use wgpt::kernel::state::{self, FIRST_SCALE_LOG2};
use wgpt::train::{Resumed, RunSettings, TokenizerChoice, resume, start};

use crate::common::{cpu_in_bf16, full_gpu};

use super::{Place, assert_same, contents, devices, go_on, run_until, train};

/// Begins a run, stops it after each of `stops`, and resumes it to its end.
fn stop_and_go(settings: &RunSettings, device: &Device, stops: &[usize]) {
    let run = settings.train.out.as_deref().unwrap();
    let mut trainer = Some(start(settings, device.clone(), &mut |_| {}).unwrap());
    for &step in stops {
        let summary = run_until(trainer.as_mut().unwrap(), step).unwrap();
        assert_eq!((summary.steps, summary.finished), (step, false));
        drop(trainer.take());
        match resume(run, |_| Ok(device.clone()), &mut |_| {}).unwrap() {
            Resumed::Running(resumed) => trainer = Some(*resumed),
            Resumed::Finished(_) => panic!("stopped at {step}, yet finished"),
        }
    }
    assert!(trainer.unwrap().run(&mut |_| {}).unwrap().finished);
}

#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    for (name, device) in devices() {
        for optimizer in [Optimizer::Adamw, Optimizer::Adam, Optimizer::Sgd] {
            let (whole, parts) = (Place::new(), Place::new());
            let with = |place: &Place| {
                let mut settings = place.settings();
                settings.train.optimizer = optimizer;
                settings
            };
            let summary = train(&with(&whole), &device).unwrap();
            assert!(summary.finished && summary.val_loss.is_some());
            // Within an evaluation's and a save's interval, on a save, and just before the end.
            stop_and_go(&with(&parts), &device, &[3, 8, 11]);
            // The extra saves leave other old checkpoints: the newest is what counts.
            let dropped = |place: &Place| {
                for step in [8, 11] {
                    let _ =
                        fs::remove_dir_all(place.run().join(format!("checkpoints/step-{step}")));
                }
            };
            dropped(&whole);
            dropped(&parts);
            assert_same(&parts.run(), &whole.run(), &format!("{name}, {optimizer:?}"));
        }
    }
}

#[test]
fn a_stopped_run_in_mixed_precision_goes_on_bit_for_bit() {
    let gpu = full_gpu().filter(|gpu| gpu.has().f16).map(|gpu| Device::Gpu(Arc::clone(gpu)));
    let gpu = gpu.map(|gpu| (gpu, FIRST_SCALE_LOG2));
    for (device, scale) in [(cpu_in_bf16(), 0)].into_iter().chain(gpu) {
        assert_goes_on_in_mixed_precision(&device, scale);
    }
}

fn assert_goes_on_in_mixed_precision(device: &Device, scale: u32) {
    let (whole, parts) = (Place::new(), Place::new());
    let with = |place: &Place| {
        let mut settings = place.settings();
        settings.train.precision = Precision::Mixed;
        settings
    };
    train(&with(&whole), device).unwrap();
    stop_and_go(&with(&parts), device, &[8]);
    assert_same(&parts.run(), &whole.run(), "mixed");
    // The loss scale goes with it.
    let mut trainer = start(&with(&Place::new()), device.clone(), &mut |_| {}).unwrap();
    let words = trainer.engine().read_state().unwrap();
    assert_eq!(words[state::SCALE_LOG2], scale);
}

#[test]
fn a_run_keeps_its_variants_whatever_is_chosen_later() {
    let Some(gpu) = full_gpu() else { return };
    let sizes = |settings: &mut RunSettings| {
        settings.train.max_iters = 6;
        settings.model.n_embd = 32;
    };
    let (chosen, whole, parts) = (Place::new(), Place::new(), Place::new());
    let with = |place: &Place| {
        let mut settings = place.settings();
        sizes(&mut settings);
        settings
    };
    // The choices of a run, with the portable variant for every class.
    let best = Device::Gpu(Arc::clone(gpu));
    train(&with(&chosen), &best).unwrap();
    let read = |place: &Place| -> Choices {
        let file = fs::read(place.run().join("variants.json")).unwrap();
        let kinds: Kinds = serde_json::from_slice(&file).unwrap();
        kinds.of(gpu.name()).expect("the choices of this kind").clone()
    };
    let mut portable = read(&chosen);
    if portable.taken.values().all(String::is_empty) {
        return println!("this device has portable variants alone");
    }
    portable.taken.values_mut().for_each(String::clear);
    let portable_device = Device::Gpu(gpu.with_choices(portable.clone()));

    train(&with(&whole), &portable_device).unwrap();
    let mut trainer = start(&with(&parts), portable_device, &mut |_| {}).unwrap();
    run_until(&mut trainer, 3).unwrap();
    drop(trainer);
    go_on(&parts.run(), &best).unwrap();
    assert_eq!(read(&parts), portable);
    let _ = fs::remove_dir_all(parts.run().join("checkpoints/step-3"));
    let _ = fs::remove_dir_all(whole.run().join("checkpoints/step-3"));
    assert_same(&parts.run(), &whole.run(), "with the variants that it began with");

    fs::write(parts.run().join("variants.json"), "{").unwrap();
    fs::remove_dir_all(parts.run().join("checkpoints")).unwrap();
    let error = go_on(&parts.run(), &best).unwrap_err();
    assert!(error.to_string().contains("variants.json"), "{error}");
    assert!(error.advice().unwrap().contains("remove it"));
}

#[test]
fn an_evaluation_that_is_cut_short_is_made_when_the_run_goes_on() {
    let (whole, parts) = (Place::new(), Place::new());
    let summary = train(&whole.settings(), &Device::Cpu).unwrap();
    // On the two evaluations on the way, and on that of the end.
    stop_and_go(&parts.settings(), &Device::Cpu, &[5, 10, 12]);
    for (place, step) in [(&whole, 8), (&parts, 10)] {
        fs::remove_dir_all(place.run().join(format!("checkpoints/step-{step}"))).unwrap();
    }
    assert_same(&parts.run(), &whole.run(), "cut short");
    let again = go_on(&parts.run(), &Device::Cpu).unwrap();
    assert!(again.finished && again.val_loss == summary.val_loss, "{again:?}");
}

#[test]
fn a_stop_during_the_last_evaluation_is_heard_and_a_step_is_saved_once() {
    let place = Place::new();
    let mut trainer = start(&place.settings(), Device::Cpu, &mut |_| {}).unwrap();
    let flag = trainer.stop_flag();
    let (mut batches, mut saved) = (0, vec![]);
    let summary = trainer
        .run(&mut |event| match event {
            Event::Evaluating { total, .. } if *total > 2 => {
                batches += 1;
                flag.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            Event::Saved { step, .. } => saved.push(*step),
            _ => {}
        })
        .unwrap();
    assert_eq!((batches, summary.steps, summary.finished), (1, 12, false));
    assert_eq!(saved, [4, 8, 12]);
    drop(trainer);

    let place = Place::new();
    let mut trainer = start(&place.settings(), Device::Cpu, &mut |_| {}).unwrap();
    let (flag, mut saved) = (trainer.stop_flag(), 0);
    trainer
        .run(&mut |event| match event {
            Event::Step(report) => {
                flag.store(report.step == 8, std::sync::atomic::Ordering::Relaxed);
            }
            Event::Saved { step: 8, .. } => saved += 1,
            _ => {}
        })
        .unwrap();
    assert_eq!(saved, 1, "the stop falls on a save");
}

#[test]
fn the_best_model_outlives_a_resume_that_ruins_the_last() {
    for (name, device) in devices() {
        let place = Place::new();
        let mut settings = place.settings();
        settings.train.eval_every = 2;
        let mut trainer = start(&settings, device.clone(), &mut |_| {}).unwrap();
        let before = run_until(&mut trainer, 7).unwrap();
        drop(trainer);
        let best = || fs::read(place.run().join("best/model.safetensors")).unwrap();
        let kept = best();

        let path = place.run().join("run.json");
        let mut settings: RunSettings = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        settings.train.learning_rate = 30.0;
        settings.train.min_learning_rate = Some(30.0);
        fs::write(&path, serde_json::to_vec(&settings).unwrap()).unwrap();
        let after = go_on(&place.run(), &device).unwrap();

        let [least, last] = [before.best_val_loss.unwrap(), after.val_loss.unwrap()];
        assert!(last > least + 1.0, "{name}: {last} is ruin beside {least}");
        assert_eq!(after.best_val_loss, Some(least), "{name}");
        assert!(best() == kept, "{name}: a worse model became the best");
    }
}

#[test]
fn before_the_first_save_it_starts_at_step_0() {
    for (name, device) in devices() {
        let (whole, parts) = (Place::new(), Place::new());
        train(&whole.settings(), &device).unwrap();
        // The process ends after three updates without a save, as if it had been killed.
        let mut trainer = start(&parts.settings(), device.clone(), &mut |_| {}).unwrap();
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            trainer.run(&mut |event| {
                let killed = matches!(event, Event::Step(report) if report.step == 3);
                if killed {
                    std::panic::resume_unwind(Box::new("killed"));
                }
            })
        }));
        assert!(stopped.is_err());
        drop(trainer);
        assert!(!parts.run().join("checkpoints").exists());
        let mut first = None;
        let resumed = resume(&parts.run(), |_| Ok(device.clone()), &mut |_| {}).unwrap();
        let Resumed::Running(mut trainer) = resumed else { panic!("nothing was done yet") };
        trainer
            .run(&mut |event| {
                if let Event::Started { first_step, .. } = event {
                    first = Some(*first_step);
                }
            })
            .unwrap();
        assert_eq!(first, Some(0));
        assert_same(&parts.run(), &whole.run(), name);
    }
}

#[test]
fn a_finished_run_is_finished() {
    let place = Place::new();
    let summary = train(&place.settings(), &Device::Cpu).unwrap();
    let before = contents(&place.run());
    fs::remove_file(place.run().join("loss.svg")).unwrap();
    let no_device = |_: &RunSettings| panic!("a finished run needs no device");
    let Resumed::Finished(again) = resume(&place.run(), no_device, &mut |_| {}).unwrap() else {
        panic!("it is finished")
    };
    assert_eq!(again, summary);
    assert_eq!(again.run_dir.as_deref(), Some(&*place.run()));
    assert!(contents(&place.run()) == before, "what a killed process left out is made up for");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let places = [1, 3].map(|threads| {
        let place = Place::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(&place.settings(), &Device::Cpu)).unwrap();
        place
    });
    assert_same(&places[0].run(), &places[1].run(), "1 and 3 threads");
}

#[test]
fn the_run_outlives_what_it_began_with() {
    // Text, tokenizer and the first model may be gone: the run's folder has all that is needed.
    let (whole, parts) = (Place::new(), Place::new());
    for place in [&whole, &parts] {
        let mut first = place.settings();
        first.train.out = Some(place.path("first"));
        first.train.max_iters = 2;
        train(&first, &Device::Cpu).unwrap();
    }
    let with = |place: &Place| {
        let mut settings = place.settings();
        settings.init = Some(place.path("first"));
        settings.tokenizer = "train".into();
        settings
    };
    train(&with(&whole), &Device::Cpu).unwrap();
    let mut trainer = start(&with(&parts), Device::Cpu, &mut |_| {}).unwrap();
    run_until(&mut trainer, 4).unwrap();
    drop(trainer);
    fs::remove_dir_all(parts.path("first")).unwrap();
    fs::remove_file(parts.path("text.txt")).unwrap();
    assert!(go_on(&parts.run(), &Device::Cpu).unwrap().finished);
    assert_same(&parts.run(), &whole.run(), "init");
}

#[test]
fn token_files_are_data() {
    let write = |path: &Path| {
        let ids: Vec<u32> = (0..3000).map(|i| (i * i + i / 7) % 61).collect();
        let mut writer = TokenWriter::create(path, 61).unwrap();
        writer.push(&ids).unwrap();
        writer.finish().unwrap();
    };
    let (whole, parts) = (Place::new(), Place::new());
    let with = |place: &Place| {
        let path = place.path("ids.bin");
        write(&path);
        let mut settings = place.settings();
        settings.data = vec![path.to_string_lossy().into_owned()];
        settings.tokenizer = "train".into();
        settings.model.vocab_size = 61;
        settings
    };
    train(&with(&whole), &Device::Cpu).unwrap();
    assert!(!whole.run().join("tokenizer.json").exists(), "nobody knows what the ids mean");
    assert!(!whole.run().join("tokens.bin").exists(), "the file is used where it lies");
    stop_and_go(&with(&parts), &Device::Cpu, &[6]);
    let _ = fs::remove_dir_all(parts.run().join("checkpoints/step-6"));
    let _ = fs::remove_dir_all(whole.run().join("checkpoints/step-8"));
    let _ = fs::remove_dir_all(parts.run().join("checkpoints/step-8"));
    assert_same(&parts.run(), &whole.run(), "token file");

    // The tokenizer that is named goes with the model, which takes its vocabulary.
    let place = Place::new();
    let mut settings = with(&place);
    settings.tokenizer = "bytes".into();
    settings.model.vocab_size = 1000;
    train(&settings, &Device::Cpu).unwrap();
    let best = place.run().join("best");
    assert_eq!(wgpt::checkpoint::read_config(&best).unwrap().vocab_size, 257);
    assert!(wgpt::Gpt::load(&best, Device::Cpu).unwrap().tokenizer().is_some());

    // Ids that the model does not have, and a file that was changed under a run.
    let mut settings = with(&Place::new());
    settings.data = with(&parts).data;
    settings.model.vocab_size = 60;
    let error = train(&settings, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("token id 60 at position"), "{error}");
    let place = Place::new();
    let mut trainer = start(&with(&place), Device::Cpu, &mut |_| {}).unwrap();
    run_until(&mut trainer, 5).unwrap();
    drop(trainer);
    let mut writer = TokenWriter::create(&place.path("ids.bin"), 61).unwrap();
    writer.push(&[7; 4000]).unwrap();
    assert_eq!(writer.finish().unwrap().len(), 4000);
    let error = go_on(&place.run(), &Device::Cpu).unwrap_err();
    assert!(
        error.to_string().contains("ids.bin") && error.to_string().contains("changed"),
        "{error}"
    );
    write(&place.path("ids.bin"));
    assert!(Tokens::open(&place.path("ids.bin")).is_ok());
    assert!(go_on(&place.run(), &Device::Cpu).unwrap().finished);
}

/// run.json as version 0.1.0 wrote it before tokenizer and device had types of their own, but for the paths.
const OLD_RUN: &str = r#"{
  "data": [
    "DATA"
  ],
  "tokenizer": "bytes",
  "model": {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
    "vocab_size": 1000,
    "n_positions": 16,
    "n_inner": null,
    "layer_norm_epsilon": 0.00001
  },
  "train": {
    "max_iters": 2,
    "batch_size": 2,
    "seq_len": null,
    "grad_accum": 1,
    "learning_rate": 0.00625,
    "min_learning_rate": null,
    "warmup": null,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "grad_clip": 1.0,
    "dropout": 0.0,
    "seed": 1337,
    "eval_every": 500,
    "eval_iters": 1,
    "val_tokens": 1000000,
    "save_every": 500,
    "log_every": 10,
    "keep": 2,
    "optimizer": "adamw",
    "precision": "f32",
    "recompute": "none",
    "finetune": {
      "freeze": [],
      "train_only": [],
      "lora": null
    },
    "out": "RUN"
  },
  "device": "cpu",
  "threads": null,
  "init": null,
  "cache": "CACHE"
}"#;

#[test]
fn the_settings_of_an_older_version_are_read_and_written_as_they_were() {
    let folder = TokenizerChoice::Folder("/a/train".into());
    for (choice, name) in
        [(TokenizerChoice::Train, "train"), (TokenizerChoice::Bytes, "bytes"), (folder, "/a/train")]
    {
        for (device, device_name) in [
            (DeviceChoice::Auto, "auto"),
            (DeviceChoice::Cpu, "cpu"),
            (DeviceChoice::Gpu, "gpu"),
            (DeviceChoice::GpuIndex(2), "gpu:2"),
        ] {
            let old = OLD_RUN.replace("\"bytes\"", &format!("{name:?}"));
            let old = old.replace("\"cpu\"", &format!("{device_name:?}"));
            let settings: RunSettings = serde_json::from_str(&old).unwrap();
            assert_eq!((&settings.tokenizer, settings.device), (&choice, device));
            assert_eq!(serde_json::to_string_pretty(&settings).unwrap(), old);
        }
    }
    let wrong = OLD_RUN.replace("\"cpu\"", "\"tpu\"");
    let error = serde_json::from_str::<RunSettings>(&wrong).unwrap_err();
    assert!(error.to_string().contains("there is no device \"tpu\""), "{error}");
}

#[test]
fn a_run_of_an_older_version_goes_on() {
    let place = Place::new();
    let data = place.settings().data[0].clone();
    let run = place.run();
    fs::create_dir(&run).unwrap();
    let cache = place.path("cache");
    let paths = [("DATA", Path::new(&data)), ("RUN", &run), ("CACHE", &cache)];
    let old = paths.iter().fold(OLD_RUN.to_owned(), |text, (name, path)| {
        text.replace(&format!("{name:?}"), &format!("{:?}", path.to_str().unwrap()))
    });
    fs::write(run.join("run.json"), &old).unwrap();
    assert!(go_on(&run, &Device::Cpu).unwrap().finished);
    assert_eq!(fs::read_to_string(run.join("run.json")).unwrap(), old);
    assert!(fs::metadata(run.join("model.safetensors")).unwrap().len() > 0);
}

/// Copies a folder and what is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// tests/runs has a run that an older version's command line made to its 10th of 20 updates, and whole.jsonl, the metrics
/// of the same run as that version made it to the end: two micro-batches per update, dropout, evaluations, AdamW.
#[test]
fn a_run_that_an_older_version_saved_goes_on_as_it_did_there() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runs/version-0.1.0");
    for (name, device) in devices() {
        let place = Place::new();
        copy(&old, &place.run());
        let (whole, begun) = ("whole.jsonl", "metrics.jsonl");
        fs::rename(place.run().join(whole), place.path(begun)).unwrap();
        let want = read_metrics(&place.path("")).unwrap();
        assert!(go_on(&place.run(), &device).unwrap().finished, "{name}");
        let got = read_metrics(&place.run()).unwrap();
        assert_eq!((got.len(), want.len()), (20, 20), "{name}");
        for (got, want) in got.iter().zip(&want) {
            assert_eq!((got.step, got.tokens, got.lr), (want.step, want.tokens, want.lr), "{name}");
            for (got, want) in numbers(got).into_iter().zip(numbers(want)) {
                let same = match (got, want) {
                    (Some(got), Some(want)) => (got - want).abs() <= 1e-4 * want.abs(),
                    (got, want) => got == want,
                };
                assert!(same, "{name}: {got:?} for {want:?}");
            }
        }
    }
}

/// Loss, norm and validation loss of an update.
fn numbers(metrics: &Metrics) -> [Option<f64>; 3] {
    [metrics.loss.map(f64::from), metrics.grad_norm.map(f64::from), metrics.val_loss]
}
