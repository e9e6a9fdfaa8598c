//! The cases of [`super::grad`]: a tiny graph for every op that has a gradient, and whole models.

use std::sync::Arc;

use crate::arch::GPT_NEOX;
use crate::arch::rotary::{Rotary, Scaling};
use crate::check::grad::{Case, Objective, Perturb, Replay};
use crate::config::{Biases, Blocks, GeluForm, GptConfig, Optimizer, Windowed};
use crate::finetune::{FineTune, Lora};
use crate::graph::{Graph, Joins, Op, Recorder, Var};
use crate::kernel::state;
use crate::kernel::{Dims, Format, Step};
use crate::model::{Program, Uses};
use crate::ops::attention::Qkv;
use crate::ops::cross_entropy::IGNORE;
use crate::ops::dropout::threshold;
use crate::ops::head::{Head, row_stride};
use crate::ops::linear::{Form, WeightLayout};
use crate::ops::matmul::Layout;
use crate::plan::{Limits, Phase, Plan, Role, View};

/// Sizes of the ops' cases.
const B: usize = 2;
const T: usize = 3;
const C: usize = 6;

/// GPT-2's form of GELU.
const TANH: GeluForm = GeluForm::Tanh;

/// Returns every case.
pub fn all(limits: Limits) -> Vec<Case> {
    ops().into_iter().chain(models(limits)).collect()
}

/// Marks the output's gradient as written from outside: later contributions to it must add, not overwrite.
struct Seed(Var);

impl Op for Seed {
    fn forward(&self, _: &mut Plan) {}

    fn backward(&self, recorder: &mut Recorder<'_>) {
        recorder.contribution(self.0.grad);
    }
}

/// Returns tokens, or targets, below `v`; some occur twice.
fn ids(start: usize, n: usize, v: usize) -> Vec<u32> {
    (0..n).map(|i| ((start + i * i * 5 + i / 3) % v) as u32).collect()
}

/// Makes a case of one op, or a few: `build` names the inputs that are not parameters.
fn op(
    what: &str,
    build: impl FnOnce(&mut Graph, &mut Vec<(String, Var)>, &mut Vec<(View, Vec<u32>)>) -> Var,
) -> Case {
    op_tuning(what, &FineTune::default(), build)
}

/// Makes the same case as `op`, with only a part of the parameters trained.
fn op_tuning(
    what: &str,
    finetune: &FineTune,
    build: impl FnOnce(&mut Graph, &mut Vec<(String, Var)>, &mut Vec<(View, Vec<u32>)>) -> Var,
) -> Case {
    let mut g = Graph::new(Limits::NONE, false, 1e-5).fine_tuning(finetune);
    g.begin_training(B, T);
    let (mut inputs, mut words) = (vec![], vec![]);
    let out = build(&mut g, &mut inputs, &mut words);
    g.record_forward(Phase::Forward);
    g.record_backward(Phase::Backward, Some(&Seed(out)));
    inputs.extend(parameters(&g.params));
    let step = Step { seed: [7, 9], dropout: threshold(0.3), ..Step::default() };
    Case {
        what: what.to_owned(),
        plan: g.plan,
        inputs,
        replays: vec![Replay { words, step }],
        forward: vec![Phase::Forward],
        backward: vec![Phase::Backward],
        objective: Objective::Dot(out),
        perturb: Perturb::Elements,
    }
}

/// Returns the slices of parameters, by name.
fn parameters(params: &[crate::graph::Param]) -> impl Iterator<Item = (String, Var)> + '_ {
    params.iter().flat_map(|param| {
        let named = |slice: &crate::graph::Slice| match param.slices.len() {
            1 => (param.name.clone(), slice.var),
            _ => (format!("{} from row {}", param.name, slice.start), slice.var),
        };
        param.slices.iter().map(named)
    })
}

/// Makes a case of an op on one activation of `channels`.
fn unary(what: &str, channels: usize, build: impl FnOnce(&mut Graph, Var) -> Var) -> Case {
    unary_tuning(what, &FineTune::default(), channels, build)
}

