//! Ranks under MPI: Open MPI, MPICH and what speaks like them.

use std::mem::ManuallyDrop;

use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};
use mpi::{Count, Threading};

use super::World;
use crate::error::{Error, Result};

/// Bytes of one broadcast: MPI counts them in 31 bits.
const MOST_BYTES: usize = 1 << 30;

/// What begins and ends MPI in this process.
pub struct Session {
    /// Ended by [`Session::end`] alone: a process that ends otherwise must not wait for the other ranks.
    universe: ManuallyDrop<Universe>,
}

impl Session {
    /// Begins MPI.
    ///
    /// # Errors
    ///
    /// If the system has no working MPI, or this process has begun it already.
    pub fn begin() -> Result<Session> {
        let begun = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) = begun.ok_or_else(|| {
            Error::input("MPI did not start").hint("see whether `mpirun hostname` works")
        })?;
        Ok(Session { universe: ManuallyDrop::new(universe) })
    }

    /// All ranks.
    pub fn world(&self) -> Box<dyn World> {
        Box::new(Ranks)
    }

    /// Ends MPI, once all ranks are here.
    pub fn end(self) {
        drop(ManuallyDrop::into_inner(self.universe));
    }
}

/// The ranks of MPI's first communicator, which a thread has to ask for. An error of MPI itself ends the process: that is
/// its default.
struct Ranks;

fn all_ranks() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

/// Where pieces of these lengths begin, one after the other.
fn starts(lens: &[Count]) -> Vec<Count> {
    let next = |start: &mut Count, len: &Count| Some(std::mem::replace(start, *start + *len));
    lens.iter().scan(0, next).collect()
}

fn count(len: usize) -> Count {
    Count::try_from(len).expect("pieces that MPI can count")
}

impl World for Ranks {
    fn rank(&self) -> usize {
        all_ranks().rank() as usize
    }

    fn size(&self) -> usize {
        all_ranks().size() as usize
    }

    fn gather(&mut self, own: &[u64]) -> Result<Vec<Vec<u64>>> {
        let mut lens = vec![0; self.size()];
        all_ranks().all_gather_into(&count(own.len()), &mut lens[..]);
        let starts = starts(&lens);
        let mut all = vec![0_u64; lens.iter().map(|len| *len as usize).sum()];
        let mut parts = PartitionMut::new(&mut all[..], &lens[..], &starts[..]);
        all_ranks().all_gather_varcount_into(own, &mut parts);
        let part =
            |(start, len): (&Count, &Count)| all[*start as usize..][..*len as usize].to_vec();
        Ok(starts.iter().zip(&lens).map(part).collect())
    }

    fn exchange(&mut self, out: &[Vec<f32>], lens: &[usize]) -> Result<Vec<Vec<f32>>> {
        let sent: Vec<Count> = out.iter().map(|out| count(out.len())).collect();
        let got: Vec<Count> = lens.iter().copied().map(count).collect();
        let (sent_starts, got_starts) = (starts(&sent), starts(&got));
        let out = out.concat();
        let mut numbers = vec![0.0_f32; lens.iter().sum()];
        let from = Partition::new(&out[..], &sent[..], &sent_starts[..]);
        let mut to = PartitionMut::new(&mut numbers[..], &got[..], &got_starts[..]);
        all_ranks().all_to_all_varcount_into(&from, &mut to);
        let part = |(start, len): (&Count, &usize)| numbers[*start as usize..][..*len].to_vec();
        Ok(got_starts.iter().zip(lens).map(part).collect())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let all = all_ranks();
        let root = all.process_at_rank(0);
        let mut len = bytes.len() as u64;
        root.broadcast_into(&mut len);
        bytes.resize(len as usize, 0);
        for piece in bytes.chunks_mut(MOST_BYTES) {
            root.broadcast_into(piece);
        }
        Ok(())
    }
}
