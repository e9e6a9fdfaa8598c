//! Is the graph wired right? Plans against themselves: golden text, slices, phases, fused nodes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use wgpt::GptConfig;
use wgpt::backend::Device;
use wgpt::backend::gpu::{Choice, Choices, Gpu, class};
use wgpt::config::{GeluForm, Optimizer, Precision, Recompute, WeightFormat};
use wgpt::engine::{Engine, Tensor};
use wgpt::graph::{Graph, Joins, Slot};
use wgpt::kernel::state;
use wgpt::kernel::{Dims, Draw, Format, Kernel, Step, reads, writes};
use wgpt::model::{EXTENDS, Program, Uses, parameters};
use wgpt::ops::attention::Qkv;
use wgpt::ops::cross_entropy::IGNORE;
use wgpt::ops::matmul::Layout;
use wgpt::ops::{attention, cast, gelu, optimizer, residual};
use wgpt::params::Init;
use wgpt::pipeline::Stage;
use wgpt::plan::{Dispatch, Limits, Phase, Plan, Role, View};

use crate::common::{
    Model, On, Subject, assert_close, assert_close_of_max, assert_relative, full_gpu, unchecked_gpu,
};

/// A model that is small, with no two sizes alike.
fn config() -> GptConfig {
    GptConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: 12,
        vocab_size: 150,
        n_positions: 75,
        n_inner: Some(20),
        layer_norm_epsilon: 1e-5,
        ..GptConfig::small()
    }
}

const TRAINING: Uses = Uses {
    batch: 2,
    seq: 35,
    training: Some(Optimizer::Adamw),
    dropout: false,
    nodes: 0,
    part: None,
    logits: true,
    generation: None,
    serving: false,
    context: None,
    precision: Precision::F32,
    weights: WeightFormat::F32,
    recompute: Recompute::Gelu,
    stage: Stage::WHOLE,
    in_flight: 1,
};

/// Bindings of 64 rows of the token table, and arenas of a few of them.
const SLICES: Limits =
    Limits { binding_bytes: 64 * 12 * 4 + 768, buffer_bytes: 9000, ..Limits::NONE };

/// Numbers without a pattern, in -0.5..0.5.
fn noise(seed: usize, n: usize) -> Vec<f32> {
    let word = |i: usize| wgpt::ops::random::threefry([seed as u32, 1], [i as u32, 0])[0];
    (0..n).map(|i| word(i) as f32 / u32::MAX as f32 - 0.5).collect()
}

fn ids(seed: usize, n: usize) -> Vec<u32> {
    let v = config().vocab_size as f32;
    noise(seed, n).iter().map(|x| ((x + 0.4999) * v).max(0.0) as u32).collect()
}

/// The model with parameters that depend on their names alone.
fn model(uses: Uses, on: On, limits: Limits) -> Model {
    let mut model = Model::record(&config(), uses, on, limits);
    fill(&mut model);
    model
}

/// Fills the parameters with numbers that depend on their names alone.
fn fill(model: &mut Model) {
    let order = parameters(&config());
    model.fill(|name, out| {
        let seed = order.iter().position(|(known, _)| known == name).expect("a known name");
        out.copy_from_slice(&noise(seed, out.len()));
        if name.contains("ln_") && name.ends_with("weight") {
            out.iter_mut().for_each(|x| *x += 1.0);
        }
    });
}

/// A step whose loss is the mean over `rows`.
fn mean_over(rows: usize) -> Step {
    Step { loss_scale: 1.0 / rows as f64, ..Step::default() }
}

const BOTH: [Phase; 2] = [Phase::Forward, Phase::Backward];

/// Every gradient, by name.
fn gradients(model: &mut Model) -> Vec<(String, Vec<f64>)> {
    let names: Vec<String> = model.program.params.iter().map(|p| p.name.clone()).collect();
    names.into_iter().map(|name| (name.clone(), model.param(&name, true))).collect()
}

fn assert_same_gradients(what: &str, got: &mut Model, want: &mut Model, tolerance: f64) {
    let want = gradients(want);
    assert!(!want.is_empty());
    for ((name, got), (_, want)) in gradients(got).iter().zip(&want) {
        assert!(want.iter().any(|x| *x != 0.0), "{name} has a gradient");
        assert_close_of_max(&format!("{what} {name}"), got, want, tolerance);
    }
}

/// What the same sum in another order may differ by.
fn rounding(on: On) -> f64 {
    on.tolerance(1e-12, 1e-5, 1e-4)
}

#[test]
fn the_plans_are_the_golden_ones() {
    let config = GptConfig { n_positions: 16, ..config() };
    let uses = Uses { batch: 2, seq: 8, dropout: true, generation: Some(1), ..TRAINING };
    let plan = Program::record(&config, uses, SLICES).plan;
    assert_golden(&plan, "tests/golden/plan.txt");
    let config = GptConfig { n_layer: 1, ..config };
    let uses = Uses { precision: Precision::Mixed, ..uses };
    let mixed = Program::record(&config, uses, SLICES).plan;
    assert_golden(&mixed, "tests/golden/plan_mixed.txt");
}

/// A size that is another one is another line of the golden plan.
#[test]
fn every_size_of_a_dispatch_is_printed() {
    let mut seen = vec![Dims::default().to_string()];
    // All but the words of FIRST, which no plan sets.
    for word in 0..size_of::<Dims>() / 4 - 2 {
        for value in [1.0_f32, 2.0] {
            let mut dims = Dims::default();
            bytemuck::cast_slice_mut::<Dims, f32>(std::slice::from_mut(&mut dims))[word] = value;
            seen.push(dims.to_string());
        }
    }
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all, "{seen:?}");
}

