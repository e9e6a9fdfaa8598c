//! The values that the host changes between two replays of a phase: one struct that every kernel reads.

use bytemuck::{Pod, Zeroable};

use super::dims::{Accumulate, Dims};

/// The values that the host knows and changes between two replays of a phase.
///
/// The CPU backend reads it directly; a GPU gets [`Step::words`], a uniform.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// 0 in the first micro-batch of an update, otherwise 1: see [`Accumulate::SetFirst`].
    pub accumulate: u32,
    /// The key of this replay's random numbers.
    pub seed: [u32; 2],
    /// The share of activations that dropout drops, in units of 2⁻³²; 0: none.
    pub dropout: u32,
    /// The weight of each row's loss: 1 / (targets that count in all micro-batches of an update).
    pub loss_scale: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// Adam's decay of the second moment.
    pub beta2: f64,
    /// The term that Adam adds to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The largest norm of the gradient; 0: no clipping.
    pub grad_clip: f64,
}

impl Default for Step {
    fn default() -> Step {
        Step {
            accumulate: 0,
            seed: [0; 2],
            dropout: 0,
            loss_scale: 1.0,
            learning_rate: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            grad_clip: 0.0,
        }
    }
}

/// [`Step`] as declared in `shaders/shared/step.wgsl`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are Step's, and two logarithms")]
pub struct StepWords {
    pub accumulate: u32,
    pub seed_0: u32,
    pub seed_1: u32,
    pub dropout: u32,
    pub loss_scale: f32,
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub ln_beta1: f32,
    pub ln_beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub grad_clip: f32,
}

impl Step {
    /// Returns the uniform that a GPU reads.
    pub fn words(&self) -> StepWords {
        StepWords {
            accumulate: self.accumulate,
            seed_0: self.seed[0],
            seed_1: self.seed[1],
            dropout: self.dropout,
            loss_scale: self.loss_scale as f32,
            learning_rate: self.learning_rate as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            ln_beta1: self.beta1.ln() as f32,
            ln_beta2: self.beta2.ln() as f32,
            eps: self.eps as f32,
            weight_decay: self.weight_decay as f32,
            grad_clip: self.grad_clip as f32,
        }
    }

    /// Whether this replay overwrites an [`Access::Acc`](crate::kernel::Access::Acc) of a dispatch with these sizes.
    pub fn overwrites(&self, dims: &Dims) -> bool {
        dims.ACC == Accumulate::Set as u32
            || (dims.ACC == Accumulate::SetFirst as u32 && self.accumulate == 0)
    }
}
