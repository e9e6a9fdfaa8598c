//! Copies of the beginning of one sequence to another slot.
//!
//! Two sequences that begin with the same tokens have the same keys and values there ([`super::extend`]), bit for bit. So
//! the second one takes those of the first instead of computing them again. The table `copied` has the slot that is
//! copied from, the slot that is copied to, and the number of positions.

use super::extend::EXTEND_STORE;
use crate::kernel::rows::COPY_WORDS;
use crate::kernel::{Dims, FLOATS, Io, Kernel, Real, Step, changes, grid, reads_u32, twin};
use crate::ops::variants::portable;
use crate::plan::{Phase, Plan, View};

/// Copies the keys and values of the first positions of a slot to another slot.
pub const EXTEND_COPY: Kernel = Kernel {
    name: "attention_extend_copy",
    args: &[reads_u32("copied"), changes("cache").takes(FLOATS)],
    twin: twin!(copy),
    cpu: None,
    flops: |_| 0,
    tolerance: Kernel::TOLERANCE,
    variants: portable!("attention_extend_copy", [], |d, _| {
        grid::fold((2 * d.S * d.KVH * d.HS).div_ceil(256))
    }),
};

/// Records copies between slots in every cache that the phase `extend` stores keys and values in, as the phase
/// [`Phase::Copy`]. `copied` is ([`COPY_WORDS`]).
pub fn record_copies(plan: &mut Plan, extend: Phase, copied: View) {
    let is_store = |index: &usize| plan.dispatches[*index].kernel.name == EXTEND_STORE.name;
    let stores: Vec<usize> = plan.phase(extend).filter(is_store).collect();
    let start = plan.dispatches.len();
    for index in stores {
        let store = &plan.dispatches[index];
        let (dims, cache) = (store.dims, *store.args.last().expect("it stores in a cache"));
        plan.push(&EXTEND_COPY, dims, &[copied, cache]);
    }
    plan.end_phase(Phase::Copy, start);
}

fn copy<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([], [cache]), [copied], []) = io.split();
    let side = (dims.S * dims.KVH * dims.HS) as usize;
    let [from, to, positions]: [u32; COPY_WORDS] = copied.try_into().expect("a whole table");
    if from >= dims.SLOTS || to >= dims.SLOTS {
        return;
    }
    let count = (positions.min(dims.S) * dims.KVH * dims.HS) as usize;
    for part in 0..2 {
        let [from, to] = [from, to].map(|slot| (2 * slot as usize + part) * side);
        cache.copy_within(from..from + count, to);
    }
}
