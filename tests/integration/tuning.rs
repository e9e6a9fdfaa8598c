//! Are variants chosen by measurement, is what is wrong refused, and is all of it remembered?

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wgpt::backend::gpu::Notice;
use wgpt::backend::gpu::{Gpu, GpuDevice, Measured, class};
use wgpt::backend::{Backend, Device};
use wgpt::kernel::{Dims, Format, Kernel, Step, Variant};
use wgpt::ops::matmul;
use wgpt::plan::{Dispatch, Plan, Role};
use wgpt::profile;
use wgpt::tune::{Effort, tune};

use crate::common::{full_gpu, new_gpu};

/// The class of [`product`].
fn the_class() -> String {
    class(&product().dispatches[0])
}

/// A product that several variants compute on any device.
fn product() -> Plan {
    let [m, k, n] = [300, 40, 300];
    let mut plan = Plan::default();
    let args =
        [m * k, k * n, m * n].map(|len| plan.buffer(Role::Activations, "x", len, Format::F32));
    let dims = Dims { M: m as u32, K: k as u32, N: n as u32, ..Dims::default() };
    plan.push(&matmul::NN, dims, &args);
    plan
}

/// What tuning the product tells.
fn notices(device: &Arc<GpuDevice>, effort: Effort) -> Vec<Notice> {
    notices_of(device, &product(), effort)
}

/// What tuning a plan tells, without its progress.
fn notices_of(device: &Arc<GpuDevice>, plan: &Plan, effort: Effort) -> Vec<Notice> {
    let mut notices = vec![];
    tune(device, plan, effort, &mut |notice| notices.push(notice)).unwrap();
    notices.retain(|notice| !matches!(notice, Notice::Working { .. }));
    notices
}

/// The product's kernel with its variant `large` changed, so that nothing but its text may be wrong.
fn with_large(change: impl FnOnce(Variant) -> Variant) -> &'static Kernel {
    let mut variants = matmul::NN.variants.to_vec();
    let large = variants.iter_mut().find(|variant| variant.name == "large").unwrap();
    *large = change(*large);
    Box::leak(Box::new(Kernel { variants: variants.leak(), ..matmul::NN }))
}

/// The variants that tuning refuses, each with what is wrong.
fn refused(notices: &[Notice]) -> Vec<(&str, &str)> {
    let refused = notices.iter().filter_map(|notice| match notice {
        Notice::Refused { variant, fault } => Some((variant.as_str(), fault.as_str())),
        _ => None,
    });
    refused.collect()
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
    let first = notices(&device, Effort::All);
    assert!(matches!(first[..], [Notice::Tuning { classes: 1, .. }]), "{first:?}");
    let timing = device.measured().classes[&the_class()].clone();
    assert!(timing.ms.len() >= 2 && timing.ms.values().all(|ms| *ms > 0.0), "{timing:?}");
    let least = timing.ms.values().fold(f64::INFINITY, |a, b| a.min(*b));
    assert_eq!(timing.ms[timing.best().unwrap()], least);
    assert_eq!(device.choices(&product()).taken[&the_class()], timing.best().unwrap());

    let again = open();
    assert_eq!(notices(&again, Effort::Missing), []);
    assert_eq!(again.measured().classes[&the_class()], timing);
    assert!(!notices(&again, Effort::All).is_empty(), "all is timed again on demand");

    // Whatever is fastest there is taken here.
    for fastest in timing.ms.keys() {
        let mut measured = again.measured().clone();
        measured.classes.get_mut(&the_class()).unwrap().ms.insert(fastest.clone(), 1e-9);
        measured.save(folder.path()).unwrap();
        let device = open();
        assert_eq!(device.choices(&product()).taken[&the_class()], *fastest);
        Gpu::new(&device, Arc::new(product())).unwrap();
    }
    // Timings of other texts do not count.
    let mut measured = again.measured().clone();
    measured.classes.get_mut(&the_class()).unwrap().texts = "others".into();
    measured.save(folder.path()).unwrap();
    assert!(!notices(&open(), Effort::Missing).is_empty());
}

#[test]
fn the_progress_says_what_is_done_and_how_much_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = new_gpu(Some(folder.path())) else { return };
    let mut told = vec![];
    tune(&device, &product(), Effort::All, &mut |notice| told.push(notice)).unwrap();
    let working = told.iter().filter_map(|notice| match notice {
        Notice::Working { what, done, total } => Some((what.as_str(), *done, *total)),
        _ => None,
    });
    let working: Vec<(&str, usize, usize)> = working.collect();
    let done: Vec<usize> = working.iter().map(|(_, done, _)| *done).collect();
    assert!(done[0] == 0 && done.is_sorted() && !done.is_empty(), "{working:?}");
    assert!(working.iter().all(|(_, done, total)| done < total && *total == working[0].2));
    assert!(working[0].0.starts_with("comparing matmul_nn "), "{working:?}");
    let timed = "timing matmul_nn portable, M=512 K=64 N=512";
    assert!(working.iter().any(|(what, ..)| what.starts_with(timed)), "{working:?}");
}

