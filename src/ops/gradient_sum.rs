//! Sums of whole gradients, each of one or several micro-batches: `out = x`, or `out += x`.
//!
//! Training with [`Sum::Exact`](crate::config::Sum::Exact) computes the gradient of every micro-batch by itself and
//! adds them along a binary tree, so that the order of additions does not depend on which device computed which of them.
//! A node of the tree waits in buffers of its own, laid out as the gradients, until the other half of its parent is there.

use rayon::prelude::*;

use crate::graph::Graph;
use crate::kernel::{
    Accumulate, Dims, Format, Io, Kernel, Needs, Real, Step, accumulate, adds, grid, reads, twin,
};
use crate::math::simd::{CHUNK, add_to};
use crate::ops::variants::portable;
use crate::plan::{Phase, Plan, Role, View};

/// `out` (N) from `x` (N).
pub const ADD: Kernel = Kernel {
    name: "gradient_sum_add",
    args: &[reads("x"), adds("out")],
    twin: twin!(add),
    cpu: Some(fast_add),
    flops: |d| u64::from(d.N),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "gradient_sum_add", [], grid::elements,
        "vectors": [], Needs::NOTHING, by_fours, grid::vectors
    ),
};

fn by_fours(dims: &Dims, _: &[Format]) -> bool {
    dims.N.is_multiple_of(4)
}

/// Adds `x` to `out`, or overwrites it.
pub fn record(plan: &mut Plan, x: View, out: View, how: Accumulate) {
    let dims = Dims { N: x.len as u32, ACC: how as u32, ..Dims::default() };
    plan.push(&ADD, dims, &[x, out]);
}

impl Graph {
    /// Records room for `count` nodes of the sum over an update's micro-batches: for each [`Phase::Keep`], which puts
    /// the gradients and the loss there, and [`Phase::Join`], which adds to them what is there.
    ///
    /// Returns where each node keeps every one of `views`.
    pub fn record_nodes(&mut self, views: &[View], count: usize) -> Vec<Vec<View>> {
        (0..count as u32).map(|node| self.record_node(views, node)).collect()
    }

    fn record_node(&mut self, views: &[View], node: u32) -> Vec<View> {
        let mut copies: Vec<(usize, usize)> = vec![];
        let kept = views.iter().map(|view| {
            let known = copies.iter().find(|(of, _)| *of == view.buffer).map(|(_, copy)| *copy);
            let copy = known.unwrap_or_else(|| {
                let spec = &self.plan.buffers[view.buffer];
                let (name, len, format) =
                    (format!("node{node}.{}", spec.name), spec.len, spec.format);
                let copy = self.plan.buffer(Role::Gradients, &name, len, format).buffer;
                copies.push((view.buffer, copy));
                copy
            });
            view.of(copy)
        });
        let kept: Vec<View> = kept.collect();
        let pairs = || views.iter().copied().zip(kept.iter().copied());
        let start = self.plan.dispatches.len();
        pairs().for_each(|(own, kept)| record(&mut self.plan, own, kept, Accumulate::Set));
        self.plan.end_phase(Phase::Keep(node), start);
        let start = self.plan.dispatches.len();
        pairs().for_each(|(own, kept)| record(&mut self.plan, kept, own, Accumulate::Add));
        self.plan.end_phase(Phase::Join(node), start);
        kept
    }
}

fn add<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([x], [out]) = io.reals();
    for (out, &x) in out.iter_mut().zip(x) {
        accumulate(out, x, step.overwrites(dims));
    }
}

fn fast_add(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let ([x], [out]) = io.reals();
    let overwrites = step.overwrites(dims);
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| match overwrites {
        true => out.copy_from_slice(x),
        false => add_to(out, x),
    });
}