fn unary_tuning(
    what: &str,
    finetune: &FineTune,
    channels: usize,
    build: impl FnOnce(&mut Graph, Var) -> Var,
) -> Case {
    op_tuning(what, finetune, |g, inputs, _| {
        let x = g.activation("x", channels);
        inputs.push(("x".into(), x));
        build(g, x)
    })
}

/// Returns settings that train adapters of these layers.
fn adapters(rank: usize, targets: &[&str]) -> FineTune {
    let targets = targets.iter().map(|target| (*target).to_owned()).collect();
    FineTune { lora: Some(Lora { rank, alpha: 3.0, targets }), ..FineTune::default() }
}

/// Returns settings that freeze these parameters.
fn freeze(patterns: &[&str]) -> FineTune {
    let freeze = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    FineTune { freeze, ..FineTune::default() }
}

/// Returns the form of a linear layer whose weight is (OC,C).
fn out_in(channels: usize, bias: bool) -> Form {
    Form { channels, layout: WeightLayout::OutIn, bias }
}

fn matmul(what: &str, layout: Layout) -> Case {
    let [m, k, n] = [3, 5, 4];
    op(what, |g, inputs, _| {
        let (a, b) = (g.input("a", m * k), g.input("b", k * n));
        inputs.extend([("a".into(), a), ("b".into(), b)]);
        g.matmul("out", layout, [m, k, n], a, b)
    })
}

/// Makes two summands that have the gradient of the residual stream.
fn branches(g: &mut Graph, inputs: &mut Vec<(String, Var)>) -> [Var; 2] {
    let vars = ["stream", "branch"].map(|name| (name.to_owned(), g.stream(name, C)));
    inputs.extend(vars.clone());
    vars.map(|(_, var)| var)
}

/// Returns the cases of every op that has a gradient.
pub fn ops() -> Vec<Case> {
    let embedding = op("embedding", |g, _, words| {
        let tokens = g.buffer(Role::Staging, "tokens", B * T, Format::U32);
        words.push((tokens, vec![3, 0, 3, 4, 3, 1]));
        g.embedding(("wte.weight", Some("wpe")), tokens, [5, T + 1, C], Joins::Nothing)
    });
    let documents = op("embedding, documents", |g, _, words| {
        let tokens = g.buffer(Role::Staging, "tokens", B * T, Format::U32);
        words.push((tokens, vec![3, 0, 3, 4, 3, 1]));
        words.push((g.document_starts(), vec![0, 1, 1, 0, 0, 2]));
        g.embedding(("wte.weight", Some("wpe")), tokens, [5, T + 1, C], Joins::Nothing)
    });
    let tokens_alone = op("embedding, without positions", |g, _, words| {
        let tokens = g.buffer(Role::Staging, "tokens", B * T, Format::U32);
        words.push((tokens, vec![3, 0, 3, 4, 3, 1]));
        g.embedding(("wte.weight", None), tokens, [5, T + 1, C], Joins::Nothing)
    });
    let residual = op("residual", |g, inputs, _| {
        let (stream, branch) = (g.stream("stream", C), g.activation("branch", C));
        inputs.extend([("stream".into(), stream), ("branch".into(), branch)]);
        g.residual("out", stream, branch)
    });
    let residual_layernorm = op("residual_layernorm", |g, inputs, _| {
        let [stream, branch] = branches(g, inputs);
        g.residual_layernorm("ln", stream, branch).1
    });
    // The sum is used twice, as in every block.
    let block = op("residual_layernorm, linear, residual", |g, inputs, _| {
        let [stream, branch] = branches(g, inputs);
        let (sum, normed) = g.residual_layernorm("ln", stream, branch);
        let branch = g.linear("fc", normed, C);
        g.residual("out", sum, branch)
    });
    let mut all = vec![
        embedding,
        documents,
        tokens_alone,
        unary("layernorm", C, |g, x| g.layernorm("ln", x)),
        residual,
        residual_layernorm,
        block,
        unary_tuning("layernorm, bias alone", &freeze(&["*.weight"]), C, |g, x| {
            g.layernorm("ln", x)
        }),
        unary("gelu", C, |g, x| g.gelu("gelu", x, TANH)),
        unary("gelu, exact", C, |g, x| g.gelu("gelu", x, GeluForm::Exact)),
        unary("softmax", 2 * T, |g, x| g.softmax("softmax", x, 2)),
        matmul("matmul nn", Layout::NN),
        matmul("matmul nt", Layout::NT),
        matmul("matmul tn", Layout::TN),
        unary("dropout", C, |g, x| g.dropout("dropout", x, Joins::Nothing)),
        head(),
        untied_head(),
    ];
    all.extend(linear_layers().into_iter().chain(attentions()).chain(llama_ops()));
    all
}

