//! Ranks under MPI: Open MPI, MPICH and what speaks like them.

use std::mem::ManuallyDrop;

use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::request::{self, Request, Scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Root, Source};
use mpi::{Count, Threading};

use super::world::World;
use crate::error::{Error, Result};
use crate::wait;

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
    /// If the system has no working MPI, it does not let another thread than the first speak to it, or this process has
    /// begun it already.
    pub fn begin() -> Result<Session> {
        let begun = mpi::initialize_with_threading(Threading::Serialized);
        let begun = begun.filter(|(_, granted)| *granted >= Threading::Serialized);
        let (universe, _) = begun.ok_or_else(|| {
            Error::input("MPI did not start, or allows no threads")
                .hint("see whether `mpirun hostname` works")
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
        let (len, mut lens) = (count(own.len()), vec![0; self.size()]);
        request::scope(|scope| {
            finish(all_ranks().immediate_all_gather_into(scope, &len, &mut lens[..]));
        });
        let starts = starts(&lens);
        let mut all = vec![0_u64; lens.iter().map(|len| *len as usize).sum()];
        let mut parts = PartitionMut::new(&mut all[..], &lens[..], &starts[..]);
        request::scope(|scope| {
            finish(all_ranks().immediate_all_gather_varcount_into(scope, own, &mut parts));
        });
        let part =
            |(start, len): (&Count, &Count)| all[*start as usize..][..*len as usize].to_vec();
        Ok(starts.iter().zip(&lens).map(part).collect())
    }

    fn exchange(
        &mut self,
        sent: &[(usize, &[f32])],
        received: &mut [(usize, &mut [f32])],
    ) -> Result<()> {
        let all = all_ranks();
        let mut done = vec![];
        request::multiple_scope(sent.len() + received.len(), |scope, requests| {
            for (rank, numbers) in received {
                let from = all.process_at_rank(count(*rank));
                requests.add(from.immediate_receive_into(scope, &mut **numbers));
            }
            for (rank, numbers) in sent {
                requests.add(all.process_at_rank(count(*rank)).immediate_send(scope, *numbers));
            }
            wait::by_asking(|| requests.incomplete() == 0 || requests.test_all(&mut done));
        });
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let all = all_ranks();
        let root = all.process_at_rank(0);
        let mut len = bytes.len() as u64;
        request::scope(|scope| finish(root.immediate_broadcast_into(scope, &mut len)));
        bytes.resize(len as usize, 0);
        for piece in bytes.chunks_mut(MOST_BYTES) {
            request::scope(|scope| finish(root.immediate_broadcast_into(scope, piece)));
        }
        Ok(())
    }
}

/// Waits for a request of MPI, which goes on only while it is asked.
fn finish<'a, D: ?Sized, S: Scope<'a>>(request: Request<'a, D, S>) {
    let mut open = Some(request);
    wait::by_asking(|| {
        open = open.take().and_then(|request| request.test().err());
        open.is_none()
    });
}
