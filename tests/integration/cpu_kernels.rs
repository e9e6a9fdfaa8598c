//! Do the CPU kernels agree with their twins, on any number of threads to the bit?

use std::collections::BTreeSet;
use std::sync::Arc;

use rayon::ThreadPoolBuilder;
use wgpt::GptConfig;
use wgpt::backend::Backend;
use wgpt::backend::cpu::{Cpu, Use};
use wgpt::check::verify_cases;
use wgpt::check::{Comparison, lockstep};
use wgpt::config::{GeluForm, Optimizer, Precision, Recompute};
use wgpt::graph::Graph;
use wgpt::kernel::{Dims, Format, Kernel, Step};
use wgpt::model::{Program, Uses};
use wgpt::ops::cross_entropy::IGNORE;
use wgpt::ops::{ALL, matmul};
use wgpt::plan::{Dispatch, Limits, Phase, Plan, Role, View};

/// Kernels sum in another order than the twins, in single precision.
const TOLERANCE: f32 = 1e-5;

/// A model with what is run over it.
struct Case {
    config: GptConfig,
    uses: Uses,
    step: Step,
}

/// n_layer, n_head, n_embd, vocab_size, n_positions; then batch and seq.
fn case(
    [n_layer, n_head, n_embd, vocab_size, n_positions]: [usize; 5],
    [batch, seq]: [usize; 2],
) -> Case {
    let config =
        GptConfig { n_layer, n_head, n_embd, vocab_size, n_positions, ..GptConfig::small() };
    let training = Some(Optimizer::Adamw);
    let uses = Uses {
        batch,
        seq,
        training,
        dropout: true,
        nodes: 0,
        part: None,
        logits: true,
        generation: Some(1),
        precision: Precision::F32,
        recompute: Recompute::Gelu,
        ..Uses::default()
    };
    let step = Step {
        loss_scale: 1.0 / (batch * seq) as f64,
        dropout: 1 << 30,
        seed: [3, 4],
        learning_rate: 1e-3,
        weight_decay: 0.1,
        grad_clip: 0.5,
        ..Step::default()
    };
    Case { config, uses, step }
}

/// Sizes of one, primes, one more than a power of two, and a real one.
fn cases() -> Vec<Case> {
    vec![
        case([1, 1, 1, 1, 1], [1, 1]),
        case([1, 1, 7, 11, 13], [3, 13]),
        case([1, 3, 33, 257, 70], [2, 67]),
        case([2, 4, 128, 101, 150], [1, 131]),
        case([1, 1, 257, 64, 17], [1, 17]),
    ]
}

/// Numbers without a pattern, in -1..1.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn fill(backend: &mut dyn Backend, program: &Program) {
    for (i, param) in program.params.iter().enumerate() {
        for slice in &param.slices {
            let scale = if param.role.decays() { 0.3 } else { 0.5 };
            let data: Vec<f32> =
                noise(i as u64 + 1, slice.var.value.len).iter().map(|x| x * scale).collect();
            backend.write(slice.var.value, &data);
        }
    }
    let v = program.config.vocab_size as u32;
    let ids = |seed, n| -> Vec<u32> {
        noise(seed, n).iter().map(|x| ((x + 1.0) * 1e6) as u32 % v).collect()
    };
    let batch = program.batch.expect("the cases have batches");
    backend.write_u32(batch.tokens, &ids(101, batch.tokens.len));
    let mut targets = ids(102, batch.targets.len);
    if let [_, second, ..] = &mut targets[..] {
        *second = IGNORE;
    }
    backend.write_u32(batch.targets, &targets);
    for (buffer, spec) in program.plan.buffers.iter().enumerate() {
        if spec.role == Role::Logits {
            // What pads the rows must not matter.
            let view = View { buffer, start: 0, len: spec.len, format: spec.format };
            backend.write(view, &vec![f32::NAN; spec.len]);
        }
    }
    let generation = program.generation.expect("the cases generate");
    backend.write_u32(generation.sequence, &ids(103, generation.sequence.len));
}

/// Puts numbers where a cache of past positions is read, in place of the marks that show which
/// positions a dispatch wrote.
fn past(backend: &mut dyn Backend, dispatch: &Dispatch) {
    if dispatch.kernel.name == "attention_extend_forward" {
        backend.write(dispatch.args[2], &noise(104, dispatch.args[2].len));
    }
}