/// Returns cases of the ops of Llama's family.
fn llama_ops() -> Vec<Case> {
    let heads = unary("rmsnorm of heads", C, |g, x| {
        let out = g.activation("out", C);
        g.rmsnorm_heads("ln", x, 3, out);
        out
    });
    let residual = op("residual_rmsnorm", |g, inputs, _| {
        let [stream, branch] = branches(g, inputs);
        let (sum, normed) = g.residual_rmsnorm("ln", stream, branch);
        let branch = g.linear("fc", normed, out_in(C, false));
        g.residual("out", sum, branch)
    });
    let swiglu = op("swiglu", |g, inputs, _| {
        let [gate, up] = ["gate", "up"].map(|name| (name.to_owned(), g.activation(name, C)));
        inputs.extend([gate.clone(), up.clone()]);
        g.swiglu("out", gate.1, up.1)
    });
    let rotary = |what: &str, frequencies: &'static [f64]| {
        op(what, move |g, inputs, words| {
            let x = g.activation("x", C);
            inputs.push(("x".into(), x));
            let qkv = g.linear("c_attn", x, out_in(16, false));
            g.rotary(Qkv::packed(qkv, [2, 1], 4), frequencies);
            let starts = g.document_starts();
            words.push((starts, vec![0, 0, 2, 0, 9, 1]));
            qkv
        })
    };
    vec![
        unary("rmsnorm", C, |g, x| g.rmsnorm("ln", x)),
        heads,
        residual,
        swiglu,
        unary("linears, swiglu", C, |g, x| {
            let [gate, up] = g.linears(x, [("gate", out_in(4, false)), ("up", out_in(4, true))]);
            g.swiglu("out", gate, up)
        }),
        rotary("linear, rotary", &[1.0, 0.3]),
        rotary("linear, rotary of half of each head", &[0.7]),
        attention_in("attention, window", 16, |x| Qkv::packed(x, [4, 2], 2), Some(2), None),
    ]
}

/// Returns cases of linear layers in both layouts: alone and with GELU, fully trained, partly trained and adapted.
fn linear_layers() -> Vec<Case> {
    vec![
        unary("linear", C, |g, x| g.linear("fc", x, 4)),
        unary_tuning("linear, weight alone", &freeze(&["*.bias"]), C, |g, x| g.linear("fc", x, 4)),
        unary_tuning("linear, bias alone", &freeze(&["*.weight"]), C, |g, x| g.linear("fc", x, 4)),
        unary("linear, without bias", C, |g, x| {
            g.linear("fc", x, Form { bias: false, ..4.into() })
        }),
        unary("linear, out by in", C, |g, x| g.linear("fc", x, out_in(4, true))),
        unary("linear, out by in, without bias", C, |g, x| g.linear("fc", x, out_in(4, false))),
        unary_tuning("linear, out by in, weight alone", &freeze(&["*.bias"]), C, |g, x| {
            g.linear("fc", x, out_in(4, true))
        }),
        unary_tuning("linear, out by in, bias alone", &freeze(&["*.weight"]), C, |g, x| {
            g.linear("fc", x, out_in(4, true))
        }),
        unary_tuning("linear, out by in, adapted", &adapters(2, &["fc"]), C, |g, x| {
            g.linear("fc", x, out_in(4, false))
        }),
        unary("linear_gelu", C, |g, x| g.linear_gelu("fc", x, 4, TANH)),
        unary("linear_gelu, without bias", C, |g, x| {
            g.linear_gelu("fc", x, Form { bias: false, ..4.into() }, TANH)
        }),
        unary("linear_gelu, out by in", C, |g, x| g.linear_gelu("fc", x, out_in(4, true), TANH)),
        unary("linear_gelu, exact", C, |g, x| g.linear_gelu("fc", x, 4, GeluForm::Exact)),
        unary_tuning("linear, adapted", &adapters(2, &["fc"]), C, |g, x| g.linear("fc", x, 4)),
        unary_tuning("linear_gelu, adapted", &adapters(1, &["fc"]), C, |g, x| {
            g.linear_gelu("fc", x, 4, TANH)
        }),
    ]
}

