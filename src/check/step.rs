//! One whole training step on two devices: compares the loss and every gradient.

use crate::backend::Device;
use crate::config::{GptConfig, Optimizer};
use crate::engine::{Engine, Tensor};
use crate::error::Result;
use crate::kernel::Step;
use crate::model::Uses;
use crate::ops::random;

/// The largest difference of a gradient, relative to the largest element of its tensor.
pub const GRADIENT_TOLERANCE: f32 = 1e-4;
/// The largest relative difference of the loss.
pub const LOSS_TOLERANCE: f32 = 1e-5;

/// The comparison of one number or tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `loss`, or the name of a parameter.
    pub name: String,
    /// The relative difference; NaN if one of the two is not finite.
    pub error: f32,
    /// The largest difference allowed.
    pub tolerance: f32,
}

impl Row {
    /// Returns whether the difference is within the tolerance; NaN is not.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Runs the same step of a model with random parameters on both devices, over random tokens, and compares the loss and
/// the gradient of every parameter. `seen` is called with each row.
///
/// # Errors
///
/// If a device cannot hold the model, or is lost.
pub fn compare_step(
    config: &GptConfig,
    (batch, seq): (usize, usize),
    seed: u64,
    reference: &Device,
    subject: &Device,
    mut seen: impl FnMut(Row),
) -> Result<()> {
    let uses = Uses { batch, seq, training: Some(Optimizer::Sgd), ..Uses::default() };
    let vocab = config.vocab_size as u32;
    let ids =
        |stream| (0..batch * seq).map(move |i| random::key(seed, stream, i as u32)[0] % vocab);
    let (tokens, targets): (Vec<u32>, Vec<u32>) = (ids(0).collect(), ids(1).collect());
    let mut engines = [Engine::new(config, uses, reference)?, Engine::new(config, uses, subject)?];
    let mut losses = [0.0; 2];
    for (engine, loss) in engines.iter_mut().zip(&mut losses) {
        engine.initialize(seed);
        engine.train_batch(&tokens, &targets, (0, targets.len()), Step::default());
        engine.update(&Step::default());
        *loss = engine.read_update()?.loss;
    }
    let [want, got] = losses;
    let error = (got - want).abs() / want.abs();
    seen(Row { name: "loss".into(), error, tolerance: LOSS_TOLERANCE });
    let [reference, subject] = &mut engines;
    for param in reference.program().params.clone().iter() {
        let theirs = subject.program().param(&param.name).expect("the same model").clone();
        let want = reference.param_data(param, Tensor::Gradient)?;
        let got = subject.param_data(&theirs, Tensor::Gradient)?;
        let error = relative_error(&got, &want);
        seen(Row { name: param.name.clone(), error, tolerance: GRADIENT_TOLERANCE });
    }
    Ok(())
}

/// Returns the largest difference, relative to the largest element of `want`; NaN if there is a NaN in either.
fn relative_error(got: &[f32], want: &[f32]) -> f32 {
    let largest = |max: f32, x: f32| if x.is_nan() || x > max { x } else { max };
    let scale = want.iter().fold(0.0, |max, x| largest(max, x.abs()));
    let worst = got.iter().zip(want).fold(0.0, |max, (g, w)| largest(max, (g - w).abs()));
    if worst == 0.0 { 0.0 } else { worst / scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_does_not_pass() {
        let row = |got: &[f32], want: &[f32]| Row {
            name: String::new(),
            error: relative_error(got, want),
            tolerance: GRADIENT_TOLERANCE,
        };
        assert!(row(&[1.0, 2.0, 0.0], &[1.0, 2.0, 0.0]).passed());
        assert!(!row(&[1.0, 2.1], &[1.0, 2.0]).passed());
        for wrong in [f32::NAN, f32::INFINITY] {
            for place in 0..3 {
                let mut one = [1.0, 2.0, 3.0];
                one[place] = wrong;
                assert!(!row(&one, &[1.0, 2.0, 3.0]).passed(), "got {wrong} at {place}");
                assert!(!row(&[1.0, 2.0, 3.0], &one).passed(), "want {wrong} at {place}");
                assert!(!row(&one, &one).passed(), "{wrong} twice at {place}");
            }
        }
    }
}
