//! The cases of [`super::verify`]: tiny models and single ops that together run every kernel.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::backend::Backend;
use crate::config::{GeluForm, GptConfig, Optimizer};
use crate::finetune::{FineTune, Lora};
use crate::graph::{Graph, Joins, Var};
use crate::kernel::{Accumulate, Draw, Feed, Format, Step, rows};
use crate::model::{GenerationViews, Program, Uses};
use crate::ops::attention::Qkv;
use crate::ops::cross_entropy::IGNORE;
use crate::ops::linear::{Form, WeightLayout};
use crate::ops::matmul::Layout;
use crate::ops::random::{threefry, unit};
use crate::ops::{attention, cast, dropout, gradient_sum};
use crate::plan::{Limits, Phase, Plan, Role, View};

/// A plan with the runs over it and the kinds of its inputs.
#[derive(Clone)]
pub struct Case {
    /// A description of what the case covers.
    pub name: String,
    /// Buffers and dispatches.
    pub plan: Arc<Plan>,
    /// The runs, in an order in which each finds its inputs.
    pub runs: Vec<Run>,
    /// Token ids are below this.
    pub(super) vocab: u32,
    /// Random inputs are of at most this size.
    pub(super) largest: f32,
    pub(super) tokens: Vec<View>,
    pub(super) targets: Vec<View>,
    /// What [`fill_as_before`] writes.
    pub(super) inputs: Arc<OnceLock<Vec<(View, Contents)>>>,
}

/// The contents of a view.
pub(super) enum Contents {
    Reals(Vec<f32>),
    Words(Vec<u32>),
}

impl Contents {
    fn write_to(&self, view: View, backend: &mut dyn Backend) {
        match self {
            Contents::Reals(data) => backend.write(view, data),
            Contents::Words(data) => backend.write_u32(view, data),
        }
    }
}

/// Some dispatches of a case, with the values that the host changes before them.
#[derive(Clone, Debug)]
pub struct Run {
    /// The dispatches.
    pub range: Range<usize>,
    /// Their step.
    pub step: Step,
    /// The tables of generation, if they change, and where documents begin.
    pub tables: Vec<(View, Vec<u32>)>,
}

impl Run {
    /// Creates a run of dispatches that need no tables.
    pub fn new(range: Range<usize>, step: Step) -> Run {
        Run { range, step, tables: vec![] }
    }

    /// Writes the tables of generation.
    pub fn prepare(&self, backend: &mut dyn Backend) {
        self.tables.iter().for_each(|(view, words)| backend.write_u32(*view, words));
    }

    /// Writes the tables and runs the dispatches.
    pub fn on(&self, backend: &mut dyn Backend) {
        self.prepare(backend);
        backend.run(self.range.clone(), &self.step);
    }
}