/// Returns cases of attention in its layouts.
fn attentions() -> Vec<Case> {
    vec![
        attention("attention", 3 * C, |x| Qkv::packed(x, [2, 2], 3), None),
        attention("attention, blocks", 3 * C, |x| Qkv::blocks(x, [2, 2], 3), None),
        attention("attention, interleaved", 22, |x| Qkv::interleaved(x, 2, 3, 2), None),
        attention("attention, one key head", 10, |x| Qkv::packed(x, [3, 1], 2), None),
        attention("attention, two key heads", 8, |x| Qkv::blocks(x, [4, 2], 1), None),
        attention(
            "attention, first keys",
            16,
            |x| Qkv::packed(x, [4, 2], 2),
            Some([0, 1, 9, 1, 0, 2]),
        ),
        narrow_attention(),
    ]
}

/// Makes a case of attention over an activation of `channels`, in which `heads` finds its queries, keys and values; the
/// rows may be given the first keys that they see.
fn attention(
    what: &str,
    channels: usize,
    heads: impl FnOnce(Var) -> Qkv,
    first_keys: Option<[u32; B * T]>,
) -> Case {
    attention_in(what, channels, heads, None, first_keys)
}

/// Makes the same case of attention in which each position sees `window` positions.
fn attention_in(
    what: &str,
    channels: usize,
    heads: impl FnOnce(Var) -> Qkv,
    window: Option<usize>,
    first_keys: Option<[u32; B * T]>,
) -> Case {
    op(what, |g, inputs, words| {
        let x = g.activation("x", channels);
        inputs.push(("x".into(), x));
        let out = g.attention_in("attn", heads(x), T, window);
        let view = g.document_starts();
        words.extend(first_keys.map(|keys| (view, keys.to_vec())));
        out
    })
}

/// Makes a case whose heads together are narrower than the stream: 2 heads of 2 channels, of 6.
fn narrow_attention() -> Case {
    unary("linear, attention, linear", C, |g, x| {
        let qkv = g.linear("c_attn", x, 8);
        let mixed = g.attention("attn", Qkv::packed(qkv, [2, 1], 2), T);
        g.linear("c_proj", mixed, C)
    })
}

/// Makes a case of the head over two chunks of rows and two slices of the table, with one target ignored.
fn head() -> Case {
    const V: usize = 70;
    let limits = Limits { binding_bytes: (64 * C * 4) as u64, ..Limits::NONE };
    let mut g = Graph::new(limits, false, 1e-5);
    g.begin_training(B, T);
    let x = g.input("x", B * T * C);
    let mut case = loss(g, "head, cross_entropy", x, ("wte.weight", V), [69, 3, IGNORE, 0, 64, 63]);
    case.inputs.insert(0, ("x".to_owned(), x));
    case
}

