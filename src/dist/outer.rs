//! The outer step of local training: ranks that have trained on their own come together again.

use std::ops::Range;

use super::flat::Flat;
use super::group::Group;
use super::link::Link;
use crate::config::Local;
use crate::engine::{Engine, Tensor};
use crate::error::Result;
use crate::tree;

/// Numbers that a rank sends to another at a time: 1 MiB.
const PIECE: usize = 1 << 18;

/// What one rank keeps of the outer optimiser: its share of the trained parameters, as they were at the last sync, and of
/// their outer momentum. Both are in the host's memory, 8 bytes for each number of the share.
#[derive(Debug)]
pub struct Outer {
    settings: Local,
    flat: Flat,
    /// The share of each rank.
    shares: Vec<Range<usize>>,
    /// Where this rank's share begins.
    start: usize,
    /// θ of the last sync.
    anchor: Vec<f32>,
    momentum: Vec<f32>,
}

impl Outer {
    /// Begins from the parameters as they are, which must be the same on all ranks, without momentum.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn new(engine: &mut Engine, link: &Link, settings: Local) -> Result<Outer> {
        let (flat, size) = (Flat::of(engine), link.grid().size);
        let shares: Vec<_> = (0..size).map(|rank| tree::share(flat.len(), rank, size)).collect();
        let own = shares[link.grid().rank].clone();
        let mut anchor = vec![0.0; own.len()];
        flat.read(engine, Tensor::Value, own.start, &mut anchor)?;
        let momentum = vec![0.0; own.len()];
        Ok(Outer { settings, flat, shares, start: own.start, anchor, momentum })
    }

    /// Returns the bytes that a rank keeps for `trained` parameters, at most.
    pub fn bytes(trained: usize, ranks: usize) -> u64 {
        2 * size_of::<f32>() as u64 * trained.div_ceil(ranks) as u64
    }

    /// The trained parameters as one vector.
    pub fn flat(&self) -> &Flat {
        &self.flat
    }

    /// The share of each rank of that vector.
    pub fn shares(&self) -> &[Range<usize>] {
        &self.shares
    }

    /// The outer momentum of a range of this rank's share.
    ///
    /// # Panics
    ///
    /// If the range is not within the share.
    pub fn momentum(&mut self, range: Range<usize>) -> &mut [f32] {
        &mut self.momentum[range.start - self.start..range.end - self.start]
    }

    /// Takes the outer step, after which all ranks have the same parameters.
    ///
    /// The vector goes through the ranks in pieces: all ranks send their parameters to the rank whose share the piece is
    /// of, and that rank sends the new ones to all. So each number travels twice, as in the sum of the gradients, and its
    /// bits follow from those of the ranks alone.
    ///
    /// # Errors
    ///
    /// If a device is lost, or a rank is gone.
    pub fn step(&mut self, engine: &mut Engine, link: &Link) -> Result<()> {
        let all = Group::with_same_parameters(link.grid());
        let longest = self.shares.iter().map(Range::len).max().unwrap_or(0);
        for first in (0..longest).step_by(PIECE) {
            let pieces: Vec<_> = self.shares.iter().map(|share| piece(share, first)).collect();
            let mut parts = vec![];
            for piece in &pieces {
                let mut numbers = vec![0.0; piece.len()];
                self.flat.read(engine, Tensor::Value, piece.start, &mut numbers)?;
                parts.push(numbers);
            }
            let own = pieces[all.own()].clone();
            let (ranks, lens) = (all.clone(), vec![own.len(); all.size()]);
            let got = link.call(move |world| ranks.each_to_each(world, parts, &lens))?;
            let new = self.advance(own, &got).to_vec();
            let ranks = all.clone();
            let lens: Vec<usize> = pieces.iter().map(Range::len).collect();
            let got = link.call(move |world| ranks.to_all(world, new, &lens))?;
            for (piece, numbers) in pieces.iter().zip(&got) {
                self.flat.write(engine, Tensor::Value, piece.start, numbers);
            }
        }
        Ok(())
    }

    /// The outer step of a range of this rank's share, of which `ranks` are the parameters of all ranks: stochastic
    /// gradient descent with Nesterov's momentum as PyTorch has it, along the mean way that the ranks have gone. Returns
    /// the new parameters.
    fn advance(&mut self, own: Range<usize>, ranks: &[Vec<f32>]) -> &[f32] {
        let own = own.start - self.start..own.end - self.start;
        let Local { outer_rate, outer_momentum, .. } = self.settings;
        let anchor = &mut self.anchor[own.clone()];
        let momentum = &mut self.momentum[own];
        for (i, (theta, momentum)) in anchor.iter_mut().zip(momentum).enumerate() {
            let old = f64::from(*theta);
            // In the order of the ranks, so that the sum has the same bits each time.
            let way: f64 = ranks.iter().map(|of| old - f64::from(of[i])).sum();
            let mean = way / ranks.len() as f64;
            *momentum = (outer_momentum * f64::from(*momentum) + mean) as f32;
            *theta = (old - outer_rate * (mean + outer_momentum * f64::from(*momentum))) as f32;
        }
        anchor
    }
}

/// The part of a share from its number `first` on that is sent at a time.
fn piece(share: &Range<usize>, first: usize) -> Range<usize> {
    let start = share.end.min(share.start + first);
    start..share.end.min(start + PIECE)
}