/// Returns the tiny models and single ops that together run every kernel, with sizes that are 1, prime, one more than a
/// power of two, and typical of real models.
pub fn all() -> Vec<Case> {
    let adamw = Some(Optimizer::Adamw);
    let small = Limits { binding_bytes: 8 << 10, buffer_bytes: 16 << 10, ..Limits::NONE };
    vec![
        model("all sizes 1", [1, 1, 1, 1, 1], [1, 1], adamw, Limits::NONE),
        model("primes", [2, 2, 14, 157, 71], [3, 37], adamw, small),
        model("257 wide", [1, 1, 257, 257, 5], [1, 5], Some(Optimizer::Sgd), Limits::NONE),
        model("768 wide", [1, 12, 768, 11, 2], [1, 2], Some(Optimizer::Adam), Limits::NONE),
        model("fours", [1, 2, 16, 40, 45], [2, 41], adamw, Limits::NONE),
        model("a vocabulary of 1003", [1, 1, 12, 1003, 40], [4, 35], adamw, small),
        attention("attention, heads of 16", [1, 67], 48, |x| Qkv::packed(x, [1, 1], 16)),
        attention("attention, heads of 20", [2, 37], 180, |x| Qkv::packed(x, [3, 3], 20)),
        attention("attention, heads of 64", [1, 70], 384, |x| Qkv::packed(x, [2, 2], 64)),
        attention("attention, heads of 80", [1, 45], 480, |x| Qkv::packed(x, [2, 2], 80)),
        attention("attention, heads of 128", [1, 33], 384, |x| Qkv::packed(x, [1, 1], 128)),
        attention_in("attention, window", [2, 67], 48, |x| Qkv::packed(x, [1, 1], 16), Some(9)),
        attention_in(
            "attention, window of 33",
            [1, 99],
            80,
            |x| Qkv::packed(x, [2, 1], 20),
            Some(33),
        ),
        large_scores("attention, large scores", 64),
        large_scores("attention, large scores, heads of 128", 128),
        attention("attention, one key head", [2, 41], 100, |x| Qkv::packed(x, [3, 1], 20)),
        attention("attention, two key heads", [1, 67], 128, |x| Qkv::packed(x, [4, 2], 16)),
        attention("attention, blocks", [2, 37], 400, |x| Qkv::blocks(x, [2, 1], 100)),
        attention("attention, interleaved", [1, 70], 136, |x| Qkv::interleaved(x, 2, 16, 20)),
        attention("attention, not by fours", [2, 35], 50, |x| Qkv::interleaved(x, 2, 8, 1)),
        products("products of 1", [1, 1, 1]),
        products("products of primes", [67, 131, 71]),
        products("products, 257 deep", [3, 257, 66]),
        products("products, 768 wide", [5, 31, 768]),
        products("products of large tiles", [260, 20, 300]),
        layers("layers of large tiles, forward", [257, 18, 260]),
        layers("layers of large tiles, inputs", [257, 260, 4]),
        layers("layers of large tiles, parameters", [3, 257, 260]),
        adapters("adapters of 1", [1, 1, 1, 1]),
        adapters("adapters of primes", [37, 19, 67, 3]),
        adapters("adapters of fours", [132, 64, 260, 8]),
        single_ops("single ops of 1", [1, 1, 1, 1]),
        single_ops("single ops of primes", [2, 37, 3, 7]),
        single_ops("single ops, 257", [1, 257, 1, 2]),
        single_ops("single ops of fours", [2, 21, 2, 28]),
        extension("a sequence of 400", 400, 48, |x| Qkv::packed(x, [2, 2], 8)),
        extension("a sequence of 400, two key heads", 400, 160, |x| Qkv::packed(x, [4, 2], 20)),
        extension_in("a window of 37", 400, 48, |x| Qkv::packed(x, [2, 2], 8), Some(37)),
        embeddings("embeddings of 8,400 tokens", [4, 2_100], [7, 4]),
        llama_ops("Llama's ops of 1", [1, 1, 1, 1, 2]),
        llama_ops("Llama's ops of primes", [2, 37, 3, 1, 14]),
        llama_ops("Llama's ops, 257", [1, 257, 1, 1, 2]),
        llama_ops("Llama's ops of fours", [2, 21, 4, 2, 24]),
        rotations(
            "rotations, half of each head",
            [2, 19],
            136,
            |x| Qkv::interleaved(x, 2, 16, 20),
            4,
        ),
        rotations("rotations, blocks", [1, 70], 128, |x| Qkv::blocks(x, [4, 2], 16), 8),
    ]
}

/// Returns a case with numbers of half the size, in this format, wherever they are allowed.
pub fn halved(case: &Case, half: Format) -> Case {
    let name = format!("{}, in {half}", case.name);
    let plan = Arc::new(case.plan.halved(half));
    Case { name, plan, inputs: Arc::default(), ..case.clone() }
}

/// Fills every buffer with random numbers in a range that suits its role.
pub fn fill_random(case: &Case, backend: &mut dyn Backend, seed: u32) {
    random(case, seed).for_each(|(view, contents)| contents.write_to(view, backend));
}

