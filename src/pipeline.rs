//! Pipelines: the layers of a model lie on several devices, and an update's micro-batches go through them one after the
//! other, so that all devices work at once.
//!
//! A *stage* is a run of layers on one device. Forward, the residual stream goes from each stage to the next; backward,
//! its gradient comes back. The order of a stage's work is 1F1B (Narayanan et al. 2021, <https://arxiv.org/abs/2104.04473>):
//! some forward passes until the first gradient is there, then one backward pass after each forward pass. So a stage keeps
//! the activations of few micro-batches at once, however many an update has.

use std::ops::Range;

use crate::error::{Error, Result, field};

/// One of the stages of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its number, from 0.
    pub index: usize,
    /// The number of stages.
    pub of: usize,
}

/// A part of a stage's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// The forward pass of this micro-batch.
    Forward(usize),
    /// The backward pass of this micro-batch.
    Backward(usize),
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::WHOLE
    }
}

impl Stage {
    /// The only stage: the whole model.
    pub const WHOLE: Stage = Stage { index: 0, of: 1 };

    /// Returns all stages of a pipeline.
    pub fn all(of: usize) -> impl Iterator<Item = Stage> {
        (0..of).map(move |index| Stage { index, of })
    }

    /// Whether it has the embedding.
    pub fn is_first(self) -> bool {
        self.index == 0
    }

    /// Whether it has the last normalisation, the head and the loss.
    pub fn is_last(self) -> bool {
        self.index + 1 == self.of
    }

    /// Returns its layers, of `n_layer`: as even a part as there is. The first stages have one more where the numbers do
    /// not divide, because the last one has the head.
    ///
    /// ```
    /// use wgpt::pipeline::Stage;
    /// let layers: Vec<_> = Stage::all(4).map(|stage| stage.layers(10)).collect();
    /// assert_eq!(layers, [0..3, 3..6, 6..8, 8..10]);
    /// ```
    pub fn layers(self, n_layer: usize) -> Range<usize> {
        let (each, more) = (n_layer / self.of, n_layer % self.of);
        let start = |index: usize| index * each + index.min(more);
        start(self.index)..start(self.index + 1)
    }

    /// Returns how many of an update's `n` micro-batches it keeps at once: those whose forward pass it has done, and whose
    /// backward pass is still to come. Micro-batch m may use the memory of micro-batch m - `in_flight`.
    pub fn in_flight(self, n: usize) -> usize {
        (self.of - self.index).min(n).max(1)
    }

    /// Returns its work for an update of `n` micro-batches, in order.
    ///
    /// A forward pass needs that of the stage before, a backward pass that of the stage after. Who sends to a stage that
    /// may be sending itself must not wait until it receives.
    ///
    /// ```
    /// use wgpt::pipeline::{Stage, Task::{Backward, Forward}};
    /// let tasks = Stage { index: 0, of: 2 }.schedule(3);
    /// assert_eq!(tasks, [Forward(0), Forward(1), Backward(0), Forward(2), Backward(1), Backward(2)]);
    /// ```
    pub fn schedule(self, n: usize) -> Vec<Task> {
        let ahead = self.in_flight(n) - 1;
        let first = (0..ahead).map(Task::Forward);
        let alternate = (ahead..n).flat_map(|m| [Task::Forward(m), Task::Backward(m - ahead)]);
        let rest = (n.saturating_sub(ahead)..n).map(Task::Backward);
        first.chain(alternate).chain(rest).collect()
    }
}

/// Where a rank is in the grid of all ranks: stages, and in each stage ranks that have the same parameters.
///
/// The ranks of a stage follow each other, so that those which exchange most, the gradients of the same parameters, are on one
/// machine where ranks are numbered by machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The number of the rank among all.
    pub rank: usize,
    /// The number of all ranks.
    pub size: usize,
    /// The number of stages.
    pub stages: usize,
}

impl Grid {
    /// The number of ranks of each stage: each has other micro-batches.
    pub fn replicas(self) -> usize {
        self.size / self.stages
    }

    /// The number of this rank within its stage.
    pub fn replica(self) -> usize {
        self.rank % self.replicas()
    }

    /// The stage of this rank.
    pub fn stage(self) -> Stage {
        Stage { index: self.rank / self.replicas(), of: self.stages }
    }

    /// The rank that has the same micro-batches in another stage.
    pub fn in_stage(self, stage: usize) -> usize {
        stage * self.replicas() + self.replica()
    }
}

