//! Activations that are found again in the backward pass instead of being kept (Chen et al. 2016,
//! <https://arxiv.org/abs/1604.06174>), so that layers share their buffers.

use std::rc::Rc;

use crate::config;
use crate::graph::{Graph, Op, Recorder, Var};
use crate::plan::Plan;

/// Runs ops forwards once more when the backward pass comes here.
///
/// It stands in the list after what reads their outputs: there is nothing to do forwards, and
/// backwards it comes first.
pub struct Recompute(pub Vec<Rc<dyn Op>>);

impl Graph {
    /// Starts a block of the model, which begins with the layer normalisation `norm` of `stream`.
    ///
    /// What is built until [`Graph::end_block`] is where activations may be computed again.
    pub fn begin_block(&mut self, norm: &str, stream: Var) {
        let mut again: Vec<Rc<dyn Op>> = vec![];
        if self.recompute() == config::Recompute::Block {
            again.push(Rc::new(self.norm(norm, stream)));
        }
        self.open_block(again);
    }

    /// Ends a block before the op that reads its last activation; returns what computes its activations
    /// again, to be pushed after that op, unless they are still there.
    ///
    /// # Panics
    ///
    /// If no block was begun.
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
