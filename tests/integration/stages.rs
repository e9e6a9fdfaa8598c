//! Do the stages of a pipeline compute what the whole model computes? All stages are engines of this thread, which do their
//! tasks as the schedule has them; what one sends, the test hands to the next.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use wgpt::arch::GPT_NEOX;
use wgpt::arch::rotary::Rotary;
use wgpt::backend::Device;
use wgpt::config::{Biases, Blocks, Optimizer, Precision, Recompute, Windowed};
use wgpt::engine::{Drawn, Engine, FromAfter, FromBefore, MicroBatch, Tensor, prompt_feeds};
use wgpt::finetune::Lora;
use wgpt::kernel::{Draw, Feed, Step};
use wgpt::model::{Program, Uses};
use wgpt::ops::cross_entropy::{IGNORE, counted};
use wgpt::ops::dropout::threshold;
use wgpt::ops::random;
use wgpt::params::ParamRole;
use wgpt::pipeline::{Stage, Task};
use wgpt::plan::{Limits, Role, View};
use wgpt::tree::most_open;
use wgpt::{FineTune, GptConfig};

use crate::common::{assert_close_of_max, cpu_in_bf16, full_gpu, gpu};

/// Sequences of a micro-batch, and tokens of each.
const SHAPE: [usize; 2] = [2, 9];
/// The parameter that the first and the last stage have.
const TABLE: &str = "wte.weight";

/// A model that is small, with layers that no number of stages divides.
fn config() -> GptConfig {
    GptConfig {
        n_layer: 5,
        n_head: 2,
        n_embd: 12,
        vocab_size: 75,
        n_positions: 70,
        n_inner: Some(20),
        layer_norm_epsilon: 1e-5,
        ..GptConfig::small()
    }
}

/// Training with dropout, of updates that are added in place.
fn training() -> Uses {
    let [batch, seq] = SHAPE;
    let training = Some(Optimizer::Adamw);
    Uses { batch, seq, training, dropout: true, ..Uses::default() }
}

/// Number `i` of a sequence, in -0.5..0.5.
fn noise(seed: u32, i: usize) -> f32 {
    random::unit(random::threefry([seed, 41], [i as u32, 0])[0]) - 0.5
}

fn ids(seed: u32, n: usize) -> Vec<u32> {
    (0..n).map(|i| ((noise(seed, i) + 0.5) * config().vocab_size as f32) as u32).collect()
}

/// The micro-batch number `micro`, in which one target does not count.
fn micro_batch(micro: usize) -> MicroBatch {
    let (rows, seed) = (SHAPE[0] * SHAPE[1], 2 * micro as u32);
    let mut targets = ids(seed + 1, rows);
    targets[micro] = IGNORE;
    MicroBatch { tokens: ids(seed, rows), targets, seed: [7, micro as u32], starts: vec![] }
}

fn step() -> Step {
    Step { dropout: threshold(0.2), learning_rate: 0.01, ..Step::default() }
}

/// How many targets count in an update.
fn all_targets(n: usize) -> usize {
    (0..n).map(|micro| counted(&micro_batch(micro).targets)).sum()
}

/// An engine whose parameters depend on their names alone.
fn engine(uses: Uses, finetune: &FineTune, device: &Device) -> Engine {
    engine_of(&config(), uses, finetune, device)
}

fn engine_of(config: &GptConfig, uses: Uses, finetune: &FineTune, device: &Device) -> Engine {
    let mut engine = Engine::tuning(config, uses, finetune, device).expect("it fits");
    for param in Arc::clone(&engine.program().params).iter() {
        let seed =
            param.name.bytes().fold(0, |seed: u32, byte| seed * 31 % 65_521 + u32::from(byte));
        let is_norm = param.role == ParamRole::NormWeight;
        let shift = if is_norm { 1.0 } else { 0.0 };
        let fill = |start: usize, out: &mut [f32]| {
            out.iter_mut()
                .enumerate()
                .for_each(|(i, out)| *out = shift + 0.7 * noise(seed, start + i));
            Ok(())
        };
        engine.write_param(param, Tensor::Value, fill).expect("the device is there");
    }
    engine
}

