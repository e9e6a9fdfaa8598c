//! Every kernel of `ops::ALL` on every device, at its largest dispatch in a step of `small`.
//!
//! Criterion's elements are floating-point operations: Gelem/s reads GFLOP/s. Bytes are those of the
//! arguments, each counted once.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpt::arch::rotary::Rotary;
use wgpt::backend::{Backend, Device};
use wgpt::config::{Biases, Blocks, GeluForm, Optimizer, Precision, Recompute};
use wgpt::graph::{Graph, Joins};
use wgpt::kernel::rows::{self, Place};
use wgpt::kernel::{Dims, Draw, Format, Kernel, Step};
use wgpt::model::{Program, Uses};
use wgpt::ops;
use wgpt::ops::attention::Qkv;
use wgpt::ops::linear::{Form, WeightLayout};
use wgpt::ops::matmul::Layout;
use wgpt::plan::{Dispatch, Limits, Phase, Plan, Role, View};
use wgpt::{FineTune, GptConfig};

/// Sequences and tokens a sequence.
const SHAPE: (usize, usize) = (8, 128);

/// Plans that have every kernel: steps of `small`, and the ops that the model has only fused.
fn plans(limits: Limits) -> Vec<Arc<Plan>> {
    let record = |optimizer, dropout| {
        let uses = Uses {
            batch: SHAPE.0,
            seq: SHAPE.1,
            training: Some(optimizer),
            dropout,
            nodes: 1,
            logits: true,
            generation: Some(1),
            precision: Precision::F32,
            recompute: Recompute::Gelu,
            ..Uses::default()
        };
        Program::record(&GptConfig::small(), uses, limits).plan
    };
    let ops = Arc::new(single_ops(limits));
    let rotary = Some(Rotary::of(10_000.0));
    let blocks = Blocks { family: "llama".into(), rotary, biases: Biases::NONE, ..Blocks::GPT2 };
    let llama = GptConfig { blocks, ..GptConfig::small() };
    let uses = Uses { generation: Some(2), serving: true, ..Uses::default() };
    let llama = Program::record(&llama, uses, limits).plan;
    vec![record(Optimizer::Adamw, true), record(Optimizer::Sgd, false), ops, llama]
}

/// The ops whose fused forms are the model's.
fn single_ops(limits: Limits) -> Plan {
    let GptConfig { n_embd: c, n_head, .. } = GptConfig::small();
    let freeze = vec!["bias_alone.weight".to_owned()];
    let finetune = FineTune { freeze, ..FineTune::default() };
    let mut g = Graph::new(limits, false, 1e-5).fine_tuning(&finetune);
    g.begin_training(SHAPE.0, SHAPE.1);
    let rows = g.rows();
    let stream = g.input("stream", rows * c);
    let branch = g.input("branch", rows * c);
    let sum = g.residual("sum", stream, branch);
    let normed = g.layernorm("norm", sum);
    let wide = g.linear("wide", normed, 4 * c);
    g.gelu("gelu", wide, GeluForm::Tanh);
    g.gelu("gelu_exact", wide, GeluForm::Exact);
    g.linear("bias_alone", normed, 4 * c);
    let out_in = Form { channels: 4 * c, layout: WeightLayout::OutIn, bias: true };
    g.linear("out_in", normed, out_in);
    let scores = g.input("scores", rows * n_head * SHAPE.1);
    g.softmax("softmax", scores, n_head);
    let tokens = g.buffer(Role::Staging, "tokens", rows, Format::U32);
    g.embedding(("wte.weight", None), tokens, [1000, SHAPE.1, c], Joins::Nothing);
    g.rmsnorm("rms", stream);
    g.residual_rmsnorm("residual_rms", stream, branch);
    let [gate, up] = ["gate", "up"].map(|name| g.input(name, rows * 4 * c));
    g.swiglu("swiglu", gate, up);
    let qkv = g.input("qkv", rows * 3 * c);
    let frequencies: Vec<f64> = (0..c / n_head / 2).map(|i| 0.7f64.powi(i as i32)).collect();
    g.rotary(Qkv::packed(qkv, [n_head, n_head], c / n_head), &frequencies);
    let copy = g.input("copy", rows * c);
    ops::cast::record(&mut g.plan, stream.value, copy.value);
    let dims = Dims { N: (rows * c) as u32, SCALE: 2.0, ..Dims::default() };
    g.plan.push(&ops::lora::SCALE, dims, &[stream.value, copy.value]);
    for layout in [Layout::NN, Layout::NT, Layout::TN] {
        let (a, b) = (
            g.input(&format!("{layout:?}.a"), rows * c),
            g.input(&format!("{layout:?}.b"), c * 4 * c),
        );
        let (m, k, n) = if layout == Layout::TN { (c, rows, 4 * c) } else { (rows, c, 4 * c) };
        let b = if layout == Layout::TN { g.input("TN.wide", rows * 4 * c) } else { b };
        g.matmul(&format!("{layout:?}.out"), layout, [m, k, n], a, b);
    }
    g.record_forward(Phase::Forward);
    g.record_backward(Phase::Backward, None);
    g.plan
}