/// A start that has no time to compare a variant with its twin takes the portable one.
#[test]
fn what_was_not_compared_is_taken_by_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = new_gpu(Some(folder.path())) else { return };
    let plan = product();
    assert_ne!(device.choices(&plan).taken[&the_class()], "", "a guess is a variant");
    let choices = device.compared_choices(&plan);
    assert_eq!(choices.taken[&the_class()], "");
    assert!(!choices.refused.is_empty());
    // Once it is compared, it is taken without being timed.
    let guess = device.choices(&plan).taken[&the_class()].clone();
    let dispatch = &plan.dispatches[0];
    let variant = dispatch.kernel.variants.iter().find(|variant| variant.name == guess).unwrap();
    device.measured().judge(dispatch, variant, None);
    assert_eq!(device.compared_choices(&plan).taken[&the_class()], guess);
    // A run that begins with these choices keeps them, whatever is found out later.
    let run = device.with_choices(choices.clone());
    assert_eq!(tune(&run, &plan, Effort::Missing, &mut |_| {}).unwrap(), choices);
    assert_eq!(run.choices(&plan), choices);
}

#[test]
fn a_variant_that_differs_from_its_twin_is_never_taken() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = new_gpu(Some(folder.path())) else { return };
    let mut plan = product();
    // It leaves out all tiles but the first.
    plan.dispatches[0].kernel = with_large(|large| Variant { grid: |_, _| [1; 3], ..large });
    let told = notices_of(&device, &plan, Effort::All);
    let [(name, fault)] = refused(&told)[..] else { panic!("{told:?}") };
    assert_eq!(name, "matmul_nn large");
    assert!(fault.contains("error") && fault.contains("out["), "{fault}");
    let again = new_gpu(Some(folder.path())).unwrap();
    for device in [device, again] {
        let choices = device.choices(&plan);
        assert!(choices.taken[&the_class()] != "large", "{choices:?}");
        assert_eq!(choices.refused, [name], "it is remembered");
        assert!(!device.measured().classes[&the_class()].ms.contains_key("large"), "nor timed");
    }
}

#[test]
fn a_variant_that_does_not_compile_is_never_taken_and_takes_none_along() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = new_gpu(Some(folder.path())) else { return };
    let mut plan = product();
    plan.dispatches[0].kernel = with_large(|large| Variant { wgsl: "no WGSL", ..large });
    // The same variant of another kernel is sound.
    let sound = Dispatch { kernel: &matmul::TN, ..plan.dispatches[0].clone() };
    plan.dispatches.push(sound);
    let told = notices_of(&device, &plan, Effort::All);
    let [(name, fault)] = refused(&told)[..] else { panic!("{told:?}") };
    assert_eq!(name, "matmul_nn large");
    assert!(!fault.is_empty() && told.iter().any(|notice| notice.to_string().contains(fault)));
    let choices = device.choices(&plan);
    assert_eq!(choices.refused, [name]);
    assert!(choices.taken[&the_class()] != "large", "{choices:?}");
    let tn = class(&plan.dispatches[1]);
    assert!(device.measured().classes[&tn].ms.contains_key("large"), "it was timed");
    // What is wrong there is not blamed on what comes after.
    let mut gpu = Gpu::new(&device, Arc::new(plan)).unwrap();
    gpu.run(0..2, &Step::default());
    gpu.wait().unwrap();
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
    let told = notices(&device, Effort::All);
    assert!(matches!(told.last(), Some(Notice::NotKept { .. })), "{told:?}");
    assert!(device.choices(&product()).taken.contains_key(&the_class()));
    assert_eq!(notices(&device, Effort::Missing), [], "this process knows");
}

#[test]
fn a_devices_best_is_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = new_gpu(Some(folder.path())) else { return };
    let peak = profile::peak(&Device::Gpu(device), false).unwrap();
    assert!(peak.gflops > 0.1 && peak.gb_per_s > 0.1 && peak.gflops.is_finite(), "{peak:?}");
    let again = new_gpu(Some(folder.path())).unwrap();
    assert_eq!(again.measured().best.gb_per_s, Some(peak.gb_per_s));
    assert_eq!(profile::peak(&Device::Gpu(again), false).unwrap(), peak);
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