/// The numbers of a view.
fn read(engine: &mut Engine, view: View) -> Vec<f32> {
    let mut numbers = vec![0.0; view.len];
    engine.backend().read(view, &mut numbers).expect("the device is there");
    numbers
}

fn loss(engine: &mut Engine) -> Vec<f32> {
    let view = engine.program().batch.expect("recorded with batches").loss;
    read(engine, view)
}

/// A tensor of every trained parameter, by name.
fn tensors(engine: &mut Engine, tensor: Tensor) -> HashMap<String, Vec<f32>> {
    let params = Arc::clone(&engine.program().params);
    let trained = params.iter().filter(|param| param.is_trained());
    let read = |param: &wgpt::graph::Param| {
        (param.name.clone(), engine.param_data(param, tensor).expect("the device is there"))
    };
    trained.map(read).collect()
}

/// The stages of one model.
struct Pipeline(Vec<Engine>);

impl Pipeline {
    /// As many stages, for updates of `n` micro-batches.
    fn new(uses: Uses, n: usize, stages: usize, finetune: &FineTune, device: &Device) -> Pipeline {
        Pipeline::of(&config(), uses, n, stages, (finetune, device))
    }

    /// The same of a model of other sizes.
    fn of(
        config: &GptConfig,
        uses: Uses,
        n: usize,
        stages: usize,
        (finetune, device): (&FineTune, &Device),
    ) -> Pipeline {
        let stages = Stage::all(stages);
        let stage = |stage| engine_of(config, uses.of_stage(stage, n), finetune, device);
        Pipeline(stages.map(stage).collect())
    }

    fn last(&mut self) -> &mut Engine {
        self.0.last_mut().expect("a stage")
    }

    /// Both passes over the micro-batches of an update, up to the sum of their gradients on each stage.
    fn train(&mut self, n: usize) {
        let of = self.0.len();
        let mut tasks: Vec<_> =
            Stage::all(of).map(|stage| stage.schedule(n).into_iter().peekable()).collect();
        self.0.iter_mut().for_each(|stage| stage.begin_micro_batches(0..n, all_targets(n)));
        // What each task has sent to the next stage, or the one before.
        let mut sent: HashMap<(usize, Task), Vec<f32>> = HashMap::new();
        while tasks.iter_mut().any(|tasks| tasks.peek().is_some()) {
            for (i, tasks) in tasks.iter_mut().enumerate() {
                let stage = &mut self.0[i];
                while let Some(&task) = tasks.peek() {
                    let Some(out) = run(stage, i, task, of, &mut sent) else { break };
                    sent.insert((i, task), out);
                    tasks.next();
                }
            }
        }
    }

    /// A tensor of every trained parameter; the table's gradients are those of both stages, added.
    fn tensors(&mut self, tensor: Tensor) -> HashMap<String, Vec<f32>> {
        let mut all: HashMap<String, Vec<f32>> = HashMap::new();
        for (name, numbers) in self.0.iter_mut().flat_map(|stage| tensors(stage, tensor)) {
            match all.get_mut(&name) {
                None => _ = all.insert(name, numbers),
                Some(first) => {
                    assert_eq!(name, TABLE);
                    first.iter_mut().zip(numbers).for_each(|(first, last)| *first += last);
                }
            }
        }
        all
    }
}

/// Does a task, if what it needs has been sent; returns what it sends.
fn run(
    stage: &mut Engine,
    i: usize,
    task: Task,
    of: usize,
    sent: &mut HashMap<(usize, Task), Vec<f32>>,
) -> Option<Vec<f32>> {
    let ticket = match task {
        Task::Forward(m) => {
            let MicroBatch { tokens, seed, .. } = micro_batch(m);
            let step = Step { seed, ..step() };
            if i == 0 {
                stage.forward_micro_batch(m, FromBefore::Tokens(&tokens), step);
            } else {
                let stream = sent.get(&(i - 1, task))?;
                stage.forward_micro_batch(m, FromBefore::Stream(stream), step);
            }
            (i + 1 < of).then(|| stage.request_sent())
        }
        Task::Backward(m) => {
            if i + 1 == of {
                let targets = micro_batch(m).targets;
                let done = stage.backward_micro_batch(m, FromAfter::Targets(&targets), None);
                done.expect("the device is there");
            } else {
                let gradient = sent.get(&(i + 1, task))?;
                let from = match stage.needs_gradients() {
                    true => FromAfter::Gradient(gradient),
                    false => FromAfter::Nothing,
                };
                stage.backward_micro_batch(m, from, None).expect("the device is there");
            }
            stage.sends_gradients().then(|| stage.request_sent_gradient())
        }
    };
    let sent = ticket.map(|ticket| stage.take_stream(ticket).expect("the device is there"));
    Some(sent.unwrap_or_default())
}

