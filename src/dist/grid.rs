//! The ranks as a grid: stages of a pipeline, and in each stage ranks that have the same parameters.

use std::sync::Arc;

use super::World;
use crate::error::Result;

/// Where a rank is in the grid.
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

    /// The number of this rank's stage.
    pub fn stage(self) -> usize {
        self.rank / self.replicas()
    }

    /// The rank that has the same micro-batches in another stage.
    pub fn in_stage(self, stage: usize) -> usize {
        stage * self.replicas() + self.replica()
    }

    /// The ranks of this stage.
    pub fn with_same_parameters(self) -> Group {
        let first = self.stage() * self.replicas();
        let members = (first..first + self.replicas()).collect();
        Group { members, own: self.replica() }
    }

    /// The ranks with the same micro-batches, by stage.
    pub fn with_same_batches(self) -> Group {
        let members = (0..self.stages).map(|stage| self.in_stage(stage)).collect();
        Group { members, own: self.stage() }
    }
}

/// Some of the ranks, which exchange numbers among themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    members: Arc<[usize]>,
    own: usize,
}

impl Group {
    /// The number of this rank within the group.
    pub fn own(&self) -> usize {
        self.own
    }

    /// The number of ranks of the group.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The numbers of the others within the group.
    pub fn others(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        let own = self.own;
        (0..self.size()).filter(move |other| *other != own)
    }

    /// [`World::exchange`] by the numbers within the group.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn exchange(
        &self,
        world: &mut dyn World,
        sent: &[(usize, &[f32])],
        received: &mut [(usize, &mut [f32])],
    ) -> Result<()> {
        let sent: Vec<(usize, &[f32])> =
            sent.iter().map(|(to, part)| (self.members[*to], *part)).collect();
        let mut received: Vec<(usize, &mut [f32])> =
            received.iter_mut().map(|(from, part)| (self.members[*from], &mut part[..])).collect();
        world.exchange(&sent, &mut received)
    }

    /// Sends `own` to all of the group, and returns what each of them sends, which is `lens` long.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn to_all(
        &self,
        world: &mut dyn World,
        own: Vec<f32>,
        lens: &[usize],
    ) -> Result<Vec<Vec<f32>>> {
        let mut all: Vec<Vec<f32>> = lens.iter().map(|len| vec![0.0; *len]).collect();
        let sent = self.others().filter(|_| !own.is_empty()).map(|other| (other, &own[..]));
        let sent: Vec<(usize, &[f32])> = sent.collect();
        let parts = all.iter_mut().enumerate();
        let mut got: Vec<(usize, &mut [f32])> = parts
            .filter(|(other, part)| *other != self.own && !part.is_empty())
            .map(|(other, part)| (other, &mut part[..]))
            .collect();
        self.exchange(world, &sent, &mut got)?;
        all[self.own] = own;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::Grid;

    #[test]
    fn a_grid_has_rows_and_columns() {
        let of = |rank| Grid { rank, size: 6, stages: 3 };
        assert_eq!((of(5).replicas(), of(5).replica(), of(5).stage()), (2, 1, 2));
        assert_eq!(of(3).with_same_parameters().members[..], [2, 3]);
        assert_eq!(of(3).with_same_batches().members[..], [1, 3, 5]);
        assert_eq!((of(3).with_same_parameters().own(), of(3).with_same_batches().own()), (1, 1));
        assert_eq!(of(4).in_stage(0), 0);
    }
}
