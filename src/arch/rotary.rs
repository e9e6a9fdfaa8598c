//! The angles of rotary embeddings, as config.json describes them.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The angles of rotary embeddings: position t rotates pair i of a head's D channels by `t · f[i]`, where
/// `f[i] = theta^(-2i / D)`, scaled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are scaled.
    pub scaling: Scaling,
}

/// How the frequencies of rotary embeddings are scaled for a context that is longer than the first training's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scaling {
    /// They are not.
    None,
    /// All are divided by this factor.
    Linear(f64),
    /// Those of long waves are divided by a factor, as in Llama 3.
    Llama3(Llama3),
}

/// The scaling of Llama 3: waves longer than `original / low` are made longer by `factor`, those shorter than
/// `original / high` stay, and those between are mixed of both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Llama3 {
    /// The divisor.
    pub factor: f64,
    /// `low_freq_factor`
    pub low: f64,
    /// `high_freq_factor`, which is larger.
    pub high: f64,
    /// `original_max_position_embeddings`
    pub original: f64,
}

impl Rotary {
    /// Returns the frequencies of the pairs of a head of `channels`, in radians per position.
    ///
    /// ```
    /// use wgpt::arch::rotary::{Rotary, Scaling};
    /// let rotary = Rotary { theta: 10_000.0, scaling: Scaling::Linear(2.0) };
    /// assert_eq!(rotary.frequencies(4), [0.5, 0.005]);
    /// ```
    pub fn frequencies(&self, channels: usize) -> Vec<f64> {
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / channels as f64);
        (0..channels / 2).map(|i| self.scaling.apply(plain(i))).collect()
    }
}

impl Rotary {
    /// Returns the numbers by which the frequencies of the pairs of a head of `channels` are divided, if they differ
    /// from pair to pair.
    pub fn divisors(&self, channels: usize) -> Option<Vec<f64>> {
        let plain = Rotary { scaling: Scaling::None, ..*self }.frequencies(channels);
        let scaled = self.frequencies(channels);
        matches!(self.scaling, Scaling::Llama3(_))
            .then(|| plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect())
    }

    /// Returns `rope_parameters` of config.json.
    pub(super) fn to_json(self) -> Value {
        let theta = self.theta;
        match self.scaling {
            Scaling::None => json!({ "rope_theta": theta, "rope_type": "default" }),
            Scaling::Linear(factor) => {
                json!({ "factor": factor, "rope_theta": theta, "rope_type": "linear" })
            }
            Scaling::Llama3(Llama3 { factor, low, high, original }) => json!({
                "factor": factor,
                "high_freq_factor": high,
                "low_freq_factor": low,
                "original_max_position_embeddings": original as u64,
                "rope_theta": theta,
                "rope_type": "llama3",
            }),
        }
    }
}

impl Scaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Scaling::None => frequency,
            Scaling::Linear(factor) => frequency / factor,
            Scaling::Llama3(Llama3 { factor, low, high, original }) => {
                let waves = original * frequency / TAU;
                let share = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - share) * frequency / factor + share * frequency
            }
        }
    }
}