/// Both passes over the micro-batches of an update of the whole model.
fn train_whole(whole: &mut Engine, n: usize) {
    let mut batch = micro_batch(0);
    let mut fill = |micro: usize, batch: &mut MicroBatch| {
        *batch = micro_batch(micro);
        Ok(())
    };
    let all = all_targets(n);
    whole.train_micro_batches(0..n, all, &mut batch, &mut fill, step(), None).expect("batches");
}

fn assert_same(what: &str, got: &[f32], want: &[f32]) {
    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(got) == bits(want), "{what}: {got:?} is not {want:?}");
}

/// Trains on stages and on the whole model; compares the loss and every gradient, bit by bit. Only the table's gradients of
/// the first and the last stage are sums of their own, which are added at the end: that is another order.
fn compare(uses: Uses, n: usize, stages: usize, finetune: &FineTune, device: &Device) {
    compare_of(&config(), uses, n, stages, (finetune, device));
}

/// The same of a model of other sizes.
fn compare_of(
    config: &GptConfig,
    uses: Uses,
    n: usize,
    stages: usize,
    (finetune, device): (&FineTune, &Device),
) {
    let what = format!("{stages} stages, {n} micro-batches, {uses:?} {finetune:?}");
    let mut whole = engine_of(config, uses, finetune, device);
    train_whole(&mut whole, n);
    let mut pipeline = Pipeline::of(config, uses, n, stages, (finetune, device));
    pipeline.train(n);
    assert_same(&format!("{what}: loss"), &loss(pipeline.last()), &loss(&mut whole));
    let (got, want) = (pipeline.tensors(Tensor::Gradient), tensors(&mut whole, Tensor::Gradient));
    assert_eq!(got.len(), want.len(), "{what}");
    for (name, want) in &want {
        assert!(want.iter().any(|x| *x != 0.0), "{what}: {name} has a gradient");
        if name == TABLE {
            let wide = |numbers: &[f32]| numbers.iter().copied().map(f64::from).collect::<Vec<_>>();
            assert_close_of_max(&format!("{what}: {name}"), &wide(&got[name]), &wide(want), 1e-6);
        } else {
            assert_same(&format!("{what}: {name}"), &got[name], want);
        }
    }
}

#[test]
fn loss_and_gradients_have_the_whole_models_bits() {
    let whole = FineTune::default();
    for (stages, n) in (1..=4).flat_map(|stages| (1..=5).map(move |n| (stages, n))) {
        for recompute in Recompute::ALL {
            for dropout in [false, true] {
                let uses = Uses { recompute, dropout, ..training() };
                compare(uses, n, stages, &whole, &Device::Cpu);
            }
        }
    }
}

/// A model like Llama: a head of its own, windows in some layers, heads that are normalised and rotated in place; and one
/// whose attention and MLP are side by side.
#[test]
fn also_of_models_of_other_families() {
    let llama = Blocks {
        family: "qwen3".into(),
        n_kv_head: Some(1),
        head_size: Some(8),
        rotary: Some(Rotary::of(100.0)),
        window: Some(4),
        windowed: Windowed::From(2),
        biases: Biases::NONE,
        is_tied: false,
        ..Blocks::GPT2
    };
    let rotary = Some(Rotary { share: 0.7, ..Rotary::of(100.0) });
    let neox = Blocks { rotary, ..(GPT_NEOX.blocks)() };
    let gpu = gpu().map(|gpu| Device::Gpu(Arc::clone(gpu)));
    for device in [Device::Cpu].into_iter().chain(gpu) {
        for (blocks, stages, recompute) in [
            (&llama, 2, Recompute::None),
            (&llama, 3, Recompute::Gelu),
            (&llama, 4, Recompute::Block),
            (&neox, 3, Recompute::Gelu),
            (&neox, 4, Recompute::Block),
        ] {
            let config = GptConfig { blocks: blocks.clone(), ..config() };
            let uses = Uses { recompute, ..training() };
            compare_of(&config, uses, 4, stages, (&FineTune::default(), &device));
        }
    }
}

