//! The ranks that train together, and what they say to each other.

use crate::error::Result;

/// A group of processes, or of threads, that call the same methods in the same order.
///
/// Every method is collective: it returns on a rank when all ranks that it needs have called it. An error means that
/// another rank is gone; the others learn of it from whoever started them.
pub trait World: Send {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Gives every rank the words of all ranks, in the order of the ranks; each rank may have another number of them.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    fn gather(&mut self, own: &[u64]) -> Result<Vec<Vec<u64>>>;

    /// Sends numbers to other ranks and receives numbers from others, each with the number of the other rank. What two ranks
    /// send each other arrives in the order in which it is sent, and has the length that is expected.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    fn exchange(
        &mut self,
        sent: &[(usize, &[f32])],
        received: &mut [(usize, &mut [f32])],
    ) -> Result<()>;

    /// Gives every rank the bytes that rank 0 has.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()>;
}

/// One rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl World for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&mut self, own: &[u64]) -> Result<Vec<Vec<u64>>> {
        Ok(vec![own.to_vec()])
    }

    fn exchange(&mut self, _: &[(usize, &[f32])], _: &mut [(usize, &mut [f32])]) -> Result<()> {
        Ok(())
    }

    fn broadcast(&mut self, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}