fn assert_golden(plan: &Plan, path: &str) {
    let plan = plan.to_string();
    if std::env::var_os("WGPT_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::create_dir_all("tests/golden").expect("a folder");
        std::fs::write(path, &plan).expect("a golden file");
    }
    let golden = std::fs::read_to_string(path).expect("WGPT_BLESS=1 makes the golden file");
    for (i, (got, want)) in plan.lines().zip(golden.lines()).enumerate() {
        assert_eq!(got, want, "{path}:{}; if this is meant, run with WGPT_BLESS=1", i + 1);
    }
    assert_eq!(plan.lines().count(), golden.lines().count(), "{path}; WGPT_BLESS=1 writes it");
}

#[test]
fn parameters_are_the_checkpoints() {
    for inner in [None, Some(20)] {
        let config = GptConfig { n_inner: inner, ..config() };
        for uses in [TRAINING, Uses { generation: Some(1), ..Uses::default() }] {
            let program = Program::record(&config, uses, Limits::NONE);
            let mut got: Vec<_> =
                program.params.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
            let mut want = parameters(&config);
            let count: usize = want.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            assert_eq!(program.parameter_count(), count);
            got.sort();
            want.sort();
            assert_eq!(got, want);
        }
    }
}

/// Two that draw under one ID drop the same places; a gradient's must be that of the values.
#[test]
fn every_dropout_draws_a_mask_of_its_own_and_draws_it_again() {
    for recompute in [Recompute::None, Recompute::Gelu, Recompute::Block] {
        for precision in [Precision::F32, Precision::Mixed] {
            let uses =
                Uses { dropout: true, generation: Some(1), recompute, precision, ..TRAINING };
            let plan = Program::record(&GptConfig { n_layer: 3, ..config() }, uses, SLICES).plan;
            let ids = |phase, kernel: &str| -> Vec<u32> {
                let dispatches = plan.phase(phase).map(|index| &plan.dispatches[index]);
                dispatches.filter(|d| d.kernel.name == kernel).map(|d| d.dims.ID).collect()
            };
            let what = format!("{recompute:?} {precision:?}");
            let forward = ids(Phase::Forward, "dropout_forward");
            // That of the embedding, and two of each block.
            assert_eq!(forward, [0, 1, 2, 3, 4, 5, 6], "{what}");
            let backward = ids(Phase::Backward, "dropout_backward");
            assert_eq!(backward, [6, 5, 4, 3, 2, 1, 0], "{what}");
            let again = ids(Phase::Backward, "dropout_forward");
            let want: &[u32] = if recompute == Recompute::Block { &[3, 1] } else { &[] };
            assert_eq!(again, want, "{what}: all blocks but the last are computed again");
        }
    }
}

/// The rule is `strides_fit` in the products' shaders: without it they read and write number by number.
#[test]
fn the_heads_products_of_gpt2_take_vectors() {
    for (precision, limits) in [
        (Precision::F32, Limits::NONE),
        (Precision::F32, Limits::WEBGPU),
        (Precision::Mixed, Limits::WEBGPU),
    ] {
        let uses = Uses { batch: 1, seq: 300, logits: false, precision, ..TRAINING };
        let plan = Program::record(&GptConfig::gpt2(), uses, limits).plan;
        let is_product = |d: &&Dispatch| d.kernel.name.starts_with("matmul_");
        let products: Vec<_> = plan.dispatches.iter().filter(is_product).collect();
        assert!(products.iter().any(|d| d.dims.N % 4 != 0), "{precision:?}: a vocabulary is odd");
        for dispatch in products {
            let Dims { K, N, LD, START, .. } = dispatch.dims;
            let other = if dispatch.kernel.name == "matmul_nt" { K } else { N };
            let fits = [LD, START, other].iter().all(|size| size.is_multiple_of(4));
            assert!(fits, "{} {:?}", dispatch.kernel.name, dispatch.dims);
        }
    }
}

#[test]
fn bytes_by_role() {
    let bytes = |uses: Uses| {
        let plan = Program::record(&config(), uses, Limits::NONE).plan;
        let by_role = Role::ALL.map(|role| plan.bytes(role));
        assert_eq!(by_role.iter().sum::<u64>(), plan.total_bytes());
        by_role
    };
    let [params, grads, moments, activations, logits, cache, _] =
        bytes(Uses { logits: false, ..TRAINING });
    let count: usize = parameters(&config()).iter().map(|(_, s)| s.iter().product::<usize>()).sum();
    let padding = 256 * parameters(&config()).len() as u64;
    assert!((count as u64 * 4..count as u64 * 4 + padding).contains(&params), "{params}");
    assert_eq!([grads, moments, cache], [params, 2 * params, 0]);
    assert_eq!(logits, 70 * 152 * 4);
    assert!(activations > 0);

    let uses = |optimizer| Uses { training: Some(optimizer), ..TRAINING };
    assert_eq!(bytes(uses(Optimizer::Sgd))[2], 0, "SGD has no moments");
    let evaluation = bytes(Uses { training: None, logits: false, ..TRAINING });
    assert_eq!([evaluation[1], evaluation[2]], [0, 0]);
    assert!(evaluation[3] < activations, "layers share activations");
    let generation = bytes(Uses { generation: Some(1), ..Uses::default() });
    assert_eq!(generation[5], 2 * 2 * 75 * 12 * 4, "keys and values of two layers");
}