#[test]
fn micro_batches_are_added_along_the_tree_on_each_stage() {
    for n in [3, 5] {
        let uses = Uses { nodes: most_open(0..n), ..training() };
        compare(uses, n, 2, &FineTune::default(), &Device::Cpu);
    }
}

#[test]
fn also_on_a_gpu_and_in_half_precision() {
    let whole = FineTune::default();
    let full = full_gpu().filter(|gpu| gpu.has().f16);
    let devices = [(gpu(), Precision::F32), (full_gpu(), Precision::F32), (full, Precision::Mixed)];
    for (gpu, precision) in devices {
        let Some(gpu) = gpu else { continue };
        for (stages, recompute) in [(2, Recompute::None), (3, Recompute::Block)] {
            let uses = Uses { recompute, precision, ..training() };
            let device = Device::Gpu(Arc::clone(gpu));
            compare(uses, 4, stages, &whole, &device);
        }
    }
    let uses = Uses { precision: Precision::Mixed, ..training() };
    compare(uses, 3, 3, &whole, &Device::Cpu);
}

/// Five layers on three stages: 0 and 1, 2 and 3, 4.
#[test]
fn frozen_parts_and_adapters() {
    let patterns = |patterns: &[&str]| patterns.iter().map(|&p| p.to_owned()).collect::<Vec<_>>();
    let freeze = |names: &[&str]| FineTune { freeze: patterns(names), ..FineTune::default() };
    let only = |names: &[&str]| FineTune { train_only: patterns(names), ..FineTune::default() };
    let lora = FineTune { lora: Some(Lora::of_rank(2)), ..FineTune::default() };
    let cases = [
        // The first stage trains nothing: no gradient comes back to it.
        (freeze(&["wte.*", "wpe.*", "h.0.*", "h.1.*"]), [false, false, true]),
        // The last ones train nothing, but hand gradients on.
        (only(&["h.1.*"]), [false, true, true]),
        // The one in the middle does so.
        (freeze(&["h.2.*", "h.3.*"]), [false, true, true]),
        (only(&["ln_f.*"]), [false, false, false]),
        (lora, [false, true, true]),
    ];
    for (finetune, sends) in cases {
        for recompute in [Recompute::None, Recompute::Block] {
            let uses = Uses { recompute, ..training() };
            compare(uses, 4, 3, &finetune, &Device::Cpu);
        }
        let pipeline = Pipeline::new(training(), 4, 3, &finetune, &Device::Cpu);
        let got: Vec<bool> = pipeline.0.iter().map(Engine::sends_gradients).collect();
        assert_eq!(got, sends, "{finetune:?}");
        let needs = pipeline.0.iter().map(Engine::needs_gradients).collect::<Vec<_>>();
        assert_eq!(needs[..2], sends[1..], "{finetune:?}: what one sends the other needs");
    }
}

/// What the transport does between the passes and the update, by hand.
fn share(pipeline: &mut Pipeline) {
    let table = pipeline.tensors(Tensor::Gradient).remove(TABLE).expect("it is trained");
    let loss = loss(pipeline.last());
    let mut partials = vec![];
    for stage in &mut pipeline.0 {
        let view = stage.program().batch.expect("recorded with batches").loss;
        stage.backend().write(view, &loss);
        if let Some(param) = stage.program().param(TABLE).cloned() {
            let fill = |start: usize, out: &mut [f32]| {
                out.copy_from_slice(&table[start..start + out.len()]);
                Ok(())
            };
            stage.write_param(&param, Tensor::Gradient, fill).expect("the device is there");
        }
        let split = stage.program().split.clone().expect("a stage makes a part of the update");
        let own = stage.norm_partials(&step()).expect("the device is there");
        let places = &split.partials[stage.program().uses.stage.index];
        partials.resize(split.all.len, 0.0);
        for (from, to) in places {
            partials[*to..][..from.len()].copy_from_slice(&own[from.clone()]);
        }
    }
    pipeline.0.iter_mut().for_each(|stage| stage.write_partials(&partials));
}