/// Makes a case of tokens from one table, and their logits against another.
fn untied_head() -> Case {
    const V: usize = 7;
    let mut g = Graph::new(Limits::NONE, false, 1e-5);
    g.begin_training(B, T);
    let tokens = g.buffer(Role::Staging, "tokens", B * T, Format::U32);
    let x = g.embedding(("wte.weight", Some("wpe")), tokens, [V, T, C], Joins::Nothing);
    let what = "embedding, head of another table";
    let mut case = loss(g, what, x, ("lm_head.weight", V), [6, 0, 3, 3, IGNORE, 1]);
    case.replays[0].words.push((tokens, vec![3, 0, 3, 4, 3, 1]));
    case
}

/// Completes a graph with the loss of the logits of `x` against a table of `v` rows, and makes a case of it.
fn loss(mut g: Graph, what: &str, x: Var, (name, v): (&str, usize), wanted: [u32; B * T]) -> Case {
    let table = g.param(g.token_table(name, &[v, C]));
    let targets = g.buffer(Role::Staging, "targets", B * T, Format::U32);
    let row_loss = g.buffer(Role::Staging, "row_loss", B * T, Format::F32);
    let loss = g.buffer(Role::Staging, "loss", 1, Format::F32);
    let logits = g.buffer(Role::Logits, "logits", 4 * row_stride(v), Format::F32);
    let state = Some(g.buffer(Role::Staging, "state", state::LEN, Format::U32));
    let dims = Dims { C: C as u32, V: v as u32, ..g.dims() };
    let head = Head { dims, x, table, targets, logits, row_loss, loss, state };
    g.record_forward(Phase::Forward);
    let start = g.plan.dispatches.len();
    head.forward(&mut g.plan);
    g.plan.end_phase(Phase::Evaluate, start);
    g.record_backward(Phase::Backward, Some(&head));
    let inputs = parameters(&g.params).collect();
    let words = vec![(targets, wanted.to_vec())];
    let step = Step { loss_scale: 0.2, ..Step::default() };
    Case {
        what: what.to_owned(),
        plan: g.plan,
        inputs,
        replays: vec![Replay { words, step }],
        forward: vec![Phase::Forward, Phase::Evaluate],
        backward: vec![Phase::Backward],
        objective: Objective::Loss(loss),
        perturb: Perturb::Elements,
    }
}

/// The description of a model's case.
#[derive(Clone)]
struct Model {
    what: &'static str,
    config: GptConfig,
    batch: usize,
    seq: usize,
    dropout: f64,
    micro_batches: usize,
    perturb: Perturb,
    finetune: FineTune,
}

/// Returns a tiny model like GPT-2, of which every element is perturbed.
fn tiny_model() -> Model {
    let config = GptConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: C,
        vocab_size: 13,
        n_positions: T + 1,
        n_inner: Some(10),
        layer_norm_epsilon: 1e-5,
        ..GptConfig::small()
    };
    Model {
        what: "model",
        config,
        batch: B,
        seq: T,
        dropout: 0.0,
        micro_batches: 1,
        perturb: Perturb::Elements,
        finetune: FineTune::default(),
    }
}

/// Returns the same with every part that Llama's kind may have: grouped, normalised heads, biases, a window in one of the layers,
/// its own head.
fn tiny_llama() -> Model {
    let tiny = tiny_model();
    let config = GptConfig {
        n_head: 4,
        n_inner: Some(7),
        blocks: Blocks {
            family: "qwen3".into(),
            n_kv_head: Some(2),
            head_size: Some(4),
            rotary: Some(Rotary { scaling: Scaling::Linear(2.0), ..Rotary::of(100.0) }),
            window: Some(2),
            windowed: Windowed::From(1),
            biases: Biases::ALL,
            is_tied: false,
            ..Blocks::GPT2
        },
        ..tiny.config
    };
    Model { what: "model like Llama", config, ..tiny }
}

/// Returns the same with branches side by side, and heads that are rotated in part.
fn tiny_neox() -> Model {
    let tiny = tiny_model();
    let rotary = Some(Rotary { share: 0.7, ..Rotary::of(100.0) });
    let blocks = Blocks { rotary, ..(GPT_NEOX.blocks)() };
    Model { what: "model like GPT-NeoX", config: GptConfig { blocks, ..tiny.config }, ..tiny }
}