#[test]
fn what_exceeds_a_device() {
    let whole = Program::record(&config(), TRAINING, Limits::NONE).plan;
    assert_eq!(whole.exceeds(Limits::NONE), None);
    assert_eq!(whole.exceeds(Limits::WEBGPU), None);
    let binding = Limits { binding_bytes: 150 * 12 * 4 - 1, ..Limits::NONE };
    let says = whole.exceeds(binding).expect("the token table is too large");
    assert!(says.contains("binds") && says.contains("7199"), "{says}");
    let views = whole.dispatches.iter().flat_map(|dispatch| &dispatch.args);
    let largest = views.map(|view| view.bytes()).max().unwrap();
    let exactly = |binding_bytes| Limits { binding_bytes, ..Limits::NONE };
    assert_eq!(whole.exceeds(exactly(largest)), None);
    assert!(whole.exceeds(exactly(largest - 1)).is_some());
    let buffer = Limits { buffer_bytes: 1000, ..Limits::NONE };
    let says = whole.exceeds(buffer).expect("the arenas are too large");
    assert!(says.contains("params.matrices") && says.contains("1000"), "{says}");

    // The token table alone needs slices here, and gets them.
    let limits = Limits { binding_bytes: 100 * 1024, buffer_bytes: 150 * 1024, ..Limits::NONE };
    let wide = GptConfig { vocab_size: 3000, ..config() };
    let uses = Uses { logits: false, generation: Some(1), ..TRAINING };
    let whole = Program::record(&wide, uses, Limits::NONE).plan;
    assert!(whole.exceeds(limits).is_some());
    let sliced = Program::record(&wide, Uses { seq: 4, batch: 1, ..uses }, limits);
    assert_eq!(sliced.plan.exceeds(limits), None);
    assert!(sliced.param("wte.weight").is_some_and(|param| param.slices.len() > 1));
}

/// As GPT-2's paper has it: what joins the residual stream is smaller by the root of the number of branches.
#[test]
fn parameters_begin_as_gpt2s_do() {
    let config = GptConfig { n_layer: 3, ..config() };
    let all = wgpt::model::schema(&config, &wgpt::FineTune::default());
    for param in all.own() {
        let want = match param.within_block() {
            "attn.c_proj.weight" | "mlp.c_proj.weight" => Init::Normal(0.02 / 6_f32.sqrt()),
            name if name.ends_with("bias") => Init::Constant(0.0),
            "ln_1.weight" | "ln_2.weight" | "ln_f.weight" => Init::Constant(1.0),
            _ => Init::Normal(0.02),
        };
        assert_eq!(param.init, want, "{}", param.name);
    }
    assert_eq!(all.own().count(), 2 + 3 * 12 + 2);
}

