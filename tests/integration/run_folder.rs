//! Are files whole or absent, and does a run folder hold exactly what a resumed run needs?

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::checkpoint::{RunDir, TrainState, moments, newest_run, open_state, write_state};
use wgpt::files;
use wgpt::model::{open as open_model, parameters};
use wgpt::params::NamedShape;
use wgpt::{Error, GptConfig};

use crate::checkpoint::{
    all_bits, assert_awkward, elements, fill_awkward, json_file, model_files, wide_config,
};

/// What a folder holds, by path.
fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let dir = TempDir::new().unwrap();
    let (file, folder) = (dir.path().join("file"), dir.path().join("folder"));
    files::write_bytes(&file, b"old").unwrap();
    files::write_folder(&folder, |dir| files::write_bytes(&dir.join("a"), b"old")).unwrap();

    let stop = || Error::training("stopped half-way");
    let failed = files::write_file(&file, |out| {
        std::io::Write::write_all(out, &[7; 1 << 20]).unwrap();
        // Half-way, the file is as it was, and what is being written is known as temporary.
        assert_eq!(fs::read(&file).unwrap(), b"old");
        let others: Vec<String> =
            listing(dir.path()).into_iter().filter(|n| n != "file" && n != "folder").collect();
        assert!(others.len() == 1 && files::is_temporary(&others[0]), "{others:?}");
        Err(stop())
    });
    assert_eq!(failed.unwrap_err().to_string(), stop().to_string());
    let failed = files::write_folder(&folder, |dir| {
        files::write_bytes(&dir.join("b"), b"new").unwrap();
        Err(stop())
    });
    assert_eq!(failed.unwrap_err().to_string(), stop().to_string());
    assert_eq!(listing(dir.path()), ["file", "folder"]);
    assert_eq!(fs::read(&file).unwrap(), b"old");
    assert_eq!(listing(&folder), ["a"]);

    files::write_bytes(&file, b"new").unwrap();
    files::write_folder(&folder, |dir| files::write_bytes(&dir.join("b"), b"new")).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(listing(&folder), ["b"]);
    assert_eq!(listing(dir.path()), ["file", "folder"]);
    assert!(files::write_bytes(Path::new("/"), b"").is_err());
}

#[test]
fn what_a_killed_process_left_is_cleaned_up() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["kept", ".hidden", ".x.wgpt-tmp-12-z", "x.wgpt-tmp-12-3", ".wgpt-tmp-12-3"] {
        fs::write(path(name), "").unwrap();
        assert!(!files::is_temporary(name), "{name}");
    }
    let before = listing(dir.path());
    fs::write(path(".x.wgpt-tmp-12-3"), "").unwrap();
    fs::create_dir_all(path(".step-5.wgpt-tmp-12-4").join("deeper")).unwrap();
    // Killed between the two renames of a replacement: the old folder comes back.
    fs::create_dir_all(path(".best.wgpt-old-12-5").join("old")).unwrap();
    files::clean(dir.path()).unwrap();
    let mut after = before.clone();
    after.push("best".to_string());
    after.sort();
    assert_eq!(listing(dir.path()), after);
    // Killed after them: the new folder stays.
    fs::create_dir(path(".best.wgpt-old-12-6")).unwrap();
    files::clean(dir.path()).unwrap();
    assert_eq!(listing(dir.path()), after);
    assert_eq!(listing(&path("best")), ["old"]);
}

fn a_state(step: u64) -> TrainState {
    TrainState {
        worse: 0,
        ended: false,
        data_fingerprint: u64::MAX - 5,
        step,
        tokens: u64::MAX - 7,
        data_position: 1 << 60,
        seed: u64::MAX,
        // Floats that a reader who rounds carelessly misses by a bit.
        best_val_loss: Some(f64::from_bits(0x3ff5_5555_5555_5557)),
        best_step: None,
        train_loss: Some(5e-324),
        val_loss: Some(1.797_693_134_862_315_7e308),
        seconds: 0.1 + 0.2,
        device_words: vec![0, 1, u32::MAX],
        halves: vec!["bf16".to_owned(), "f16".to_owned()],
        words_of_others: vec![vec![3, u32::MAX], vec![]],
        unevaluated: None,
    }
}

fn tiny() -> GptConfig {
    GptConfig { n_layer: 1, n_head: 1, n_embd: 4, vocab_size: 11, ..GptConfig::small() }
}