/// Returns cases of whole models: every element of tiny ones, random directions of one with row chunks and slices.
pub fn models(limits: Limits) -> Vec<Case> {
    let (plain, llama, neox) = (tiny_model(), tiny_llama(), tiny_neox());
    let larger = GptConfig {
        n_embd: 20,
        n_inner: None,
        vocab_size: 150,
        n_positions: 45,
        ..plain.config.clone()
    };
    let sliced = Limits {
        binding_bytes: limits.binding_bytes.min(64 * 20 * 4 + 1280),
        buffer_bytes: limits.buffer_bytes.min(16_384),
        ..limits
    };
    vec![
        plain.record(limits),
        Model { what: "model with dropout", dropout: 0.2, ..plain.clone() }.record(limits),
        Model { what: "model, two micro-batches", micro_batches: 2, ..plain.clone() }
            .record(limits),
        Model {
            what: "model with adapters, two micro-batches",
            finetune: adapters(2, &["c_attn", "c_proj", "h.1.mlp.c_fc"]),
            micro_batches: 2,
            ..plain.clone()
        }
        .record(limits),
        Model {
            what: "model, lower block frozen",
            finetune: freeze(&["w?e.*", "h.0.*", "h.1.*c_fc.bias", "h.1.ln_2.weight"]),
            ..plain.clone()
        }
        .record(limits),
        llama.record(limits),
        Model {
            what: "model like Llama with adapters, two micro-batches",
            finetune: adapters(2, &["q_proj", "v_proj", "layers.1.mlp.up_proj", "down_proj"]),
            micro_batches: 2,
            ..llama.clone()
        }
        .record(limits),
        Model {
            what: "model like Llama, lower block frozen but for its normalised heads",
            finetune: freeze(&[
                "embed_tokens.*",
                "layers.0.mlp.*",
                "layers.0.*layernorm.weight",
                "layers.0.*_proj.*",
            ]),
            ..llama.clone()
        }
        .record(limits),
        neox.record(limits),
        Model {
            what: "model like GPT-NeoX with dropout, lower block frozen but for one branch",
            dropout: 0.2,
            finetune: freeze(&["embed_in.*", "layers.0.mlp.*", "layers.0.*layernorm.*"]),
            ..neox
        }
        .record(limits),
        Model {
            what: "model with dropout, sliced, two micro-batches",
            config: larger,
            seq: 41,
            dropout: 0.1,
            micro_batches: 2,
            perturb: Perturb::Directions(12),
            ..plain
        }
        .record(sliced),
    ]
}

impl Model {
    fn record(&self, limits: Limits) -> Case {
        let uses = Uses {
            batch: self.batch,
            seq: self.seq,
            training: Some(Optimizer::Sgd),
            dropout: self.dropout > 0.0,
            ..Uses::default()
        };
        let program = Program::record_tuning(&self.config, uses, &self.finetune, limits);
        let batch = program.batch.expect("the uses have batches");
        let (rows, v) = (self.batch * self.seq, self.config.vocab_size);
        let replay = |micro: usize| {
            let mut targets = ids(micro + 3, rows, v);
            targets[micro] = IGNORE;
            let words = vec![(batch.tokens, ids(micro, rows, v)), (batch.targets, targets)];
            let step = Step {
                accumulate: u32::from(micro > 0),
                seed: [5, micro as u32],
                dropout: threshold(self.dropout),
                loss_scale: 1.0 / ((rows - 1) * self.micro_batches) as f64,
                ..Step::default()
            };
            Replay { words, step }
        };
        Case {
            what: self.what.into(),
            inputs: parameters(&program.params).collect(),
            plan: Arc::unwrap_or_clone(program.plan),
            replays: (0..self.micro_batches).map(replay).collect(),
            forward: vec![Phase::Forward, Phase::Evaluate],
            backward: vec![Phase::Backward],
            objective: Objective::Loss(batch.loss),
            perturb: self.perturb,
        }
    }
}