/// They are written in pieces of a million.
#[test]
fn no_two_pieces_of_a_parameter_begin_alike() {
    let config = GptConfig { n_layer: 1, n_head: 2, n_embd: 32, vocab_size: 70_000, ..config() };
    let mut engine = Engine::new(&config, TRAINING, &Device::Cpu).unwrap();
    engine.initialize(1);
    let table = engine.program().param("wte.weight").unwrap().clone();
    let numbers = engine.param_data(&table, Tensor::Value).unwrap();
    let (first, second) = numbers.split_at(1 << 20);
    let same = first.iter().zip(second).filter(|(a, b)| a == b).count();
    assert!(second.len() > 1 << 20 && same < 1000, "{same} of {} are alike", first.len());
    let spread = |x: &[f32]| (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    for piece in numbers.chunks(1 << 18) {
        assert!((spread(piece) - 0.02).abs() < 2e-4, "{}", spread(piece));
    }
}

#[test]
fn gpt2_fits_every_device() {
    let uses = Uses { batch: 1, seq: 64, logits: false, generation: Some(1), ..TRAINING };
    let program = Program::record(&GptConfig::gpt2(), uses, Limits::WEBGPU);
    assert_eq!(program.plan.exceeds(Limits::WEBGPU), None);
}

/// The loss of some updates of two micro-batches each, and what they leave of gradients and parameters, as bits.
fn training_bits(uses: Uses, on: On) -> Vec<u64> {
    let (tokens, targets) = (ids(114, 70), ids(115, 70));
    let mut model = model(uses, on, on.limits());
    let views = model.program.update.expect("recorded for training");
    model.on.write_u32(views.state, &state::first(model.program.loss_scale));
    let mut numbers = vec![];
    for update in 0..3 {
        if uses.precision == Precision::Mixed {
            model.on.run(Phase::Cast, &Step::default());
        }
        for accumulate in [0, 1] {
            let seed = [update, accumulate];
            let step = Step { accumulate, dropout: 1 << 30, seed, ..mean_over(140) };
            model.run_batch(&tokens, &targets, &BOTH, &step);
        }
        model.on.run(Phase::Update, &Step { learning_rate: 0.01, ..Step::default() });
        numbers.push(model.loss());
    }
    assert!(numbers[2] < numbers[0], "it learns: {numbers:?}");
    numbers.extend(gradients(&mut model).into_iter().flat_map(|(_, data)| data));
    numbers.extend(everything(&mut model));
    numbers.into_iter().map(f64::to_bits).collect()
}

#[test]
fn what_is_computed_again_is_the_same() {
    let same = |uses: Uses, on: On, all: &[Recompute]| {
        let bits = all.iter().map(|&recompute| training_bits(Uses { recompute, ..uses }, on));
        let bits: Vec<_> = bits.collect();
        assert!(bits.windows(2).all(|pair| pair[0] == pair[1]), "{on:?} {uses:?}");
    };
    for on in On::all_variants() {
        for dropout in [false, true] {
            same(Uses { dropout, ..TRAINING }, on, &Recompute::ALL);
        }
    }
    for on in On::in_either_half() {
        let uses = Uses { precision: Precision::Mixed, ..TRAINING };
        // On a CPU the GELU is taken before what goes into it is rounded.
        let on_gpu = on == On::FullGpu;
        let all = if on_gpu { &Recompute::ALL[..] } else { &[Recompute::None, Recompute::Block] };
        same(uses, on, all);
    }
}

/// A block's first normalisation is found again by another kernel than made it, of which another variant may
/// have been chosen: it sums in another order, which is one more rounding and nothing else.
#[test]
fn a_normalisation_may_be_found_again_by_another_variant() {
    let Some(gpu) = full_gpu() else { return };
    let uses = Uses { recompute: Recompute::Block, ..TRAINING };
    let program = Program::record(&config(), uses, gpu.limits());
    let mut models = ["", "subgroup"].map(|again| {
        let name = |dispatch: &Dispatch| match dispatch.kernel.name {
            "layernorm_forward" => again,
            _ => "subgroup",
        };
        let taken = program.plan.dispatches.iter().map(|d| (class(d), name(d).to_owned()));
        let choices = Choices { taken: taken.collect(), refused: vec![] };
        let plan = Arc::clone(&program.plan);
        let on = Gpu::with(gpu, plan, Choice::Chosen(&choices)).unwrap();
        let mut model = Model { program: program.clone(), on: Subject::Single(Box::new(on)) };
        fill(&mut model);
        model.run_batch(&ids(114, 70), &ids(115, 70), &BOTH, &mean_over(70));
        model
    });
    let [other, same] = &mut models;
    assert_relative("loss", other.loss(), same.loss(), 1e-6);
    assert_same_gradients("found by another variant", other, same, 1e-5);
}

#[test]
fn recomputation_saves_memory() {
    let uses = Uses {
        batch: 4,
        seq: 1024,
        precision: Precision::Mixed,
        logits: false,
        generation: Some(1),
        ..TRAINING
    };
    let bytes = Recompute::ALL.map(|recompute| {
        let uses = Uses { recompute, ..uses };
        Program::record(&GptConfig::gpt2(), uses, Limits::NONE).plan.total_bytes()
    });
    println!("none, gelu, block: {bytes:?}");
    assert!(bytes[0] > bytes[1] && bytes[1] > bytes[2], "{bytes:?}");
    assert!(bytes[2] < 6_000_000_000, "{bytes:?}");
    // Every other layer takes what its block begins with, of single precision, and no more.
    let deeper = GptConfig { n_layer: 13, ..GptConfig::gpt2() };
    let activations = [GptConfig::gpt2(), deeper].map(|config| {
        let uses = Uses { recompute: Recompute::Block, generation: None, ..uses };
        Program::record(&config, uses, Limits::NONE).plan.bytes(Role::Activations)
    });
    assert_eq!(activations[1] - activations[0], 4 * 1024 * 768 * 4);
}

#[test]
fn slices_change_nothing() {
    let (tokens, mut targets) = (ids(101, 70), ids(102, 70));
    targets[3] = IGNORE;
    for on in On::all() {
        let mut sliced = model(TRAINING, on, SLICES);
        let table = sliced.program.param("wte.weight").expect("a table");
        assert!(table.slices.len() == 3, "{table:?}");
        let arenas = |role| sliced.program.plan.buffers.iter().filter(|b| b.role == role).count();
        assert!(arenas(Role::Parameters) > 2 && arenas(Role::Moments) > 4);
        let mut whole = model(TRAINING, on, Limits::NONE);
        let tolerance = rounding(on);
        for model in [&mut sliced, &mut whole] {
            model.run_batch(&tokens, &targets, &[Phase::Forward, Phase::Logits], &mean_over(69));
            model.run_batch(&tokens, &targets, &BOTH, &mean_over(69));
        }
        let logits = [&mut sliced, &mut whole].map(|model| {
            let view = model.program.batch.and_then(|batch| batch.logits).expect("logits");
            model.on.read(view)
        });
        assert_close_of_max("logits", &logits[0], &logits[1], tolerance);
        assert_relative("loss", sliced.loss(), whole.loss(), tolerance);
        assert_same_gradients("slices", &mut sliced, &mut whole, tolerance);

        let step =
            Step { learning_rate: 0.01, weight_decay: 0.1, grad_clip: 0.5, ..Step::default() };
        for model in [&mut sliced, &mut whole] {
            model.on.run(Phase::Update, &step);
        }
        for (name, _) in parameters(&config()) {
            let (got, want) = (sliced.param(&name, false), whole.param(&name, false));
            // Adam's first step is the gradient's sign, whatever its size: rounding can turn those
            // that are nothing but rounding.
            let tolerance = if name.ends_with("c_attn.bias") { 0.021 } else { 1e-4 };
            assert_close(&format!("{on:?} {name}"), &got, &want, tolerance);
        }
    }
}

#[test]
fn accumulation_equals_one_large_batch() {
    let (tokens, targets) = (ids(103, 140), ids(104, 140));
    for on in On::all() {
        let mut large = model(Uses { batch: 4, ..TRAINING }, on, Limits::NONE);
        large.run_batch(&tokens, &targets, &BOTH, &mean_over(140));
        let mut small = model(TRAINING, on, Limits::NONE);
        // What an update before left behind is not added to.
        small.run_batch(&tokens[7..77], &targets[..70], &BOTH, &mean_over(1));
        for micro in 0..2 {
            let at = micro * 70..(micro + 1) * 70;
            let step = Step { accumulate: micro as u32, ..mean_over(140) };
            small.run_batch(&tokens[at.clone()], &targets[at], &BOTH, &step);
        }
        assert_relative("loss", small.loss(), large.loss(), rounding(on));
        assert_same_gradients(&format!("{on:?}"), &mut small, &mut large, rounding(on));
    }
}

#[test]
fn evaluation_equals_the_training_loss() {
    let (tokens, mut targets) = (ids(105, 70), ids(106, 70));
    targets[69] = IGNORE;
    for on in On::all() {
        let mut training = model(Uses { dropout: true, ..TRAINING }, on, Limits::NONE);
        training.run_batch(&tokens, &targets, &BOTH, &mean_over(69));
        let without = training.loss();
        let evaluate = [Phase::Forward, Phase::Evaluate];
        training.run_batch(&tokens, &targets, &evaluate, &mean_over(69));
        assert_relative("the same plan", training.loss(), without, rounding(on));
        let mut evaluation = model(Uses { training: None, ..TRAINING }, on, Limits::NONE);
        evaluation.run_batch(&tokens, &targets, &evaluate, &mean_over(69));
        assert_relative("a plan of its own", evaluation.loss(), without, rounding(on));

        let step = Step { dropout: 1 << 30, seed: [1, 2], ..mean_over(69) };
        training.run_batch(&tokens, &targets, &BOTH, &step);
        let with = training.loss();
        assert!((with - without).abs() > 1e-3, "dropout drops: {with} and {without}");
        training.run_batch(&tokens, &targets, &BOTH, &Step { seed: [1, 3], ..step });
        assert!((training.loss() - with).abs() > 1e-4, "another seed drops others");
        training.run_batch(&tokens, &targets, &BOTH, &step);
        assert_eq!(training.loss(), with, "the same seed drops the same");
    }
}

#[test]
fn ignored_targets_count_for_nothing() {
    let (tokens, mut targets) = (ids(107, 70), ids(108, 70));
    targets[35..].fill(IGNORE);
    for on in On::all() {
        let mut both = model(TRAINING, on, Limits::NONE);
        both.run_batch(&tokens, &targets, &BOTH, &mean_over(35));
        let mut first = model(Uses { batch: 1, ..TRAINING }, on, Limits::NONE);
        first.run_batch(&tokens[..35], &targets[..35], &BOTH, &mean_over(35));
        assert_relative("loss", both.loss(), first.loss(), rounding(on));
        assert_same_gradients(&format!("{on:?}"), &mut both, &mut first, rounding(on));

        both.run_batch(&tokens, &[IGNORE; 70], &BOTH, &mean_over(1));
        assert_eq!(both.loss(), 0.0);
        for (name, gradient) in gradients(&mut both) {
            assert!(gradient.iter().all(|g| *g == 0.0), "{name}");
        }
    }
}

#[test]
fn tokens_that_repeat_add_up() {
    for on in On::all() {
        let mut g = Graph::new(Limits::NONE, false, 1e-5);
        g.begin_training(2, 3);
        let tokens = g.buffer(Role::Staging, "tokens", 6, Format::U32);
        let out = g.embedding(("wte.weight", Some("wpe")), tokens, [5, 4, 1], Joins::Nothing);
        g.record_forward(Phase::Forward);
        g.record_backward(Phase::Backward, None);
        let mut subject = on.backend(&g.plan);
        subject.write_u32(tokens, &[3, 1, 3, 3, 0, 1]);
        subject.write(out.grad, &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
        let grads = ["wte.weight", "wpe.weight"].map(|name| {
            let param = g.params.iter().find(|param| param.name == name);
            param.expect("a table").slices[0].var.grad
        });
        // The second micro-batch adds to the first.
        for (accumulate, times) in [(0, 1.0), (1, 2.0), (0, 1.0)] {
            subject.run(Phase::Backward, &Step { accumulate, ..Step::default() });
            let want = [16.0, 34.0, 0.0, 13.0, 0.0].map(|x| x * times);
            assert_eq!(subject.read(grads[0]), want);
            assert_eq!(subject.read(grads[1]), [9.0, 18.0, 36.0, 0.0].map(|x| x * times));
        }
    }
}

/// The last logits after extending by all of `tokens`, at once or in pieces.
#[test]
fn extensions_equal_the_forward_pass() {
    let uses = Uses { batch: 1, seq: 75, generation: Some(1), ..TRAINING };
    let tokens = ids(109, 75);
    for on in On::all() {
        for (uses, limits) in
            [(uses, Limits::NONE), (uses, SLICES), (Uses { training: None, ..uses }, Limits::NONE)]
        {
            let mut model = model(uses, on, limits);
            let forward = [Phase::Forward, Phase::Logits];
            model.run_batch(&tokens, &tokens, &forward, &Step::default());
            let all = model.program.batch.and_then(|batch| batch.logits).expect("logits");
            let all = model.on.read(all);
            let last = model.program.generation.expect("recorded for generation").logits;
            // Whole replays, masked ones, steps of one; the second begins anew over the first's cache.
            let pieces: [&[usize]; 4] = [&[75], &[64, 8, 1, 1, 1], &[5, 3, 40, 20], &[1, 70, 2]];
            let lengths = [&EXTENDS[..], &EXTENDS, &EXTENDS[..2], &EXTENDS[..1]];
            for (pieces, lengths) in pieces.into_iter().zip(lengths) {
                let mut at = 0;
                for &piece in pieces {
                    model.extend(at, &tokens[at..at + piece], lengths);
                    at += piece;
                    let got = model.on.read(last);
                    let want = &all[(at - 1) * 150..at * 150];
                    let what = format!("{on:?} {pieces:?} at {at}");
                    assert_close_of_max(&what, &got, want, on.tolerance(1e-12, 2e-5, 1e-4));
                }
            }
        }
    }
}

/// Generation leaves what an update needs alone: parameters, moments, state.
#[test]
fn generation_shares_memory_with_training() {
    let uses = Uses { generation: Some(1), ..TRAINING };
    let (tokens, targets) = (ids(110, 70), ids(111, 70));
    for on in On::all() {
        assert_generation_is_apart(uses, on, &tokens, &targets);
    }
}

fn assert_generation_is_apart(uses: Uses, on: On, tokens: &[u32], targets: &[u32]) {
    let step = Step { learning_rate: 0.01, ..Step::default() };
    let weights = [false, true].map(|generates| {
        let mut model = model(uses, on, Limits::NONE);
        for _ in 0..2 {
            model.run_batch(tokens, targets, &BOTH, &mean_over(70));
            model.on.run(Phase::Update, &step);
            if generates {
                model.extend(0, tokens, &EXTENDS);
                model.sample(69, Draw::default());
            }
        }
        parameters(&config()).iter().flat_map(|(name, _)| model.param(name, false)).collect()
    });
    let [without, with]: [Vec<f64>; 2] = weights;
    assert!(without == with, "{on:?}: generation between updates changes training");
}

#[test]
fn fused_nodes_equal_single_ops() {
    for on in On::all() {
        let gelu = compare_graphs(on, |g, fused| {
            let x = g.activation("x", 6);
            let out = if fused {
                g.linear_gelu("fc", x, 10, GeluForm::Tanh)
            } else {
                let pre = g.linear("fc", x, 10);
                g.gelu("gelu", pre, GeluForm::Tanh)
            };
            (vec![x.value], vec![x.grad], out)
        });
        assert_eq!(gelu, 3 * 2, "x, weight and bias");
        let norm = compare_graphs(on, |g, fused| {
            let stream = g.stream("stream", 6);
            let out = if fused {
                let branch = g.stream("branch", 6);
                let out = g.residual_layernorm("ln", stream, branch).1;
                return (vec![stream.value, branch.value], vec![stream.grad, branch.grad], out);
            } else {
                let branch = g.activation("branch", 6);
                let sum = g.residual("sum", stream, branch);
                (branch, g.layernorm("ln", sum))
            };
            let (branch, out) = out;
            (vec![stream.value, branch.value], vec![stream.grad, branch.grad], out)
        });
        assert_eq!(norm, 4 * 2, "stream, branch, weight and bias");
    }
}

/// Builds a graph with fused nodes and with single ops, and compares the outputs and all gradients;
/// returns how many tensors of both it compared.
fn compare_graphs(
    on: On,
    build: impl Fn(&mut Graph, bool) -> (Vec<View>, Vec<View>, wgpt::graph::Var),
) -> usize {
    let mut compared = 0;
    let results = [true, false].map(|fused| {
        let mut g = Graph::new(Limits::NONE, false, 1e-5);
        g.begin_training(2, 5);
        let (inputs, mut grads, out) = build(&mut g, fused);
        g.record_forward(Phase::Forward);
        g.record_backward(Phase::Backward, None);
        let params = g.params.iter().map(|param| param.slices[0].var);
        grads.extend(params.clone().map(|var| var.grad));
        let mut subject = on.backend(&g.plan);
        let inputs = inputs.into_iter().chain(params.map(|var| var.value));
        inputs.enumerate().for_each(|(i, view)| subject.write(view, &noise(i, view.len)));
        subject.run(Phase::Forward, &Step::default());
        let value = subject.read(out.value);
        subject.write(out.grad, &noise(99, out.grad.len));
        subject.run(Phase::Backward, &Step::default());
        compared += grads.len();
        [value].into_iter().chain(grads.into_iter().map(|view| subject.read(view))).collect()
    });
    let [fused, single]: [Vec<Vec<f64>>; 2] = results;
    for (i, (fused, single)) in fused.iter().zip(&single).enumerate() {
        assert!(single.iter().any(|x| *x != 0.0), "tensor {i} is not all zero");
        assert_close_of_max(&format!("{on:?} tensor {i}"), fused, single, rounding(on));
    }
    compared
}

/// Attention against its definition from products and a softmax, head by head.
#[test]
fn attention_equals_products_and_softmax() {
    for on in On::all_variants() {
        for sizes in [[2, 5, 3, 4], [1, 70, 2, 20], [1, 41, 1, 64]] {
            let by = |plan: &Plan| on.backend(plan);
            let tolerance = rounding(on).max(1e-7);
            let got = by_attention(by, sizes, 1.0);
            assert_same_heads(&format!("{on:?}"), &got, &by_products(by, sizes, 1.0), tolerance);
        }
    }
}

/// The same over a long context, every variant of a GPU against products on the CPU.
#[test]
fn long_attention_equals_products_and_softmax() {
    let Some(gpu) = unchecked_gpu() else { return };
    let [portable, others @ ..] = attention::FORWARD.variants else { panic!("it has variants") };
    // A software adapter takes the portable one half a minute for what the others take seconds for.
    for (size, longest) in [(16, 2048), (20, 1024), (128, 512)] {
        for (t, variants) in [(longest / 4, std::slice::from_ref(portable)), (longest, others)] {
            let sizes = [1, t, 1, size];
            // Scores so far apart that some keys count and most do not.
            let want = by_products(|plan| On::Cpu.backend(plan), sizes, 8.0);
            for variant in variants {
                let by = |plan: &Plan| {
                    let choice = Choice::Named(variant.name);
                    let gpu = Gpu::with(gpu, Arc::new(plan.clone()), choice).unwrap();
                    Subject::Single(Box::new(gpu))
                };
                let what = format!("{t} positions, heads of {size}, variant {:?}", variant.name);
                assert_same_heads(&what, &by_attention(by, sizes, 8.0), &want, rounding(On::Gpu));
            }
        }
    }
}

/// `out` and the gradients of q, k and v of a head.
type Head = [Vec<f64>; 4];

fn assert_same_heads(what: &str, got: &[Head], want: &[Head], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        for (part, (got, want)) in ["out", "dq", "dk", "dv"].iter().zip(got.iter().zip(want)) {
            let tolerance = if *part == "out" { tolerance } else { 10.0 * tolerance };
            assert_close_of_max(&format!("{what}: {part}"), got, want, tolerance);
        }
    }
}

/// qkv (B,T,3C), its first third times `far`, and the gradient of what comes out (B,T,C).
fn attention_data([b, t, nh, hs]: [usize; 4], far: f32) -> (Vec<f32>, Vec<f32>) {
    let c = nh * hs;
    let mut qkv = noise(1, b * t * 3 * c);
    qkv.chunks_mut(3 * c).for_each(|row| row[..c].iter_mut().for_each(|q| *q *= far));
    (qkv, noise(2, b * t * c))
}

/// Where the elements (T,HS) of a head of a sequence are in columns `first..` of (B,T,width).
fn of_head(
    [_, t, nh, hs]: [usize; 4],
    head: usize,
    first: usize,
    width: usize,
) -> impl Iterator<Item = usize> {
    let (b, h) = (head / nh, head % nh);
    (0..t * hs).map(move |i| (b * t + i / hs) * width + first + h * hs + i % hs)
}

/// By the fused kernels: sizes are B, T, NH and HS.
fn by_attention(on: impl Fn(&Plan) -> Subject, sizes: [usize; 4], far: f32) -> Vec<Head> {
    let [b, t, nh, hs] = sizes;
    let c = nh * hs;
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_training(b, t);
    let qkv = g.activation("qkv", 3 * c);
    let out = g.attention("attn", Qkv::packed(qkv, [nh, nh], hs), t);
    g.record_forward(Phase::Forward);
    g.record_backward(Phase::Backward, None);
    let mut whole = on(&g.plan);
    let (data, upstream) = attention_data(sizes, far);
    whole.write(qkv.value, &data);
    whole.run(Phase::Forward, &Step::default());
    whole.write(out.grad, &upstream);
    whole.run(Phase::Backward, &Step::default());
    let (value, grad) = (whole.read(out.value), whole.read(qkv.grad));
    let part = |head, n: usize| of_head(sizes, head, n * c, 3 * c).map(|i| grad[i]).collect();
    let out = |head| of_head(sizes, head, 0, c).map(|i| value[i]).collect();
    (0..b * nh).map(|head| [out(head), part(head, 0), part(head, 1), part(head, 2)]).collect()
}

/// By products and a softmax, with a whole (T,T) matrix, head by head.
fn by_products(on: impl Fn(&Plan) -> Subject, sizes: [usize; 4], far: f32) -> Vec<Head> {
    let [b, t, nh, hs] = sizes;
    let (c, root) = (nh * hs, (hs as f32).sqrt());
    let (data, upstream) = attention_data(sizes, far);
    let one = |head| {
        let mut g = Graph::new(Limits::NONE, false, 1e-5);
        g.begin_training(1, t);
        let [q, k, v] = ["q", "k", "v"].map(|name| g.input(name, t * hs));
        let scores = g.matmul("s", Layout::NT, [t, hs, t], q, k);
        let p = g.softmax("p", scores, 1);
        let y = g.matmul("y", Layout::NN, [t, t, hs], p, v);
        g.record_forward(Phase::Forward);
        g.record_backward(Phase::Backward, None);
        let mut on = on(&g.plan);
        let part = |n: usize, by: f32| -> Vec<f32> {
            of_head(sizes, head, n * c, 3 * c).map(|i| data[i] / by).collect()
        };
        on.write(q.value, &part(0, root));
        on.write(k.value, &part(1, 1.0));
        on.write(v.value, &part(2, 1.0));
        on.run(Phase::Forward, &Step::default());
        let dy: Vec<f32> = of_head(sizes, head, 0, c).map(|i| upstream[i]).collect();
        on.write(y.grad, &dy);
        on.run(Phase::Backward, &Step::default());
        let dq = on.read(q.grad).into_iter().map(|x| x / f64::from(root)).collect();
        [on.read(y.value), dq, on.read(k.grad), on.read(v.grad)]
    };
    (0..b * nh).map(one).collect()
}

/// Parameters, and the moments behind them.
fn everything(model: &mut Model) -> Vec<f64> {
    let slots: Vec<Slot> = model.program.slots.clone();
    let views = slots.iter().flat_map(|slot| {
        slot.moments.into_iter().flatten().chain([slot.params]).collect::<Vec<_>>()
    });
    views.flat_map(|view| model.on.read(view)).collect()
}

#[test]
fn updates_that_are_not_finite_are_skipped() {
    let (tokens, targets) = (ids(112, 70), ids(113, 70));
    let step = Step { learning_rate: 0.01, grad_clip: 1.0, ..Step::default() };
    for (on, optimizer) in On::all()
        .into_iter()
        .flat_map(|on| [Optimizer::Adamw, Optimizer::Sgd].map(|optimizer| (on, optimizer)))
    {
        let mut model = model(Uses { training: Some(optimizer), ..TRAINING }, on, SLICES);
        let update = model.program.update.expect("recorded for training");
        let go = |model: &mut Model, poison: Option<(View, f32)>| {
            model.run_batch(&tokens, &targets, &BOTH, &mean_over(70));
            if let Some((view, x)) = poison {
                model.on.write(view.slice(view.len - 1, 1), &[x]);
            }
            model.on.run(Phase::Update, &step);
            (model.on.read_u32(update.state), model.on.read(update.norm))
        };
        let (words, norm) = go(&mut model, None);
        assert_eq!(words, [1, 0, 0, 0, 0, 0, 0], "applied");
        assert!(norm[0] > 0.0 && norm[1] > 0.0);
        let before = everything(&mut model);
        let loss = model.program.batch.expect("recorded with batches").loss;
        let first = model.program.param("wte.weight").expect("a table").slices[0].var.grad;
        let last = model.program.param("ln_f.bias").expect("a bias").slices[0].var.grad;
        let poisons = [
            (first, f32::NAN),
            (last, f32::INFINITY),
            (first, f32::NEG_INFINITY),
            (loss, f32::NAN),
        ];
        for (i, poison) in poisons.into_iter().enumerate() {
            let (words, norm) = go(&mut model, Some(poison));
            let skipped = i as u32 + 1;
            let want = [(state::APPLIED, 1), (state::SKIPPED_IN_A_ROW, skipped)];
            let want = want.into_iter().chain([(state::SKIPPED, skipped), (state::SKIP, 1)]);
            want.for_each(|(word, value)| assert_eq!(words[word], value, "{on:?} word {word}"));
            assert_eq!(norm, [-1.0, 0.0]);
            let after = everything(&mut model);
            let same = before.iter().zip(&after).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && before.len() == after.len(), "{on:?} {optimizer:?}: nothing changes");
        }
        let (words, _) = go(&mut model, None);
        assert_eq!(words, [2, 0, 4, 0, 0, 0, 0], "the next one is applied");
        assert!(everything(&mut model) != before);
    }
}

