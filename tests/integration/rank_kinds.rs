//! The variants of kernels on several ranks: do ranks of one kind of adapter take the same, and does the run keep them, whoever
//! has the adapter?

use std::fs;
use std::sync::{Arc, Mutex};

use wgpt::backend::Device;
use wgpt::backend::gpu::{Choices, GpuDevice, Kinds};
use wgpt::fit::Programs;
use wgpt::train::{RunSettings, start_with};
use wgpt::{Summary, Trainer};

use crate::common::full_gpu;
use crate::local::{on_ranks, plain, resume};
use crate::training::Place;

/// A run of 4 updates on as many ranks, of which the first is on the CPU.
fn settings(place: &Place, ranks: usize) -> RunSettings {
    let mut settings = place.settings();
    (settings.model.n_embd, settings.train.max_iters) = (32, 4);
    (settings.train.ranks, settings.train.grad_accum) = (ranks, ranks);
    settings
}

/// Begins a run on these devices, or goes on with it, until it has made `stop` updates. Returns the variants that each rank on a GPU took.
fn go(settings: &RunSettings, devices: &[Device], stop: usize) -> Vec<(usize, Choices)> {
    let dir = settings.train.out.as_deref().expect("a folder");
    let taken = Mutex::new(vec![]);
    let go = |rank: usize, mut trainer: Trainer| {
        trainer.stop_after(stop);
        let summary = trainer.run(&mut |_| {})?;
        let plan = trainer.engine().program().plan.clone();
        if let Device::Gpu(gpu) = trainer.engine().device() {
            taken.lock().unwrap().push((rank, gpu.choices(&plan)));
        }
        Ok(summary)
    };
    let open = || match dir.exists() {
        false => start_with(settings, devices[0].clone(), &mut Programs::default(), &mut |_| {}),
        true => resume(dir, devices.len(), &devices[0]),
    };
    let all = on_ranks(devices.len(), devices, &plain, open, &go);
    let steps = |summary: wgpt::Result<Summary>| summary.unwrap().steps;
    assert!(all.into_iter().map(steps).all(|steps| steps == stop));
    let mut taken = taken.into_inner().unwrap();
    taken.sort_by_key(|(rank, _)| *rank);
    taken
}

fn kept(place: &Place) -> Kinds {
    serde_json::from_slice(&fs::read(place.run().join("variants.json")).unwrap()).unwrap()
}

/// The portable variants for the run, if the best ones of this adapter are others.
fn portable_of(gpu: &Arc<GpuDevice>) -> Option<Choices> {
    let place = Place::new();
    let best = go(&settings(&place, 1), &[Device::Gpu(Arc::clone(gpu))], 4).swap_remove(0).1;
    let mut portable = best.clone();
    portable.taken.values_mut().for_each(String::clear);
    if best == portable {
        println!("this device has portable variants alone");
        return None;
    }
    Some(portable)
}

#[test]
fn the_first_rank_of_a_kind_chooses_and_the_run_keeps_it() {
    let Some(gpu) = full_gpu() else { return };
    let Some(portable) = portable_of(gpu) else { return };
    let unsettled = Device::Gpu(Arc::clone(gpu));
    let settled = Device::Gpu(gpu.with_choices(portable));
    let place = Place::new();
    let run = settings(&place, 3);
    // The second rank would choose the best ones, the first of its kind has the portable ones.
    let taken = go(&run, &[Device::Cpu, settled, unsettled.clone()], 2);
    assert_eq!(taken.len(), 2);
    assert!(taken.iter().all(|(_, choices)| choices.taken.values().all(String::is_empty)));
    assert_eq!(taken[0].1, taken[1].1);
    assert_eq!(kept(&place).of(gpu.name()), Some(&taken[0].1));
    // They are kept whoever has the adapter: on another rank, and on the first one.
    let again = go(&run, &[Device::Cpu, Device::Cpu, unsettled.clone()], 3);
    assert_eq!(again, [(2, taken[0].1.clone())]);
    let again = go(&run, &[unsettled, Device::Cpu, Device::Cpu], 4);
    assert_eq!(again, [(0, taken[0].1.clone())]);
}

#[test]
fn a_kind_that_the_run_does_not_have_is_added() {
    let Some(gpu) = full_gpu() else { return };
    let Some(portable) = portable_of(gpu) else { return };
    let place = Place::new();
    let run = settings(&place, 2);
    assert!(go(&run, &[Device::Cpu, Device::Cpu], 1).is_empty());
    assert!(!place.run().join("variants.json").exists());
    let mut other = Kinds::default();
    other.put("another (Vulkan)", Choices::default());
    let text = serde_json::to_string(&other).unwrap();
    fs::write(place.run().join("variants.json"), text).unwrap();
    let settled = Device::Gpu(gpu.with_choices(portable));
    let taken = go(&run, &[Device::Cpu, settled], 2).swap_remove(0).1;
    other.put(gpu.name(), taken);
    assert_eq!(kept(&place), other);
}

/// A file of an older version has the variants of the first rank, without the name of its adapter.
#[test]
fn the_variants_of_an_older_version_are_the_first_ranks() {
    let Some(gpu) = full_gpu() else { return };
    let Some(portable) = portable_of(gpu) else { return };
    let place = Place::new();
    let run = settings(&place, 2);
    let devices = [Device::Gpu(Arc::clone(gpu)), Device::Gpu(Arc::clone(gpu))];
    let taken = go(&run, &devices, 1);
    assert!(taken.iter().all(|(_, choices)| choices.taken.values().any(|name| !name.is_empty())));
    let old = serde_json::to_string(&portable).unwrap();
    fs::write(place.run().join("variants.json"), &old).unwrap();
    let taken = go(&run, &devices, 2);
    for (rank, choices) in taken {
        assert!(choices.taken.values().all(String::is_empty), "rank {rank}: {choices:?}");
    }
}
