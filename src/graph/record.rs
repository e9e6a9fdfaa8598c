//! An op of the list, and the recorder of its backward pass.

use std::collections::HashSet;

use super::var::Var;
use crate::kernel::Accumulate;
use crate::plan::{Plan, View};

/// One node of the graph.
pub trait Op {
    /// Records the kernels that compute the outputs.
    fn forward(&self, plan: &mut Plan);

    /// Records the kernels that turn the outputs' gradients into those of the inputs and the parameters.
    fn backward(&self, recorder: &mut Recorder<'_>);
}

/// Records the backward pass, and tracks which gradients have been written in it.
pub struct Recorder<'a> {
    /// The plan that receives the dispatches.
    pub plan: &'a mut Plan,
    written: HashSet<View>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(plan: &'a mut Plan) -> Recorder<'a> {
        Recorder { plan, written: HashSet::new() }
    }

    /// Returns [`Dims::ACC`](crate::kernel::Dims::ACC) of the next contribution to an activation's gradient.
    pub fn contribution(&mut self, grad: View) -> u32 {
        let first = self.written.insert(grad);
        (if first { Accumulate::Set } else { Accumulate::Add }) as u32
    }

    /// Returns [`Dims::ACC`](crate::kernel::Dims::ACC) of the next contribution to the gradients of those of `params`
    /// that are trained, which accumulate over the micro-batches of an update; `None` if none of them is trained.
    ///
    /// # Panics
    ///
    /// If only some of the gradients have been written: one dispatch treats all of them in the same way.
    pub fn parameters(&mut self, params: &[Var]) -> Option<u32> {
        let grads: Vec<View> = params.iter().filter(|p| p.has_grad()).map(|p| p.grad).collect();
        let first = grads.iter().filter(|grad| self.written.insert(**grad)).count();
        assert!(first == 0 || first == grads.len(), "one kernel's parameters are written together");
        let acc = if first > 0 { Accumulate::SetFirst } else { Accumulate::Add };
        (!grads.is_empty()).then_some(acc as u32)
    }
}