/// Blocks of 32 numbers of 8 bits with a scale of 16.
const BLOCKS: Format = Format { name: "q8_0", block_len: 32, block_bytes: 34, wgsl: "Block" };

/// A kernel one of whose operands may be stored in blocks.
static OF_BLOCKS: Kernel =
    Kernel { args: &[reads("x").takes(&[Format::F32, BLOCKS]), writes("out")], ..cast::FORWARD };

#[test]
fn views_are_whole_blocks() {
    let mut plan = Plan::default();
    let arena = plan.buffer(Role::Parameters, "arena", 0, BLOCKS).buffer;
    let [first, second] = [32, 96].map(|len| plan.grow(arena, len));
    assert_eq!((first.offset(), first.bytes()), (0, 34));
    // 34 bytes and the 256 of a binding's offset meet after 128 blocks.
    assert_eq!((second.start, second.offset(), second.bytes()), (128 * 32, 128 * 34, 3 * 34));
    assert_eq!(plan.bytes(Role::Parameters), 131 * 34);
    let last = second.slice(64, 32);
    assert_eq!((last.offset(), last.bytes()), (130 * 34, 34));

    let out = plan.buffer(Role::Activations, "out", 32, Format::F32);
    let message = |of: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        let panic = catch_unwind(AssertUnwindSafe(|| of(&mut plan))).expect_err("it is refused");
        panic.downcast_ref::<String>().expect("a text").clone()
    };
    let cut = View { start: last.start + 16, len: 16, ..last };
    let dims = Dims::default();
    type Make<'a> = &'a dyn Fn(&mut Plan) -> View;
    let refused: [(&str, Make<'_>); 4] = [
        ("slice 16+32 cuts a block", &|_| second.slice(16, 32)),
        ("slice 32+16 cuts a block", &|_| second.slice(32, 16)),
        ("end within a block of q8_0", &|plan| plan.grow(arena, 33)),
        ("end within a block of q8_0", &|plan| plan.buffer(Role::Cache, "cut", 33, BLOCKS)),
    ];
    for (refusal, of) in refused {
        let got = message(&|plan| _ = of(plan));
        assert!(got.contains(refusal), "{got}, not {refusal}");
    }
    let got = message(&|plan| plan.push(&OF_BLOCKS, dims, &[cut, out]));
    assert!(got.contains("x cuts a block of q8_0"), "{got}");
    let got = message(&|plan| plan.push(&cast::FORWARD, dims, &[last, out]));
    assert!(got.contains("x does not take q8_0"), "{got}");

    plan.push(&OF_BLOCKS, dims, &[last, out]);
    plan.end_phase(Phase::Forward, 0);
    assert!(plan.to_string().contains("x arena[4160..4192]:q8_0 out= out[0..32]\n"), "{plan}");
    let limits = Limits { binding_bytes: 33, ..Limits::NONE };
    assert!(plan.exceeds(limits).expect("34 are too many").contains("x binds 34 bytes"));
    let source = OF_BLOCKS.variants[0].source(OF_BLOCKS.args, &plan.dispatches[0].formats());
    assert!(source.contains("alias x_elem = Block;"), "{source}");
}