/// The bytes of a dispatch's arguments.
fn bytes(dispatch: &Dispatch) -> u64 {
    dispatch.args.iter().map(|view| view.bytes()).sum()
}

fn flops(dispatch: &Dispatch) -> u64 {
    (dispatch.kernel.flops)(&dispatch.dims)
}

/// Where a kernel has most to do: the plan and the dispatch.
///
/// # Panics
///
/// If no plan has the kernel: then it has no row, and [`plans`] must learn of it.
fn largest(plans: &[Arc<Plan>], kernel: &Kernel) -> (usize, usize) {
    let all = plans.iter().enumerate().flat_map(|(p, plan)| {
        plan.dispatches.iter().enumerate().map(move |(d, dispatch)| (p, d, dispatch))
    });
    all.filter(|(_, _, dispatch)| dispatch.kernel.name == kernel.name)
        .max_by_key(|(_, _, dispatch)| (flops(dispatch), bytes(dispatch)))
        .map(|(p, d, _)| (p, d))
        .unwrap_or_else(|| panic!("{} is in no plan of this benchmark", kernel.name))
}

/// Small numbers and valid ids in every buffer.
fn fill(backend: &mut dyn Backend) {
    for (buffer, spec) in backend.plan().buffers.clone().iter().enumerate() {
        let view = View { buffer, start: 0, len: spec.len, format: spec.format };
        let ids = common::ids(spec.len, GptConfig::small().vocab_size);
        match spec.format {
            Format::F32 => {
                let real = |id: &u32| *id as f32 / 1e4 - 0.05;
                backend.write(view, &ids.iter().map(real).collect::<Vec<_>>());
            }
            // What counts updates and skips must not say that this one is skipped.
            Format::U32 if spec.name == "state" => backend.write_u32(view, &vec![0; spec.len]),
            // Generation goes on from here with all rows of a replay, after each of which a slot draws.
            Format::U32 if spec.name == "rows" => {
                let place = |t| Place { slot: 0, position: 60 + t, first_key: 0 };
                let rows = 0..spec.len / rows::ROW_WORDS;
                backend.write_u32(view, &rows.flat_map(|t| place(t).words()).collect::<Vec<_>>());
            }
            Format::U32 if spec.name == "copied" => backend.write_u32(view, &[0, 1, 60]),
            Format::U32 if ["slots", "scored"].contains(&spec.name.as_str()) => {
                let draw = Draw { top_k: 40, top_p: 0.9, ..Draw::default() };
                let slots = 0..spec.len / rows::slot::WORDS;
                backend.write_u32(view, &slots.flat_map(|_| draw.words(0)).collect::<Vec<_>>());
            }
            Format::U32 => backend.write_u32(view, &ids),
            other => panic!("{}: no plan of this benchmark has {other}", spec.name),
        }
    }
}

/// Waits for the device, by reading a number that the dispatch wrote.
fn wait(backend: &mut dyn Backend, dispatch: &Dispatch) {
    let view = dispatch.args.last().expect("a kernel writes").slice(0, 1);
    match view.format {
        Format::U32 => backend.read_u32(view, &mut [0]),
        _ => backend.read(view, &mut [0.0]),
    }
    .expect("the device is there");
}

fn device_rows(c: &mut Criterion, name: &str, device: &Device) {
    let plans = plans(device.limits());
    let mut backends: Vec<Box<dyn Backend>> = plans
        .iter()
        .map(|plan| {
            let mut backend = device.backend(Arc::clone(plan)).expect("the device holds small");
            fill(&mut *backend);
            backend
        })
        .collect();
    let step = Step { dropout: 1 << 29, learning_rate: 1e-9, ..Step::default() };
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_millis(400));
    for kernel in ops::ALL {
        let (p, d) = largest(&plans, kernel);
        let dispatch = &plans[p].dispatches[d];
        let (elements, bytes) = (flops(dispatch), bytes(dispatch));
        group.throughput(Throughput::ElementsAndBytes { elements, bytes });
        group.bench_function(kernel.name, |b| {
            b.iter_custom(|iters| {
                let backend = &mut backends[p];
                wait(&mut **backend, dispatch);
                let began = Instant::now();
                (0..iters).for_each(|_| backend.run(d..d + 1, &step));
                wait(&mut **backend, dispatch);
                began.elapsed()
            });
        });
    }
    group.finish();
}

fn kernels(c: &mut Criterion) {
    for (name, device) in common::devices() {
        device_rows(c, name, &device);
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
