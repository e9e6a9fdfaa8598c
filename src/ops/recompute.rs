//! Activations that are found again in the backward pass instead of being kept (Chen et al. 2016,
//! <https://arxiv.org/abs/1604.06174>), so that layers share their buffers.

use std::rc::Rc;

use crate::graph::Recorder;
use crate::ops::Op;
use crate::plan::Plan;

/// Runs ops forwards once more when the backward pass comes here.
///
/// It stands in the list after what reads their outputs: there is nothing to do forwards, and
/// backwards it comes first.
pub struct Recompute(pub Vec<Rc<dyn Op>>);

impl Op for Recompute {
    fn forward(&self, _: &mut Plan) {}

    fn backward(&self, recorder: &mut Recorder<'_>) {
        self.0.iter().for_each(|op| op.forward(recorder.plan));
    }
}
