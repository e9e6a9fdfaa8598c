//! An op of the list, and what records its backward pass.

use std::collections::HashSet;

use super::var::Var;
use crate::kernel::Accumulate;
use crate::plan::{Plan, View};

/// One node of the graph.
pub trait Op {
    /// Records the kernels that compute the outputs.
    fn forward(&self, plan: &mut Plan);

    /// Records the kernels that turn the outputs' gradients into the inputs' and the parameters'.
    fn backward(&self, recorder: &mut Recorder<'_>);
}

/// Records the backward pass, and knows which gradients have been written in it.
pub struct Recorder<'a> {
    /// Where dispatches go.
    pub plan: &'a mut Plan,
    written: HashSet<View>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(plan: &'a mut Plan) -> Recorder<'a> {
        Recorder { plan, written: HashSet::new() }
    }

    /// [`Dims::ACC`](crate::kernel::Dims::ACC) of the next contribution to an activation's gradient.
    pub fn contribution(&mut self, grad: View) -> u32 {
        let first = self.written.insert(grad);
        (if first { Accumulate::Set } else { Accumulate::Add }) as u32
    }

    /// [`Dims::ACC`](crate::kernel::Dims::ACC) of the next contribution to the gradients of those parameters that are trained, which
    /// live on over the micro-batches of an update; `None` if none is.
    ///
    /// # Panics
    ///
    /// If only some of the gradients have been written: one dispatch treats all of them alike.
    pub fn parameters(&mut self, params: &[Var]) -> Option<u32> {
        let grads: Vec<View> = params.iter().filter(|p| p.has_grad()).map(|p| p.grad).collect();
        let first = grads.iter().filter(|grad| self.written.insert(**grad)).count();
        assert!(first == 0 || first == grads.len(), "one kernel's parameters are written together");
        let acc = if first > 0 { Accumulate::SetFirst } else { Accumulate::Add };
        (!grads.is_empty()).then_some(acc as u32)
    }
}
