//! On how many ranks a run can go on.

use super::TrainConfig;
use crate::error::{Error, Result, field};

impl TrainConfig {
    /// Returns the largest number of ranks, at most `most`, on which a run with these settings can go on: a multiple of the
    /// stages of its pipeline, with a micro-batch for each rank of a stage.
    ///
    /// ```
    /// let train = wgpt::TrainConfig { pipeline: 2, grad_accum: 4, ..wgpt::TrainConfig::default() };
    /// assert_eq!([2, 3, 4, 9].map(|most| train.ranks_within(most).unwrap()), [2, 2, 4, 8]);
    /// assert!(train.ranks_within(1).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// If it cannot go on with so few.
    pub fn ranks_within(&self, most: usize) -> Result<usize> {
        let left = match most {
            0 => "no rank is left".to_owned(),
            1 => "only 1 rank is left".to_owned(),
            _ => format!("only {most} ranks are left"),
        };
        if let Some(local) = self.local {
            return match most < local.ranks {
                false => Ok(local.ranks),
                true => Err(Error::training(format!(
                    "{left}, must be {}: with {} each rank of a run has moments of its own",
                    local.ranks,
                    field("local.sync_every")
                ))
                .hint("go on once as many are there as it began with")),
            };
        }
        let stages = self.pipeline.max(1);
        let replicas = (most / stages).min(self.grad_accum);
        if replicas == 0 {
            return Err(Error::training(format!(
                "{left}, must be at least {stages}, as {} has it",
                field("pipeline")
            ))
            .hint("go on once more ranks are there, or with fewer stages if the model fits"));
        }
        Ok(replicas * stages)
    }
}

#[cfg(test)]
mod tests {
    use crate::TrainConfig;
    use crate::config::Local;

    fn within(train: &TrainConfig, most: usize) -> Result<usize, String> {
        train.ranks_within(most).map_err(|error| error.to_string())
    }

    #[test]
    fn each_rank_has_a_micro_batch() {
        let train = TrainConfig { grad_accum: 3, ..TrainConfig::default() };
        assert_eq!([1, 2, 3, 4].map(|most| within(&train, most).unwrap()), [1, 2, 3, 3]);
        assert_eq!(
            within(&train, 0).unwrap_err(),
            "no rank is left, must be at least 1, as pipeline has it"
        );
    }

    #[test]
    fn stages_stay_whole() {
        let train = TrainConfig { grad_accum: 4, pipeline: 3, ..TrainConfig::default() };
        assert_eq!([3, 5, 6, 8, 99].map(|most| within(&train, most).unwrap()), [3, 3, 6, 6, 12]);
        assert_eq!(
            within(&train, 2).unwrap_err(),
            "only 2 ranks are left, must be at least 3, as pipeline has it"
        );
    }

    #[test]
    fn ranks_that_train_apart_are_all_needed() {
        let local = Some(Local::every(10, 3));
        let train = TrainConfig { grad_accum: 6, local, ..TrainConfig::default() };
        assert_eq!((within(&train, 3), within(&train, 5)), (Ok(3), Ok(3)));
        assert!(within(&train, 2).unwrap_err().starts_with("only 2 ranks are left, must be 3"));
    }
}