/// The cases in single precision, and in mixed precision in bf16.
fn in_either_precision() -> impl Iterator<Item = Case> {
    let mixed = cases()
        .into_iter()
        .map(|case| Case { uses: Uses { precision: Precision::Mixed, ..case.uses }, ..case });
    cases().into_iter().chain(mixed)
}

/// Makes the copies of the parameters that products read.
fn cast(backend: &mut dyn Backend, program: &Program) {
    if program.half().is_some() {
        backend.run(program.plan.phase(Phase::Cast), &Step::default());
    }
}

#[test]
fn kernels_agree_with_their_twins() {
    for case in in_either_precision() {
        let program = Program::record(&case.config, case.uses, Limits::CPU);
        let plan = Arc::clone(&program.plan);
        let mut twins = Cpu::<f64>::new(Arc::clone(&plan), Use::Twins);
        let mut kernels = Cpu::<f32>::new(Arc::clone(&plan), Use::Kernels);
        fill(&mut twins, &program);
        fill(&mut kernels, &program);
        cast(&mut twins, &program);
        for run in verify_cases::phases(&program, case.step) {
            run.prepare(&mut twins);
            let check = |c: Comparison| {
                assert!(c.error <= TOLERANCE, "{:?} {c:?}", case.config);
            };
            for index in run.range {
                past(&mut twins, &plan.dispatches[index]);
                lockstep(&plan, index..index + 1, &run.step, &mut twins, &mut kernels, check)
                    .expect("a CPU is not lost");
            }
        }
    }
}

/// The kernels of a plan that read or write bf16.
fn in_bf16(plan: &Plan) -> impl Iterator<Item = &'static Kernel> + '_ {
    let all = plan.dispatches.iter().filter(|d| d.formats().contains(&Format::BF16));
    all.map(|dispatch| dispatch.kernel)
}

/// Every kernel that takes half precision, in bf16, over the sizes with which shaders are compared.
#[test]
fn kernels_agree_with_their_twins_in_bf16() {
    let takes = |kernel: &&Kernel| kernel.args.iter().any(|arg| arg.is_in_shaders(Format::F16));
    let mut missing: BTreeSet<&str> =
        ALL.iter().copied().filter(takes).map(|kernel| kernel.name).collect();
    for case in verify_cases::all() {
        let case = verify_cases::halved(&case, Format::BF16);
        let plan = Arc::clone(&case.plan);
        let mut twins = Cpu::<f64>::new(Arc::clone(&plan), Use::Twins);
        let mut kernels = Cpu::<f32>::new(Arc::clone(&plan), Use::Kernels);
        verify_cases::fill_random(&case, &mut twins, 1);
        verify_cases::fill_random(&case, &mut kernels, 1);
        for run in &case.runs {
            run.prepare(&mut twins);
            let check = |c: Comparison| {
                let kernel = plan.dispatches[c.dispatch].kernel;
                assert!(c.error <= kernel.tolerance, "{}: {c:?}", case.name);
            };
            lockstep(&plan, run.range.clone(), &run.step, &mut twins, &mut kernels, check)
                .expect("a CPU is not lost");
        }
        in_bf16(&plan).for_each(|kernel| missing.retain(|name| *name != kernel.name));
    }
    // The tables of embeddings are parameters, which have copies only in a whole model.
    for case in in_either_precision() {
        let program = Program::record(&case.config, case.uses, Limits::CPU);
        in_bf16(&program.plan).for_each(|kernel| missing.retain(|name| *name != kernel.name));
    }
    assert!(missing.is_empty(), "no case runs {missing:?} in bf16");
}

/// Runs all of a plan, whose buffers hold numbers without a pattern, against the twins, and once more in bf16.
fn assert_agrees(plan: Plan, what: &str) {
    assert_agrees_as_it_is(plan.halved(Format::BF16), &format!("{what}, in bf16"));
    assert_agrees_as_it_is(plan, what);
}

