//! Is each operation right? PyTorch's values of single operations, through plans of one op.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;
use wgpt::config::{GeluForm, Optimizer};
use wgpt::graph::{Graph, Joins, Op, Recorder, Slot, Var};
use wgpt::kernel::{Accumulate, Decay, Dims, Format, LossScale, Step, state};
use wgpt::ops::attention::Qkv;
use wgpt::ops::global_norm::{self, NormViews};
use wgpt::ops::matmul::Layout;
use wgpt::ops::optimizer;
use wgpt::ops::{cross_entropy, layernorm, matmul};
use wgpt::plan::{Limits, Phase, Plan, Role, View};

use crate::common::{On, Subject, Tensors, assert_close, assert_relative, json, oracle};

/// All cases, with the number of those that were compared, by op.
struct Cases {
    cases: Vec<Value>,
    tensors: Tensors,
}

fn cases() -> &'static Cases {
    static CASES: OnceLock<Cases> = OnceLock::new();
    CASES.get_or_init(|| {
        let reference = json(&oracle().join("ops.json"));
        let tensors = Tensors::open(&oracle().join("ops.safetensors"));
        Cases { cases: reference["cases"].as_array().expect("cases").clone(), tensors }
    })
}

/// Runs `test` on every case of an op and every backend; there must be some.
fn each(op: &str, test: impl Fn(&Case)) {
    let Cases { cases, tensors } = cases();
    let mut tested = 0;
    for json in cases.iter().filter(|case| case["op"] == op) {
        for on in On::all() {
            test(&Case { json, tensors, on });
            tested += 1;
        }
    }
    assert!(tested > 0, "no case of {op}");
}

#[test]
fn every_op_of_the_reference_is_tested() {
    let tested = [
        "matmul",
        "linear",
        "layernorm",
        "gelu_tanh",
        "softmax_causal",
        "attention",
        "embedding",
        "cross_entropy",
        "adamw",
        "global_norm",
    ];
    let cases = &cases().cases;
    assert!(cases.iter().all(|case| tested.iter().any(|op| case["op"] == *op)));
}

/// One case on one backend.
struct Case<'a> {
    json: &'a Value,
    tensors: &'a Tensors,
    on: On,
}

impl Case<'_> {
    fn name(&self) -> &str {
        self.json["name"].as_str().expect("a name")
    }

    fn shape(&self, input: &str) -> Vec<usize> {
        self.tensors.shape(&format!("{}.{input}", self.name()))
    }

    fn input(&self, role: &str) -> Vec<f32> {
        self.tensors.f32(&format!("{}.{role}", self.name()))
    }

    fn attr(&self, name: &str) -> f64 {
        self.json["attrs"][name].as_f64().expect("a number")
    }

    /// Whether the formula says so.
    fn form(&self, part: &str) -> bool {
        self.json["attrs"]["form"].as_str().is_some_and(|form| form.contains(part))
    }

    /// The gradient of the first output.
    fn upstream(&self) -> Vec<f32> {
        self.tensors.f32(self.json["upstream"].as_str().expect("an upstream gradient"))
    }

    /// Compares with an output, or with the gradient of an input.
    fn compare(&self, group: &str, role: &str, got: &[f64]) {
        let expected = &self.json[group][role];
        let name = expected["tensor"].as_str().expect("a tensor");
        let tolerance = |name: &str| expected[name].as_f64().expect("a tolerance");
        let want = self.tensors.get(name);
        // The reference is rounded once, the epsilon of layer normalisation is a single; rows of 1e4
        // that are constant leave the reference itself 1e-10 where there should be 0.
        let exact = 2e-7 * expected["max_abs"].as_f64().expect("a number") + 1e-9;
        let tolerance = self.on.tolerance(exact, tolerance("tol_cpu"), tolerance("tol_gpu"));
        assert_close(&format!("{name} {:?}", self.on), got, want, tolerance);
    }

    /// That all outputs and gradients of the case are among these.
    fn covers(&self, outputs: &[&str], grads: &[&str]) {
        for (group, known) in [("outputs", outputs), ("grads", grads)] {
            let names = self.json[group].as_object().expect("an object").keys();
            let all = names.filter(|name| !known.contains(&name.as_str())).count();
            assert_eq!(all, 0, "{} has other {group} than {known:?}", self.name());
        }
    }
}

/// The output's gradient comes from outside.
struct Seed(Var);

