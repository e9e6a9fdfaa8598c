//! Parameters: their places in arenas, with gradients, moments and copies in the same layout.

use std::ops::Deref;

use super::Graph;
use super::var::Var;
use crate::config::{Precision, WeightFormat};
use crate::kernel::Format;
use crate::params::{Init, ParamInfo, ParamRole, WeightLayout};
use crate::plan::{Role, View};

/// A slice of a table's rows.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// Its first row.
    pub start: usize,
    /// The number of its rows.
    pub rows: usize,
    /// The rows.
    pub var: Var,
}

/// A parameter: its description and its place.
#[derive(Clone, Debug)]
pub struct Param {
    /// Name, shape, role and initial values.
    pub info: ParamInfo,
    /// The rows; more than one slice where the whole is larger than a device can bind.
    pub slices: Vec<Slice>,
    /// Whether it is stored as (columns, rows): where numbers are packed, they are along the sums of products.
    pub is_transposed: bool,
}

impl Param {
    /// Whether it has a gradient and is updated: in training, unless it is frozen.
    pub fn is_trained(&self) -> bool {
        self.slices.iter().all(|slice| slice.var.has_grad())
    }
}

impl Deref for Param {
    type Target = ParamInfo;

    fn deref(&self) -> &ParamInfo {
        &self.info
    }
}

/// A parameter that an op requests, by its name within the block that is being built.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// For example `attn.c_attn.weight`.
    pub name: &'a str,
    /// For example (C,3C).
    pub shape: &'a [usize],
    /// Its purpose.
    pub role: ParamRole,
    /// Its initial values.
    pub init: Init,
}

/// One slice of the parameters with everything that an update needs.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Parameters, in single precision where they are updated.
    pub params: View,
    /// Gradients.
    pub grads: View,
    /// First and second moments, for Adam.
    pub moments: Option<[View; 2]>,
    /// The copy that every rank has, where this rank alone has these parameters in single precision.
    pub copy: Option<View>,
    /// Whether weight decay applies to the slice: it holds two-dimensional parameters.
    pub decays: bool,
}

impl Slot {
    /// Returns where the model has these parameters.
    pub fn place(&self) -> View {
        self.copy.unwrap_or(self.params)
    }
}

/// One buffer of parameters, with buffers of the same layout for gradients and moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arena {
    /// In single precision, unless ranks split that, or adapters are trained above it: then the copy for products is here.
    params: usize,
    /// `None` if the parameters are not trained.
    grads: Option<usize>,
    moments: Option<[usize; 2]>,
    /// The copy that products read in mixed precision.
    copy: Option<usize>,
    decays: bool,
    /// That of `params`, if it is not chosen by the precision.
    stored: Option<Format>,
}

/// What parameters of an arena have in common.
#[derive(Clone, Copy)]
struct Kind {
    decays: bool,
    trained: bool,
    stored: Option<Format>,
}

impl Arena {
    fn is_of(&self, kind: Kind) -> bool {
        let Kind { decays, trained, stored } = kind;
        (self.decays, self.grads.is_some(), self.stored) == (decays, trained, stored)
    }
}

impl Graph {
    /// Returns a table (rows, channels), allocated at its first use, in slices of rows that the device can bind.
    ///
    /// # Panics
    ///
    /// If it was used before with a different shape.
    pub fn param(&mut self, wanted: Wanted<'_>) -> Vec<Slice> {
        let shape = wanted.shape;
        let width: usize = shape[1..].iter().product();
        let most = usize::try_from(self.limits.binding_bytes / 4).unwrap_or(usize::MAX) / width;
        let rows = self.slice_rows();
        let most = if most >= shape[0] { shape[0] } else { most / rows * rows };
        self.param_in_slices(wanted, None, most.max(rows.min(shape[0])))
    }

    /// Returns a parameter of one slice; [`crate::plan::Plan::exceeds`] tells if the device cannot bind it.
    pub(crate) fn whole(&mut self, wanted: Wanted<'_>) -> Var {
        self.param_in_slices(wanted, None, wanted.shape[0])[0].var
    }

