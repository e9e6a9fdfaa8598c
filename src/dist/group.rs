//! Some of the ranks, which exchange numbers among themselves.

use std::sync::Arc;

use super::world::World;
use crate::error::Result;
use crate::pipeline::Grid;

/// Some of the ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    members: Arc<[usize]>,
    own: usize,
}

impl Group {
    /// The ranks of a rank's stage.
    pub fn with_same_parameters(grid: Grid) -> Group {
        let first = grid.stage().index * grid.replicas();
        let members = (first..first + grid.replicas()).collect();
        Group { members, own: grid.replica() }
    }

    /// The ranks with the same micro-batches as a rank, by stage.
    pub fn with_same_batches(grid: Grid) -> Group {
        let members = (0..grid.stages).map(|stage| grid.in_stage(stage)).collect();
        Group { members, own: grid.stage().index }
    }

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

    /// Gives all of the group the numbers of the first of them.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn give(&self, world: &mut dyn World, numbers: &mut [f32]) -> Result<()> {
        match self.own {
            0 => {
                let sent: Vec<(usize, &[f32])> =
                    self.others().map(|other| (other, &*numbers)).collect();
                self.exchange(world, &sent, &mut [])
            }
            _ => self.exchange(world, &[], &mut [(0, numbers)]),
        }
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
        let sent: Vec<(usize, &[f32])> = self.others().map(|other| (other, &own[..])).collect();
        let mut all = self.exchange_with_all(world, &sent, lens)?;
        all[self.own] = own;
        Ok(all)
    }

    /// Sends each of the group its part of `parts`, and returns what each of them sends to this rank, which is `lens` long.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn each_to_each(
        &self,
        world: &mut dyn World,
        mut parts: Vec<Vec<f32>>,
        lens: &[usize],
    ) -> Result<Vec<Vec<f32>>> {
        let sent: Vec<(usize, &[f32])> =
            self.others().map(|other| (other, &parts[other][..])).collect();
        let mut all = self.exchange_with_all(world, &sent, lens)?;
        all[self.own] = parts.swap_remove(self.own);
        Ok(all)
    }

    /// Sends what is not empty, and returns what each of the others sends, which is `lens` long; nothing is sent where that is 0.
    fn exchange_with_all(
        &self,
        world: &mut dyn World,
        sent: &[(usize, &[f32])],
        lens: &[usize],
    ) -> Result<Vec<Vec<f32>>> {
        let sent: Vec<_> = sent.iter().copied().filter(|(_, part)| !part.is_empty()).collect();
        let mut all = vec![vec![]; self.size()];
        self.others().for_each(|other| all[other] = vec![0.0; lens[other]]);
        let parts = all.iter_mut().enumerate().filter(|(_, part)| !part.is_empty());
        let mut got: Vec<(usize, &mut [f32])> =
            parts.map(|(other, part)| (other, &mut part[..])).collect();
        self.exchange(world, &sent, &mut got)?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::Group;
    use crate::pipeline::Grid;

    #[test]
    fn a_rank_is_in_two_groups() {
        let grid = Grid { rank: 3, size: 6, stages: 3 };
        let (same, chain) = (Group::with_same_parameters(grid), Group::with_same_batches(grid));
        assert_eq!((&same.members[..], same.own()), (&[2, 3][..], 1));
        assert_eq!((&chain.members[..], chain.own()), (&[1, 3, 5][..], 1));
        assert_eq!(chain.others().collect::<Vec<_>>(), [0, 2]);
    }
}