#[test]
fn a_train_state_reads_back_bit_for_bit() {
    let dir = TempDir::new().unwrap();
    let tensors = moments(&parameters(&wide_config()));
    write_state(dir.path(), &a_state(7), &tensors, &mut fill_awkward).unwrap();
    let (state, file) = open_state(dir.path(), &tensors).unwrap();
    assert_eq!(state, a_state(7));
    let loss = state.best_val_loss.map(f64::to_bits);
    assert_eq!(loss, a_state(7).best_val_loss.map(f64::to_bits));
    for (name, shape) in tensors {
        let mut values = vec![0.0; elements(&shape)];
        file.read(&name, 0, &mut values).unwrap();
        assert_awkward(&name, &values);
    }
}

#[test]
fn a_damaged_train_state_names_its_file_and_the_way_out() {
    let tensors = moments(&parameters(&tiny()));
    let check = |damage: &dyn Fn(&Path), wanted: &[NamedShape], word: &str| {
        let dir = TempDir::new().unwrap();
        write_state(dir.path(), &a_state(7), &tensors, &mut fill_awkward).unwrap();
        damage(dir.path());
        let error = open_state(dir.path(), wanted).err().unwrap();
        assert!(error.to_string().contains("train_state."), "{error}");
        assert!(error.to_string().contains(word), "{error} should say {word}");
        assert!(error.advice().is_some());
    };
    let cut = |name: &'static str| {
        move |dir: &Path| {
            let text = fs::read(dir.join(name)).unwrap();
            fs::write(dir.join(name), &text[..text.len() - 9]).unwrap();
        }
    };
    check(&cut("train_state.json"), &tensors, "damaged");
    check(&cut("train_state.safetensors"), &tensors, "truncated");
    check(&|dir| fs::remove_file(dir.join("train_state.json")).unwrap(), &tensors, "reading");
    let number = |dir: &Path| {
        let path = dir.join("train_state.json");
        let mut state = json_file(&path);
        state["format"] = json!(99);
        fs::write(path, state.to_string()).unwrap();
    };
    check(&number, &tensors, "99");
    check(&|_| {}, &moments(&parameters(&GptConfig { n_layer: 2, ..tiny() })), "missing");
    check(&|_| {}, &moments(&parameters(&GptConfig { vocab_size: 12, ..tiny() })), "shape");
    check(&|_| {}, &tensors[1..], "unexpected");
}

fn save(run: &RunDir, step: u64, keep: usize) -> PathBuf {
    let config = tiny();
    let tensors = moments(&parameters(&config));
    let mut fill = |name: &str, offset: usize, out: &mut [f32]| {
        out.iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = (name.len() + offset + i) as f32 + step as f32);
        Ok(())
    };
    let state = a_state(step);
    let more = &mut |_: &Path| Ok(());
    run.save_checkpoint(&model_files(&config), (&state, &tensors), &mut fill, more, keep).unwrap()
}

#[test]
fn a_run_keeps_the_newest_checkpoints_and_shows_the_last_model() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("run");
    let run = RunDir::create(&path, &json!({"learning_rate": 0.1 + 0.2})).unwrap();
    assert_eq!(run.newest_checkpoint().unwrap(), None);
    assert_eq!(run.settings::<Value>().unwrap()["learning_rate"].as_f64(), Some(0.1 + 0.2));
    for step in [5, 100, 20, 30] {
        save(&run, step, 2);
    }
    // The one just written stays, whatever its number; of the others the highest.
    assert_eq!(listing(&path.join("checkpoints")), ["step-100", "step-30"]);
    let (last, weights) = open_model(&path).unwrap();
    let newest = open_model(&path.join("checkpoints/step-30")).unwrap();
    assert_eq!(all_bits(&weights, &last), all_bits(&newest.1, &newest.0));

    // A checkpoint that is written again is replaced.
    save(&run, 100, 0);
    assert_eq!(listing(&path.join("checkpoints")), ["step-100"]);
    let (step, folder) = run.newest_checkpoint().unwrap().unwrap();
    assert_eq!(step, 100);
    assert_eq!(open_state(&folder, &moments(&parameters(&tiny()))).unwrap().0, a_state(100));
    assert!(listing(&path).iter().all(|name| !files::is_temporary(name)));
}