/// Does the same as [`fill_random`] with the seed 1. The numbers are made once and kept with the case and its clones, since
/// making them takes longer than most comparisons.
pub(super) fn fill_as_before(case: &Case, backend: &mut dyn Backend) {
    let inputs = case.inputs.get_or_init(|| random(case, 1).collect());
    inputs.iter().for_each(|(view, contents)| contents.write_to(*view, backend));
}

/// Returns random contents for every buffer, and then for those parts that must hold token ids.
fn random(case: &Case, seed: u32) -> impl Iterator<Item = (View, Contents)> + '_ {
    let buffers = case.plan.buffers.iter().enumerate().map(move |(index, spec)| {
        let view = View { buffer: index, start: 0, len: spec.len, format: spec.format };
        let word = |i: usize| threefry([seed, index as u32], [i as u32, 0])[0];
        if spec.format == Format::U32 {
            return (view, Contents::Words((0..spec.len).map(|i| word(i) & 1).collect()));
        }
        // Parameters stay small, like trained ones; second moments are not negative; the gaps between the partial sums
        // of a norm are zero, or every update would be skipped. The padding of rows of logits must not matter.
        let (low, high) = match spec.role {
            Role::Parameters => (-0.3, 0.3),
            Role::Moments => (0.0, 0.01),
            Role::Staging => (0.0, 0.0),
            Role::Logits => (f32::NAN, f32::NAN),
            _ => (-case.largest, case.largest),
        };
        let data = (0..spec.len).map(|i| low + (high - low) * unit(word(i)));
        (view, Contents::Reals(data.collect()))
    });
    let ids = move |view: &View, salt| -> Vec<u32> {
        (0..view.len).map(|i| threefry([seed, salt], [i as u32, 1])[0] % case.vocab).collect()
    };
    let tokens = case.tokens.iter().map(move |view| (*view, Contents::Words(ids(view, 2))));
    let targets = case.targets.iter().map(move |view| {
        let mut targets = ids(view, 3);
        targets.iter_mut().skip(1).step_by(5).for_each(|target| *target = IGNORE);
        (*view, Contents::Words(targets))
    });
    let constants = case.plan.constants.iter();
    let constants = constants.map(|(view, words)| (*view, Contents::Words(words.clone())));
    buffers.chain(constants).chain(tokens).chain(targets)
}

/// Makes a case of a model of [n_layer, n_head, n_embd, vocab_size, n_positions] over [B, T].
fn model(
    name: &str,
    [n_layer, n_head, n_embd, vocab_size, n_positions]: [usize; 5],
    [batch, seq]: [usize; 2],
    training: Option<Optimizer>,
    limits: Limits,
) -> Case {
    let n_inner = (n_embd > 256).then_some(17);
    let sizes =
        GptConfig { n_layer, n_head, n_embd, vocab_size, n_positions, ..GptConfig::small() };
    let config = GptConfig { n_inner, ..sizes };
    let generation = (n_embd < 256).then_some(2);
    let uses =
        Uses { batch, seq, training, dropout: true, logits: true, generation, ..Uses::default() };
    let program = Program::record(&config, uses, limits);
    let step = Step {
        loss_scale: 1.0 / (batch * seq) as f64,
        dropout: dropout::threshold(0.25),
        seed: [3, 4],
        learning_rate: 1e-3,
        weight_decay: 0.1,
        grad_clip: 0.5,
        ..Step::default()
    };
    let mut runs: Vec<Run> =
        padded_products(&program.plan, step).chain(phases(&program, step)).collect();
    let starts = documents([batch, seq]);
    let batch = program.batch.expect("it was recorded with batches");
    runs.iter_mut().for_each(|run| run.tables.push((batch.starts, starts.clone())));
    let sequence = program.generation.map(|g| g.sequence);
    Case {
        name: name.to_owned(),
        runs,
        vocab: vocab_size as u32,
        largest: 1.0,
        tokens: [Some(batch.tokens), sequence].into_iter().flatten().collect(),
        targets: vec![batch.targets],
        inputs: Arc::default(),
        plan: program.plan,
    }
}

