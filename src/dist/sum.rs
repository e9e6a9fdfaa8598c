//! The sum of the gradients of all ranks, bucket by bucket, while the backward pass goes on.
//!
//! A rank has added its own micro-batches up to the nodes of the [`tree`] that lie within its share. Each bucket is
//! cut into shares, one per rank: its owner gets the nodes of all ranks for it, adds them in the tree's order, and sends the
//! sum to all. So the bits of the sum follow from the number of micro-batches alone.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::group::Group;
use super::link::{Link, Pending};
use super::world::World;
use crate::config::Sum;
use crate::engine::Engine;
use crate::error::Result;
use crate::math::simd::add_to;
use crate::model::{Bucket, Program, buckets};
use crate::tree::{self, Node};

/// Buckets that are under way at once, at most: each takes host memory.
pub(super) const MOST_PENDING: usize = 8;

/// What the ranks add up, and in which order: the same on all of them.
#[derive(Clone, Debug)]
pub struct Layout {
    buckets: Vec<Bucket>,
    /// The order in which the backward pass of the first rank is done with them, each with the number of dispatches of this
    /// rank's pass after which it is final here.
    order: Vec<(usize, usize)>,
    /// The complete nodes of each rank.
    nodes: Arc<[Vec<Node>]>,
    /// The leaves of the tree.
    leaves: usize,
    /// Whether each rank needs the gradients of its own shares only.
    is_split: bool,
}

impl Layout {
    /// The layout of a program's gradients, summed over the micro-batches of each rank: each a leaf of the tree, or if they are
    /// added in place, all of a rank together.
    pub fn new(program: &Program, shares: &[Range<usize>], sum: Sum) -> Layout {
        let buckets = buckets(&program.summed);
        let mut order: Vec<_> = program.final_after(&buckets).into_iter().enumerate().collect();
        order.sort_by_key(|(_, after)| *after);
        let in_place = sum == Sum::Fast;
        let nodes = |(rank, share): (usize, &Range<usize>)| match in_place {
            true => vec![Node { start: rank, len: 1 }],
            false => tree::nodes_of(share.clone()),
        };
        let leaves = if in_place { shares.len() } else { shares.iter().map(Range::len).sum() };
        let nodes = shares.iter().enumerate().map(nodes).collect();
        Layout { buckets, order, nodes, leaves, is_split: program.uses.part.is_some() }
    }

    /// The lengths of the buckets, in the order in which they are sent.
    pub fn lens(&self) -> impl Iterator<Item = usize> {
        self.buckets.iter().map(|bucket| bucket.len)
    }

    /// The order in which the buckets are sent.
    pub fn order(&self) -> impl Iterator<Item = usize> {
        self.order.iter().map(|(bucket, _)| *bucket)
    }

    /// Takes over the order of another rank.
    ///
    /// # Panics
    ///
    /// If a bucket is missing.
    pub fn take_order(&mut self, order: &[usize]) {
        let after = |bucket: &usize| {
            let own = self.order.iter().find(|(own, _)| own == bucket);
            *own.expect("the same buckets")
        };
        self.order = order.iter().map(after).collect();
    }

    /// The number of nodes of each rank.
    pub(super) fn nodes_of_ranks(&self) -> Vec<usize> {
        self.nodes.iter().map(Vec::len).collect()
    }

    /// The buckets in the order in which they are sent, as [`Layout::sent`], each with its number.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, (Bucket, usize))> {
        self.order.iter().map(|&(bucket, after)| (bucket, (self.buckets[bucket], after)))
    }

    /// The buckets in the order in which they are sent, each with the number of dispatches after which it is final.
    pub fn sent(&self) -> Vec<(Bucket, usize)> {
        let bucket = |&(bucket, after): &(usize, usize)| (self.buckets[bucket], after);
        self.order.iter().map(bucket).collect()
    }
}

/// A bucket whose sum is known.
struct Summed {
    /// Where the numbers begin in the bucket.
    start: usize,
    numbers: Vec<f32>,
    /// Memory that was taken for the sum.
    room: Vec<f32>,
    /// The first rank whose part was not finite, as far as this rank has seen.
    broken: Option<usize>,
}

