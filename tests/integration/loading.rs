//! Is a model loaded bit for bit, and without a second copy of it in the host's memory?

use std::fs;
use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use wgpt::backend::Device;
use wgpt::checkpoint::{ModelFiles, TextFiles, write_model};
use wgpt::engine::Tensor;
use wgpt::model::open as open_model;
use wgpt::{Gpt, GptConfig};

use crate::checkpoint::all_bits;
use crate::common::{gpu, oracle};

#[test]
fn loading_and_saving_changes_no_bit() {
    let devices = [Some(Device::Cpu), gpu().map(|gpu| Device::Gpu(gpu.clone()))];
    for device in devices.into_iter().flatten() {
        let mut seen = 0;
        for entry in fs::read_dir(oracle()).unwrap() {
            let from = entry.unwrap().path();
            if !from.join("config.json").is_file() {
                continue;
            }
            seen += 1;
            let home = tempfile::tempdir().unwrap();
            let [once, twice] = ["once", "twice"].map(|name| home.path().join(name));
            Gpt::load(&from, device.clone()).unwrap().save(&once).unwrap();
            Gpt::load(&once, device.clone()).unwrap().save(&twice).unwrap();
            let bits = |dir: &Path| {
                let (config, weights) = open_model(dir).unwrap();
                let bits = all_bits(&weights, &config);
                (config, bits)
            };
            assert!(bits(&from) == bits(&once), "{}", from.display());
            for name in ["config.json", "model.safetensors"] {
                let [a, b] = [&once, &twice].map(|dir| fs::read(dir.join(name)).unwrap());
                assert!(a == b, "{} of {}", name, from.display());
            }
        }
        assert!(seen > 0);
    }
}

/// They are read in parts, each on a thread.
#[test]
fn large_parameters_reach_the_device_as_they_are() {
    let sizes = GptConfig {
        n_layer: 1,
        n_head: 1,
        vocab_size: 40_000,
        n_positions: 8,
        ..GptConfig::small()
    };
    let config = GptConfig { n_embd: 32, ..sizes };
    let model = ModelFiles {
        schema: wgpt::model::schema(&config, &wgpt::FineTune::default()),
        config: &config,
        dropout: 0.0,
        tokenizer: None,
        text_files: &TextFiles::default(),
        adapter: None,
    };
    let number = |i: usize| (i % 9973) as f32 * 1e-4;
    let mut fill = |_: &str, start: usize, out: &mut [f32]| {
        out.iter_mut().enumerate().for_each(|(i, x)| *x = number(start + i));
        Ok(())
    };
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &model, &mut fill).unwrap();
    let mut gpt = Gpt::load(folder.path(), Device::Cpu).unwrap();
    let engine = gpt.engine().unwrap();
    for param in engine.program().params.clone().iter() {
        let numbers = engine.param_data(param, Tensor::Value).unwrap();
        let wrong = numbers.iter().enumerate().find(|(i, x)| **x != number(*i));
        assert_eq!(wrong, None, "{}", param.name);
    }
}

/// Set in the process that does nothing but load this folder, so that no other test's memory counts.
const FOLDER: &str = "WGPT_TEST_LOAD";
/// The device of that process.
const DEVICE: &str = "WGPT_TEST_DEVICE";

/// A model of GPT-2's sizes with random parameters; its weights' length in bytes.
fn write_random(dir: &Path) -> u64 {
    let config = GptConfig::gpt2();
    let model = ModelFiles {
        schema: wgpt::model::schema(&config, &wgpt::FineTune::default()),
        config: &config,
        dropout: 0.0,
        tokenizer: None,
        text_files: &TextFiles::default(),
        adapter: None,
    };
    let mut state = 1_u32;
    let mut fill = |_: &str, _: usize, out: &mut [f32]| {
        out.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 * 1e-8 - 0.08
        });
        Ok(())
    };
    write_model(dir, &model, &mut fill).unwrap();
    fs::metadata(dir.join("model.safetensors")).unwrap().len()
}

/// The most memory that this process ever had, in bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

/// Loads the folder, and prints how much memory it took.
fn load(folder: &Path) {
    let device = Device::open(std::env::var(DEVICE).unwrap().parse().unwrap()).unwrap();
    let before = peak_bytes();
    let mut gpt = Gpt::load(folder, device).unwrap();
    let engine = gpt.engine().unwrap();
    // A read waits until everything is where it belongs.
    let param = engine.program().params.last().unwrap().clone();
    let last = engine.param_data(&param, Tensor::Value).unwrap();
    // An engine that also scores takes the parameters over as they are.
    let engine = gpt.batch_engine(1, 4).unwrap();
    engine.row_losses(&[1, 2, 3, 4], &[2, 3, 4, 5]).unwrap();
    let param = engine.program().params.last().unwrap().clone();
    assert_eq!(engine.param_data(&param, Tensor::Value).unwrap(), last);
    println!("\nloaded {}", peak_bytes() - before);
}

#[cfg(target_os = "linux")]
#[test]
fn gpt2_is_held_once() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return load(Path::new(&folder));
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file_bytes = write_random(folder.path());
    // A software adapter's memory is the host's too.
    for device in [Some("cpu"), gpu().map(|_| "gpu")].into_iter().flatten() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "loading::gpt2_is_held_once", "--nocapture"])
            .envs([(FOLDER, folder.path().as_os_str()), (DEVICE, device.as_ref())])
            .timeout(Duration::from_secs(120))
            .assert()
            .success();
        let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("loaded ")).unwrap();
        let share = line.parse::<f64>().unwrap() / file_bytes as f64;
        assert!(share <= 1.3, "{device}: {share} times the file");
    }
}
