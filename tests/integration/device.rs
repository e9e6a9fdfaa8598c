//! Which device is taken, what it allows, and what happens when it is asked too much.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use assert_cmd::Command;
use wgpt::backend::cpu::{Cpu, Use};
use wgpt::backend::gpu::{AdapterKind, AdapterReport, Choice, DeviceChoice, Gpu, adapters, pick};
use wgpt::backend::{Backend, Out};
use wgpt::error::Kind;
use wgpt::kernel::{Dims, Format, Needs, Step};
use wgpt::ops::{matmul, residual};
use wgpt::plan::{Limits, Plan, Role};

use crate::common::{gpu, new_gpu};

/// Adapters of these kinds, as if a machine had them.
fn machine(kinds: &[AdapterKind]) -> Vec<AdapterReport> {
    let adapter = |(index, &kind): (usize, &AdapterKind)| AdapterReport {
        index,
        name: format!("adapter {index}"),
        backend: "Vulkan".into(),
        driver: "driver 1".into(),
        kind,
        buffer_bytes: 1 << 28,
        binding_bytes: 1 << 27,
        workgroup_bytes: 1 << 14,
        subgroup_sizes: [4, 128],
        shader_f16: false,
        subgroups: false,
        timestamps: false,
        cooperative_matrix: false,
        matrix_shapes: vec![],
        has: Needs::NOTHING,
    };
    kinds.iter().enumerate().map(adapter).collect()
}

#[test]
fn choices_are_read_and_written() {
    for text in ["auto", "cpu", "gpu", "gpu:0", "gpu:12"] {
        let choice: DeviceChoice = text.parse().unwrap();
        assert_eq!(choice.to_string(), text);
        // In run.json it is the same text.
        assert_eq!(serde_json::to_value(choice).unwrap(), text);
        assert_eq!(serde_json::from_value::<DeviceChoice>(text.into()).unwrap(), choice);
    }
    for text in ["", "GPU", "gpu:", "gpu:-1", "gpu:x", "cuda", "cpu:0"] {
        let error = text.parse::<DeviceChoice>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{text}");
        assert!(error.advice().unwrap().contains("gpu:N"), "{text}");
    }
}

#[test]
fn kinds_of_adapters_are_written_as_they_are_shown() {
    for (kind, name) in [
        (AdapterKind::Software, "software"),
        (AdapterKind::Other, "other"),
        (AdapterKind::Browser, "browser"),
        (AdapterKind::Virtual, "virtual"),
        (AdapterKind::Integrated, "integrated"),
        (AdapterKind::Discrete, "discrete"),
    ] {
        assert_eq!(kind.to_string(), name);
        assert_eq!(serde_json::to_value(kind).unwrap(), name);
    }
}

