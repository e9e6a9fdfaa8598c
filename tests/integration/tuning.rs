//! Are variants chosen by measurement, is what is wrong refused, and is all of it remembered?

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wgpt::backend::gpu::tune::{Effort, Notice, tune, tune_spoiled};
use wgpt::backend::gpu::{Gpu, GpuDevice, Measured};
use wgpt::backend::{Backend, Device};
use wgpt::kernel::{Dims, Elem, Step};
use wgpt::ops::matmul;
use wgpt::plan::{Plan, Role};
use wgpt::profile;

use crate::common::{full_gpu, new_gpu};

/// The class of [`product`].
const CLASS: &str = "matmul_nn M=512 K=64 N=512";

/// A product that several variants compute on any device.
fn product() -> Plan {
    let [m, k, n] = [300, 40, 300];
    let mut plan = Plan::default();
    let args =
        [m * k, k * n, m * n].map(|len| plan.buffer(Role::Activations, "x", len, Elem::Real));
    let dims = Dims { M: m as u32, K: k as u32, N: n as u32, ..Dims::default() };
    plan.push(&matmul::NN, dims, &args);
    plan
}

/// What tuning the product tells.
fn notices(device: &Arc<GpuDevice>, effort: Effort, spoil: Option<&str>) -> Vec<Notice> {
    let mut notices = vec![];
    tune_spoiled(device, &product(), effort, spoil, &mut |notice| notices.push(notice)).unwrap();
    notices
}

/// The file of timings in a folder.
fn file(folder: &Path) -> PathBuf {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut json = all.filter(|path| path.extension().is_some_and(|e| e == "json"));
    let path = json.next().expect("timings were kept");
    assert_eq!(json.next(), None);
    path
}

#[test]
fn the_fastest_is_taken_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let open = || new_gpu(Some(folder.path())).unwrap();
    if full_gpu().is_none() {
        return;
    }
    let device = open();
    let first = notices(&device, Effort::Missing, None);
    assert!(matches!(first[..], [Notice::Tuning { classes: 1, .. }]), "{first:?}");
    let timing = device.measured().classes[CLASS].clone();
    assert!(timing.ms.len() >= 2 && timing.ms.values().all(|ms| *ms > 0.0), "{timing:?}");
    let least = timing.ms.values().fold(f64::INFINITY, |a, b| a.min(*b));
    assert_eq!(timing.ms[timing.best().unwrap()], least);
    assert_eq!(device.choices(&product()).taken[CLASS], timing.best().unwrap());

    let again = open();
    assert_eq!(notices(&again, Effort::Missing, None), []);
    assert_eq!(again.measured().classes[CLASS], timing);
    assert!(!notices(&again, Effort::All, None).is_empty(), "all is timed again on demand");

    // Whatever is fastest there is taken here.
    for fastest in timing.ms.keys() {
        let mut measured = again.measured().clone();
        measured.classes.get_mut(CLASS).unwrap().ms.insert(fastest.clone(), 1e-9);
        measured.save(folder.path()).unwrap();
        let device = open();
        assert_eq!(device.choices(&product()).taken[CLASS], *fastest);
        Gpu::new(&device, Arc::new(product())).unwrap();
    }
    // Timings of other texts do not count.
    let mut measured = again.measured().clone();
    measured.classes.get_mut(CLASS).unwrap().texts = "others".into();
    measured.save(folder.path()).unwrap();
    assert_eq!(notices(&open(), Effort::Missing, None).len(), 1);
}

#[test]
fn a_variant_that_differs_from_its_twin_is_never_taken() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = new_gpu(Some(folder.path())) else { return };
    let told = notices(&device, Effort::Missing, Some("matmul_nn"));
    let refused: Vec<&String> = told
        .iter()
        .filter_map(|notice| match notice {
            Notice::Refused { variant, fault } => {
                assert!(fault.contains("error"), "{fault}");
                Some(variant)
            }
            _ => None,
        })
        .collect();
    assert!(!refused.is_empty(), "{told:?}");
    assert_eq!(device.choices(&product()).taken[CLASS], "", "only the portable one is left");
    let again = new_gpu(Some(folder.path())).unwrap();
    let choices = again.choices(&product());
    assert_eq!(choices.taken[CLASS], "", "it is remembered");
    assert!(refused.iter().all(|name| choices.refused.contains(name)), "{choices:?}");
}

#[test]
fn a_damaged_or_foreign_file_is_told_of_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = new_gpu(Some(folder.path())) else { return };
    device.save_measured().unwrap();
    let path = file(folder.path());
    let foreign = Measured::new("another adapter".into());
    for text in ["{", "", "[1, 2]", &serde_json::to_string(&foreign).unwrap()] {
        fs::write(&path, text).unwrap();
        let device = new_gpu(Some(folder.path())).unwrap();
        let mut told = vec![];
        let empty = Plan::default();
        tune(&device, &empty, Effort::Missing, &mut |notice| told.push(notice)).unwrap();
        assert!(matches!(&told[..], [Notice::Ignored { path: at, .. }] if *at == path), "{told:?}");
        assert!(device.measured().classes.is_empty());
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_told_of_and_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let Some(device) = new_gpu(Some(&file)) else { return };
    let told = notices(&device, Effort::Missing, None);
    assert!(matches!(told.last(), Some(Notice::NotKept { .. })), "{told:?}");
    assert!(device.choices(&product()).taken.contains_key(CLASS));
    assert_eq!(notices(&device, Effort::Missing, None), [], "this process knows");
}

#[test]
fn a_devices_best_is_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = new_gpu(Some(folder.path())) else { return };
    let peak = profile::peak(&Device::Gpu(device)).unwrap();
    assert!(peak.gflops > 0.1 && peak.gb_per_s > 0.1 && peak.gflops.is_finite(), "{peak:?}");
    let again = new_gpu(Some(folder.path())).unwrap();
    assert_eq!(again.measured().peak, Some(peak));
}

#[test]
fn every_dispatch_is_timed() {
    let Some(device) = full_gpu() else { return };
    let mut plan = product();
    let [one] = [plan.dispatches[0].clone()];
    plan.dispatches.extend((0..4).map(|_| one.clone()));
    let mut gpu = Gpu::new(device, Arc::new(plan)).unwrap();
    let times_ms = gpu.run_timed(1..5, &Step::default());
    assert_eq!(times_ms.len(), 4);
    assert!(times_ms.iter().all(|ms| *ms > 0.0 && *ms < 60_000.0), "{times_ms:?}");
}