#[test]
fn a_plan_refuses_bad_dispatches() {
    let mut plan = Plan::default();
    let a = plan.buffer(Role::Activations, "a", 128, Format::F32);
    let b = plan.buffer(Role::Activations, "b", 128, Format::F32);
    let words = plan.buffer(Role::Staging, "words", 128, Format::U32);
    let past = View { start: 100, len: 64, ..a };
    let empty = View { len: 0, ..b };
    let dims = Dims::default();
    let refused = |args: &[View]| {
        let mut plan = plan.clone();
        catch_unwind(AssertUnwindSafe(|| plan.push(&gelu::FORWARD, dims, args))).is_err()
    };
    assert!(!refused(&[a, b]), "a sound one");
    assert!(refused(&[a]), "too few arguments");
    assert!(refused(&[a, b, b]), "too many arguments");
    assert!(refused(&[a, a]), "read and written");
    assert!(refused(&[a.slice(0, 64), a.slice(64, 64)]), "parts of one buffer, read and written");
    assert!(refused(&[words, b]), "integers");
    assert!(refused(&[past, b]), "past the end");
    assert!(refused(&[a, empty]), "empty");

    // Parts of one buffer may be read together, or written together if they are disjoint.
    let mut sound = plan.clone();
    sound.push(&residual::FORWARD, dims, &[a.slice(0, 64), a.slice(0, 64), b.slice(0, 64)]);
    let slot = |params, m| Slot {
        params,
        grads: a.slice(0, 32),
        moments: Some([m, b.slice(96, 32)]),
        copy: None,
        decays: false,
    };
    let record = |params: View, m: View| {
        let mut plan = plan.clone();
        let norm = plan.buffer(Role::Staging, "norm", 2, Format::F32);
        let state = plan.buffer(Role::Staging, "state", state::LEN, Format::U32);
        let push = || {
            optimizer::record(&mut plan, Optimizer::Adam, &slot(params, m), norm, state);
        };
        catch_unwind(AssertUnwindSafe(push)).is_err()
    };
    assert!(!record(b.slice(0, 32), b.slice(32, 32)), "disjoint");
    assert!(record(b.slice(0, 32), b.slice(31, 32)), "overlapping writes");
}
