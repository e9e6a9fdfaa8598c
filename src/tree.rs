//! The binary tree along which the gradients of an update's micro-batches are added.
//!
//! The micro-batches 0..n of an update are the leaves. A node is an aligned block of 2^k of them: it begins at a multiple
//! of 2^k. Its sum is that of its left half plus that of its right half, where a half without micro-batches is left out.
//! So the order of all additions follows from n alone, and whoever has a range of the micro-batches can add those nodes
//! that lie within the range.

use std::ops::Range;

/// An aligned block of micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// The first micro-batch; a multiple of `len`.
    pub start: usize,
    /// How many there are: a power of two.
    pub len: usize,
}

impl Node {
    /// The root of the tree over `n` micro-batches.
    pub fn root(n: usize) -> Node {
        Node { start: 0, len: n.next_power_of_two() }
    }

    /// The two halves; `None` for a single micro-batch.
    pub fn halves(self) -> Option<[Node; 2]> {
        let len = self.len / 2;
        (len > 0).then(|| [self.start, self.start + len].map(|start| Node { start, len }))
    }

    /// Whether this is the left half and `right` is the other.
    fn is_before(self, right: Node) -> bool {
        self.len == right.len
            && self.start + self.len == right.start
            && self.start.is_multiple_of(2 * self.len)
    }
}

/// The nodes that are complete so far, while the micro-batches of a range come one after the other.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    open: Vec<Node>,
}

impl Nodes {
    /// Adds the next micro-batch; returns how many of the nodes before it are joined to it, the newest first.
    pub fn push(&mut self, micro: usize) -> usize {
        let mut node = Node { start: micro, len: 1 };
        let before = self.open.len();
        while let Some(left) = self.open.pop_if(|left| left.is_before(node)) {
            node = Node { start: left.start, len: 2 * left.len };
        }
        self.open.push(node);
        before + 1 - self.open.len()
    }

    /// The complete nodes, the oldest first.
    pub fn open(&self) -> &[Node] {
        &self.open
    }
}

/// The complete nodes of a range of micro-batches, the oldest first.
pub fn nodes_of(range: Range<usize>) -> Vec<Node> {
    let mut nodes = Nodes::default();
    range.for_each(|micro| {
        nodes.push(micro);
    });
    nodes.open
}

/// How many nodes wait at once, at most, while the micro-batches of a range are added: all but the one that is being
/// computed.
pub fn most_open(range: Range<usize>) -> usize {
    let mut nodes = Nodes::default();
    let waiting = range.map(|micro| {
        let joined = nodes.push(micro);
        nodes.open.len() - 1 + joined
    });
    waiting.max().unwrap_or(0)
}

/// The sum over `n` micro-batches, of which `take` gives the nodes that somebody has added, and `add` adds the right half
/// to the left one.
///
/// # Panics
///
/// If a micro-batch is in none of the nodes.
pub fn sum<T>(
    n: usize,
    take: &mut impl FnMut(Node) -> Option<T>,
    add: &mut impl FnMut(T, T) -> T,
) -> T {
    sum_node(Node::root(n), n, take, add)
}

fn sum_node<T>(
    node: Node,
    n: usize,
    take: &mut impl FnMut(Node) -> Option<T>,
    add: &mut impl FnMut(T, T) -> T,
) -> T {
    if let Some(whole) = take(node) {
        return whole;
    }
    let [left, right] = node.halves().unwrap_or_else(|| panic!("nobody has {node:?} of {n}"));
    let sum = sum_node(left, n, take, add);
    match right.start < n {
        true => {
            let right = sum_node(right, n, take, add);
            add(sum, right)
        }
        false => sum,
    }
}

/// The micro-batches of rank `rank` of `size`: as even a part of 0..n as there is, in the order of the ranks.
pub fn share(n: usize, rank: usize, size: usize) -> Range<usize> {
    n * rank / size..n * (rank + 1) / size
}

/// The numbers of micro-batches with which `times.len()` ranks are done with `n` of them the soonest: each takes at least one,
/// and the largest product of a rank's number and its time for one, in any unit, is as small as it can be. Of equal ranks the
/// first ones take more.
///
/// Each rank is given one, and then always that rank the next one that would be done with it first; nobody could be done
/// sooner, since whoever took less would leave it to one that is done later.
///
/// ```
/// assert_eq!(wgpt::tree::apportion(8, &[20, 65, 20]), [4, 1, 3]);
/// ```
///
/// # Panics
///
/// If there are no ranks, or more than micro-batches.
pub fn apportion(n: usize, times: &[u64]) -> Vec<usize> {
    assert!((1..=n).contains(&times.len()), "{n} micro-batches for {} ranks", times.len());
    let mut counts = vec![1; times.len()];
    for _ in times.len()..n {
        let done = |rank: &usize| (counts[*rank] as u128 + 1) * u128::from(times[*rank].max(1));
        let first = (0..times.len()).min_by_key(done).expect("there are ranks");
        counts[first] += 1;
    }
    counts
}

/// The micro-batches of ranks that take so many of them, in the order of the ranks.
pub fn ranges(counts: &[usize]) -> Vec<Range<usize>> {
    let starts = counts.iter().scan(0, |end, count| Some(std::mem::replace(end, *end + count)));
    starts.zip(counts).map(|(start, count)| start..start + count).collect()
}