#[test]
fn the_newest_checkpoint_is_a_whole_one() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("run");
    let run = RunDir::create(&path, &json!({})).unwrap();
    let kept = save(&run, 7, 9);
    let beside = |name: &str| path.join("checkpoints").join(name);
    let copy = |name: &str| {
        fs::create_dir(beside(name)).unwrap();
        for file in listing(&kept) {
            fs::copy(kept.join(&file), beside(name).join(&file)).unwrap();
        }
    };
    for name in ["step-08", "step-+9", "step-", "step--1", "step-99 copy", "other", ".step-9"] {
        copy(name);
    }
    fs::write(beside("step-50"), "a file").unwrap();
    fs::create_dir(beside("step-51")).unwrap();
    for (i, missing) in
        ["config.json", "model.safetensors", "train_state.json", "train_state.safetensors"]
            .iter()
            .enumerate()
    {
        copy(&format!("step-6{i}"));
        fs::remove_file(beside(&format!("step-6{i}")).join(missing)).unwrap();
    }
    copy(".step-90.wgpt-tmp-1-1");
    assert_eq!(run.newest_checkpoint().unwrap(), Some((7, kept.clone())));
    drop(run);
    fs::remove_file(path.join("model.safetensors")).unwrap();
    let run = RunDir::open(&path).unwrap();
    assert_eq!(run.newest_checkpoint().unwrap(), Some((7, kept)));
    assert!(!beside(".step-90.wgpt-tmp-1-1").exists());
    // Killed before the last model was shown: shown now.
    open_model(&path).unwrap();
}

#[test]
fn a_run_folder_has_one_owner() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("run");
    let error = RunDir::open(&path).unwrap_err().to_string();
    assert!(error.contains("run.json"), "{error}");
    let run = RunDir::create(&path, &json!({})).unwrap();
    let error = RunDir::open(&path).unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
    drop(run);
    RunDir::open(&path).unwrap();
    let error = RunDir::create(&path, &json!({})).unwrap_err();
    assert!(error.advice().unwrap().contains("by resume"));
    fs::write(dir.path().join("something"), "").unwrap();
    let error = RunDir::create(dir.path(), &json!({})).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    // Killed before run.json was there: the same command works again.
    fs::remove_file(path.join("run.json")).unwrap();
    assert!(path.join(".lock").exists());
    RunDir::create(&path, &json!({})).unwrap();
}

#[test]
fn metrics_of_steps_that_will_be_made_again_are_dropped() {
    let dir = TempDir::new().unwrap();
    let run = RunDir::create(&dir.path().join("run"), &json!({})).unwrap();
    run.truncate_metrics(3).unwrap();
    for step in 1..=5 {
        run.append_metrics(&json!({"step": step, "loss": 0.5})).unwrap();
    }
    let path = run.path().join("metrics.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole + "{\"step\": 2, \"lo").unwrap();
    run.truncate_metrics(3).unwrap();
    run.append_metrics(&json!({"step": 4})).unwrap();
    let steps: Vec<u64> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3, 4]);
    run.truncate_metrics(0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn the_newest_run_is_the_one_that_wrote_last() {
    let dir = TempDir::new().unwrap();
    let runs = dir.path().join("runs");
    assert_eq!(newest_run(&runs).unwrap(), None);
    let first = RunDir::create(&runs.join("z-first"), &json!({})).unwrap();
    let second = RunDir::create(&runs.join("second"), &json!({})).unwrap();
    RunDir::create(&runs.join("without-a-model"), &json!({})).unwrap();
    fs::write(runs.join("a-file"), "").unwrap();
    assert_eq!(newest_run(&runs).unwrap(), None);

    let dated = |path: &Path, seconds: u64| {
        let file = fs::File::options().write(true).open(path.join("model.safetensors")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        file.set_modified(time).unwrap();
    };
    save(&first, 1, 1);
    dated(first.path(), 1000);
    save(&second, 1, 1);
    dated(second.path(), 2000);
    assert_eq!(newest_run(&runs).unwrap(), Some(second.path().to_path_buf()));
    let config = tiny();
    first.save_best(&model_files(&config), &mut fill_awkward).unwrap();
    dated(&first.best(), 3000);
    assert_eq!(newest_run(&runs).unwrap(), Some(first.best()));
    // A better model replaces it.
    first
        .save_best(&model_files(&config), &mut |_, _, out: &mut [f32]| {
            out.fill(2.0);
            Ok(())
        })
        .unwrap();
    let (config, weights) = open_model(&first.best()).unwrap();
    assert!(all_bits(&weights, &config).values().flatten().all(|&bits| bits == 2.0f32.to_bits()));
}