/// Checks that each of `stages` stages has a layer of its own.
///
/// # Errors
///
/// If there are more stages than layers, or none.
pub fn check(stages: usize, n_layer: usize) -> Result<()> {
    if (1..=n_layer).contains(&stages) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "a pipeline of {stages} stages is not possible, must be 1 to {}, {n_layer}",
        field("n_layer")
    ))
    .hint("each stage needs a layer of its own: take fewer stages"))
}

#[cfg(test)]
mod tests {
    use super::Task::{Backward, Forward};
    use super::{Grid, Stage, check};

    #[test]
    fn every_layer_is_in_one_stage() {
        for (n_layer, of) in [(1, 1), (4, 4), (7, 3), (12, 5), (24, 7)] {
            let parts: Vec<_> = Stage::all(of).map(|stage| stage.layers(n_layer)).collect();
            assert_eq!(
                parts.iter().cloned().flatten().collect::<Vec<_>>(),
                Vec::from_iter(0..n_layer)
            );
            assert!(parts.windows(2).all(|two| two[0].len() >= two[1].len()), "{parts:?}");
            assert!(parts[0].len() - parts[of - 1].len() <= 1, "{parts:?}");
        }
    }

    #[test]
    fn every_stage_needs_a_layer() {
        assert!(check(1, 1).is_ok() && check(3, 3).is_ok());
        for (stages, n_layer) in [(0, 3), (4, 3)] {
            let error = check(stages, n_layer).unwrap_err();
            assert!(
                error.to_string().contains(&format!("a pipeline of {stages} stages")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_grid_has_rows_and_columns() {
        let of = |rank| Grid { rank, size: 6, stages: 3 };
        assert_eq!((of(5).replicas(), of(5).replica(), of(5).stage().index), (2, 1, 2));
        assert_eq!((of(4).in_stage(0), of(1).in_stage(2)), (0, 5));
    }

    /// The most micro-batches that are between their forward and their backward pass.
    fn most_in_flight(stage: Stage, n: usize) -> usize {
        let mut flying = 0;
        let counts = stage.schedule(n).into_iter().map(|task| {
            match task {
                Forward(_) => flying += 1,
                Backward(_) => flying -= 1,
            }
            flying
        });
        counts.max().unwrap_or(0)
    }

    #[test]
    fn each_micro_batch_goes_forward_and_back_once_and_in_order() {
        for (of, n) in (1..=5).flat_map(|of| (0..=9).map(move |n| (of, n))) {
            for stage in Stage::all(of) {
                let tasks = stage.schedule(n);
                let forward =
                    tasks.iter().filter_map(|t| if let Forward(m) = t { Some(*m) } else { None });
                let backward =
                    tasks.iter().filter_map(|t| if let Backward(m) = t { Some(*m) } else { None });
                assert_eq!(forward.collect::<Vec<_>>(), Vec::from_iter(0..n), "{stage:?}");
                assert_eq!(backward.collect::<Vec<_>>(), Vec::from_iter(0..n), "{stage:?}");
                assert_eq!(
                    most_in_flight(stage, n),
                    stage.in_flight(n).min(n),
                    "{stage:?}, {n} micro-batches"
                );
            }
        }
    }

    /// Runs all stages, a task of each at a time where what it needs is there; returns the number of rounds.
    fn rounds(of: usize, n: usize) -> usize {
        let tasks: Vec<_> = Stage::all(of).map(|stage| stage.schedule(n)).collect();
        let mut done = vec![0; of];
        let mut rounds = 0;
        while done.iter().any(|done| *done < 2 * n) {
            let has = |stage: usize, task| tasks[stage][..done[stage]].contains(&task);
            let can = |stage: usize| match tasks[stage].get(done[stage]) {
                Some(Forward(m)) => stage == 0 || has(stage - 1, Forward(*m)),
                Some(Backward(m)) => stage + 1 == of || has(stage + 1, Backward(*m)),
                None => false,
            };
            let can: Vec<bool> = (0..of).map(can).collect();
            assert!(can.contains(&true), "{of} stages wait for each other after {done:?} tasks");
            done.iter_mut().zip(can).for_each(|(done, can)| *done += usize::from(can));
            rounds += 1;
        }
        rounds
    }

    /// As long as it takes to fill and to empty the pipeline, and no longer.
    #[test]
    fn no_stage_waits_for_ever() {
        for (of, n) in (1..=6).flat_map(|of| (1..=12).map(move |n| (of, n))) {
            assert_eq!(rounds(of, n), 2 * (n + of - 1), "{of} stages, {n} micro-batches");
        }
    }
}
