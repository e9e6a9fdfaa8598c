//! The normalisation of the residual stream, of the kind that a family has.

use std::rc::Rc;

use crate::arch::Norm;
use crate::graph::{Graph, Op, Var};

impl Graph {
    /// Adds the normalisation of `x` (B,T,C), a value of the residual stream.
    pub fn normalize(&mut self, kind: Norm, name: &str, x: Var) -> Var {
        match kind {
            Norm::Layer => self.layernorm(name, x),
            Norm::RootMeanSquare => self.rmsnorm(name, x),
        }
    }

    /// Adds `branch` to the stream; returns the sum and its normalisation.
    pub fn residual_normalize(
        &mut self,
        kind: Norm,
        name: &str,
        stream: Var,
        branch: Var,
    ) -> (Var, Var) {
        match kind {
            Norm::Layer => self.residual_layernorm(name, stream, branch),
            Norm::RootMeanSquare => self.residual_rmsnorm(name, stream, branch),
        }
    }

    /// Creates the normalisation of `x` (B,T,C), a value of the residual stream, without adding it to the list.
    pub(crate) fn normalization(&mut self, kind: Norm, name: &str, x: Var) -> Rc<dyn Op> {
        match kind {
            Norm::Layer => Rc::new(self.norm(name, x)),
            Norm::RootMeanSquare => Rc::new(self.rms(name, x)),
        }
    }
}