/// Returns runs of the head's gradient products over the logits themselves: the padding of their rows is not yet 0.
fn padded_products(plan: &Plan, step: Step) -> impl Iterator<Item = Run> + '_ {
    let first = [Phase::Forward, Phase::Evaluate].map(|phase| plan.phase(phase));
    let is_product =
        |i: &usize| ["matmul_nn", "matmul_tn"].contains(&plan.dispatches[*i].kernel.name);
    let products = plan.phase(Phase::Backward).filter(is_product).map(|i| i..i + 1);
    first.into_iter().chain(products).map(move |range| Run::new(range, step))
}

/// Returns all phases of a program with a step for each, in an order in which each finds its inputs.
pub fn phases(program: &Program, step: Step) -> Vec<Run> {
    let second = Step { accumulate: 1, ..step };
    let runs = [
        (Phase::Forward, step),
        (Phase::Evaluate, step),
        (Phase::Logits, step),
        (Phase::Backward, step),
        (Phase::Forward, second),
        (Phase::Backward, second),
        (Phase::Update, step),
        // Here epsilon is as large as the root that it is added to.
        (Phase::Update, Step { grad_clip: 0.0, learning_rate: 0.1, eps: 1.0, ..step }),
    ];
    let runs = runs.into_iter().map(|(phase, step)| Run::new(program.plan.phase(phase), step));
    let generation = program.generation.map(|views| generation(program, views));
    runs.chain(generation.into_iter().flatten()).collect()
}

/// Returns runs of prompts and their continuations in all slots, alone and together, and of draws with every filter.
pub fn generation(program: &Program, views: GenerationViews) -> Vec<Run> {
    let plan = &program.plan;
    let slots = views.slots.len / rows::slot::WORDS;
    let replays: [(u32, &[(usize, usize)]); 7] = [
        (64, &[(0, 37)]),
        (8, &[(1, 3), (0, 5)]),
        (8, &[(0, 5)]),
        (64, &[(0, 1), (1, 20)]),
        (8, &[(1, 1), (0, 1)]),
        (1, &[(1, 1)]),
        (1, &[(0, 1)]),
    ];
    let mut lengths = vec![0; slots];
    let mut runs = vec![];
    for (n, replay) in replays {
        let mut feeds = vec![];
        for &(slot, count) in replay {
            let length = lengths.get(slot).copied().unwrap_or(usize::MAX - count);
            if length + count <= program.config.n_positions {
                // No token is drawn after the first replay.
                let draw = (count != 37).then(Draw::default);
                feeds.push(Feed { slot, position: length, count, draw });
                lengths[slot] += count;
            }
        }
        if !feeds.is_empty() {
            let tables = views.tables(n, &feeds);
            let range = plan.phase(Phase::Extend(n));
            runs.push(Run { range, step: Step::default(), tables });
        }
    }
    let last = Draw { seed: [3, 4], ..Draw::default() };
    let top = Draw { top_k: 5, top_p: 0.8, min_p: 0.05, temperature: 0.7, ..last };
    let draws = [
        last,
        Draw { temperature: 0.0, ..last },
        Draw { repetition_penalty: 1.3, ..top },
        Draw { top_p: 1.0, min_p: 0.0, ..top },
        Draw { top_k: 0, min_p: 0.0, top_p: 0.5, ..top },
        // Without a filter, negative logits are left too.
        Draw { repetition_penalty: 2.0, ..last },
    ];
    for i in 0..draws.len() {
        let filled = lengths.iter().enumerate().filter(|(_, length)| **length > 0);
        let feeds = filled.map(|(slot, length)| {
            let draw = Some(draws[(i + slot) % draws.len()]);
            Feed { slot, position: length - 1, count: 1, draw }
        });
        let tables = views.tables(slots as u32, &feeds.collect::<Vec<_>>());
        runs.push(Run { range: plan.phase(Phase::Sample), step: Step::default(), tables });
    }
    runs
}