impl Op for Seed {
    fn forward(&self, _: &mut Plan) {}

    fn backward(&self, recorder: &mut Recorder<'_>) {
        recorder.contribution(self.0.grad);
    }
}

/// A graph of one op on a backend.
struct Rig {
    on: Subject,
    vars: HashMap<String, Var>,
    out: Var,
}

/// A graph whose inputs `build` makes; parameters join them by name.
fn rig(
    case: &Case,
    [b, t]: [usize; 2],
    eps: f64,
    build: impl FnOnce(&mut Graph) -> (Vec<(&'static str, Var)>, Var),
) -> Rig {
    let mut g = Graph::new(Limits::NONE, false, eps);
    g.begin_training(b, t);
    let (inputs, out) = build(&mut g);
    g.record_forward(Phase::Forward);
    g.record_backward(Phase::Backward, Some(&Seed(out)));
    let mut vars: HashMap<String, Var> =
        inputs.into_iter().map(|(name, var)| (name.to_owned(), var)).collect();
    for param in &g.params {
        vars.insert(param.name.clone(), param.slices[0].var);
    }
    Rig { on: case.on.backend(&g.plan), vars, out }
}

impl Rig {
    fn write(&mut self, var: &str, data: &[f32]) {
        let view = self.vars[var].value;
        self.on.write(view, data);
    }

    fn forward(&mut self) -> Vec<f64> {
        self.on.run(Phase::Forward, &Step::default());
        self.on.read(self.out.value)
    }

    fn backward(&mut self, upstream: &[f32]) {
        let view = self.out.grad;
        self.on.write(view, upstream);
        self.on.run(Phase::Backward, &Step::default());
    }

    fn grad(&mut self, var: &str) -> Vec<f64> {
        let view = self.vars[var].grad;
        self.on.read(view)
    }
}

/// The layout of a product from its formula, and M, K, N from the shapes.
fn layout(case: &Case, a: &[usize], b: &[usize]) -> (Layout, [usize; 3]) {
    if case.form("a^T") {
        (Layout::TN, [a[1], a[0], b[1]])
    } else if case.form("b^T") {
        (Layout::NT, [a[0], a[1], b[0]])
    } else {
        (Layout::NN, [a[0], a[1], b[1]])
    }
}

#[test]
fn matmuls() {
    each("matmul", |case| {
        case.covers(&["y"], &["a", "b"]);
        let (layout, [m, k, n]) = layout(case, &case.shape("a"), &case.shape("b"));
        let mut rig = rig(case, [1, 1], 1e-5, |g| {
            let (a, b) = (g.input("a", m * k), g.input("b", k * n));
            (vec![("a", a), ("b", b)], g.matmul("y", layout, [m, k, n], a, b))
        });
        rig.write("a", &case.input("a"));
        rig.write("b", &case.input("b"));
        case.compare("outputs", "y", &rig.forward());
        rig.backward(&case.upstream());
        case.compare("grads", "a", &rig.grad("a"));
        case.compare("grads", "b", &rig.grad("b"));
    });
}

#[test]
fn linears() {
    each("linear", |case| {
        case.covers(&["y"], &["x", "w", "b"]);
        if case.form("w^T") { linear_out_in(case) } else { linear_in_out(case) }
    });
}

/// The layer as GPT-2 has it.
fn linear_in_out(case: &Case) {
    let (x, w) = (case.shape("x"), case.shape("w"));
    let rows: usize = x[..x.len() - 1].iter().product();
    let mut rig = rig(case, [1, rows], 1e-5, |g| {
        let x = g.activation("x", w[0]);
        (vec![("x", x)], g.linear("fc", x, w[1]))
    });
    rig.write("x", &case.input("x"));
    rig.write("fc.weight", &case.input("w"));
    rig.write("fc.bias", &case.input("b"));
    case.compare("outputs", "y", &rig.forward());
    rig.backward(&case.upstream());
    case.compare("grads", "x", &rig.grad("x"));
    case.compare("grads", "w", &rig.grad("fc.weight"));
    case.compare("grads", "b", &rig.grad("fc.bias"));
}

/// The other layout, of products: y = x · wᵀ + 1 · b, the ones (M,1) and the bias (1,N).
fn linear_out_in(case: &Case) {
    let (x, w) = (case.shape("x"), case.shape("w"));
    let [m, k, n] = [x[0], x[1], w[0]];
    let mut rig = rig(case, [1, m], 1e-5, |g| {
        let (x, w) = (g.input("x", m * k), g.input("w", n * k));
        let (ones, b) = (g.input("ones", m), g.input("b", n));
        let product = g.matmul("product", Layout::NT, [m, k, n], x, w);
        let stream = g.stream("sum", n);
        // The bias in every row is a branch; the product takes the place of the stream.
        let rows = g.matmul("rows", Layout::NN, [m, 1, n], ones, b);
        let inputs = vec![("x", x), ("w", w), ("ones", ones), ("b", b), ("rows", rows)];
        g.push(Sum { a: product, b: rows, out: stream, n });
        (inputs, stream)
    });
    rig.write("x", &case.input("x"));
    rig.write("w", &case.input("w"));
    rig.write("b", &case.input("b"));
    rig.write("ones", &vec![1.0; m]);
    case.compare("outputs", "y", &rig.forward());
    rig.backward(&case.upstream());
    case.compare("grads", "x", &rig.grad("x"));
    case.compare("grads", "w", &rig.grad("w"));
    case.compare("grads", "b", &rig.grad("b"));
}

/// `out = a + b`, the gradient of both being that of the sum.
struct Sum {
    a: Var,
    b: Var,
    out: Var,
    n: usize,
}

impl Op for Sum {
    fn forward(&self, plan: &mut Plan) {
        let dims = self.dims();
        let args = [self.a.value, self.b.value, self.out.value];
        plan.push(&wgpt::ops::residual::FORWARD, dims, &args);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        for branch in [self.a, self.b] {
            let args = [self.out.grad, branch.grad];
            recorder.plan.push(&wgpt::ops::residual::BACKWARD, self.dims(), &args);
        }
    }
}

impl Sum {
    fn dims(&self) -> Dims {
        let rows = self.out.value.len / self.n;
        Dims { B: 1, T: rows as u32, C: self.n as u32, ..Dims::default() }
    }
}

#[test]
fn layernorms() {
    each("layernorm", |case| {
        case.covers(&["y", "mean", "rstd"], &["x", "w", "b"]);
        let shape = case.shape("x");
        let mut rig = rig(case, [1, shape[0]], case.attr("eps"), |g| {
            let x = g.activation("x", shape[1]);
            let y = g.layernorm("ln", x);
            let kept = [("mean", 2 * shape[0]), ("rstd", shape[0])].map(|(part, len)| {
                g.buffer(Role::Activations, &format!("ln.{part}"), len, Format::F32)
            });
            let [mean, rstd] = kept.map(|value| Var { value, grad: value });
            (vec![("x", x), ("mean", mean), ("rstd", rstd)], y)
        });
        rig.write("x", &case.input("x"));
        rig.write("ln.weight", &case.input("w"));
        rig.write("ln.bias", &case.input("b"));
        case.compare("outputs", "y", &rig.forward());
        let mean: Vec<f64> =
            rig.grad("mean").chunks_exact(2).map(|parts| parts[0] + parts[1]).collect();
        case.compare("outputs", "mean", &mean);
        case.compare("outputs", "rstd", &rig.grad("rstd"));
        rig.backward(&case.upstream());
        case.compare("grads", "x", &rig.grad("x"));
        case.compare("grads", "w", &rig.grad("ln.weight"));
        case.compare("grads", "b", &rig.grad("ln.bias"));
    });
    assert_eq!(layernorm::FORWARD.args.len(), 6, "mean and rstd are outputs");
}

#[test]
fn gelus() {
    each("gelu_tanh", |case| {
        case.covers(&["y"], &["x"]);
        let n = case.shape("x")[0];
        let mut rig = rig(case, [1, 1], 1e-5, |g| {
            let x = g.activation("x", n);
            (vec![("x", x)], g.gelu("y", x, GeluForm::Tanh))
        });
        rig.write("x", &case.input("x"));
        case.compare("outputs", "y", &rig.forward());
        rig.backward(&case.upstream());
        case.compare("grads", "x", &rig.grad("x"));
    });
}

#[test]
fn softmaxes() {
    each("softmax_causal", |case| {
        case.covers(&["p"], &["s"]);
        let [b, nh, t, _] = case.shape("s")[..] else { panic!("scores are (B,NH,T,T)") };
        let mut rig = rig(case, [b, t], 1e-5, |g| {
            let s = g.activation("s", nh * t);
            (vec![("s", s)], g.softmax("p", s, nh))
        });
        rig.write("s", &case.input("s"));
        let p = rig.forward();
        case.compare("outputs", "p", &p);
        rig.backward(&case.upstream());
        let ds = rig.grad("s");
        case.compare("grads", "s", &ds);
        for (i, (p, ds)) in p.iter().zip(ds).enumerate() {
            let above = i % t > i / t % t;
            assert!(!above || (*p == 0.0 && ds == 0.0), "{}[{i}] above the diagonal", case.name());
        }
    });
}

/// Where head `h`'s channel `d` of position `t` of sequence `b` is, for a part of qkv or the output.
struct Packing {
    shape: Vec<usize>,
    parts: usize,
}

impl Packing {
    /// (B,NH,T,HS) of one part to and from (B,T,parts·C).
    fn each(&self, part: usize, mut see: impl FnMut(usize, usize)) {
        let [b, nh, t, hs] = self.shape[..] else { panic!("heads are (B,NH,T,HS)") };
        let c = nh * hs;
        for i in 0..b * nh * t * hs {
            let (d, at) = (i % hs, i / hs % t);
            let (h, b) = (i / hs / t % nh, i / hs / t / nh);
            see(i, (b * t + at) * self.parts * c + part * c + h * hs + d);
        }
    }

    fn pack<X: Copy + Default>(&self, parts: &[Vec<X>]) -> Vec<X> {
        let mut packed = vec![X::default(); parts.iter().map(Vec::len).sum()];
        for (part, data) in parts.iter().enumerate() {
            self.each(part, |i, at| packed[at] = data[i]);
        }
        packed
    }

    fn unpack(&self, part: usize, packed: &[f64]) -> Vec<f64> {
        let mut data = vec![0.0; self.shape.iter().product()];
        self.each(part, |i, at| data[i] = packed[at]);
        data
    }
}

#[test]
fn attentions() {
    each("attention", |case| {
        let packed = case.json["inputs"].get("qkv").is_some();
        let (shape, parts): (Vec<usize>, &[&str]) = if packed {
            let [b, t, c3] = case.shape("qkv")[..] else { panic!("qkv is (B,T,3C)") };
            let nh = case.attr("n_head") as usize;
            (vec![b, nh, t, c3 / 3 / nh], &["qkv"])
        } else {
            (case.shape("q"), &["q", "k", "v"])
        };
        case.covers(&["y"], parts);
        let [b, nh, t, hs] = shape[..] else { panic!("heads are (B,NH,T,HS)") };
        let mut rig = rig(case, [b, t], 1e-5, |g| {
            let qkv = g.activation("qkv", 3 * nh * hs);
            (vec![("qkv", qkv)], g.attention("y", Qkv::packed(qkv, [nh, nh], hs), t))
        });
        let qkv = Packing { shape: shape.clone(), parts: 3 };
        let one = Packing { shape, parts: 1 };
        if packed {
            rig.write("qkv", &case.input("qkv"));
            case.compare("outputs", "y", &rig.forward());
            rig.backward(&case.upstream());
            case.compare("grads", "qkv", &rig.grad("qkv"));
            return;
        }
        rig.write("qkv", &qkv.pack(&["q", "k", "v"].map(|role| case.input(role))));
        let y = rig.forward();
        case.compare("outputs", "y", &one.unpack(0, &y));
        rig.backward(&one.pack(&[case.upstream()]));
        let grad = rig.grad("qkv");
        for (part, role) in ["q", "k", "v"].into_iter().enumerate() {
            case.compare("grads", role, &qkv.unpack(part, &grad));
        }
    });
}

#[test]
fn embeddings() {
    each("embedding", |case| {
        case.covers(&["y"], &["wte", "wpe"]);
        let (wte, wpe, tokens) = (case.shape("wte"), case.shape("wpe"), case.shape("tokens"));
        let mut rig = rig(case, [tokens[0], tokens[1]], 1e-5, |g| {
            let view = g.buffer(Role::Staging, "tokens", tokens[0] * tokens[1], Format::U32);
            let out = g.embedding(
                ("wte.weight", Some("wpe")),
                view,
                [wte[0], wpe[0], wte[1]],
                Joins::Nothing,
            );
            (vec![("tokens", Var { value: view, grad: view })], out)
        });
        let words = case.tensors.ids(&format!("{}.tokens", case.name()));
        let view = rig.vars["tokens"].value;
        rig.on.write_u32(view, &words);
        rig.write("wte.weight", &case.input("wte"));
        rig.write("wpe.weight", &case.input("wpe"));
        case.compare("outputs", "y", &rig.forward());
        rig.backward(&case.upstream());
        let (dwte, dwpe) = (rig.grad("wte.weight"), rig.grad("wpe.weight"));
        case.compare("grads", "wte", &dwte);
        case.compare("grads", "wpe", &dwpe);
        let zero = |rows: &[f64]| rows.iter().all(|x| *x == 0.0);
        assert!(zero(&dwpe[tokens[1] * wte[1]..]), "positions that no token is at");
        let unused = (0..wte[0]).filter(|v| !words.contains(&(*v as u32)));
        for v in unused {
            assert!(zero(&dwte[v * wte[1]..][..wte[1]]), "token {v} does not occur");
        }
    });
}

#[test]
fn cross_entropies() {
    each("cross_entropy", |case| {
        case.covers(&["loss", "row_loss"], &["logits"]);
        let [m, v] = case.shape("logits")[..] else { panic!("logits are (M,V)") };
        let mut plan = Plan::default();
        let targets = plan.buffer(Role::Staging, "targets", m, Format::U32);
        let logits = plan.buffer(Role::Logits, "logits", m * v, Format::F32);
        let row_loss = plan.buffer(Role::Staging, "row_loss", m, Format::F32);
        let loss = plan.buffer(Role::Staging, "loss", 1, Format::F32);
        let dims = Dims {
            M: m as u32,
            V: v as u32,
            LD: v as u32,
            ACC: Accumulate::Set as u32,
            ..Dims::default()
        };
        let words = plan.buffer(Role::Staging, "state", state::LEN, Format::U32);
        plan.push(&cross_entropy::FORWARD, dims, &[targets, logits, row_loss]);
        plan.push(&cross_entropy::SUM, dims, &[row_loss, loss]);
        plan.end_phase(Phase::Evaluate, 0);
        plan.push(&cross_entropy::BACKWARD, dims, &[targets, words, logits, row_loss]);
        plan.end_phase(Phase::Backward, 2);
        let mut on = case.on.backend(&plan);
        let words = case.tensors.ids(&format!("{}.targets", case.name()));
        on.write_u32(targets, &words);
        on.write(logits, &case.input("logits"));
        let valid = words.iter().filter(|word| **word != cross_entropy::IGNORE).count() as f64;
        on.run(Phase::Evaluate, &Step { loss_scale: 1.0 / valid, ..Step::default() });
        case.compare("outputs", "row_loss", &on.read(row_loss));
        case.compare("outputs", "loss", &on.read(loss));

        let upstream = f64::from(case.upstream()[0]);
        on.write(row_loss, &vec![f32::NAN; m]);
        on.run(Phase::Backward, &Step { loss_scale: upstream / valid, ..Step::default() });
        case.compare("outputs", "row_loss", &on.read(row_loss));
        let gradient = on.read(logits);
        case.compare("grads", "logits", &gradient);
        for (row, _) in words.iter().enumerate().filter(|(_, t)| **t == cross_entropy::IGNORE) {
            assert!(gradient[row * v..][..v].iter().all(|x| *x == 0.0), "row {row} is ignored");
        }
    });
}

#[test]
fn adamws() {
    each("adamw", |case| {
        let n = case.shape("param")[0];
        let mut plan = Plan::default();
        let mut buffer = |name| plan.buffer(Role::Moments, name, n, Format::F32);
        let [params, grads, m, v] = ["params", "grads", "m", "v"].map(&mut buffer);
        let norm = plan.buffer(Role::Staging, "norm", 2, Format::F32);
        let words = plan.buffer(Role::Staging, "state", state::LEN, Format::U32);
        let decays = case.attr("weight_decay") > 0.0;
        let slot = Slot { params, grads, moments: Some([m, v]), copy: None, decays };
        optimizer::record(&mut plan, Optimizer::Adamw, &slot, norm, words);
        plan.end_phase(Phase::Update, 0);
        let decay = if decays { Decay::Decoupled } else { Decay::Off };
        assert_eq!(plan.dispatches[0].dims.ID, decay as u32);
        let mut on = case.on.backend(&plan);
        for (view, role) in [(params, "param"), (grads, "grad"), (m, "m"), (v, "v")] {
            on.write(view, &case.input(role));
        }
        on.write(norm, &[1.0, 1.0]);
        on.write_u32(words.slice(state::APPLIED, 1), &[case.attr("step") as u32]);
        let step = Step {
            learning_rate: case.attr("lr"),
            beta1: case.attr("beta1"),
            beta2: case.attr("beta2"),
            eps: case.attr("eps"),
            weight_decay: case.attr("weight_decay"),
            ..Step::default()
        };
        on.run(Phase::Update, &step);
        for (role, view) in [("param_out", params), ("m_out", m), ("v_out", v)] {
            let expected = &case.json["outputs"][role];
            let tolerance = |name: &str| expected[name].as_f64().expect("a tolerance");
            let name = expected["tensor"].as_str().expect("a tensor");
            let (rel, abs) = (tolerance("tol_rel"), tolerance("tol_abs"));
            let share = case.on.tolerance(0.1, 1.0, 5.0);
            for (i, (got, want)) in on.read(view).iter().zip(case.tensors.get(name)).enumerate() {
                let what = format!("{name}[{i}] {:?}", case.on);
                let tolerance = share * (rel * want.abs() + abs);
                // What is below the smallest single can be flushed to zero.
                assert_close(&what, &[*got], &[*want], tolerance.max(f64::from(f32::MIN_POSITIVE)));
            }
        }
    });
}

#[test]
fn global_norms() {
    each("global_norm", |case| {
        let inputs = case.json["inputs"].as_object().expect("inputs");
        let mut plan = Plan::default();
        let mut gradient = |name: &String| {
            let len = case.shape(name).iter().product();
            plan.buffer(Role::Gradients, name, len, Format::F32)
        };
        let grads: Vec<View> = inputs.keys().map(&mut gradient).collect();
        let len = global_norm::partials_len(&grads);
        let partials = plan.buffer(Role::Staging, "partials", len, Format::F32);
        let loss = plan.buffer(Role::Staging, "loss", 1, Format::F32);
        let norm = plan.buffer(Role::Staging, "norm", 2, Format::F32);
        let words = plan.buffer(Role::Staging, "state", state::LEN, Format::U32);
        let views = NormViews { partials, loss, norm, state: words };
        global_norm::record(&mut plan, &grads, views, LossScale::Fixed);
        plan.end_phase(Phase::Update, 0);
        let mut on = case.on.backend(&plan);
        for (name, &view) in inputs.keys().zip(&grads) {
            on.write(view, &case.input(name));
        }
        on.run(Phase::Update, &Step { grad_clip: case.attr("max_norm"), ..Step::default() });
        let got = on.read(norm);
        let what = format!("{} {:?}", case.name(), case.on);
        let number = |name: &str| case.json[name].as_f64().expect("a number");
        let tolerance = case.on.tolerance(1e-9, 1e-6, 5e-6);
        assert_relative(&what, got[0], number("norm"), tolerance);
        assert_relative(&what, got[1], number("coef"), tolerance);
        for (i, &view) in grads.iter().enumerate() {
            let clipped: Vec<f64> = on.read(view).iter().map(|g| g * got[1]).collect();
            case.compare("outputs", &format!("out{i}"), &clipped);
            assert!(got[1] < 1.0 || clipped == on.read(view), "{what}: bit for bit");
        }
        assert_eq!(on.read_u32(words), [1, 0, 0, 0, 0, 0, 0], "{what}: the update is applied");
    });
}

/// A product in a slice of columns leaves the others alone, and a gradient is added to where it says so.
#[test]
fn products_of_slices() {
    for on in On::all() {
        let mut plan = Plan::default();
        let mut buffer = |name, len| plan.buffer(Role::Activations, name, len, Format::F32);
        let (a, b) = (buffer("a", 2 * 3), buffer("b", 2 * 3));
        let out = buffer("out", 2 * 5);
        let dims = Dims { M: 2, K: 3, N: 2, LD: 5, START: 2, ..Dims::default() };
        plan.push(&matmul::NT, dims, &[a, b, out]);
        plan.end_phase(Phase::Forward, 0);
        let mut on = on.backend(&plan);
        on.write(a, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        on.write(b, &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
        on.write(out, &[9.0; 10]);
        on.run(Phase::Forward, &Step::default());
        assert_eq!(on.read(out), [9.0, 9.0, 1.0, 5.0, 9.0, 9.0, 9.0, 4.0, 11.0, 9.0]);
    }
}
