//! The memory of activations, their gradients and caches, and the buffers that layers share.

use super::var::Var;
use super::{Graph, Mode};
use crate::config::Recompute;
use crate::kernel::Format;
use crate::plan::{Role, View};

/// Which activation buffers layers share in training; in every other mode they share all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Never needed by the backward pass, or always recomputed by it.
    Always,
    /// Shared within blocks that are recomputed.
    InBlocks,
    /// Recomputed together with a block, even if they are made outside of it.
    WithBlocks,
    /// Shared by micro-batches in flight, whether blocks are recomputed or not: the backward pass never reads them.
    /// Layers share them as with [`Sharing::InBlocks`].
    OfFlights,
}

impl Graph {
    /// Returns a buffer of the list that is being built; creates it at its first use.
    pub fn buffer(&mut self, role: Role, name: &str, len: usize, format: Format) -> View {
        // A part of a model may be called as something else is, the last normalisation `norm` for example.
        let key = (role, name.to_owned());
        if let Some(view) = self.buffers.get(&key) {
            return view.slice(0, len);
        }
        let view = self.place(role, name, len, format);
        self.buffers.insert(key, view);
        view
    }

    /// Returns a buffer of activations, which either all layers share or each layer has for itself, in each of the
    /// micro-batches in flight.
    pub(crate) fn activations(
        &mut self,
        name: &str,
        len: usize,
        format: Format,
        sharing: Sharing,
    ) -> View {
        let shared = match sharing {
            Sharing::Always => true,
            _ if self.mode != Mode::Training => true,
            Sharing::InBlocks | Sharing::OfFlights => {
                self.recompute == Recompute::Block && self.block.is_some()
            }
            Sharing::WithBlocks => self.recompute == Recompute::Block,
        };
        let name = match (shared, sharing) {
            (true, _) => name.to_owned(),
            (false, Sharing::OfFlights) => self.full_name(name),
            (false, _) => self.name_in_flight(&self.full_name(name)),
        };
        self.buffer(Role::Activations, &name, len, format)
    }

    /// Collects the memory that training does not use between two updates: whole activations, and gradients.
    pub(super) fn collect_spare(&mut self) {
        let activations = self.plan.buffers.iter().enumerate();
        let activations = activations.filter(|(_, spec)| spec.role == Role::Activations);
        let whole = activations.map(|(buffer, spec)| View {
            buffer,
            start: 0,
            len: spec.len,
            format: spec.format,
        });
        self.spare = whole.collect();
        self.spare.sort_by_key(|view| std::cmp::Reverse(view.len));
        let params = self.params.iter().flat_map(|param| &param.slices).map(|s| s.var);
        self.spare_gradients = params.filter(|var| var.has_grad()).map(|var| var.grad).collect();
        self.spare_gradients.sort_by_key(|view| std::cmp::Reverse(view.len));
    }

    /// Returns the keys and values of all slots for the attention called `name`, `len` numbers.
    ///
    /// Together with training, they lie in gradients, which are in single precision.
    pub(crate) fn cache(&mut self, name: &str, len: usize) -> View {
        let format = if self.spare_gradients.is_empty() { self.format() } else { Format::F32 };
        let name = format!("{}.cache", self.full_name(name));
        self.buffer(Role::Cache, &name, len, format)
    }

    /// Returns the smallest spare view that is large enough, or a new buffer.
    ///
    /// Caches go into gradients and activations into whole buffers of activations, so that no kernel both
    /// reads and writes the same buffer.
    fn place(&mut self, role: Role, name: &str, len: usize, format: Format) -> View {
        let fits = |view: &View| view.len >= len && view.format == format;
        if role == Role::Cache
            && let Some(i) = self.spare_gradients.iter().rposition(fits)
        {
            let whole = self.spare_gradients.remove(i);
            let used = len.next_multiple_of(self.slice_rows()).min(whole.len);
            if used < whole.len {
                self.spare_gradients.push(whole.slice(used, whole.len - used));
                self.spare_gradients.sort_by_key(|view| std::cmp::Reverse(view.len));
            }
            return whole.slice(0, len);
        }
        match self.spare.iter().rposition(fits) {
            Some(i) if role == Role::Activations => self.spare.remove(i).slice(0, len),
            _ => self.plan.buffer(role, name, len, format),
        }
    }

    /// Creates an activation with its gradient, if it has one; layers share the gradient of the same name, since
    /// only one layer is processed at a time.
    pub(crate) fn var(&mut self, name: &str, value: View, format: Format, has_grad: bool) -> Var {
        if !has_grad {
            return Var::constant(value);
        }
        let name = format!("{name}.grad");
        Var { value, grad: self.buffer(Role::Activations, &name, value.len, format) }
    }

    /// Creates an activation (B,T,channels) with a gradient of the same name, both in the graph's precision.
    pub fn activation(&mut self, name: &str, channels: usize) -> Var {
        self.activation_of(name, channels, Sharing::InBlocks, self.trains())
    }

    pub(crate) fn activation_of(
        &mut self,
        name: &str,
        channels: usize,
        sharing: Sharing,
        has_grad: bool,
    ) -> Var {
        let value = self.activations(name, self.rows() * channels, self.format(), sharing);
        self.var(name, value, value.format, has_grad)
    }

    /// Creates an activation of the residual stream (B,T,C): all of them share one gradient.
    pub fn stream(&mut self, name: &str, channels: usize) -> Var {
        self.stream_of(name, channels, Sharing::InBlocks, self.trains())
    }

    pub(crate) fn stream_of(
        &mut self,
        name: &str,
        channels: usize,
        sharing: Sharing,
        has_grad: bool,
    ) -> Var {
        let len = self.rows() * channels;
        let value = self.activations(name, len, Format::F32, sharing);
        self.var("stream", value, Format::F32, has_grad)
    }

    /// Creates a branch that joins the residual stream (B,T,C): its gradient is the stream's, and no backward pass
    /// reads its value.
    pub(crate) fn branch(
        &mut self,
        name: &str,
        channels: usize,
        format: Format,
        has_grad: bool,
    ) -> Var {
        let len = self.rows() * channels;
        let value = self.activations(name, len, format, Sharing::Always);
        self.var("stream", value, Format::F32, has_grad)
    }

    /// Creates an activation of any length that no op writes: an input.
    pub fn input(&mut self, name: &str, len: usize) -> Var {
        let value = self.buffer(Role::Activations, name, len, Format::F32);
        self.var(name, value, Format::F32, self.trains())
    }
}