/// Makes a case of the three layouts of a product with m, k, n, forward and backward.
fn products(name: &str, [m, k, n]: [usize; 3]) -> Case {
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_training(1, 1);
    for (layout, name) in [(Layout::NN, "nn"), (Layout::NT, "nt"), (Layout::TN, "tn")] {
        let a = g.input(&format!("{name}.a"), m * k);
        let b = g.input(&format!("{name}.b"), k * n);
        g.matmul(name, layout, [m, k, n], a, b);
    }
    whole(name, g)
}

/// Makes a case of a linear layer of `rows` rows from `c` into `oc` channels, alone and with GELU.
fn layers(name: &str, [rows, c, oc]: [usize; 3]) -> Case {
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_training(1, rows);
    let x = g.input("x", rows * c);
    g.linear("linear", x, oc);
    g.linear_gelu("gelu", x, oc, GeluForm::Tanh);
    for (layout, bias) in
        [(WeightLayout::OutIn, true), (WeightLayout::OutIn, false), (WeightLayout::InOut, false)]
    {
        g.linear(&format!("{layout:?} {bias}"), x, Form { channels: oc, layout, bias });
    }
    whole(name, g)
}

/// Makes a case of linear layers with adapters of rank `r`, of `rows` rows from `c` into `oc` channels, alone and with
/// GELU.
fn adapters(name: &str, [rows, c, oc, r]: [usize; 4]) -> Case {
    let lora = Lora { targets: vec!["adapted".into()], ..Lora::of_rank(r) };
    let finetune = FineTune { lora: Some(lora), ..FineTune::default() };
    let mut g = Graph::new(Limits::NONE, false, 1e-5).fine_tuning(&finetune);
    g.begin_training(1, rows);
    let x = g.input("x", rows * c);
    g.linear("linear.adapted", x, oc);
    g.linear_gelu("gelu.adapted", x, oc, GeluForm::Tanh);
    whole(name, g)
}

/// Makes a case of residual sums, GELU, dropout, linear layers and softmax over (B,T,C) and NH heads.
fn single_ops(name: &str, [b, t, nh, c]: [usize; 4]) -> Case {
    let freeze = vec!["bias_alone.weight".to_owned()];
    let mut g = Graph::new(Limits::NONE, false, 1e-5)
        .fine_tuning(&FineTune { freeze, ..FineTune::default() });
    g.begin_training(b, t);
    let [x, y] = ["x", "y"].map(|name| g.input(name, b * t * c));
    g.residual("residual", x, y);
    g.gelu("gelu", x, GeluForm::Tanh);
    // Its output has the format of its input, as in a model.
    let pre = g.input("pre", b * t * c);
    g.gelu("gelu_exact", pre, GeluForm::Exact);
    g.dropout("dropout", y, Joins::Nothing);
    g.linear("linear", x, c + 1);
    g.linear("bias_alone", x, c + 1);
    g.layernorm("norm", x);
    let scores = g.input("scores", b * nh * t * t);
    g.softmax("softmax", scores, nh);
    let copy = g.input("copy", x.value.len);
    cast::record(&mut g.plan, x.value, copy.value);
    let sum = g.input("sum", x.value.len);
    for how in [Accumulate::Set, Accumulate::Add] {
        gradient_sum::record(&mut g.plan, x.value, sum.value, how);
    }
    whole(name, g)
}

/// Makes a case of attention over (B,T) rows of `channels`, in which `heads` finds its queries, keys and values; the
/// first keys that rows may see are anywhere in their sequence, also behind the row.
fn attention(
    name: &str,
    [b, t]: [usize; 2],
    channels: usize,
    heads: impl FnOnce(Var) -> Qkv,
) -> Case {
    attention_in(name, [b, t], channels, heads, None)
}

