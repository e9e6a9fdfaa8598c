//! Mixed precision of two kinds, f16 on a GPU and bf16 on a CPU: which loss scale ranks have alone and beside each other, does a
//! run say that it goes on in the other, and does a processor refuse what it has no instruction for?

use std::path::Path;
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use predicates::prelude::*;
use wgpt::backend::Device;
use wgpt::config::{Precision, Sum};
use wgpt::fit::Programs;
use wgpt::kernel::state::{self, FIRST_SCALE_LOG2};
use wgpt::train::{Resumed, RunSettings, resume, start, start_with};
use wgpt::{Event, Trainer};

use crate::common::{cpu_in_bf16, full_gpu};
use crate::local::{on_ranks, plain};
use crate::training::{Place, assert_same, run_until, train};

/// The GPU, where it computes in f16.
fn gpu_in_f16() -> Option<Device> {
    full_gpu().filter(|gpu| gpu.has().f16).map(|gpu| Device::Gpu(Arc::clone(gpu)))
}

fn settings(place: &Place, ranks: usize) -> RunSettings {
    let mut settings = place.settings();
    let train = &mut settings.train;
    (train.precision, train.max_iters, train.ranks) = (Precision::Mixed, 6, ranks);
    train.sum = Sum::Exact;
    settings
}

/// The words of each rank's device after as many updates of a run on these devices.
fn words(devices: &[Device], updates: usize) -> Vec<[u32; state::LEN]> {
    let place = Place::new();
    let run = settings(&place, devices.len());
    let words = Mutex::new(vec![[0; state::LEN]; devices.len()]);
    let go = |rank: usize, mut trainer: Trainer| {
        trainer.stop_after(updates);
        let summary = trainer.run(&mut |_| {})?;
        words.lock().unwrap()[rank] = trainer.engine().read_state()?;
        Ok(summary)
    };
    let open = || start_with(&run, devices[0].clone(), &mut Programs::default(), &mut |_| {});
    for summary in on_ranks(devices.len(), devices, &plain, open, &go) {
        assert_eq!(summary.unwrap().steps, updates);
    }
    words.into_inner().unwrap()
}

#[test]
fn ranks_in_bf16_have_the_loss_scale_of_those_in_f16_beside_them() {
    let cpu = cpu_in_bf16();
    for ranks in [1, 2] {
        for words in words(&vec![cpu.clone(); ranks], 2) {
            assert_eq!([words[state::APPLIED], words[state::SCALE_LOG2]], [2, 0], "{ranks} ranks");
        }
    }
    let Some(gpu) = gpu_in_f16() else { return };
    for devices in [[cpu.clone(), gpu.clone()], [gpu, cpu]] {
        let [first, second] = words(&devices, 2).try_into().unwrap();
        assert_eq!(first, second, "all make the same updates");
        let [applied, scale, age] = [state::APPLIED, state::SCALE_LOG2, state::SCALE_AGE];
        assert_eq!([first[applied], first[scale], first[age]], [2, FIRST_SCALE_LOG2, 2]);
    }
}

/// Goes on with a run until an update; returns what it says and the words of the device.
fn go_on(run: &Path, device: &Device, until: usize) -> (String, [u32; state::LEN]) {
    let mut notes = String::new();
    let resumed = resume(run, |_| Ok(device.clone()), &mut |_| {}).unwrap();
    let Resumed::Running(mut trainer) = resumed else { panic!("it is not finished") };
    trainer.stop_after(until);
    let mut note = |event: &Event| {
        if let Event::Note(note) = event {
            notes += note;
        }
    };
    assert_eq!(trainer.run(&mut note).unwrap().steps, until);
    (notes, trainer.engine().read_state().unwrap())
}

#[test]
fn a_run_goes_on_in_the_other_kind_and_says_so() {
    let Some(gpu) = gpu_in_f16() else { return };
    let (cpu, place) = (cpu_in_bf16(), Place::new());
    let mut trainer = start(&settings(&place, 1), cpu.clone(), &mut |_| {}).unwrap();
    run_until(&mut trainer, 1).unwrap();
    drop(trainer);
    let (said, words) = go_on(&place.run(), &cpu, 2);
    assert_eq!((said.as_str(), words[state::SCALE_LOG2]), ("", 0), "nothing is new");
    let (said, words) = go_on(&place.run(), &gpu, 4);
    assert!(said.contains("in bf16 until update 2, and goes on in f16"), "{said}");
    assert_eq!([words[state::SCALE_LOG2], words[state::SCALE_AGE]], [FIRST_SCALE_LOG2, 2]);
    let (said, words) = go_on(&place.run(), &cpu, 5);
    assert!(said.contains("in f16 until update 4, and goes on in bf16"), "{said}");
    assert_eq!([words[state::APPLIED], words[state::SCALE_LOG2]], [5, 0]);
}