#[test]
fn stages_learn_as_the_whole_model_does() {
    let (n, whole) = (3, FineTune::default());
    let mut one = engine(training(), &whole, &Device::Cpu);
    let mut stages = Pipeline::new(training(), n, 3, &whole, &Device::Cpu);
    let mut losses = vec![];
    for _ in 0..4 {
        train_whole(&mut one, n);
        one.update(&step());
        stages.train(n);
        share(&mut stages);
        stages.0.iter_mut().for_each(|stage| stage.update(&step()));
        let [got, want] = [loss(stages.last())[0], loss(&mut one)[0]];
        assert!((got - want).abs() <= 1e-4 * want, "{got} on stages, {want} as a whole");
        losses.push(got);
    }
    assert!(losses[3] < losses[0], "it learns: {losses:?}");
    let tables = [0, 2].map(|i| tensors(&mut stages.0[i], Tensor::Value).remove(TABLE).unwrap());
    assert!(tables[0] == tables[1], "the first and the last stage have the same table");
}

/// A batch that is not trained on, through all stages.
fn row_losses(pipeline: &mut Pipeline, batch: &MicroBatch) -> Vec<f32> {
    let mut stream = vec![];
    for (i, stage) in pipeline.0.iter_mut().enumerate() {
        let from = match i {
            0 => FromBefore::Tokens(&batch.tokens),
            _ => FromBefore::Stream(&stream),
        };
        stage.forward_batch(from);
        if stage.program().uses.stage.is_last() {
            let ticket = stage.request_losses(&batch.targets);
            return stage.take_row_losses(ticket).expect("the device is there");
        }
        let ticket = stage.request_sent();
        stream = stage.take_stream(ticket).expect("the device is there");
    }
    unreachable!("one stage is the last")
}

#[test]
fn evaluation_has_the_whole_models_bits() {
    let batch = micro_batch(3);
    let gpu = gpu().map(|gpu| Device::Gpu(Arc::clone(gpu)));
    for device in [Device::Cpu].into_iter().chain(gpu) {
        for optimizer in [None, Some(Optimizer::Sgd)] {
            let uses = Uses { training: optimizer, ..training() };
            let mut whole = engine(uses, &FineTune::default(), &device);
            let want = whole.row_losses(&batch.tokens, &batch.targets).expect("losses");
            for stages in [2, 5] {
                let mut pipeline = Pipeline::new(uses, 4, stages, &FineTune::default(), &device);
                let got = row_losses(&mut pipeline, &batch);
                assert_same(&format!("{stages} stages {optimizer:?}"), &got, &want);
                let kept = pipeline.0[0].program().flights.len();
                assert_eq!(kept, if optimizer.is_some() { stages.min(4) } else { 1 });
            }
        }
    }
}

/// Feeds on every stage in turn; the last one draws.
fn extend(pipeline: &mut Pipeline, feeds: &[Feed]) {
    let rows = feeds.iter().map(|feed| feed.count).sum();
    let mut stream = vec![];
    for (i, stage) in pipeline.0.iter_mut().enumerate() {
        match i {
            0 => stage.extend(feeds),
            _ => stage.extend_received(feeds, &stream),
        }
        if stage.program().uses.stage.is_last() {
            return stage.sample();
        }
        let ticket = stage.request_rows(rows);
        stream = stage.take_stream(ticket).expect("the device is there");
    }
}

/// The token that a slot drew at a position.
fn drawn(engine: &mut Engine, slot: usize, start: usize) -> u32 {
    let ticket = engine.request_drawn(&[Drawn { slot, start, count: 1 }]);
    engine.take_drawn(ticket).expect("the device is there").swap_remove(0).ids[0]
}

