//! The next token: the logits become filtered probabilities, from which one token is drawn.
//!
//! The steps are, in this order, each only if it is set: repetition penalty (Keskar et al. 2019), temperature, top-k,
//! top-p (Holtzman et al. 2019), min-p (Nguyen et al. 2024), softmax.
//!
//! ```text
//! penalty r: logit / r if logit >= 0, else logit · r, for every token seen before
//! top-k: logits below the k-th largest go; all that tie with it stay
//! top-p: from the most probable downwards a token stays while the mass before it is < p;
//!        among equals those with the smaller ids come first
//! min-p: probabilities (of what is left) below min_p · the largest go
//! ```
//!
//! The draw takes the first token, in the order of ids, at which the running sum of the probabilities
//! exceeds u times their sum, where u is a number in [0, 1) from the slot's key and the token's position.
//!
//! Both kernels process the slots that draw a token ([`crate::kernel::rows`]), one workgroup per slot, and leave the
//! others unchanged.

use rayon::prelude::*;

use crate::kernel::rows::Place;
use crate::kernel::{
    Dims, Draw, Io, Kernel, Real, Step, changes_u32, grid, reads, reads_u32, twin, writes_part,
    writes_part_u32,
};
use crate::math::simd::{self, vector_fn};
use crate::ops::random;
use crate::ops::variants::portable;

/// Computes `probs` (SLOTS,V) from `logits` (SLOTS,V) and `seen` (SLOTS,V: 1 for tokens so far).
pub const FILTER: Kernel = Kernel {
    name: "sample_filter",
    args: &[reads_u32("slots"), reads_u32("seen"), reads("logits"), writes_part("probs")],
    twin: twin!(filter),
    cpu: Some(fast_filter),
    flops: |d| 40 * u64::from(d.SLOTS) * u64::from(d.V),
    // The exponential of a sum of about 20 magnifies its rounding error by the same factor.
    tolerance: 5e-5,
    variants: portable!("sample_filter", [REDUCE, SLOTS], |d, _| grid::fold(d.SLOTS)),
};

/// Writes the next token to `tokens` (SLOTS,S+1), after its row's position, and to `seen`.
pub const DRAW: Kernel = Kernel {
    name: "sample_draw",
    args: &[
        reads_u32("slots"),
        reads_u32("rows"),
        reads("probs"),
        writes_part_u32("tokens"),
        changes_u32("seen"),
    ],
    twin: twin!(draw),
    cpu: None,
    flops: |d| u64::from(d.SLOTS) * u64::from(d.V),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("sample_draw", [REDUCE, THREEFRY, ROWS, SLOTS], |d, _| grid::fold(d.SLOTS)),
};

/// Returns the tokens from the most probable to the least; equal ones by id.
fn descending<F: Real>(logits: &[F]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| {
        logits[b].partial_cmp(&logits[a]).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(&b))
    });
    order
}

/// Applies softmax in place; -∞ becomes 0.
fn softmax<F: Real>(x: &mut [F]) {
    let max = x.iter().copied().fold(F::neg_infinity(), F::max);
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: F = x.iter().copied().sum();
    x.iter_mut().for_each(|x| *x = *x / sum);
}

fn filter<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([logits], [probs]), [slots, seen], []) = io.split();
    for (slot, probs) in probs.chunks_mut(dims.V as usize).enumerate() {
        if let Some((_, draw)) = Draw::of_slot(slots, slot, dims.T as usize) {
            let range = slot * probs.len()..(slot + 1) * probs.len();
            filter_slot(&draw, &logits[range.clone()], &seen[range], probs);
        }
    }
}

fn filter_slot<F: Real>(draw: &Draw, logits: &[F], seen: &[u32], probs: &mut [F]) {
    let penalty = F::of(draw.repetition_penalty);
    let temperature = F::of(if draw.temperature > 0.0 { draw.temperature } else { 1.0 });
    for (v, out) in probs.iter_mut().enumerate() {
        let x = logits[v];
        let penalised = if x >= F::zero() { x / penalty } else { x * penalty };
        *out = if seen[v] != 0 { penalised } else { x } / temperature;
    }
    let order = descending(probs);
    if draw.temperature == 0.0 {
        probs.fill(F::zero());
        probs[order[0]] = F::one();
        return;
    }
    if draw.top_k > 0 && (draw.top_k as usize) < probs.len() {
        let least = probs[order[draw.top_k as usize - 1]];
        probs.iter_mut().filter(|x| **x < least).for_each(|x| *x = F::neg_infinity());
    }
    if draw.top_p < 1.0 {
        let mut p = probs.to_vec();
        softmax(&mut p);
        let mut before = F::zero();
        for (rank, &v) in order.iter().enumerate() {
            if rank > 0 && before >= F::of(draw.top_p) {
                probs[v] = F::neg_infinity();
            }
            before = before + p[v];
        }
    }
    softmax(probs);
    if draw.min_p > 0.0 {
        let least = F::of(draw.min_p) * probs[order[0]];
        probs.iter_mut().filter(|p| **p < least).for_each(|p| *p = F::zero());
        let sum: F = probs.iter().copied().sum();
        probs.iter_mut().for_each(|p| *p = *p / sum);
    }
}

