//! The angles of rotary embeddings, as config.json describes them.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result, field};

/// The angles of rotary embeddings: position t rotates pair i of a head's first R channels by `t · f[i]`, where
/// `f[i] = theta^(-2i / R)`, scaled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are scaled.
    pub scaling: Scaling,
    /// The share of each head's channels that are rotated.
    #[serde(default = "all")]
    pub share: f64,
}

/// The share of channels that are rotated where nothing else is said.
fn all() -> f64 {
    1.0
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
    /// Returns the angles with this base, unscaled, for all channels.
    pub const fn of(theta: f64) -> Rotary {
        Rotary { theta, scaling: Scaling::None, share: 1.0 }
    }

    /// Returns how many channels of a head of `head_size` are rotated.
    pub fn channels(&self, head_size: usize) -> usize {
        (head_size as f64 * self.share) as usize
    }

    /// Returns the share for which [`Rotary::channels`] gives so many channels of a head of `head_size`.
    pub(super) fn share_of(channels: usize, head_size: usize) -> f64 {
        let share = channels as f64 / head_size as f64;
        let rotary = Rotary { share, ..Rotary::of(1.0) };
        // The product of a rounded share and the size may be just below the whole number.
        if rotary.channels(head_size) < channels { share.next_up() } else { share }
    }

    /// Returns the frequencies of the pairs of a head of `head_size` channels, in radians per position.
    ///
    /// ```
    /// use wgpt::arch::rotary::{Rotary, Scaling};
    /// let rotary = Rotary { scaling: Scaling::Linear(2.0), ..Rotary::of(10_000.0) };
    /// assert_eq!(rotary.frequencies(4), [0.5, 0.005]);
    /// ```
    pub fn frequencies(&self, head_size: usize) -> Vec<f64> {
        let channels = self.channels(head_size);
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / channels as f64);
        (0..channels / 2).map(|i| self.scaling.apply(plain(i))).collect()
    }

    /// Checks that heads of `head_size` channels can be rotated so.
    ///
    /// # Errors
    ///
    /// If the base is not above 0, or the rotated channels are not pairs.
    pub fn validate(&self, head_size: usize) -> Result<()> {
        let (theta, rotated) = (self.theta, self.channels(head_size));
        // GGUF files have it in single precision.
        let single = theta as f32;
        if !(single >= f32::MIN_POSITIVE && single.is_finite()) {
            let name = field("rotary.theta");
            return Err(Error::input(format!(
                "{name} is {theta:e}, must be a number above 0, from 1.2e-38 to 3.4e38"
            )));
        }
        let which = match rotated == head_size {
            true => format!("{} is {head_size}", field("head_size")),
            false => format!("{rotated} of {head_size} channels of each head are rotated"),
        };
        match rotated >= 2 && rotated <= head_size && rotated.is_multiple_of(2) {
            true => Ok(()),
            false => Err(Error::input(format!(
                "{which}, must be even: rotary embeddings rotate pairs of channels"
            ))),
        }
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

    /// Returns the angles whose [`Rotary::divisors`] these are: a scaling of Llama 3 with its usual bounds of waves, 1 and 4.
    pub(super) fn of_divisors(theta: f64, channels: usize, divisors: &[f32]) -> Option<Rotary> {
        if divisors.len() != channels / 2 {
            return None;
        }
        let factor = divisors.iter().copied().fold(1.0, f32::max);
        let with = |original: u32| {
            let original = f64::from(original);
            let scaling = Llama3 { factor: f64::from(factor), low: 1.0, high: 4.0, original };
            Rotary { scaling: Scaling::Llama3(scaling), ..Rotary::of(theta) }
        };
        let fits = |rotary: &Rotary| {
            let own = rotary.divisors(channels).unwrap_or_default();
            let is_near = |(own, given): (&f64, &f32)| {
                (own - f64::from(*given)).abs() <= 1e-5 * f64::from(*given)
            };
            own.iter().zip(divisors).all(is_near)
        };
        (6..20).map(|bits| with(1 << bits)).find(fits)
    }

    /// Returns `rope_parameters` of config.json, for all channels.
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

impl Rotary {
    /// Returns the same with the share of the channels that are rotated.
    pub(super) fn to_partial_json(self) -> Value {
        let mut json = self.to_json();
        json["partial_rotary_factor"] = self.share.into();
        json.sort_all_objects();
        json
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_gives_the_channels_that_it_is_of() {
        for head_size in 1..=400 {
            for channels in 0..=head_size {
                let share = Rotary::share_of(channels, head_size);
                let rotary = Rotary { share, ..Rotary::of(1.0) };
                assert_eq!(rotary.channels(head_size), channels, "of {head_size}");
            }
        }
    }
}
