//! Updates of the parameters: AdamW (Loshchilov & Hutter 2017), Adam (Kingma & Ba 2014), SGD.
//!
//! ```text
//! g = coef · grad                          (+ decay · p if the decay is coupled)
//! p = p - lr · decay · p                   (if the decay is decoupled)
//! m = β1 m + (1 - β1) g      v = β2 v + (1 - β2) g²
//! p = p - lr · (m / (1 - β1ᵗ)) / (√(v / (1 - β2ᵗ)) + ε)       t: updates applied, from 1
//! ```
//!
//! 1 - βᵗ is computed as -expm1(t ln β), which loses no digits. After a non-finite gradient
//! ([`crate::ops::global_norm`]) nothing changes.

use rayon::prelude::*;

use crate::config::Optimizer;
use crate::graph::Slot;
use crate::kernel::state;
use crate::kernel::{
    Decay, Dims, Io, Kernel, Needs, Real, Step, changes, grid, reads, reads_u32, twin,
};
use crate::math::simd::MulAdd;
use crate::math::simd::{CHUNK, vector_fn};
use crate::ops::variants::portable;
use crate::plan::{Plan, View};

/// Runs Adam or AdamW over a slice of the arenas.
pub const ADAM: Kernel = Kernel {
    name: "adam_update",
    args: &[
        reads("grads"),
        reads("norm"),
        reads_u32("state"),
        changes("params"),
        changes("m"),
        changes("v"),
    ],
    twin: twin!(adam),
    cpu: Some(fast_adam),
    flops: |d| 15 * u64::from(d.N),
    // A moment is divided by the root of another, which magnifies the rounding errors of small ones.
    tolerance: 5e-5,
    variants: portable!(
        "adam_update", [ADAM], grid::elements,
        "vectors": [ADAM], Needs::NOTHING, |d, _| d.N.is_multiple_of(4), grid::vectors
    ),
};

/// Runs gradient descent over a slice of the arenas.
pub const SGD: Kernel = Kernel {
    name: "sgd_update",
    args: &[reads("grads"), reads("norm"), reads_u32("state"), changes("params")],
    twin: twin!(sgd),
    cpu: Some(fast_sgd),
    flops: |d| 4 * u64::from(d.N),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("sgd_update", [], grid::elements),
};

/// Records the update of one slice.
///
/// # Panics
///
/// If `optimizer` is Adam and the slice has no moments.
pub fn record(plan: &mut Plan, optimizer: Optimizer, slot: &Slot, norm: View, state: View) {
    let decay = match (slot.decays, optimizer) {
        (false, _) => Decay::Off,
        (true, Optimizer::Adamw) => Decay::Decoupled,
        (true, Optimizer::Adam | Optimizer::Sgd) => Decay::Coupled,
    };
    let dims = Dims { N: slot.params.len as u32, ID: decay as u32, ..Dims::default() };
    let read = [slot.grads, norm, state];
    if optimizer == Optimizer::Sgd {
        plan.push(&SGD, dims, &[read[0], read[1], read[2], slot.params]);
    } else {
        let [m, v] = slot.moments.expect("Adam has moments");
        plan.push(&ADAM, dims, &[read[0], read[1], read[2], slot.params, m, v]);
    }
}

/// Returns the gradient after clipping and coupled decay.
fn gradient<F: Real>(dims: &Dims, step: &Step, grad: F, coef: F, param: F) -> F {
    let coupled = dims.ID == Decay::Coupled as u32;
    grad * coef + if coupled { F::of(step.weight_decay) * param } else { F::zero() }
}

