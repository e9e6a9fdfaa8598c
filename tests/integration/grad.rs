//! Are the gradients right, and does the check of them see when they are not?

use std::sync::Arc;

use wgpt::backend::Device;
use wgpt::backend::cpu::{Cpu, Use};
use wgpt::check::grad::{Case, Row, grad_check, grad_check_device};
use wgpt::check::{grad_cases, sabotage};
use wgpt::plan::Limits;

use crate::common::gpu;

#[test]
fn every_gradient_is_right() {
    let rows = grad_check(None).expect("nothing is spoiled");
    for row in &rows {
        println!("{:45} {:6} {:e} {}", row.what, row.checked, row.worst, row.place);
    }
    let wrong: Vec<_> = rows.iter().filter(|row| !row.passed || row.checked == 0).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_gradients_of_every_device_are_right() {
    let gpu = gpu().map(|device| Device::Gpu(Arc::clone(device)));
    for device in [Device::Cpu].into_iter().chain(gpu) {
        let rows = grad_check_device(&device, None).expect("the device is there");
        let wrong: Vec<_> = rows.iter().filter(|row| !row.passed || row.checked == 0).collect();
        assert!(!rows.is_empty() && wrong.is_empty(), "{wrong:#?}");
    }
}

/// Every kernel that takes part in an op's case, made wrong, makes a case fail.
#[test]
fn a_wrong_kernel_is_seen() {
    let cases = grad_cases::ops();
    let mut kernels: Vec<&str> = vec![];
    for case in &cases {
        kernels.extend(case.plan.dispatches.iter().map(|dispatch| dispatch.kernel.name));
    }
    kernels.sort_unstable();
    kernels.dedup();
    assert!(kernels.len() >= 25, "{kernels:?}");
    for kernel in kernels {
        let failed = cases.iter().any(|case| {
            let mut case: Case = case.clone();
            sabotage(&mut case.plan, kernel) > 0 && !case.check().passed
        });
        assert!(failed, "a wrong {kernel} passes");
    }
}

#[test]
fn a_wrong_reference_is_seen() {
    let kernels =
        ["layernorm_forward", "rmsnorm_forward", "attention_backward", "cross_entropy_backward"];
    for kernel in kernels {
        let rows = grad_check_device(&Device::Cpu, Some(kernel)).expect("a CPU is not lost");
        let has_it = |row: &Row| match kernel {
            "layernorm_forward" => !row.what.contains("Llama"),
            "rmsnorm_forward" => row.what.contains("Llama"),
            _ => true,
        };
        let passes = rows.iter().any(|row| row.passed == has_it(row));
        assert!(!passes, "a wrong {kernel} passes: {rows:?}");
    }
    assert!(grad_check(Some("adam_update")).is_err(), "no gradient check runs the optimiser");
}

/// A gradient that is not a number is an error, whatever it is compared with.
#[test]
fn nan_is_seen() {
    for case in grad_cases::models(Limits::NONE).into_iter().take(1) {
        let mut case = case;
        for replay in &mut case.replays {
            replay.step.loss_scale = f64::NAN;
        }
        let row = case.check();
        assert!(!row.passed, "{row:?}");
        let mut backend = Cpu::<f32>::new(Arc::new(case.plan.clone()), Use::Kernels);
        let row = case.compare(&mut backend).expect("a CPU is not lost");
        assert!(!row.passed, "{row:?}");
    }
}
