//! Does attention read its heads wherever they lie, as many of keys as there are, from the first key on that a row may
//! see? The reference is plain loops in double precision, of the definition alone.

use std::sync::Arc;

use rayon::ThreadPoolBuilder;
use wgpt::backend::cpu::{Cpu, Use};
use wgpt::backend::gpu::{Choice, Gpu};
use wgpt::backend::{Backend, Device};
use wgpt::check::{verify, verify_cases};
use wgpt::graph::{Graph, Var};
use wgpt::kernel::Step;
use wgpt::ops::attention::{self, Heads, Qkv};
use wgpt::plan::{Limits, Phase, Plan, View};

use crate::common::unchecked_gpu;

/// Sequences and positions: more than one tile of any kernel.
const B: usize = 2;
const T: usize = 70;

/// A way for heads to lie in rows of some channels.
type Layout = (&'static str, usize, fn(Var) -> Qkv);

const LAYOUTS: &[Layout] = &[
    ("packed", 96, |x| Qkv::packed(x, [2, 2], 16)),
    ("blocks, one key head", 100, |x| Qkv::blocks(x, [3, 1], 20)),
    ("packed, two key heads", 160, |x| Qkv::packed(x, [6, 2], 16)),
    ("interleaved with gaps", 136, |x| Qkv::interleaved(x, 2, 20, 8)),
    ("interleaved, no head by fours", 44, |x| Qkv::interleaved(x, 2, 7, 1)),
];

/// The first key that each row sees.
type FirstKey = fn(usize) -> u32;

/// The first keys that rows may see.
const FIRST_KEYS: &[(&str, FirstKey)] = &[
    ("all keys", |_| 0),
    ("two documents", |t| if t < 37 { 0 } else { 37 }),
    ("a window of 9", |t| t.saturating_sub(8) as u32),
    ("itself, and what lies behind it", |t| if t % 3 == 0 { u32::MAX } else { t as u32 }),
];

/// Numbers without a pattern, in -1..1.
fn noise(seed: u32, n: usize) -> Vec<f32> {
    let unit = |i: usize| {
        let mixed = (i as u32 + 1).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d);
        (mixed ^ (mixed >> 12)) as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..n).map(unit).collect()
}

/// Attention over B sequences of T positions: the graph, its input and its output.
struct Recorded {
    plan: Arc<Plan>,
    heads: Qkv,
    first_key: View,
    out: Var,
}

impl Recorded {
    fn new((_, channels, layout): Layout) -> Recorded {
        let mut graph = Graph::new(Limits::NONE, false, 1e-5);
        graph.begin_training(B, T);
        let heads = layout(graph.input("x", B * T * channels));
        let out = graph.attention("attn", heads, T);
        let first_key = graph.document_starts();
        graph.record_forward(Phase::Forward);
        graph.record_backward(Phase::Backward, None);
        Recorded { plan: Arc::new(graph.plan), heads, first_key, out }
    }

    /// The output and the gradient of the input.
    fn run(&self, backend: &mut dyn Backend, first_keys: &[u32]) -> [Vec<f32>; 2] {
        let (x, out) = (self.heads.var, self.out);
        backend.write(x.value, &noise(1, x.value.len));
        backend.write(x.grad, &vec![0.5; x.grad.len]);
        backend.write_u32(self.first_key, first_keys);
        backend.run(self.plan.phase(Phase::Forward), &Step::default());
        backend.write(out.grad, &noise(2, out.grad.len));
        backend.run(self.plan.phase(Phase::Backward), &Step::default());
        [out.value, x.grad].map(|view| {
            let mut data = vec![0.0; view.len];
            backend.read(view, &mut data).expect("the device is there");
            data
        })
    }

