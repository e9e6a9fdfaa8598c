//! Memory stays flat: what a run takes at its start, it takes for ever.

use std::sync::Arc;
use std::time::Duration;

use assert_cmd::Command;
use wgpt::arch::presets;
use wgpt::backend::Device;
use wgpt::backend::gpu::GpuDevice;
use wgpt::data::Tokens;
use wgpt::engine::Engine;
use wgpt::model::Uses;
use wgpt::{Event, Gpt, GptConfig, TrainConfig, Trainer};

use super::{devices, tiny};

/// Set in the process that does nothing but this test, so that no other test's memory counts.
const ALONE: &str = "WGPT_TEST_ALONE";

/// Resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    kib << 10
}

#[cfg(target_os = "linux")]
#[test]
fn memory_is_flat_over_a_thousand_steps() {
    if std::env::var_os(ALONE).is_some() {
        return measure();
    }
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "training::memory::memory_is_flat_over_a_thousand_steps", "--nocapture"])
        .env(ALONE, "1")
        .timeout(Duration::from_secs(120))
        .assert()
        .success();
}

/// A run of a small model takes of a device what its plan says, and little beside it.
fn measure_plan(gpu: &Arc<GpuDevice>, arch: &str) {
    let config = presets::named("small", Some(arch)).and_then(|config| presets::complete(&config));
    let (device, config) = (Device::Gpu(Arc::clone(gpu)), config.unwrap());
    let allocated = || gpu.allocated_bytes().expect("wgpu counts on Vulkan");
    let before = allocated();
    let train = TrainConfig { batch_size: 4, ..TrainConfig::default() };
    let engine = Engine::new(&config, Uses::training(&train, &config), &device).unwrap();
    let (plan, taken) = (engine.program().plan.total_bytes(), allocated() - before);
    println!("plan {plan}, allocated {taken}");
    // Beside it: what reads go through, and the sizes of every dispatch.
    let beside = taken.checked_sub(plan).expect("a run takes at least its plan");
    assert!(beside <= plan / 20 + (4 << 20), "{beside} bytes beside the plan's {plan}");
}

fn measure() {
    for (name, device) in devices() {
        if let Device::Gpu(gpu) = &device {
            ["gpt2", "llama", "gpt_neox"].iter().for_each(|arch| measure_plan(gpu, arch));
        }
        let ids: Vec<u32> = (0..5000).map(|i| i * i * 7 % 257).collect();
        let allocated_bytes = || match &device {
            Device::Cpu => None,
            Device::Gpu(gpu) => Some(gpu.allocated_bytes().expect("wgpu counts on Vulkan")),
        };
        let config = GptConfig { n_layer: 1, n_positions: 8, ..tiny() };
        let gpt = Gpt::new(config, device.clone(), 5).unwrap();
        let config = TrainConfig {
            max_iters: 1000,
            batch_size: 2,
            dropout: 0.1,
            eval_every: 100,
            eval_iters: 2,
            ..TrainConfig::default()
        };
        let mut trainer = Trainer::new(gpt, Tokens::from_ids(ids), config).unwrap();
        let mut seen = vec![];
        trainer
            .run(&mut |event| {
                if matches!(event, Event::Step(report) if [200, 1000].contains(&report.step)) {
                    seen.push((resident_bytes(), allocated_bytes()));
                }
            })
            .unwrap();
        let [early, late] = seen[..] else { panic!("steps 200 and 1000 were reported") };
        assert_eq!(early.1, late.1, "{name}: bytes of the device at steps 200 and 1000");
        // A software adapter's memory is the host's, and what its driver keeps is not ours.
        if name == "cpu" {
            let (early, late) = (early.0, late.0);
            assert!(late <= early + (2 << 20), "{early} bytes at step 200, {late} at step 1000");
        }
    }
}