/// Makes the same case of attention in which each position sees `window` positions.
fn attention_in(
    name: &str,
    [b, t]: [usize; 2],
    channels: usize,
    heads: impl FnOnce(Var) -> Qkv,
    window: Option<usize>,
) -> Case {
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_training(b, t);
    let qkv = g.input("qkv", b * t * channels);
    g.attention_in("attention", heads(qkv), t, window);
    let first_key = g.document_starts();
    Case { vocab: t as u32, tokens: vec![first_key], ..whole(name, g) }
}

/// Makes a case of one head of `hs` channels with scores of up to about 50, whose largest so far rises by much from one
/// block of keys to the next.
fn large_scores(name: &str, hs: usize) -> Case {
    Case { largest: 6.0, ..attention(name, [1, 99], 3 * hs, |x| Qkv::packed(x, [1, 1], hs)) }
}

/// Makes a case of sequences that grow to `s` positions, whose caches are read in several blocks: in rows of
/// `channels`, `heads` finds the queries, keys and values. The rows of the second replay see a window.
fn extension(name: &str, s: usize, channels: usize, heads: impl FnOnce(Var) -> Qkv) -> Case {
    extension_in(name, s, channels, heads, None)
}

/// Makes the same case, with tokens embedded without positions and queries and keys rotated, of attention in which each position sees `window` positions.
fn extension_in(
    name: &str,
    s: usize,
    channels: usize,
    heads: impl FnOnce(Var) -> Qkv,
    window: Option<usize>,
) -> Case {
    let (count, slots) = (8, 2);
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_extend(count, slots, s);
    let qkv = heads(g.input("qkv", count * channels));
    if window.is_some() {
        let sequence = g.buffer(Role::Staging, "sequence", slots * (s + 1), Format::U32);
        g.embedding(("wte.weight", None), sequence, [3, s, 5], Joins::Nothing);
        g.rotary(qkv, &frequencies(qkv.head_size / 2));
    }
    g.attention_in("attention", qkv, s, window);
    g.record_forward(Phase::Extend(count as u32));
    let view = g.rows_table();
    let copied = g.buffer(Role::Staging, "copied", rows::COPY_WORDS, Format::U32);
    attention::record_copies(&mut g.plan, Phase::Extend(count as u32), copied);
    let all = 0..g.plan.dispatches.len();
    // The last place of the first block, the first of the second, and an end with masked rows, in both slots.
    let feed = |slot, position, count| Feed { slot, position, count, draw: None };
    // The copies are of a whole block and a part of one, and of nothing at a slot that is not there.
    let replays = [
        (vec![feed(0, 252, 8)], s, [0, 1, 259]),
        (vec![feed(1, 254, 3), feed(0, s - 4, 4)], 300, [1, slots as u32, 5]),
    ];
    let run = |(feeds, window, copy): (Vec<Feed>, usize, [u32; rows::COPY_WORDS])| {
        let [mut words, _] = rows::tables(&feeds, count, slots);
        for row in words.chunks_exact_mut(rows::ROW_WORDS).filter(|row| row[0] != rows::NONE) {
            row[2] = (row[1] + 1).saturating_sub(window as u32);
        }
        Run {
            range: all.clone(),
            step: Step::default(),
            tables: vec![(view, words), (copied, copy.to_vec())],
        }
    };
    Case { runs: replays.map(run).into(), ..bare(name, g.plan) }
}

/// Returns `n` frequencies of rotary embeddings, from 1 on.
fn frequencies(n: usize) -> Vec<f64> {
    (0..n).map(|i| 10_000f64.powf(-(i as f64) / n as f64)).collect()
}