/// The sums of an update that are under way.
pub struct Sums<'a> {
    link: &'a Link,
    layout: &'a Layout,
    /// Buckets that were started so far.
    started: usize,
    /// Those that are under way, the oldest first.
    pending: VecDeque<(Bucket, Pending<Result<Summed>>)>,
    broken: Option<usize>,
}

impl<'a> Sums<'a> {
    /// No sum is under way.
    pub fn new(link: &'a Link, layout: &'a Layout) -> Sums<'a> {
        Sums { link, layout, started: 0, pending: VecDeque::new(), broken: None }
    }

    /// Starts to sum the next bucket, of which `numbers` has this rank's nodes one after the other.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn add(&mut self, engine: &mut Engine, numbers: Vec<f32>) -> Result<()> {
        let index = self.layout.order[self.started].0;
        let Layout { leaves, is_split, ref nodes, .. } = *self.layout;
        let (bucket, nodes) = (self.layout.buckets[index], Arc::clone(nodes));
        // The loss is the last view.
        let is_loss = bucket.view + 1 == engine.program().summed.len();
        let for_all = is_loss || !is_split;
        self.started += 1;
        let group = Group::with_same_parameters(self.link.grid());
        let room = engine.room(0);
        let sum = move |world: &mut dyn World| {
            let share = |rank| bucket.share(index, rank, group.size());
            let shares: Vec<_> = (0..group.size()).map(share).collect();
            add_up((world, &group), &shares, (&nodes, leaves), (numbers, room), for_all)
        };
        self.pending.push_back((bucket, self.link.start(sum)));
        self.settle(engine, MOST_PENDING)
    }

    /// Writes to the engine what is summed, until at most `most` buckets are under way.
    fn settle(&mut self, engine: &mut Engine, most: usize) -> Result<()> {
        while let Some((bucket, pending)) = self.pending.pop_front() {
            let summed = match self.pending.len() < most {
                false => self.link.take(pending),
                true => match self.link.try_take(pending) {
                    Ok(summed) => summed,
                    Err(pending) => {
                        self.pending.push_front((bucket, pending));
                        return Ok(());
                    }
                },
            };
            let Summed { start, numbers, room, broken } = summed?;
            self.broken = self.broken.or(broken);
            if !numbers.is_empty() {
                engine.write_summed(bucket.view, bucket.start + start, &numbers);
            }
            engine.give_back(numbers);
            engine.give_back(room);
        }
        Ok(())
    }

    /// Waits for all sums. Returns the first rank that sent a number which is not finite, as far as this rank has seen: it
    /// sees the parts that it adds.
    ///
    /// # Errors
    ///
    /// If a rank is gone.
    pub fn finish(mut self, engine: &mut Engine) -> Result<Option<usize>> {
        self.settle(engine, 0)?;
        Ok(self.broken)
    }
}

