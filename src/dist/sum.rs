//! The sum of the gradients of all ranks, along one tree.

use super::World;
use crate::engine::Engine;
use crate::error::Result;
use crate::tree::{self, Node, Nodes};

/// Numbers of a piece of the gradients, which one rank adds up.
const PIECE: usize = 1 << 18;

/// Makes the gradients and the loss of every rank those of all `n` micro-batches of an update.
///
/// Each rank has added its share of the micro-batches ([`tree::share`]), and holds the complete nodes of it. The gradients
/// go through the ranks in pieces: each piece has an owner, to which all ranks send their nodes of it; the owner adds them
/// in the tree's order and sends the sum to all. So the bits of the sum follow from `n` alone.
///
/// Returns the first rank that sent a number which is not finite, as far as this rank has seen: it sees the pieces that it
/// owns.
///
/// # Errors
///
/// If a device is lost, or a rank is gone.
pub fn add_up(engine: &mut Engine, world: &mut dyn World, n: usize) -> Result<Option<usize>> {
    let (rank, size) = (world.rank(), world.size());
    if size == 1 {
        engine.join_rest();
        return Ok(None);
    }
    let mut broken = None;
    let nodes: Vec<Vec<Node>> =
        (0..size).map(|rank| nodes_of(tree::share(n, rank, size))).collect();
    let mut piece = vec![];
    let all: Vec<(usize, usize, usize)> = pieces(engine);
    for round in all.chunks(size) {
        let len_of = |owner: usize| round.get(owner).map_or(0, |(_, _, len)| *len);
        let mut out = vec![vec![]; size];
        for (out, &(view, start, len)) in out.iter_mut().zip(round) {
            for node in 0..nodes[rank].len() {
                piece.resize(len, 0.0);
                engine.read_node(node, view, start, &mut piece)?;
                out.extend_from_slice(&piece);
            }
        }
        let lens: Vec<usize> = nodes.iter().map(|nodes| nodes.len() * len_of(rank)).collect();
        let got = world.exchange(&out, &lens)?;
        let own = match len_of(rank) {
            0 => vec![],
            len => add(n, &nodes, &got, len),
        };
        if broken.is_none() && !own.iter().all(|x| x.is_finite()) {
            broken = got.iter().position(|sent| !sent.iter().all(|x| x.is_finite()));
        }
        let lens: Vec<usize> = (0..size).map(len_of).collect();
        let sums = world.exchange(&vec![own; size], &lens)?;
        for (sum, &(view, start, _)) in sums.iter().zip(round) {
            engine.write_summed(view, start, sum);
        }
    }
    Ok(broken)
}

/// The complete nodes of a range of micro-batches.
fn nodes_of(range: std::ops::Range<usize>) -> Vec<Node> {
    let mut nodes = Nodes::default();
    range.for_each(|micro| {
        nodes.push(micro);
    });
    nodes.open().to_vec()
}

/// All that is summed, in pieces: the number of a view, where the piece begins within it, and its length.
fn pieces(engine: &Engine) -> Vec<(usize, usize, usize)> {
    let views = engine.program().summed.iter().enumerate();
    let of = |(view, len): (usize, usize)| {
        (0..len).step_by(PIECE).map(move |start| (view, start, PIECE.min(len - start)))
    };
    views.map(|(i, view)| (i, view.len)).flat_map(of).collect()
}

/// The sum of a piece of `len` numbers, of which each rank has sent its nodes.
fn add(n: usize, nodes: &[Vec<Node>], sent: &[Vec<f32>], len: usize) -> Vec<f32> {
    let parts = sent.iter().flat_map(|sent| sent.chunks_exact(len));
    let mut all: Vec<(Node, &[f32])> = nodes.iter().flatten().copied().zip(parts).collect();
    let mut take = |node: Node| {
        let at = all.iter().position(|(of, _)| *of == node)?;
        Some(all.swap_remove(at).1.to_vec())
    };
    tree::sum(n, &mut take, &mut |mut left: Vec<f32>, right| {
        left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
        left
    })
}