/// Continues both prompts on stages and as a whole, each step by step, and compares every logit and token.
fn generate_on(uses: Uses, stages: usize, device: &Device) {
    let what = format!("{stages} stages {uses:?}");
    let mut whole = engine(uses, &FineTune::default(), device);
    let mut pipeline = Pipeline::new(uses, 4, stages, &FineTune::default(), device);
    let prompts = [ids(50, 41), ids(51, 2)];
    let draw = |slot: usize, at: usize| Draw {
        seed: [slot as u32, at as u32],
        temperature: 1.0,
        top_k: 20,
        repetition_penalty: 1.3,
        ..Draw::default()
    };
    for engine in pipeline.0.iter_mut().chain([&mut whole]) {
        for (slot, prompt) in prompts.iter().enumerate() {
            engine.begin_sequence(slot);
            engine.mark_seen(slot, prompt);
            engine.write_sequence(slot, 0, prompt);
        }
    }
    for (slot, prompt) in prompts.iter().enumerate() {
        for feed in prompt_feeds(slot, prompt.len(), draw(slot, prompt.len())) {
            extend(&mut pipeline, &[feed]);
            whole.extend(&[feed]);
            whole.sample();
        }
    }
    let mut different = std::collections::BTreeSet::new();
    for i in 0..12 {
        let mut feeds = vec![];
        for (slot, prompt) in prompts.iter().enumerate() {
            let at = prompt.len() + i;
            let token = drawn(pipeline.last(), slot, at);
            assert_eq!(token, drawn(&mut whole, slot, at), "{what}: token {i} of slot {slot}");
            let got = pipeline.last().read_logits(slot).expect("the device is there");
            let want = whole.read_logits(slot).expect("the device is there");
            assert_same(&format!("{what}: logits {i} of {slot}"), &got, &want);
            pipeline.0[0].write_sequence(slot, at, &[token]);
            feeds.push(Feed { slot, position: at, count: 1, draw: Some(draw(slot, at + 1)) });
            different.insert(token);
        }
        extend(&mut pipeline, &feeds);
        whole.extend(&feeds);
        whole.sample();
    }
    assert!(different.len() > 4, "{what}: a text has several tokens: {different:?}");
}

#[test]
fn generation_has_the_whole_models_bits() {
    let alone = Uses { generation: Some(2), ..Uses::default() };
    let in_training = Uses { generation: Some(2), ..training() };
    for stages in [2, 3, 5] {
        generate_on(alone, stages, &Device::Cpu);
        generate_on(in_training, stages, &Device::Cpu);
    }
    let mixed = Uses { precision: Precision::Mixed, ..alone };
    generate_on(mixed, 2, &cpu_in_bf16());
    for gpu in [gpu(), full_gpu()].into_iter().flatten() {
        generate_on(in_training, 2, &Device::Gpu(Arc::clone(gpu)));
    }
    if let Some(gpu) = full_gpu().filter(|gpu| gpu.has().f16) {
        generate_on(mixed, 2, &Device::Gpu(Arc::clone(gpu)));
    }
}

/// Sequences come after an update, and leave the next one its memory.
#[test]
fn a_stage_generates_between_updates() {
    let uses = Uses { generation: Some(2), ..training() };
    let finetune = FineTune::default();
    let mut used = Pipeline::new(uses, 4, 2, &finetune, &Device::Cpu);
    used.0.iter_mut().for_each(|stage| stage.begin_sequence(0));
    used.0[0].write_sequence(0, 0, &ids(3, 9));
    for feed in prompt_feeds(0, 9, Draw::default()) {
        extend(&mut used, &[feed]);
    }
    used.train(4);
    let mut fresh = Pipeline::new(uses, 4, 2, &finetune, &Device::Cpu);
    fresh.train(4);
    assert_eq!(used.tensors(Tensor::Gradient), fresh.tensors(Tensor::Gradient));
}

#[test]
fn initial_values_are_the_whole_models() {
    let lora = FineTune { lora: Some(Lora::of_rank(2)), ..FineTune::default() };
    for finetune in [FineTune::default(), lora] {
        let make = |uses| {
            let mut engine = Engine::tuning(&config(), uses, &finetune, &Device::Cpu).unwrap();
            engine.initialize(1337);
            engine.initialize_adapters(1337);
            engine
        };
        let mut whole = make(training());
        for stage in Stage::all(3) {
            let mut part = make(training().of_stage(stage, 4));
            for param in Arc::clone(&part.program().params).iter() {
                let got = part.param_data(param, Tensor::Value).unwrap();
                let same = whole.program().param(&param.name).expect("the model has it").clone();
                assert!(got == whole.param_data(&same, Tensor::Value).unwrap(), "{}", param.name);
            }
        }
    }
}