/// Makes a case of rotations of `n` pairs of channels of each head in (B,T) rows of `channels`; documents begin anywhere,
/// also behind the row.
fn rotations(
    name: &str,
    [b, t]: [usize; 2],
    channels: usize,
    heads: impl FnOnce(Var) -> Qkv,
    n: usize,
) -> Case {
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_training(b, t);
    let qkv = g.input("qkv", b * t * channels);
    g.rotary(heads(qkv), &frequencies(n));
    let starts = g.document_starts();
    Case { vocab: t as u32, tokens: vec![starts], ..whole(name, g) }
}

/// Makes a case of the ops of Llama's family over (B,T) rows, with NH heads of queries and KVH of keys of HS channels.
fn llama_ops(name: &str, [b, t, nh, kvh, hs]: [usize; 5]) -> Case {
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_training(b, t);
    let (rows, c) = (b * t, nh * hs);
    let tokens = g.buffer(Role::Staging, "tokens", rows, Format::U32);
    let [stream, branch] = ["stream", "branch"].map(|name| g.input(name, rows * c));
    g.embedding(("wte.weight", None), tokens, [7, t, c], Joins::Nothing);
    g.rmsnorm("norm", stream);
    g.residual_rmsnorm("residual_norm", stream, branch);
    let [heads, out] = ["heads", "heads_out"].map(|name| g.input(name, rows * c));
    g.rmsnorm_heads("head_norm", heads, hs, out);
    let [gate, up] = ["gate", "up"].map(|name| g.input(name, rows * c));
    g.swiglu("swiglu", gate, up);
    let qkv = g.input("qkv", rows * (nh + 2 * kvh) * hs);
    g.rotary(Qkv::packed(qkv, [nh, kvh], hs), &frequencies(hs / 2));
    Case { vocab: 7, tokens: vec![tokens], ..whole(name, g) }
}

/// Makes a case of embeddings of (B,T) tokens in tables of `v` rows and `c` channels, in several documents, twice: the gradient of the second
/// overwrites, the gradient of the first is added, which another variant does.
fn embeddings(name: &str, [b, t]: [usize; 2], [v, c]: [usize; 2]) -> Case {
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_training(b, t);
    let tokens = ["first", "second"].map(|name| g.buffer(Role::Staging, name, b * t, Format::U32));
    for tokens in tokens {
        g.embedding(("wte.weight", Some("wpe")), tokens, [v, t, c], Joins::Nothing);
    }
    let starts = g.document_starts();
    let mut case = Case { vocab: v as u32, tokens: tokens.into(), ..whole(name, g) };
    for run in &mut case.runs {
        run.tables.push((starts, documents([b, t])));
    }
    case
}

/// Returns where the document of each row of (B,T) begins: documents of 1, 3, 5, … rows; the last one of a sequence may be cut.
fn documents([b, t]: [usize; 2]) -> Vec<u32> {
    let mut starts = vec![];
    let mut length = 1;
    for _ in 0..b {
        let mut start = 0;
        for row in 0..t {
            if row - start == length {
                (start, length) = (row, length + 2);
            }
            starts.push(start as u32);
        }
    }
    starts
}

/// Makes a case of a graph's forward and backward pass, without a model.
fn whole(name: &str, mut g: Graph) -> Case {
    g.record_forward(Phase::Forward);
    g.record_backward(Phase::Backward, None);
    let step = Step { dropout: dropout::threshold(0.1), seed: [5, 6], ..Step::default() };
    let runs = [step, Step { accumulate: 1, ..step }];
    let all = g.plan.dispatches.len();
    Case { runs: runs.map(|step| Run::new(0..all, step)).into(), ..bare(name, g.plan) }
}

/// Makes a case of a plan without runs and tokens.
pub(super) fn bare(name: &str, plan: Plan) -> Case {
    Case {
        name: name.to_owned(),
        plan: Arc::new(plan),
        runs: vec![],
        vocab: 1,
        largest: 1.0,
        tokens: vec![],
        targets: vec![],
        inputs: Arc::default(),
    }
}
