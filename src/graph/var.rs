//! A value of the graph and its gradient.

use crate::plan::View;

/// Whether what an op computes begins or joins the residual stream, whose values share one gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// It does.
    Stream,
    /// It has a gradient of its own.
    Nothing,
}

/// A value and its gradient, of one shape.
///
/// Without a backward pass, and where nothing that a value depends on is trained, the gradient is the
/// value's own view and is not used.
#[derive(Clone, Copy, Debug)]
pub struct Var {
    /// Where the value is.
    pub value: View,
    /// Where its gradient is.
    pub grad: View,
}

impl Var {
    /// A value without a gradient.
    pub(crate) fn constant(value: View) -> Var {
        Var { value, grad: value }
    }

    /// Whether the backward pass is to find a gradient.
    pub fn has_grad(self) -> bool {
        self.grad != self.value
    }
}

/// Whether any of these has a gradient, and so has what is computed from them.
pub fn any_grad(from: &[Var]) -> bool {
    from.iter().any(|var| var.has_grad())
}