fn record(uses: Uses, stage: Stage, n: usize) -> Program {
    Program::record(&config(), uses.of_stage(stage, n), Limits::NONE)
}

#[test]
fn each_parameter_is_on_one_stage_but_the_table() {
    let whole = record(training(), Stage::WHOLE, 4);
    for of in 2..=5 {
        let parts: Vec<Program> =
            Stage::all(of).map(|stage| record(training(), stage, 4)).collect();
        let count: usize = parts.iter().map(Program::parameter_count).sum();
        let table = whole.param(TABLE).expect("a table").len();
        assert_eq!(count, whole.parameter_count() + table, "{of} stages");
        // In the order of the files, with the table before the last stage's layers.
        for part in &parts {
            let place = |name: &str| whole.params.iter().position(|param| param.name == name);
            let places: Vec<_> = part.params.iter().map(|param| place(&param.name)).collect();
            assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
        }
    }
}

/// The bytes of a stage's activations, with room for the micro-batches of updates of `n`.
fn activations(uses: Uses, stage: Stage, n: usize) -> u64 {
    record(uses, stage, n).plan.bytes(Role::Activations)
}

#[test]
fn a_stage_has_room_for_the_micro_batches_in_flight() {
    let rows = (SHAPE[0] * SHAPE[1]) as u64;
    let stream = rows * config().n_embd as u64 * 4;
    for (recompute, precision) in [
        (Recompute::None, Precision::F32),
        (Recompute::Gelu, Precision::F32),
        (Recompute::Block, Precision::F32),
        (Recompute::Block, Precision::Mixed),
    ] {
        let uses = Uses { recompute, precision, ..training() };
        for stage in Stage::all(4) {
            let layers: Range<usize> = stage.layers(5);
            for n in 1..=6 {
                let program = record(uses, stage, n);
                let flights = (4 - stage.index).min(n);
                assert_eq!(program.flights.len(), flights, "{stage:?} {n}");
                let more = activations(uses, stage, n) - activations(uses, stage, 1);
                let each = more / (flights as u64 - 1).max(1);
                assert_eq!(more, each * (flights as u64 - 1), "all take as much");
                if recompute == Recompute::Block {
                    // The stream at the beginning of each block, and nothing else.
                    assert_eq!(each, if flights > 1 { layers.len() as u64 * stream } else { 0 });
                } else if flights > 1 {
                    assert!(each > 5 * layers.len() as u64 * stream, "{stage:?}: {each} bytes");
                }
                let logits = program.plan.bytes(Role::Logits);
                assert_eq!(logits > 0, stage.is_last(), "only the last stage has logits");
            }
        }
    }
}

/// A pass in another order would overwrite what another needs.
#[test]
fn passes_out_of_order_are_refused() {
    let refused = |act: &dyn Fn(&mut Engine)| {
        let stage = Stage { index: 0, of: 2 };
        let mut engine = engine(training().of_stage(stage, 3), &FineTune::default(), &Device::Cpu);
        let forward = |engine: &mut Engine, micro: usize| {
            engine.forward_micro_batch(
                micro,
                FromBefore::Tokens(&micro_batch(micro).tokens),
                step(),
            );
        };
        engine.begin_micro_batches(0..3, 10);
        forward(&mut engine, 0);
        forward(&mut engine, 1);
        let panic = catch_unwind(AssertUnwindSafe(|| act(&mut engine))).expect_err("it is refused");
        panic
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| (*panic.downcast_ref::<&str>().expect("it says why")).to_owned())
    };
    let gradient = vec![0.0; SHAPE[0] * SHAPE[1] * config().n_embd];
    let tokens = micro_batch(2).tokens;
    let said = refused(&|e| e.forward_micro_batch(2, FromBefore::Tokens(&tokens), step()));
    assert!(said.contains("still in flight"), "{said}");
    let said = refused(&|e| _ = e.backward_micro_batch(1, FromAfter::Gradient(&gradient), None));
    assert!(said.contains("come in order"), "{said}");
    let said = refused(&|e| e.forward_batch(FromBefore::Tokens(&tokens)));
    assert!(said.contains("are in flight"), "{said}");
    let said = refused(&|e| _ = e.backward_micro_batch(0, FromAfter::Nothing, None));
    assert!(said.contains("takes targets"), "{said}");
}