#[test]
fn auto_takes_a_real_gpu_and_never_a_software_adapter() {
    let taken = |choice, kinds: &[AdapterKind]| pick(choice, &machine(kinds)).unwrap().index;
    let auto = |kinds: &[AdapterKind]| taken(DeviceChoice::Auto, kinds);
    assert_eq!(auto(&[]), None);
    assert_eq!(auto(&[AdapterKind::Software]), None);
    assert_eq!(auto(&[AdapterKind::Other, AdapterKind::Software]), None);
    assert_eq!(auto(&[AdapterKind::Software, AdapterKind::Virtual]), Some(1));
    assert_eq!(auto(&[AdapterKind::Browser]), Some(0), "a browser's GPU is one");
    assert_eq!(
        auto(&[
            AdapterKind::Virtual,
            AdapterKind::Integrated,
            AdapterKind::Discrete,
            AdapterKind::Discrete
        ]),
        Some(2)
    );
    assert_eq!(taken(DeviceChoice::Gpu, &[AdapterKind::Software]), Some(0));
    assert_eq!(
        taken(DeviceChoice::Gpu, &[AdapterKind::Software, AdapterKind::Integrated]),
        Some(1)
    );
    assert_eq!(
        taken(DeviceChoice::GpuIndex(0), &[AdapterKind::Software, AdapterKind::Discrete]),
        Some(0)
    );
    assert_eq!(taken(DeviceChoice::Cpu, &[AdapterKind::Discrete]), None);
    let why = pick(DeviceChoice::Auto, &machine(&[AdapterKind::Software])).unwrap().reason;
    assert!(why.contains("software"), "{why}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_with_a_way_out() {
    let none = pick(DeviceChoice::Gpu, &[]).unwrap_err();
    assert_eq!(none.kind(), Kind::Device);
    assert!(none.advice().unwrap().contains("device cpu"));
    let third = pick(DeviceChoice::GpuIndex(3), &machine(&[AdapterKind::Discrete])).unwrap_err();
    assert!(third.to_string().contains("no adapter 3"), "{third}");
    assert!(third.advice().unwrap().contains("wgpt devices"));
}

#[test]
fn adapters_say_what_they_are() {
    let Some(device) = gpu() else { return };
    let adapters = adapters();
    assert!(adapters.iter().any(|a| device.name().starts_with(&a.name)), "{adapters:?}");
    for (index, adapter) in adapters.iter().enumerate() {
        assert_eq!(adapter.index, index);
        assert!(adapter.binding_bytes >= Limits::WEBGPU.binding_bytes, "{adapter:?}");
    }
}

#[test]
fn the_tests_device_has_the_limits_of_webgpu() {
    let Some(device) = gpu() else { return };
    assert_eq!(device.limits(), Limits::WEBGPU);
}

/// A plan that adds two vectors of `len`.
fn sum(len: usize) -> Plan {
    let mut plan = Plan::default();
    let [a, b, out] =
        ["a", "b", "out"].map(|name| plan.buffer(Role::Activations, name, len, Format::F32));
    plan.push(&residual::FORWARD, Dims::default(), &[a, b, out]);
    plan
}

#[test]
fn a_plan_that_exceeds_the_limits_is_refused_in_words() {
    let Some(device) = gpu() else { return };
    let error = Gpu::new(device, Arc::new(sum((128 << 20) / 4 + 1))).err().unwrap();
    assert_eq!(error.kind(), Kind::Device);
    let text = error.to_string();
    assert!(text.contains("residual_forward.stream") && text.contains("134217732"), "{text}");
    assert!(error.advice().is_some());
}

#[test]
fn views_are_read_as_they_were_written_however_long() {
    let Some(device) = gpu() else { return };
    // More than one chunk of a read, and more groups than one row of a grid has.
    let len = 257 * 65_537;
    let plan = Arc::new(sum(len));
    let views = plan.dispatches[0].args.clone();
    let mut gpu = Gpu::new(device, plan).unwrap();
    let numbers: Vec<f32> = (0..len).map(|i| (i % 8_191) as f32).collect();
    gpu.write(views[0], &numbers);
    gpu.write(views[1], &vec![0.5; len]);
    gpu.run(0..1, &Step::default());
    let mut out = vec![0.0; len];
    gpu.read(views[2], &mut out).unwrap();
    assert!(out.iter().zip(&numbers).all(|(out, x)| *out == x + 0.5));
    let part = views[2].slice(len - 3, 3);
    gpu.read(part, &mut out[..3]).unwrap();
    assert_eq!(out[..3], numbers[len - 3..].iter().map(|x| x + 0.5).collect::<Vec<_>>());
}

/// What was requested is what the views held then, whatever is written later, in whatever order the answers are taken,
/// and however many there are: more than a device has room for at a time.
#[test]
fn requests_are_answered_later_and_in_any_order() {
    let mut backends: Vec<Box<dyn Backend>> = vec![];
    let plan = Arc::new(sum(70_000));
    backends.push(Box::new(Cpu::<f32>::new(Arc::clone(&plan), Use::Kernels)));
    backends.push(Box::new(Cpu::<f64>::new(Arc::clone(&plan), Use::Twins)));
    if let Some(device) = gpu() {
        backends.push(Box::new(Gpu::new(device, Arc::clone(&plan)).unwrap()));
    }
    let [a, b, out] = plan.dispatches[0].args[..] else { panic!("two summands and a sum") };
    for mut backend in backends {
        let backend = &mut *backend;
        let name = backend.describe();
        backend.write(a, &(0..70_000).map(|i| i as f32).collect::<Vec<_>>());
        // Small ones, of two views, and some that are larger than the small slots of a ring.
        let views = [a.slice(3, 2), out.slice(69_000, 3)];
        let mut small = vec![];
        let mut large = vec![];
        for round in 0..9 {
            backend.write(b, &vec![round as f32; 70_000]);
            backend.run(0..1, &Step::default());
            small.push((round, backend.request(&views)));
            if round % 3 == 0 {
                large.push((round, backend.request(&[out])));
            }
            // Nobody waits for this one.
            drop(backend.request(&views));
        }
        backend.write(b, &vec![100.0; 70_000]);
        backend.run(0..1, &Step::default());
        for (round, ticket) in small.into_iter().rev() {
            let (mut first, mut second) = ([0.0; 2], [0.0; 3]);
            let out = &mut [Out::Reals(&mut first), Out::Reals(&mut second)];
            backend.take(ticket, out).unwrap();
            assert_eq!(first, [3.0, 4.0], "{name}, {round}");
            let want = [69_000, 69_001, 69_002].map(|i| (i + round) as f32);
            assert_eq!(second, want, "{name}, {round}");
        }
        for (round, ticket) in large {
            let mut sums = vec![0.0; 70_000];
            backend.take(ticket, &mut [Out::Reals(&mut sums)]).unwrap();
            let right = |(i, sum): (usize, &f32)| *sum == (i + round as usize) as f32;
            assert!(sums.iter().enumerate().all(right), "{name}, {round}");
        }
        // After a wait it is there, and taking it does not wait.
        let ticket = backend.request(&[out.slice(0, 1)]);
        backend.read(out.slice(0, 1), &mut [0.0]).unwrap();
        assert!(backend.is_ready(&ticket), "{name}");
        let mut first = [0.0];
        backend.take(ticket, &mut [Out::Reals(&mut first)]).unwrap();
        assert_eq!(first, [100.0], "{name}");
    }
}

/// A ticket of a device that is lost is an error, and not an endless wait.
#[test]
fn a_request_of_a_lost_device_is_an_error_when_it_is_taken() {
    let Some(device) = new_gpu(None) else { return };
    let plan = Arc::new(sum(3));
    let out = plan.dispatches[0].args[2];
    let mut gpu = Gpu::new(&device, plan).unwrap();
    let before = gpu.request(&[out]);
    device.lose();
    gpu.run(0..1, &Step::default());
    let tickets: Vec<_> = (0..6).map(|_| gpu.request(&[out])).collect();
    let mut numbers = [0.0; 3];
    // What was requested before may have been done before.
    let _ = gpu.take(before, &mut [Out::Reals(&mut numbers)]);
    for ticket in tickets {
        let error = gpu.take(ticket, &mut [Out::Reals(&mut numbers)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Device, "{error}");
    }
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn compiled_shaders_are_kept_and_what_is_damaged_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let Some(device) = new_gpu(Some(folder.path())) else { return };
        let plan = Arc::new(sum(3));
        let args = plan.dispatches[0].args.clone();
        let mut gpu = Gpu::new(&device, plan).unwrap();
        gpu.write(args[0], &[1.0, 2.0, 3.0]);
        gpu.run(0..1, &Step::default());
        let mut out = [0.0; 3];
        gpu.read(args[2], &mut out).unwrap();
        assert_eq!(out, [1.0, 2.0, 3.0]);
    };
    run();
    let [path] = &files(folder.path())[..] else { return println!("this backend keeps nothing") };
    let whole = std::fs::read(path).unwrap();
    run();
    assert_eq!(std::fs::read(path).unwrap(), whole, "nothing new was compiled");
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], b"not a cache", b""] {
        std::fs::write(path, damaged).unwrap();
        run();
        assert_eq!(std::fs::read(path).unwrap(), whole, "it is made again");
    }
    assert_eq!(files(folder.path()).len(), 1, "nothing else is left");
}

