//! Activations that are recomputed in the backward pass instead of being kept (Chen et al. 2016,
//! <https://arxiv.org/abs/1604.06174>), so that layers share their buffers.

use std::rc::Rc;

use crate::arch::Norm;
use crate::config;
use crate::graph::{Graph, Op, Recorder, Var};
use crate::plan::Plan;

/// Runs the forward pass of some ops again when the backward pass reaches it.
///
/// In the list it comes after the ops that read their outputs: in the forward pass it does nothing, and
/// in the backward pass it comes before those readers.
pub struct Recompute(pub Vec<Rc<dyn Op>>);

impl Graph {
    /// Starts a block of the model, which begins with the normalisation `norm` of `stream`.
    ///
    /// Activations of the ops that are added until [`Graph::end_block`] may be recomputed.
    pub fn begin_block(&mut self, kind: Norm, norm: &str, stream: Var) {
        let mut again: Vec<Rc<dyn Op>> = vec![];
        if self.recompute() == config::Recompute::Block {
            again.push(self.normalization(kind, norm, stream));
        }
        self.open_block(again);
    }

    /// Ends a block before the op that reads its last activation; returns the op that recomputes the block's
    /// activations, to be pushed after that reader, unless they are still in memory.
    ///
    /// # Panics
    ///
    /// If no block was started.
    pub fn end_block(&mut self) -> Recompute {
        Recompute(self.close_block())
    }
}

impl Op for Recompute {
    fn forward(&self, _: &mut Plan) {}

    fn backward(&self, recorder: &mut Recorder<'_>) {
        self.0.iter().for_each(|op| op.forward(recorder.plan));
    }
}
