//! The parts in which gradients are summed over several ranks, each as soon as the backward pass is done with it.

use std::ops::Range;

use super::Program;
use crate::kernel::constants::NORM_BLOCK;
use crate::plan::{Phase, Plan, View};

/// The most numbers of a bucket: what one request to a device reads.
pub const BUCKET: usize = crate::backend::MOST_REQUESTED;

/// A part of what is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Which of [`Program::summed`] it belongs to.
    pub view: usize,
    /// Where it begins in that view.
    pub start: usize,
    /// How many numbers it has.
    pub len: usize,
}

impl Bucket {
    /// The numbers of bucket number `index`, from its start, that rank `rank` of `size` adds up, and owns with their
    /// optimiser's state if that is split: whole blocks of the gradients' norm, about as many for each rank; the rank that gets
    /// one block more is another in each bucket.
    pub fn share(self, index: usize, rank: usize, size: usize) -> Range<usize> {
        let block = NORM_BLOCK as usize;
        let blocks = self.len.div_ceil(block);
        let turn = (rank + index) % size;
        let [start, end] = [turn, turn + 1].map(|i| (blocks * i / size * block).min(self.len));
        start..end
    }
}

/// The buckets of these views.
pub fn buckets(summed: &[View]) -> Vec<Bucket> {
    let of = |(view, summed): (usize, &View)| {
        let len = summed.len;
        let bucket = move |start| Bucket { view, start, len: BUCKET.min(len - start) };
        (0..len).step_by(BUCKET).map(bucket)
    };
    summed.iter().enumerate().flat_map(of).collect()
}

impl Program {
    /// For each bucket, the number of dispatches of the backward pass after which it is final.
    pub fn final_after(&self, buckets: &[Bucket]) -> Vec<usize> {
        let view = |bucket: &Bucket| self.summed[bucket.view].slice(bucket.start, bucket.len);
        buckets.iter().map(|bucket| last_write(&self.plan, view(bucket))).collect()
    }
}

/// The number of dispatches of the backward pass up to the last one that writes to a view.
fn last_write(plan: &Plan, view: View) -> usize {
    let phase = plan.phase(Phase::Backward);
    let writes = |index: &usize| {
        let dispatch = &plan.dispatches[*index];
        let mut args = dispatch.kernel.args.iter().zip(&dispatch.args);
        args.any(|(arg, to)| arg.is_written() && to.overlaps(view))
    };
    phase.clone().rev().find(writes).map_or(0, |index| index + 1 - phase.start)
}

#[cfg(test)]
mod tests {
    use super::{BUCKET, Bucket, buckets};
    use crate::kernel::Format;
    use crate::plan::View;

    #[test]
    fn every_number_has_one_owner() {
        let view = |buffer, len| View { buffer, start: 0, len, format: Format::F32 };
        let summed = [view(0, 3 * BUCKET + 12_345), view(1, 768), view(2, 1)];
        let all = buckets(&summed);
        assert_eq!(all.iter().map(|bucket| bucket.len).sum::<usize>(), 3 * BUCKET + 13_114);
        for size in 1..=7 {
            let mut owned = vec![0; size];
            for (index, bucket) in all.iter().enumerate() {
                let mut shares: Vec<_> =
                    (0..size).map(|rank| bucket.share(index, rank, size)).collect();
                shares.iter().zip(&mut owned).for_each(|(share, owned)| *owned += share.len());
                shares.sort_by_key(|share| (share.start, share.end));
                let ends = shares.iter().scan(0, |end, share| {
                    assert_eq!(share.start, *end, "{bucket:?} on {size} ranks");
                    *end = share.end;
                    Some(*end)
                });
                assert_eq!(ends.last(), Some(bucket.len));
            }
            let even = (3 * BUCKET + 13_114) / size;
            let most = owned.iter().max().copied().unwrap_or(0);
            assert!(most <= even + 6 * 16_384, "{owned:?} of {even}");
        }
    }

    #[test]
    fn a_short_bucket_has_one_owner() {
        let loss = Bucket { view: 0, start: 0, len: 1 };
        let owners = (0..3).filter(|rank| !loss.share(5, *rank, 3).is_empty());
        assert_eq!(owners.count(), 1);
    }
}