#[test]
fn a_grid_that_no_device_allows_is_refused_in_words() {
    let Some(device) = gpu() else { return };
    let rows = 64 * 65_536;
    let mut plan = Plan::default();
    let args = [rows, 1, rows].map(|len| plan.buffer(Role::Activations, "x", len, Format::F32));
    let dims = Dims { M: rows as u32, K: 1, N: 1, ..Dims::default() };
    plan.push(&matmul::NN, dims, &args);
    let error = Gpu::with(device, Arc::new(plan), Choice::Portable).err().unwrap();
    assert_eq!(error.kind(), Kind::Device);
    assert!(
        error.to_string().contains("matmul_nn") && error.to_string().contains("65535"),
        "{error}"
    );
    assert!(error.advice().unwrap().contains("batch_size"));
}

#[test]
fn a_lost_device_is_an_error_at_the_next_read() {
    let Some(device) = new_gpu(None) else { return };
    let plan = Arc::new(sum(3));
    let out = plan.dispatches[0].args[2];
    let mut gpu = Gpu::new(&device, plan).unwrap();
    device.lose();
    gpu.run(0..1, &Step::default());
    let error = gpu.read(out, &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.kind(), Kind::Device, "{error}");
    assert!(error.advice().is_some(), "{error}");
    assert!(Gpu::new(&device, Arc::new(sum(3))).is_err(), "nothing can be made on it");
}

#[cfg(target_os = "linux")]
#[test]
fn a_test_without_a_gpu_says_so_on_the_terminal() {
    let name = "device::the_tests_device_has_the_limits_of_webgpu";
    let test = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name]).env("VK_DRIVER_FILES", "/nonexistent");
        command.env_remove("VK_ADD_DRIVER_FILES").env_remove("WGPT_REQUIRE_GPU");
        command
    };
    let skipped = test().assert().success().get_output().clone();
    let stdout = String::from_utf8_lossy(&skipped.stdout);
    assert!(stdout.contains("1 passed"), "{stdout}");
    let stderr = String::from_utf8_lossy(&skipped.stderr);
    let said = format!("SKIPPED on a GPU: {name}: ");
    assert_eq!(stderr.matches(&said).count(), 1, "{stderr}");

    let required = test().env("WGPT_REQUIRE_GPU", "1").assert().failure().get_output().clone();
    let stdout = String::from_utf8_lossy(&required.stdout);
    assert!(stdout.contains("WGPT_REQUIRE_GPU=1, but"), "{stdout}");
}

#[test]
fn looking_for_a_gpu_prints_no_error_where_there_is_no_desktop() {
    let mut command = Command::cargo_bin("wgpt").unwrap();
    for variable in ["XDG_RUNTIME_DIR", "NODEVICE_SELECT", "MESA_VK_DEVICE_SELECT", "DRI_PRIME"] {
        command.env_remove(variable);
    }
    let output = command.arg("devices").assert().success().get_output().clone();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.is_empty(), "{stderr}");
}
