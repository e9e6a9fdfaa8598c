//! A value of the graph and its gradient.

use crate::plan::View;

/// How the output of an op belongs to the residual stream, whose values share one gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// The stream begins with it.
    Begins,
    /// It is added to the stream, so that no backward pass reads it.
    Stream,
    /// Only a dropout reads it, whose output begins the stream or is added to it: it has a gradient of its own, and no
    /// backward pass reads it.
    Dropout,
    /// It has a gradient of its own.
    Nothing,
}

/// A value and its gradient, of one shape.
///
/// Without a backward pass, and where nothing that a value depends on is trained, the gradient is the
/// value's own view and is not used.
#[derive(Clone, Copy, Debug)]
pub struct Var {
    /// The view of the value.
    pub value: View,
    /// The view of its gradient.
    pub grad: View,
}

impl Var {
    /// Creates a value without a gradient.
    pub(crate) fn constant(value: View) -> Var {
        Var { value, grad: value }
    }

    /// Returns the `len` elements from `start` of the value, and those of the gradient.
    pub(crate) fn slice(self, start: usize, len: usize) -> Var {
        Var { value: self.value.slice(start, len), grad: self.grad.slice(start, len) }
    }

    /// Whether the backward pass computes a gradient.
    pub fn has_grad(self) -> bool {
        self.grad != self.value
    }
}

/// Whether any of these values has a gradient, so that a value computed from them has one too.
pub fn any_grad(from: &[Var]) -> bool {
    from.iter().any(|var| var.has_grad())
}