fn adam<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let (([grads, norm], [params, m, v]), [state], []) = io.split();
    if state[state::SKIP] != 0 {
        return;
    }
    let t = F::of(f64::from(state[state::APPLIED]));
    let [lr, beta1, beta2, eps, decay] =
        [step.learning_rate, step.beta1, step.beta2, step.eps, step.weight_decay].map(F::of);
    let correction1 = -(t * F::of(step.beta1.ln())).exp_m1();
    let correction2 = -(t * F::of(step.beta2.ln())).exp_m1();
    let decoupled = dims.ID == Decay::Decoupled as u32;
    for i in 0..params.len() {
        let g = gradient(dims, step, grads[i], norm[1], params[i]);
        let p = if decoupled { params[i] - lr * decay * params[i] } else { params[i] };
        m[i] = beta1 * m[i] + (F::one() - beta1) * g;
        v[i] = beta2 * v[i] + (F::one() - beta2) * g * g;
        params[i] = p - lr * (m[i] / correction1) / ((v[i] / correction2).sqrt() + eps);
    }
}

fn sgd<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let (([grads, norm], [params]), [state], []) = io.split();
    if state[state::SKIP] != 0 {
        return;
    }
    for i in 0..params.len() {
        let g = gradient(dims, step, grads[i], norm[1], params[i]);
        params[i] = params[i] - F::of(step.learning_rate) * g;
    }
}

/// The constants of an Adam update, computed once per update.
struct AdamStep {
    coef: f32,
    beta1: f32,
    beta2: f32,
    /// 1 - β
    rest1: f32,
    rest2: f32,
    /// 1 - lr · decay, if the decay is decoupled.
    shrink: f32,
    /// The decay, if it is coupled.
    coupled: f32,
    /// lr / (1 - β1ᵗ)
    rate: f32,
    /// 1 / √(1 - β2ᵗ)
    root: f32,
    eps: f32,
}

impl AdamStep {
    fn new(dims: &Dims, step: &Step, coef: f32, updates: u32) -> AdamStep {
        let correction = |beta: f64| -(f64::from(updates) * beta.ln()).exp_m1();
        let decay = |kind: Decay, x: f64| if dims.ID == kind as u32 { x } else { 0.0 };
        AdamStep {
            coef,
            beta1: step.beta1 as f32,
            beta2: step.beta2 as f32,
            rest1: (1.0 - step.beta1) as f32,
            rest2: (1.0 - step.beta2) as f32,
            shrink: (1.0 - decay(Decay::Decoupled, step.learning_rate * step.weight_decay)) as f32,
            coupled: decay(Decay::Coupled, step.weight_decay) as f32,
            rate: (step.learning_rate / correction(step.beta1)) as f32,
            root: (1.0 / correction(step.beta2).sqrt()) as f32,
            eps: step.eps as f32,
        }
    }

    #[inline(always)]
    fn apply(&self, grad: f32, p: &mut f32, m: &mut f32, v: &mut f32) {
        let g = grad.fma(self.coef, self.coupled * *p);
        *m = self.beta1.fma(*m, self.rest1 * g);
        *v = self.beta2.fma(*v, self.rest2 * g * g);
        let update = self.rate * *m / v.sqrt().fma(self.root, self.eps);
        *p = p.fma(self.shrink, -update);
    }
}

vector_fn! {
    fn adam_chunk<'a>(
        adam: &'a AdamStep,
        grads: &'a [f32],
        params: &'a mut [f32],
        m: &'a mut [f32],
        v: &'a mut [f32],
    ) -> () {
        for (((p, &grad), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
            adam.apply(grad, p, m, v);
        }
    }
}

fn fast_adam(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let (([grads, norm], [params, m, v]), [state], []) = io.split();
    if state[state::SKIP] != 0 {
        return;
    }
    let adam = AdamStep::new(dims, step, norm[1], state[state::APPLIED]);
    let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
    let chunks = params.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK)).zip(moments);
    chunks
        .with_min_len(4)
        .for_each(|((params, grads), (m, v))| adam_chunk(&adam, grads, params, m, v));
}

fn fast_sgd(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let (([grads, norm], [params]), [state], []) = io.split();
    if state[state::SKIP] != 0 {
        return;
    }
    let rate = step.learning_rate as f32;
    params.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK)).for_each(|(params, grads)| {
        for (p, &grad) in params.iter_mut().zip(grads) {
            *p -= rate * gradient(dims, step, grad, norm[1], *p);
        }
    });
}