/// As [`most_open`], for the range with the most such nodes that one of `size` ranks can get of 0..n: each gets at least one
/// micro-batch, in the order of the ranks.
///
/// That range begins at the first or at the second place where it can: an odd start leaves the most nodes open.
pub fn most_open_of_any(n: usize, size: usize) -> usize {
    let of_rank = |rank: usize| {
        let end = n - (size - 1 - rank);
        let starts = if rank == 0 { 0..1 } else { rank..end.min(rank + 2) };
        starts.map(move |start| most_open(start..end)).max().unwrap_or(0)
    };
    (0..size).map(of_rank).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Node, Nodes, apportion, most_open, most_open_of_any, ranges, share, sum};

    /// The sum as text, so that its order shows.
    fn text(n: usize, size: usize) -> String {
        let mut all = vec![];
        for rank in 0..size {
            let mut nodes = Nodes::default();
            let mut kept: Vec<String> = vec![];
            for micro in share(n, rank, size) {
                let mut own = micro.to_string();
                for _ in 0..nodes.push(micro) {
                    own = format!("({}+{own})", kept.pop().expect("a node that waits"));
                }
                kept.push(own);
                assert_eq!(kept.len(), nodes.open().len());
            }
            all.extend(nodes.open().iter().copied().zip(kept));
        }
        let mut take = |node: Node| {
            let at = all.iter().position(|(of, _)| *of == node)?;
            Some(all.swap_remove(at).1)
        };
        let total = sum(n, &mut take, &mut |a, b| format!("({a}+{b})"));
        assert!(all.is_empty(), "{all:?} of {n} on {size} ranks is left");
        total
    }

    #[test]
    fn the_order_does_not_depend_on_the_ranks() {
        assert_eq!(text(1, 1), "0");
        assert_eq!(text(3, 1), "((0+1)+2)");
        assert_eq!(text(7, 1), "(((0+1)+(2+3))+((4+5)+6))");
        for n in 1..=40 {
            let alone = text(n, 1);
            for size in 2..=n.min(9) {
                assert_eq!(text(n, size), alone, "{n} micro-batches on {size} ranks");
            }
        }
    }

    #[test]
    fn few_nodes_wait_at_once() {
        assert_eq!([1, 2, 3, 4, 7, 8, 9, 1024].map(|n| most_open(0..n)), [0, 1, 1, 2, 2, 3, 3, 10]);
        assert_eq!(most_open(1..7), 3);
        assert_eq!(most_open(5..5), 0);
    }

    #[test]
    fn every_micro_batch_has_one_rank() {
        for (n, size) in [(1, 1), (5, 3), (8, 3), (64, 7)] {
            let all: Vec<usize> = (0..size).flat_map(|rank| share(n, rank, size)).collect();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }
    /// All ways to give each of `size` ranks at least one of `n` micro-batches.
    fn all_counts(n: usize, size: usize) -> Vec<Vec<usize>> {
        if size == 1 {
            return vec![vec![n]];
        }
        let first = |first| {
            let rest = all_counts(n - first, size - 1).into_iter();
            rest.map(move |rest| [vec![first], rest].concat())
        };
        (1..=n - size + 1).flat_map(first).collect()
    }

    #[test]
    fn nobody_could_be_done_sooner() {
        let times: [&[u64]; 6] =
            [&[7, 7], &[1, 100], &[210, 650], &[3, 5, 4], &[90, 10, 11, 200], &[0, 5, 0]];
        for times in times {
            for n in times.len()..=11 {
                let done = |counts: &[usize]| {
                    counts.iter().zip(times).map(|(count, time)| *count as u64 * time).max()
                };
                let counts = apportion(n, times);
                assert!(counts.iter().sum::<usize>() == n && !counts.contains(&0), "{counts:?}");
                let best = all_counts(n, times.len()).iter().map(|counts| done(counts)).min();
                assert_eq!(Some(done(&counts)), best, "{counts:?} of {n} in {times:?}");
            }
        }
        // Equal ranks, and times that nearly are, are shared out as evenly as there is.
        assert_eq!(apportion(7, &[4, 4, 4]), [3, 2, 2]);
        assert_eq!(apportion(8, &[100, 103, 99, 101]), [2, 2, 2, 2]);
        assert_eq!(apportion(2, &[u64::MAX, 1]), [1, 1]);
        assert_eq!(ranges(&[3, 1, 4]), [0..3, 3..4, 4..8]);
    }

    #[test]
    fn the_worst_share_is_found_at_its_first_places() {
        for n in 1..=36 {
            for size in 1..=n.min(5) {
                let of_rank = |rank: usize| {
                    let (end, first) = (n - (size - 1 - rank), rank);
                    let starts = if rank == 0 { 0..1 } else { first..end };
                    starts.map(move |start| most_open(start..end)).max().unwrap()
                };
                let worst = (0..size).map(of_rank).max().unwrap();
                assert_eq!(most_open_of_any(n, size), worst, "{n} on {size} ranks");
            }
        }
    }
}
