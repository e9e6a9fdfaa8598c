//! Log-probabilities, from the logits as the device computed them.
//!
//! They are computed in f64 on the host. A token's own log-probability and those of the alternatives come from the same
//! numbers by the same operations: if the token is the most probable one, the two are equal to the last bit.

use std::cmp::Ordering;

/// The log-probability of a token, and the most probable tokens in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The natural logarithm of its probability.
    pub logprob: f64,
    /// The most probable tokens with their log-probabilities, the first one the most probable; equal ones by id.
    pub top: Vec<(u32, f64)>,
}

impl Scored {
    /// Scores token `id` by the logits (V) that it was, or could have been, drawn from, with `top` alternatives.
    ///
    /// # Panics
    ///
    /// If the id is not in the vocabulary.
    pub fn of(logits: &[f32], id: u32, top: usize) -> Scored {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).sum();
        let log_sum = f64::from(max) + sum.ln();
        let logprob = |id: u32| f64::from(logits[id as usize]) - log_sum;
        let top = most_probable(logits, top).into_iter().map(|id| (id, logprob(id))).collect();
        Scored { logprob: logprob(id), top }
    }
}

/// Returns the `count` tokens with the largest logits, the largest first; equal ones by id.
fn most_probable(logits: &[f32], count: usize) -> Vec<u32> {
    let order = |a: &u32, b: &u32| {
        let order = logits[*b as usize].partial_cmp(&logits[*a as usize]);
        order.unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count > 0 && count < ids.len() {
        ids.select_nth_unstable_by(count - 1, order);
    }
    ids.truncate(count);
    ids.sort_unstable_by(order);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_largest_is_the_tokens_own() {
        let logits = [1.5, -2.0, 1.5, 0.25, -30.0];
        let all = Scored::of(&logits, 2, 5);
        let sum: f64 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        let ids: Vec<u32> = all.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [0, 2, 3, 1, 4]);
        assert_eq!(all.logprob.to_bits(), all.top[0].1.to_bits());
        assert_eq!(Scored::of(&logits, 4, 2).top, all.top[..2]);
        assert_eq!(Scored::of(&logits, 4, 0).top, []);
        assert_eq!(Scored::of(&logits, 4, 9).top.len(), 5);
    }
}
