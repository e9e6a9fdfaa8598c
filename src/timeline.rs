//! What a rank does when, on the clocks of several ranks.

use crate::plan::Phase;

/// What the time of a rank goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Forward passes.
    Forward,
    /// Backward passes, and sums of gradients on the device.
    Backward,
    /// Norm, clipping and the optimiser.
    Update,
    /// Copies between the device and the host.
    Copy,
    /// Waiting for other ranks.
    Wait,
    /// Something is under way with the other ranks: a second thread sends, receives and adds.
    Transfer,
}

impl Activity {
    /// All of them.
    pub const ALL: [Activity; 6] = [
        Activity::Forward,
        Activity::Backward,
        Activity::Update,
        Activity::Copy,
        Activity::Wait,
        Activity::Transfer,
    ];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Forward => "forward",
            Activity::Backward => "backward",
            Activity::Update => "update",
            Activity::Copy => "copy",
            Activity::Wait => "wait",
            Activity::Transfer => "transfer",
        }
    }

    /// Returns the activity that a phase of training belongs to.
    pub fn of(phase: Phase) -> Activity {
        match phase {
            Phase::Cast | Phase::Norm | Phase::Update => Activity::Update,
            Phase::Backward | Phase::BackwardOf(_) | Phase::Keep(_) | Phase::Join(_) => {
                Activity::Backward
            }
            _ => Activity::Forward,
        }
    }
}

/// A time in which a rank did one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// What it did.
    pub activity: Activity,
    /// Seconds since some moment that all spans of a time line share.
    pub start_s: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Span {
    /// Returns the span in three words, which one rank can send to another.
    pub fn words(&self) -> [u64; 3] {
        [self.activity as u64, self.start_s.to_bits(), self.seconds.to_bits()]
    }

    /// Reads [`Span::words`]; `None` if there is no such activity.
    pub fn of_words([activity, start, seconds]: [u64; 3]) -> Option<Span> {
        let activity = *Activity::ALL.get(activity as usize)?;
        Some(Span { activity, start_s: f64::from_bits(start), seconds: f64::from_bits(seconds) })
    }
}

/// Returns by how many seconds a clock is ahead of the first rank's, from rounds in which the ranks met: of each the times on
/// the first rank's clock and on this one, both before it and after it.
///
/// A rank leaves a round after every rank has begun it. So with `a` before on one clock and `b` after on the other, the clocks
/// show `a` no later than `b`, which bounds their difference from both sides: each round gives a pair of bounds, the
/// narrowest of all hold, and the middle between them is off by half of their distance at most (Cristian, "Probabilistic
/// clock synchronization", 1989).
pub fn ahead(rounds: &[([f64; 2], [f64; 2])]) -> f64 {
    let least = rounds.iter().map(|(first, own)| own[0] - first[1]).fold(f64::MIN, f64::max);
    let most = rounds.iter().map(|(first, own)| own[1] - first[0]).fold(f64::MAX, f64::min);
    least + (most - least) / 2.0
}

#[cfg(test)]
mod tests {
    use super::{Activity, Span, ahead};

    #[test]
    fn a_span_comes_back_from_its_words() {
        for activity in Activity::ALL {
            let span = Span { activity, start_s: 1.25, seconds: 0.5 };
            assert_eq!(Span::of_words(span.words()), Some(span));
        }
        assert_eq!(Span::of_words([6, 0, 0]), None);
    }

    #[test]
    fn clocks_are_aligned_by_the_narrowest_rounds() {
        // This clock is 5 s ahead. In the first round this rank came 0.5 s late and the first one waited, in the second it was
        // the other way round, and in the third they came together.
        let first = [[0.0, 0.6], [1.0, 1.1], [2.0, 2.0625]];
        let own = [[5.5, 5.6], [5.25, 6.1], [7.0, 7.0625]];
        let rounds: Vec<_> = first.into_iter().zip(own).collect();
        assert!((ahead(&rounds) - 5.0).abs() < 0.04, "{}", ahead(&rounds));
        assert!((ahead(&rounds[..2]) - 5.0).abs() < 0.11, "{}", ahead(&rounds[..2]));
    }
}