    /// Returns a part of an adapter of the weight called `adapts`.
    pub(crate) fn adapter(&mut self, wanted: Wanted<'_>, adapts: String) -> Var {
        self.param_in_slices(wanted, Some(adapts), wanted.shape[0])[0].var
    }

    fn param_in_slices(
        &mut self,
        wanted: Wanted<'_>,
        adapts: Option<String>,
        most: usize,
    ) -> Vec<Slice> {
        let Wanted { shape, role, init, .. } = wanted;
        let (name, shape) = (self.full_name(wanted.name), shape.to_vec());
        if let Some(param) = self.params.iter().find(|p| p.name == name) {
            assert_eq!(param.shape, shape, "the shape of {name}");
            return param.slices.clone();
        }
        let width: usize = shape[1..].iter().product();
        let trained = self.trains() && self.finetune.trains(&name, role);
        let stored = self.stored_format(role, &shape);
        let kind = Kind { decays: role.decays(), trained, stored };
        let starts = (0..shape[0]).step_by(most);
        let slices = starts.map(|start| {
            let rows = most.min(shape[0] - start);
            Slice { start, rows, var: self.place_param(rows * width, kind) }
        });
        let slices: Vec<Slice> = slices.collect();
        let (layer, outer) = (self.layer(), name.len() - wanted.name.len());
        let info = ParamInfo { name, shape, role, layer, init, adapts, outer };
        let is_transposed =
            stored.is_some() && role == ParamRole::LinearWeight(WeightLayout::InOut);
        self.params.push(Param { info, slices: slices.clone(), is_transposed });
        slices
    }

    /// Returns the format of a parameter, if the graph chooses it: of a matrix that products sum over, where weights are packed.
    /// In mixed precision all matrices have a copy in the format of that, which is then kept alone.
    fn stored_format(&self, role: ParamRole, shape: &[usize]) -> Option<Format> {
        let summed = role.summed(shape)?;
        match self.weights {
            WeightFormat::F32 => None,
            WeightFormat::F16 if self.format() == Format::F16 => None,
            WeightFormat::F16 => Some(Format::F16),
            WeightFormat::Q8_0 if Format::Q8_0.is_whole(summed) => Some(Format::Q8_0),
            WeightFormat::Bf16 | WeightFormat::Q8_0 => Some(Format::BF16),
        }
    }

    /// Returns the layout in which the weight of a linear layer is stored.
    pub(crate) fn stored_layout(&self, layout: WeightLayout, shape: &[usize]) -> WeightLayout {
        match self.stored_format(ParamRole::LinearWeight(layout), shape) {
            Some(_) => WeightLayout::OutIn,
            None => layout,
        }
    }

    /// Returns a parameter as products read it: in mixed precision its copy, with the gradient of the parameter.
    pub(crate) fn operand(&self, param: Var) -> Var {
        let arena = self.arenas.iter().find(|arena| arena.params == param.value.buffer);
        match arena.and_then(|arena| arena.copy) {
            None => param,
            Some(copy) => {
                let value = View { format: self.format(), ..param.value.of(copy) };
                if param.has_grad() { Var { value, ..param } } else { Var::constant(value) }
            }
        }
    }

    /// Returns a table (rows, channels) as products read it.
    pub fn table(&mut self, wanted: Wanted<'_>) -> Vec<Slice> {
        let slices = self.param(wanted).into_iter();
        slices.map(|slice| Slice { var: self.operand(slice.var), ..slice }).collect()
    }