fn assert_agrees_as_it_is(plan: Plan, what: &str) {
    let plan = Arc::new(plan);
    let mut twins = Cpu::<f64>::new(Arc::clone(&plan), Use::Twins);
    let mut kernels = Cpu::<f32>::new(Arc::clone(&plan), Use::Kernels);
    for (buffer, spec) in plan.buffers.iter().enumerate() {
        let view = View { buffer, start: 0, len: spec.len, format: spec.format };
        twins.write(view, &noise(buffer as u64 + 1, spec.len));
    }
    let (all, mut compared) = (0..plan.dispatches.len(), 0);
    let check = |c: Comparison| {
        assert!(c.error <= TOLERANCE, "{what}: {c:?}");
        compared += 1;
    };
    lockstep(&plan, all.clone(), &Step::default(), &mut twins, &mut kernels, check)
        .expect("a CPU is not lost");
    assert_eq!(compared, all.len(), "{what}");
}

/// More rows than a product works on at a time, which is 4,096.
const MANY_ROWS: usize = 4_099;

/// One matrix is a slice of columns of a wider one: where a part of its rows begins follows from their
/// distance, not from their width.
#[test]
fn many_rows_of_a_slice_of_columns() {
    const START: usize = 2;
    let [m, k, n] = [MANY_ROWS, 3, 5];
    let sized = |kernel: &'static Kernel, ld: usize, lens: [usize; 3]| {
        let mut plan = Plan::default();
        let args = lens.map(|len| plan.buffer(Role::Activations, "x", len, Format::F32));
        let [m, k, n, ld, start] = [m, k, n, ld, START].map(|size| size as u32);
        let dims = Dims { M: m, K: k, N: n, LD: ld, START: start, ..Dims::default() };
        plan.push(kernel, dims, &args);
        assert_agrees(plan, kernel.name);
    };
    sized(&matmul::NN, k + 4, [m * (k + 4), k * n, m * n]);
    sized(&matmul::NT, n + 4, [m * k, n * k, m * (n + 4)]);
    sized(&matmul::TN, m + 4, [k * (m + 4), k * n, m * n]);
}

/// Layers of as many rows, and of as many channels, since these are the rows of a weight's gradient.
#[test]
fn many_rows_of_layers() {
    for [rows, c, oc] in [[MANY_ROWS, 3, 5], [2, MANY_ROWS, 3], [2, 3, MANY_ROWS]] {
        let mut g = Graph::new(Limits::NONE, false, 1e-5);
        g.begin_training(1, rows);
        let x = g.input("x", rows * c);
        g.linear("linear", x, oc);
        g.linear_gelu("gelu", x, oc, GeluForm::Tanh);
        g.record_forward(Phase::Forward);
        g.record_backward(Phase::Backward, None);
        assert_agrees(g.plan, &format!("{rows} rows of {c} into {oc} channels"));
    }
}

/// Every buffer's bits after all phases.
fn bits(case: &Case, threads: usize) -> Vec<Vec<u32>> {
    let program = Program::record(&case.config, case.uses, Limits::CPU);
    let plan = Arc::clone(&program.plan);
    let mut cpu = Cpu::<f32>::new(Arc::clone(&plan), Use::Kernels);
    fill(&mut cpu, &program);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    pool.install(|| {
        cast(&mut cpu, &program);
        verify_cases::phases(&program, case.step).iter().for_each(|run| run.on(&mut cpu));
    });
    let mut read = |buffer: usize| {
        let spec = &plan.buffers[buffer];
        let view = View { buffer, start: 0, len: spec.len, format: spec.format };
        if spec.format == Format::U32 {
            let mut data = vec![0; spec.len];
            cpu.read_u32(view, &mut data).expect("a CPU is not lost");
            return data;
        }
        let mut data = vec![0.0; spec.len];
        cpu.read(view, &mut data).expect("a CPU is not lost");
        data.into_iter().map(f32::to_bits).collect()
    };
    (0..plan.buffers.len()).map(&mut read).collect()
}

#[test]
fn threads_change_no_bit() {
    let large = case([1, 2, 128, 1031, 320], [2, 300]);
    for case in in_either_precision().chain([large]) {
        let one = bits(&case, 1);
        for threads in [2, 3] {
            assert!(one == bits(&case, threads), "{:?} on {threads} threads", case.config);
        }
    }
}
