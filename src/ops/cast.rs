//! Copies in the precision that matrix products read: `out = x`, rounded.
//!
//! Mixed precision updates parameters in single precision, where a small update does not vanish
//! beside a large weight, and multiplies by copies of half the size (Micikevicius et al. 2017).

use crate::graph::Graph;
use crate::kernel::{Dims, FLOATS, Io, Kernel, Real, Step, grid, reads, twin, writes};
use crate::ops::variants::portable;
use crate::plan::{Phase, Plan, View};

/// Copies `x` (N) to `out` (N).
pub const FORWARD: Kernel = Kernel {
    name: "cast_forward",
    args: &[reads("x"), writes("out").takes(FLOATS)],
    twin: twin!(forward),
    cpu: None,
    flops: |_| 0,
    tolerance: Kernel::TOLERANCE,
    variants: portable!("cast_forward", [], grid::elements),
};

impl Graph {
    /// Records the copies of all parameters that matrix products read in mixed precision.
    pub fn record_cast(&mut self) {
        let copies = self.copies();
        if copies.is_empty() {
            return;
        }
        let start = self.plan.dispatches.len();
        for (params, copy) in copies {
            record(&mut self.plan, params, copy);
        }
        self.plan.end_phase(Phase::Cast, start);
    }
}

/// Records the copy of `x` to `out`, which has the same length.
pub fn record(plan: &mut Plan, x: View, out: View) {
    let dims = Dims { N: x.len as u32, ..Dims::default() };
    plan.push(&FORWARD, dims, &[x, out]);
}

fn forward<F: Real>(_: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x], [out]) = io.reals();
    out.copy_from_slice(x);
}