/// Adds up a bucket of which each rank has its share, and `own` has this rank's nodes one after the other. All ranks need the
/// whole sum, or each that of its share only.
fn add_up(
    (world, group): (&mut dyn World, &Group),
    shares: &[Range<usize>],
    (nodes, leaves): (&[Vec<Node>], usize),
    (mut own, mut room): (Vec<f32>, Vec<f32>),
    for_all: bool,
) -> Result<Summed> {
    let rank = group.own();
    let share = shares[rank].clone();
    let len = own.len() / nodes[rank].len();
    let mut parts: Vec<Vec<&mut [f32]>> =
        own.chunks_exact_mut(len).map(|node| split(node, shares)).collect();

    let senders = group.others().flat_map(|other| nodes[other].iter().map(move |_| other));
    room.resize(share.len() * senders.clone().count(), 0.0);
    let mut got: Vec<(usize, &mut [f32])> =
        senders.zip(room.chunks_exact_mut(share.len().max(1))).collect();
    let sent =
        group.others().flat_map(|other| parts.iter().map(move |node| (other, &*node[other])));
    let sent: Vec<(usize, &[f32])> = sent.filter(|(_, part)| !part.is_empty()).collect();
    group.exchange(world, &sent, &mut got)?;

    let (mut total, mut broken) = (&mut [][..], None);
    if !share.is_empty() {
        let own = parts.iter_mut().map(|node| (rank, std::mem::take(&mut node[rank])));
        let mut all: Vec<(usize, &mut [f32])> = own.chain(got).collect();
        // The nodes of a rank are in its order.
        all.sort_by_key(|(rank, _)| *rank);
        broken = all.iter().filter(|(_, part)| !are_finite(part)).map(|(rank, _)| *rank).min();
        total = add(leaves, nodes, rank, all.into_iter().map(|(_, part)| part).collect());
    }
    if !for_all {
        let numbers = total.to_vec();
        return Ok(Summed { start: share.start, numbers, room, broken });
    }
    // The parts of the other shares have been sent, so that the sums can take their places.
    let mut heads = parts.swap_remove(0);
    let sent = group.others().filter(|_| !total.is_empty()).map(|other| (other, &*total));
    let sent: Vec<(usize, &[f32])> = sent.collect();
    let sums =
        heads.iter_mut().enumerate().filter(|(other, part)| *other != rank && !part.is_empty());
    let mut got: Vec<(usize, &mut [f32])> =
        sums.map(|(other, part)| (other, &mut **part)).collect();
    group.exchange(world, &sent, &mut got)?;
    // With several nodes the sum may lie in another one than the first.
    let moved = (nodes[rank].len() > 1).then(|| total.to_vec());
    own.truncate(len);
    if let Some(total) = moved {
        own[share].copy_from_slice(&total);
    }
    Ok(Summed { start: 0, numbers: own, room, broken })
}

/// The part of each rank, of a node's numbers.
fn split<'a>(mut rest: &'a mut [f32], shares: &[Range<usize>]) -> Vec<&'a mut [f32]> {
    let mut parts: Vec<&mut [f32]> = shares.iter().map(|_| &mut [][..]).collect();
    let mut ranks: Vec<usize> = (0..shares.len()).collect();
    ranks.sort_by_key(|rank| (shares[*rank].start, shares[*rank].end));
    for rank in ranks {
        let (part, after) = rest.split_at_mut(shares[rank].len());
        (parts[rank], rest) = (part, after);
    }
    parts
}

/// Adds the parts, which are those of the nodes of all ranks in order. The sum lies in a part of rank `own`: two numbers have
/// the same sum in either order.
fn add<'a>(
    leaves: usize,
    nodes: &[Vec<Node>],
    own: usize,
    parts: Vec<&'a mut [f32]>,
) -> &'a mut [f32] {
    let of_ranks = nodes.iter().enumerate();
    let keys =
        of_ranks.flat_map(|(rank, nodes)| nodes.iter().map(move |node| (*node, rank == own)));
    let mut all: Vec<_> = keys.zip(parts).collect();
    let mut take = |node: Node| {
        let at = all.iter().position(|((of, _), _)| *of == node)?;
        let ((_, is_own), part) = all.swap_remove(at);
        Some((is_own, part))
    };
    type Part<'a> = (bool, &'a mut [f32]);
    let (_, total) = tree::sum(leaves, &mut take, &mut |left: Part<'a>, right: Part<'a>| {
        let ((is_own, into), (_, from)) = if right.0 { (right, left) } else { (left, right) };
        add_to(into, from);
        (is_own, into)
    });
    total
}

/// Whether all numbers are finite: the exponent of the others is all ones.
pub(super) fn are_finite(numbers: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    numbers.iter().map(|x| x.to_bits() & EXPONENT).max() < Some(EXPONENT)
}

#[cfg(test)]
mod tests {
    use super::are_finite;

    #[test]
    fn what_is_not_finite_is_found() {
        let mut numbers = vec![-1.5e38_f32; 1000];
        assert!(are_finite(&numbers) && are_finite(&[]));
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            numbers[777] = broken;
            assert!(!are_finite(&numbers));
        }
    }
}