fn draw<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([probs], []), [slots, rows], [tokens, seen]) = io.split();
    let (v, length) = (dims.V as usize, dims.S as usize + 1);
    for slot in 0..dims.SLOTS as usize {
        let Some((row, draw)) = Draw::of_slot(slots, slot, dims.T as usize) else { continue };
        let Some(Place { position, .. }) = Place::of_row(dims, rows, row) else { continue };
        let next = position + 1;
        let u = random::unit(random::threefry(draw.seed, [next as u32, 0])[0]);
        let chosen = choose(&probs[slot * v..][..v], u);
        tokens[slot * length + next] = chosen as u32;
        seen[slot * v + chosen] = 1;
    }
}

/// Returns the first token at which the running sum of the probabilities exceeds `u` times their sum.
fn choose<F: Real>(probs: &[F], u: f32) -> usize {
    let target = F::of(f64::from(u)) * probs.iter().copied().sum();
    let mut sum = F::zero();
    let mut chosen = 0;
    for (v, &p) in probs.iter().enumerate().filter(|(_, p)| **p > F::zero()) {
        chosen = v;
        sum = sum + p;
        if sum > target {
            break;
        }
    }
    chosen
}

/// Orders token `a` before token `b` if it is more probable, or equally probable with the smaller id.
fn before(logits: &[f32], a: u32, b: u32) -> std::cmp::Ordering {
    let order = logits[b as usize].partial_cmp(&logits[a as usize]);
    order.unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(&b))
}

/// Removes the remaining tokens once the mass of the tokens before them reaches `top_p`.
///
/// Sorts only as many tokens as it examines.
fn keep_nucleus(logits: &mut [f32], top_p: f32) {
    let mut p = logits.to_vec();
    fast_softmax(&mut p);
    let mut order: Vec<u32> =
        (0..logits.len() as u32).filter(|&v| logits[v as usize] > f32::NEG_INFINITY).collect();
    let (mut sorted, mut mass) = (0, 0.0);
    while sorted < order.len() {
        let end = (sorted * 4).max(256).min(order.len());
        let rest = &mut order[sorted..];
        if end - sorted < rest.len() {
            rest.select_nth_unstable_by(end - sorted, |&a, &b| before(logits, a, b));
        }
        rest[..end - sorted].sort_unstable_by(|&a, &b| before(logits, a, b));
        for rank in sorted..end {
            if rank > 0 && mass >= top_p {
                order[rank..].iter().for_each(|&v| logits[v as usize] = f32::NEG_INFINITY);
                return;
            }
            mass += p[order[rank] as usize];
        }
        sorted = end;
    }
}

vector_fn! {
    /// Applies softmax in place; -∞ becomes 0.
    fn fast_softmax<'a>(x: &'a mut [f32]) -> () {
        let scale = 1.0 / simd::exp_sum(x, simd::max(x));
        x.iter_mut().for_each(|x| *x *= scale);
    }
}

vector_fn! {
    /// Applies the repetition penalty and the temperature to every logit; returns the largest result.
    fn adjust<'a>(
        logits: &'a [f32],
        seen: &'a [u32],
        penalty: f32,
        temperature: f32,
        out: &'a mut [f32],
    ) -> f32 {
        for ((out, &x), &seen) in out.iter_mut().zip(logits).zip(seen) {
            let penalised = if x >= 0.0 { x / penalty } else { x * penalty };
            *out = if seen != 0 { penalised } else { x } / temperature;
        }
        simd::max(out)
    }
}

vector_fn! {
    /// Removes probabilities below `share` of the largest, and scales the others to a sum of 1.
    fn keep_likely<'a>(probs: &'a mut [f32], share: f32) -> () {
        let least = share * simd::max(probs);
        probs.iter_mut().for_each(|p| *p = if *p < least { 0.0 } else { *p });
        let scale = 1.0 / simd::sum(probs);
        probs.iter_mut().for_each(|p| *p *= scale);
    }
}

fn fast_filter(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let (([logits], [probs]), [slots, seen], []) = io.split();
    let v = dims.V as usize;
    let all = probs.par_chunks_mut(v).zip(logits.par_chunks(v)).zip(seen.par_chunks(v)).enumerate();
    all.for_each(|(slot, ((probs, logits), seen))| {
        if let Some((_, draw)) = Draw::of_slot(slots, slot, dims.T as usize) {
            fast_filter_slot(&draw, logits, seen, probs);
        }
    });
}

fn fast_filter_slot(draw: &Draw, logits: &[f32], seen: &[u32], probs: &mut [f32]) {
    let penalty = draw.repetition_penalty as f32;
    let temperature = if draw.temperature > 0.0 { draw.temperature as f32 } else { 1.0 };
    let max = adjust(logits, seen, penalty, temperature, probs);
    if draw.temperature == 0.0 {
        let best = probs.iter().position(|&x| x == max).unwrap_or(0);
        probs.fill(0.0);
        probs[best] = 1.0;
        return;
    }
    let k = draw.top_k as usize;
    if k > 0 && k < probs.len() {
        let descending = |a: &f32, b: &f32| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal);
        let least = *probs.to_vec().select_nth_unstable_by(k - 1, descending).1;
        probs.iter_mut().filter(|x| **x < least).for_each(|x| *x = f32::NEG_INFINITY);
    }
    if draw.top_p < 1.0 {
        keep_nucleus(probs, draw.top_p as f32);
    }
    fast_softmax(probs);
    if draw.min_p > 0.0 {
        keep_likely(probs, draw.min_p as f32);
    }
}