    /// The same by the definition.
    fn by_definition(&self, first_keys: &[u32]) -> [Vec<f64>; 2] {
        let Qkv { var, head_size: hs, q: queries, k: keys, v: values } = self.heads;
        let x: Vec<f64> = noise(1, var.value.len).into_iter().map(f64::from).collect();
        let upstream = noise(2, self.out.grad.len);
        let part = |of: Heads, row, head| {
            &x[of.start + row * of.row_stride + head * of.head_stride..][..hs]
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        // What lies between the heads stays.
        let (mut out, mut grad) = (vec![0.0; upstream.len()], vec![0.5; x.len()]);
        let place = |of: Heads, row, head| of.start + row * of.row_stride + head * of.head_stride;
        for of in [queries, keys, values] {
            for (row, head) in (0..B * T).flat_map(|row| (0..of.heads).map(move |head| (row, head)))
            {
                grad[place(of, row, head)..][..hs].fill(0.0);
            }
        }
        let root = (hs as f64).sqrt();
        for (row, h) in (0..B * T).flat_map(|row| (0..queries.heads).map(move |h| (row, h))) {
            let kv = h * keys.heads / queries.heads;
            let first = row / T * T + (row % T).min(first_keys[row] as usize);
            let seen: Vec<usize> = (first..=row).collect();
            let q = part(queries, row, h);
            let weights: Vec<f64> =
                seen.iter().map(|&j| (dot(q, part(keys, j, kv)) / root).exp()).collect();
            let total: f64 = weights.iter().sum();
            let at = (row * queries.heads + h) * hs;
            let dout: Vec<f64> = upstream[at..at + hs].iter().map(|&x| f64::from(x)).collect();
            let dp: Vec<f64> = seen.iter().map(|&j| dot(&dout, part(values, j, kv))).collect();
            let mean: f64 = weights.iter().zip(&dp).map(|(w, dp)| w / total * dp).sum();
            for ((&j, w), dp) in seen.iter().zip(&weights).zip(dp) {
                let p = w / total;
                let ds = p * (dp - mean) / root;
                for d in 0..hs {
                    out[at + d] += p * part(values, j, kv)[d];
                    grad[place(queries, row, h) + d] += ds * part(keys, j, kv)[d];
                    grad[place(keys, j, kv) + d] += ds * q[d];
                    grad[place(values, j, kv) + d] += p * dout[d];
                }
            }
        }
        [out, grad]
    }
}

fn assert_close(what: &str, got: &[Vec<f32>; 2], want: &[Vec<f64>; 2]) {
    for (part, (got, want)) in ["out", "dqkv"].iter().zip(got.iter().zip(want)) {
        assert_close_to(&format!("{what}: {part}"), got, want);
    }
}

fn assert_close_to(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        // Sums of some dozens of products in single precision.
        let close = (f64::from(got) - want).abs() <= 1e-5 * largest;
        assert!(close, "{what}[{i}]: got {got}, want {want}");
    }
}

#[test]
fn every_layout_and_first_key_is_the_definition() {
    for layout in LAYOUTS {
        let recorded = Recorded::new(*layout);
        let plan = Arc::clone(&recorded.plan);
        for (name, first_key) in FIRST_KEYS {
            let first_keys: Vec<u32> = (0..B * T).map(|row| first_key(row % T)).collect();
            let want = recorded.by_definition(&first_keys);
            let what = format!("{}, {name}", layout.0);
            let mut cpu = Cpu::<f32>::new(Arc::clone(&plan), Use::Kernels);
            assert_close(&format!("CPU, {what}"), &recorded.run(&mut cpu, &first_keys), &want);
            let Some(gpu) = unchecked_gpu() else { continue };
            for variant in attention::FORWARD.variants.iter().filter(|v| !v.needs.f16) {
                let choice = Choice::Named(variant.name);
                let mut gpu = Gpu::with(gpu, Arc::clone(&plan), choice).expect("it fits");
                let got = recorded.run(&mut gpu, &first_keys);
                assert_close(&format!("GPU {:?}, {what}", variant.name), &got, &want);
            }
        }
    }
}

/// The same rows in generation, in one replay: a slot per sequence.
#[test]
fn generation_reads_every_layout_and_first_key() {
    for layout in LAYOUTS {
        let mut graph = Graph::new(Limits::NONE, false, 1e-5);
        graph.begin_extend(B * T, B, T);
        let heads = layout.2(graph.input("x", B * T * layout.1));
        let out = graph.attention("attn", heads, T);
        let rows = graph.rows_table();
        graph.record_forward(Phase::Forward);
        let plan = Arc::new(graph.plan);
        let trained = Recorded::new(*layout);
        for (name, first_key) in FIRST_KEYS {
            let first_keys: Vec<u32> = (0..B * T).map(|row| first_key(row % T)).collect();
            let [want, _] = trained.by_definition(&first_keys);
            let what = format!("{}, {name}", layout.0);
            let words =
                (0..B * T).flat_map(|row| [(row / T) as u32, (row % T) as u32, first_keys[row]]);
            let words: Vec<u32> = words.collect();
            let run = |backend: &mut dyn Backend| {
                backend.write(heads.var.value, &noise(1, heads.var.value.len));
                backend.write_u32(rows, &words);
                backend.run(plan.phase(Phase::Forward), &Step::default());
                let mut data = vec![0.0; out.value.len];
                backend.read(out.value, &mut data).expect("the device is there");
                data
            };
            for of in [Use::Kernels, Use::Twins] {
                let got = run(&mut Cpu::<f32>::new(Arc::clone(&plan), of));
                assert_close_to(&format!("{of:?}, {what}: out"), &got, &want);
            }
            let Some(gpu) = unchecked_gpu() else { continue };
            for variant in attention::EXTEND_FORWARD.variants {
                let choice = Choice::Named(variant.name);
                let got = run(&mut Gpu::with(gpu, Arc::clone(&plan), choice).expect("it fits"));
                assert_close_to(&format!("GPU {:?}, {what}: out", variant.name), &got, &want);
            }
        }
    }
}