/// A run of an older version does not say what it computed in: that was f16.
#[test]
fn a_run_that_says_nothing_was_in_f16() {
    let (cpu, place) = (cpu_in_bf16(), Place::new());
    let mut trainer = start(&settings(&place, 1), cpu.clone(), &mut |_| {}).unwrap();
    run_until(&mut trainer, 2).unwrap();
    drop(trainer);
    let path = place.run().join("checkpoints/step-2/train_state.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut saved: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(saved.as_object_mut().unwrap().remove("halves"), Some(serde_json::json!(["bf16"])));
    saved["device_words"][state::SCALE_LOG2] = 13.into();
    std::fs::write(&path, saved.to_string()).unwrap();
    let (said, words) = go_on(&place.run(), &cpu, 3);
    assert!(said.contains("in f16 until update 2, and goes on in bf16"), "{said}");
    assert_eq!(words[state::SCALE_LOG2], 0);
}

/// In bf16 as well the bits do not depend on the number of ranks.
#[test]
fn ranks_in_bf16_give_the_bits_of_one() {
    let cpu = cpu_in_bf16();
    let alone = Place::new();
    train(&settings(&alone, 1), &cpu).unwrap();
    for zero in [false, true] {
        let place = Place::new();
        let mut run = settings(&place, 2);
        run.train.zero = zero;
        let open = || start_with(&run, cpu.clone(), &mut Programs::default(), &mut |_| {});
        let go = |_: usize, mut trainer: Trainer| trainer.run(&mut |_| {});
        for summary in on_ranks(2, std::slice::from_ref(&cpu), &plain, open, &go) {
            assert!(summary.unwrap().finished);
        }
        assert_same(&place.run(), &alone.run(), &format!("two ranks, zero {zero}"));
    }
}

/// The program on a processor that has nothing for bf16, or that has it.
fn wgpt(folder: &Path, bf16: &str) -> Command {
    let mut command = Command::cargo_bin("wgpt").unwrap();
    command.current_dir(folder).env("WGPT_BF16", bf16);
    command
}

#[test]
fn a_processor_without_bf16_refuses_mixed_precision() {
    let place = Place::new();
    let folder = place.path("");
    let sizes = ["--layers=1", "--heads=2", "--embd=16", "--context=16"];
    let mixed = ["--precision=mixed", "--device=cpu"];
    let data = ["train", "--data=text.txt", "--tokenizer=bytes", "--max-iters=2", "--out=run"];
    let refused = |advice| {
        predicate::str::contains("this processor has no AVX-512 BF16")
            .and(predicate::str::contains(advice))
    };
    for what in [&data[..], &["plan"]] {
        let mut command = wgpt(&folder, "none");
        command
            .args(what)
            .args(sizes)
            .args(mixed)
            .assert()
            .code(2)
            .stderr(refused("--precision f32"));
    }
    assert!(!place.run().exists(), "nothing was begun");
    let train = ["--eval-every=0", "--save-every=1", "--seq-len=16", "--batch-size=2"];
    wgpt(&folder, "loops").args(data).args(sizes).args(mixed).args(train).assert().success();
    std::fs::remove_dir_all(place.run().join("checkpoints/step-2")).unwrap();
    let again = wgpt(&folder, "none").args(["train", "--resume=run"]).assert().failure();
    again.stderr(refused("--init"));
    for (bf16, precision) in [("none", "f32: the processor has no"), ("loops", "mixed: bf16")] {
        let says = predicate::str::contains(precision);
        wgpt(&folder, bf16).arg("devices").assert().success().stdout(says);
    }
}

#[test]
fn a_plan_in_bf16_has_half_of_the_bytes() {
    let place = Place::new();
    let plan = |precision: &str| {
        let sizes = ["plan", "--size=small", "--device=cpu", "--json", precision];
        let output = wgpt(&place.path(""), "loops").args(sizes).assert().success();
        let plan: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        assert_eq!(plan["precision"], precision["--precision=".len()..]);
        plan["bytes"]["activations"].as_f64().unwrap()
    };
    assert!(plan("--precision=mixed") < 0.7 * plan("--precision=f32"));
}
