//! Updates of the parameters: AdamW (Loshchilov & Hutter 2017), Adam (Kingma & Ba 2014), SGD.
//!
//! ```text
//! g = coef · grad                          (+ decay · p if the decay is coupled)
//! p = p - lr · decay · p                   (if the decay is decoupled)
//! m = β1 m + (1 - β1) g      v = β2 v + (1 - β2) g²
//! p = p - lr · (m / (1 - β1ᵗ)) / (√(v / (1 - β2ᵗ)) + ε)       t: updates applied, from 1
//! ```
//!
//! 1 - βᵗ is -expm1(t ln β), which loses no digits. After a non-finite gradient
//! ([`crate::ops::global_norm`]) nothing changes.

use crate::config::Optimizer;
use crate::kernel::{Decay, Dims, Io, Kernel, Real, Step, changes, grid, reads, reads_u32, twin};
use crate::ops::global_norm::state;
use crate::ops::portable;
use crate::plan::{Plan, View};

/// Adam and AdamW over a slice of the arenas.
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
    cpu: None,
    flops: |d| 15 * u64::from(d.N),
    variants: portable!("adam_update", [], grid::elements),
};

/// Gradient descent over a slice of the arenas.
pub const SGD: Kernel = Kernel {
    name: "sgd_update",
    args: &[reads("grads"), reads("norm"), reads_u32("state"), changes("params")],
    twin: twin!(sgd),
    cpu: None,
    flops: |d| 4 * u64::from(d.N),
    variants: portable!("sgd_update", [], grid::elements),
};

/// One slice of the parameters with everything that an update needs.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Parameters.
    pub params: View,
    /// Gradients.
    pub grads: View,
    /// First and second moments, for Adam.
    pub moments: Option<[View; 2]>,
    /// Whether the slice decays: it holds two-dimensional parameters.
    pub decays: bool,
}

/// Records the update of one slice.
///
/// # Panics
///
/// If Adam is to update a slice without moments.
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

/// The gradient after clipping and coupled decay.
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