/// The order in which gradients of shared keys are summed is one, whatever runs beside it.
#[test]
fn threads_change_no_bit_of_grouped_heads() {
    let recorded = Recorded::new(LAYOUTS[2]);
    let plan = Arc::clone(&recorded.plan);
    let first_keys: Vec<u32> = (0..B * T).map(|row| (row % 29) as u32).collect();
    let bits = |threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        let mut cpu = Cpu::<f32>::new(Arc::clone(&plan), Use::Kernels);
        let results = pool.install(|| recorded.run(&mut cpu, &first_keys));
        results.map(|data| data.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let one = bits(1);
    assert!([2, 3].iter().all(|&threads| bits(threads) == one));
}

/// The same cases that every device's kernels are compared in with their twins.
#[test]
fn cpu_kernels_agree_with_their_twins() {
    let mut rows = verify::rows(&Device::Cpu);
    rows.retain(|row| row.name().starts_with("attention_") || row.name().starts_with("linear_"));
    for case in verify_cases::all() {
        if case.name.starts_with("attention") || case.name.starts_with("layers") {
            verify::run(&case, &Device::Cpu, None, &mut rows).expect("a CPU is not lost");
        }
    }
    rows.retain(|row| row.dispatches > 0);
    assert!(rows.len() >= 8, "{rows:?}");
    assert!(rows.iter().all(verify::Row::passes), "{rows:?}");
}

/// Where heads lie that the layouts name, by hand.
#[test]
fn the_layouts_are_what_they_are_called() {
    let mut graph = Graph::new(Limits::NONE, false, 1e-5);
    graph.begin_training(2, 3);
    let x = graph.input("x", 2 * 3 * 40);
    let places = |heads: Qkv| [heads.q, heads.k, heads.v].map(|part| part.at(4, part.heads - 1));
    // Rows of 6 + 2 + 2 heads of 4: the last query head of row 4 is its sixth, and so on.
    assert_eq!(places(Qkv::packed(x, [6, 2], 4)), [160 + 20, 160 + 28, 160 + 36]);
    // 6 rows of 24, then of 8, then of 8.
    assert_eq!(places(Qkv::blocks(x, [6, 2], 4)), [4 * 24 + 20, 144 + 4 * 8 + 4, 192 + 4 * 8 + 4]);
    // 4 heads of q | k | v, of 3 each, and a gap of 1.
    assert_eq!(places(Qkv::interleaved(x, 4, 3, 1)), [160 + 30, 160 + 33, 160 + 36]);
}

/// What a graph makes of heads that lie like this.
fn refused(heads: impl FnOnce(Var) -> Qkv + std::panic::UnwindSafe) -> bool {
    let attend = || {
        let mut graph = Graph::new(Limits::NONE, false, 1e-5);
        graph.begin_training(2, 3);
        let x = graph.input("x", 2 * 3 * 24);
        graph.attention("attn", heads(x), 3);
    };
    std::panic::catch_unwind(attend).is_err()
}

/// Gradients of heads that share elements would be those of whichever kernel wrote last.
#[test]
fn heads_that_cannot_be_written_apart_are_refused() {
    assert!(!refused(|x| Qkv::packed(x, [4, 2], 3)));
    assert!(!refused(|x| Qkv::blocks(x, [2, 2], 4)));
    assert!(!refused(|x| Qkv::interleaved(x, 2, 4, 0)));
    let packed = |x| Qkv::packed(x, [2, 2], 4);
    assert!(refused(|x| Qkv::packed(x, [3, 2], 3)), "3 heads of queries for 2 of keys");
    assert!(refused(|x| Qkv::packed(x, [4, 4], 4)), "rows of 48 in rows of 24");
    assert!(refused(move |x| Qkv { k: packed(x).q, ..packed(x) }), "keys are queries");
    let strided = |of: Heads| Heads { row_stride: 23, ..of };
    assert!(
        refused(move |x| {
            let Qkv { q, k, v, .. } = packed(x);
            Qkv { q: strided(q), k: strided(k), v: strided(v), ..packed(x) }
        }),
        "rows of 24 that are 23 apart"
    );
    assert!(
        refused(move |x| Qkv { v: Heads { head_stride: 5, ..packed(x).v }, ..packed(x) }),
        "values lie otherwise than keys"
    );
}