    /// Returns a place in the last arena of its kind, or in a new one if a buffer would become too large.
    fn place_param(&mut self, len: usize, kind: Kind) -> Var {
        // A copy has the same place as its parameter, which must also satisfy the copy's alignment.
        let room = match self.precision {
            Precision::F32 => len,
            Precision::Mixed => len.next_multiple_of(self.slice_rows()),
        };
        let fits = |arena: &Arena| {
            let end = self.plan.next_start(arena.params) + room;
            Format::F32.bytes(end) <= self.limits.buffer_bytes
        };
        let last = self.arenas.iter().rfind(|arena| arena.is_of(kind));
        let arena = match last {
            Some(arena) if fits(arena) => *arena,
            _ => self.open_arena(kind),
        };
        let value = self.plan.grow(arena.params, room).slice(0, len);
        let others = arena.moments.into_iter().flatten().chain(arena.copy).chain(arena.grads);
        others.for_each(|buffer| {
            self.plan.grow(buffer, room);
        });
        let grad = |grads| View { format: Format::F32, ..value.of(grads) };
        arena.grads.map_or(Var::constant(value), |grads| Var { value, grad: grad(grads) })
    }

    fn open_arena(&mut self, of: Kind) -> Arena {
        let Kind { decays, trained, stored } = of;
        let kind = if decays { "matrices" } else { "vectors" };
        let frozen = if self.trains() && !trained { "frozen." } else { "" };
        let number = self.arenas.iter().filter(|arena| arena.is_of(of)).count();
        let number = if number == 0 { String::new() } else { format!(".{number}") };
        // What is frozen below adapters is neither updated nor saved, and nothing but products and the embedding reads it.
        let below_adapters = self.trains() && self.finetune.lora.is_some();
        let only_halves = below_adapters || self.weights == WeightFormat::F16;
        let half = self.format();
        let mut open = |role, name, format| {
            self.plan.buffer(role, &format!("{name}.{frozen}{kind}{number}"), 0, format).buffer
        };
        let is_copied = decays && stored.is_none() && self.precision == Precision::Mixed;
        let is_half = is_copied && if trained { self.splits_weights } else { only_halves };
        let params = match stored {
            Some(format) => open(Role::Parameters, format.name, format),
            None if is_half => open(Role::Parameters, "halves", half),
            None => open(Role::Parameters, "params", Format::F32),
        };
        let grads = trained.then(|| open(Role::Gradients, "grads", Format::F32));
        let moments = (trained && self.with_moments)
            .then(|| ["adam.m", "adam.v"].map(|name| open(Role::Moments, name, Format::F32)));
        let copy = (is_copied && !is_half).then(|| open(Role::Parameters, "halves", half));
        let arena = Arena { params, grads, moments, copy, decays, stored };
        self.arenas.push(arena);
        arena
    }

    /// Returns the parameters of an arena in slices that fit one binding.
    fn bindable(&self, arena: &Arena) -> impl Iterator<Item = View> + use<> {
        let most = usize::try_from(self.limits.binding_bytes / 4).unwrap_or(usize::MAX);
        let rows = self.slice_rows();
        let most = (most / rows * rows).max(rows);
        let buffer = arena.params;
        let (end, format) = (self.plan.buffers[buffer].len, self.plan.buffers[buffer].format);
        let slice = move |start| {
            let len = most.min(end - start);
            View { buffer, start, len, format }
        };
        (0..end).step_by(most).map(slice)
    }

    /// Returns the trained parameters in slices that fit one binding, for the norm and the optimiser.
    pub fn slots(&self) -> Vec<Slot> {
        let of = |arena: &Arena| {
            let Arena { grads, moments, decays, .. } = *arena;
            let slot = move |params: View| {
                let beside = |buffer| View { format: Format::F32, ..params.of(buffer) };
                let moments = moments.map(|buffers| buffers.map(beside));
                Some(Slot { params, grads: beside(grads?), moments, copy: None, decays })
            };
            self.bindable(arena).filter_map(slot)
        };
        self.arenas.iter().flat_map(of).collect()
    }

    /// Returns every range of parameters that products read as a copy, with the copy.
    pub(crate) fn copies(&self) -> Vec<(View, View)> {
        let copied = self.arenas.iter().filter(|arena| arena.copy.is_some());
        let params = copied.flat_map(|arena| self.bindable(arena));
        params.map(|params| (params, self.operand(Var::constant(params)).value)).collect()
    }
}
