//! The parameters of an engine: initialisation, writing, reading, copying.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rayon::prelude::*;

use super::Engine;
use crate::backend::Given;
use crate::error::Result;
use crate::finetune::{Lora, merge};
use crate::graph::{Param, Slot, Var};
use crate::kernel::Format;
use crate::model::{Program, schema};
use crate::ops::random;
use crate::params::{Init, ParamInfo, ParamRole};
use crate::plan::View;

/// The prefixes of the moments' names in a saved training state; the parameter's name follows.
pub const MOMENTS: [&str; 2] = ["adam.m", "adam.v"];

/// One of a parameter's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensor {
    /// The parameter.
    Value,
    /// The parameter's gradient.
    Gradient,
    /// The first (0) or second (1) moment.
    Moment(usize),
}

impl Engine {
    /// Sets the model's own parameters to their initial values.
    pub fn initialize(&mut self, seed: u64) {
        self.initialize_those(seed, b"init", |param| !param.role.is_adapter());
    }

    /// Sets adapters to their initial values.
    pub fn initialize_adapters(&mut self, seed: u64) {
        self.initialize_those(seed, b"lora", |param| param.role.is_adapter());
    }

    /// Sets some parameters to numbers that depend on their place in the whole model, of which a stage has a part.
    fn initialize_those(&mut self, seed: u64, what: &[u8; 4], which: impl Fn(&ParamInfo) -> bool) {
        let all = schema(&self.program.config, &self.program.finetune).parameters;
        for (index, info) in all.iter().filter(|info| which(info)).enumerate() {
            let Some(param) = self.program.param(&info.name).cloned() else { continue };
            let key = random::key(seed, u32::from_be_bytes(*what), index as u32);
            let fill = |start, out: &mut [f32]| {
                match param.init {
                    Init::Constant(x) => out.fill(x),
                    Init::Normal(deviation) => normals(key, start, deviation, out),
                    Init::Uniform(bound) => uniforms(key, start, bound, out),
                }
                Ok(())
            };
            self.write_param(&param, Tensor::Value, fill).expect("numbers are made without error");
        }
    }

    /// Returns the views of one tensor of a parameter, each with its start in the whole tensor. Of what ranks split, only the
    /// part of this rank is there.
    fn views(&self, param: &Param, tensor: Tensor) -> Vec<(usize, View)> {
        let slices = slices(param);
        match tensor {
            Tensor::Value => slices.flat_map(|(start, var)| self.values(start, var)).collect(),
            Tensor::Gradient => slices.map(|(start, var)| (start, var.grad)).collect(),
            Tensor::Moment(i) => {
                let moment = |slot: &Slot| slot.moments.map(|moments| moments[i]);
                slices.flat_map(|(start, var)| self.own(start, var.value, &moment)).collect()
            }
        }
    }

    /// Returns where a slice of a parameter, which begins at `start` in its tensor, is in single precision.
    fn values(&self, start: usize, var: Var) -> Vec<(usize, View)> {
        match var.value.format == Format::F32 {
            true => vec![(start, var.value)],
            false => self.own(start, var.value, &|slot| Some(slot.params)),
        }
    }

    /// Returns what this rank has for the parameters in `values`, which begin at `start` in their tensor: for each slot the
    /// part of what `which` names.
    fn own(
        &self,
        start: usize,
        values: View,
        which: &impl Fn(&Slot) -> Option<View>,
    ) -> Vec<(usize, View)> {
        let of = |slot: &Slot| {
            let place = slot.place();
            let both =
                values.range().start.max(place.start)..values.range().end.min(place.range().end);
            if place.buffer != values.buffer || both.is_empty() {
                return None;
            }
            let view = which(slot)?.slice(both.start - place.start, both.len());
            Some((start + both.start - values.start, view))
        };
        self.program.slots.iter().filter_map(of).collect()
    }

    /// Returns the views of one tensor of a parameter with those of its copy first, which every rank has, too, where ranks
    /// split the parameter.
    fn views_and_copies(&self, param: &Param, tensor: Tensor) -> Vec<(usize, View)> {
        let is_copy = |view: &View| tensor == Tensor::Value && view.format != Format::F32;
        let copies = slices(param).map(|(start, var)| (start, var.value));
        let copies = copies.filter(|(_, view)| is_copy(view));
        copies.chain(self.views(param, tensor)).collect()
    }

    /// Fills a tensor in pieces: `fill(start, out)` gives the elements from `start` on, once, or twice where ranks split the
    /// parameter. On a CPU they are written directly in place.
    ///
    /// # Errors
    ///
    /// The first error of `fill`.
    pub fn write_param(
        &mut self,
        param: &Param,
        tensor: Tensor,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        self.changed |= tensor == Tensor::Value;
        if param.is_transposed {
            return self.write_transposed(param, fill);
        }
        for (start, view) in self.views_and_copies(param, tensor) {
            self.backend.fill(view, &mut |at, out| fill(start + at, out))?;
        }
        Ok(())
    }

    /// Fills a matrix that is stored the other way round; it is in memory as a whole until then.
    fn write_transposed(
        &mut self,
        param: &Param,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let mut whole = vec![0.0; param.len()];
        fill(0, &mut whole)?;
        let turned = transposed(&whole, param.shape[1]);
        self.backend.fill(param.slices[0].var.value, &mut |start, out| {
            out.copy_from_slice(&turned[start..][..out.len()]);
            Ok(())
        })
    }

    /// Reads the elements from `start` on of a matrix that is stored the other way round.
    fn read_transposed(&mut self, param: &Param, start: usize, out: &mut [f32]) -> Result<()> {
        let mut whole = vec![0.0; param.len()];
        self.backend.read(param.slices[0].var.value, &mut whole)?;
        out.copy_from_slice(&transposed(&whole, param.shape[0])[start..][..out.len()]);
        Ok(())
    }

    /// Overwrites the elements of a tensor from `start` on, as far as this rank has them.
    ///
    /// # Panics
    ///
    /// If the tensor ends before `numbers` do.
    pub fn write_elements(&mut self, param: &Param, tensor: Tensor, start: usize, numbers: &[f32]) {
        assert!(
            start + numbers.len() <= param.len(),
            "{} has {} elements",
            param.name,
            param.len()
        );
        assert!(!param.is_transposed, "{} is stored the other way round", param.name);
        self.changed |= tensor == Tensor::Value;
        let end = start + numbers.len();
        for (first, view) in self.views_and_copies(param, tensor) {
            let (from, to) = (start.max(first), end.min(first + view.len));
            if from < to {
                let part = view.slice(from - first, to - from);
                self.backend.write(part, &numbers[from - start..to - start]);
            }
        }
    }

    /// Reads the elements of a tensor from `start` on; those that this rank does not have are left as they are in `out`, but for
    /// parameters, of which it then reads the copy for products.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the tensor ends before `out` does.
    pub fn read_param(
        &mut self,
        param: &Param,
        tensor: Tensor,
        start: usize,
        out: &mut [f32],
    ) -> Result<()> {
        assert!(start + out.len() <= param.len(), "{} has {} elements", param.name, param.len());
        if param.is_transposed && tensor == Tensor::Value {
            return self.read_transposed(param, start, out);
        }
        let end = start + out.len();
        for (first, view) in self.views_and_copies(param, tensor) {
            let (from, to) = (start.max(first), end.min(first + view.len));
            if from < to {
                let part = view.slice(from - first, to - from);
                self.backend.read(part, &mut out[from - start..to - start])?;
            }
        }
        Ok(())
    }

    /// Returns which of some elements of a tensor this rank has.
    pub fn parts(
        &self,
        param: &Param,
        tensor: Tensor,
        elements: Range<usize>,
    ) -> Vec<Range<usize>> {
        let both = |(first, view): (usize, View)| {
            first.max(elements.start)..(first + view.len).min(elements.end)
        };
        let parts = self.views(param, tensor).into_iter().map(both);
        parts.filter(|part| !part.is_empty()).collect()
    }

    /// Whether this rank has all of a tensor.
    pub fn has_whole(&self, param: &Param, tensor: Tensor) -> bool {
        let parts = self.parts(param, tensor, 0..param.len());
        parts.iter().map(Range::len).sum::<usize>() == param.len()
    }

    /// Returns a whole tensor.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn param_data(&mut self, param: &Param, tensor: Tensor) -> Result<Vec<f32>> {
        let mut data = vec![0.0; param.len()];
        self.read_param(param, tensor, 0, &mut data)?;
        Ok(data)
    }

    /// Returns an engine for another program of the same model and device, with the parameters of `old`, its adapters
    /// merged into them.
    ///
    /// If both programs lay the parameters out in the same way, as they do unless a part is frozen or adapted, the
    /// buffers themselves move to the new engine: nothing is copied, and no memory is taken twice. `old` must then not
    /// be used any more. Otherwise the parameters are copied piece by piece. On an error, `old` is unchanged.
    ///
    /// # Errors
    ///
    /// If the device cannot hold the program beside `old`, or is lost.
    ///
    /// # Panics
    ///
    /// If the models differ.
    pub fn with_params_of(old: &mut Engine, program: Program) -> Result<Engine> {
        let device = old.device.clone();
        let Some(pairs) = same_arenas(&old.program, &program) else {
            let mut engine = Engine::with(program, &device)?;
            engine.copy_from(old)?;
            return Ok(engine);
        };
        device.check(&program.plan)?;
        let give = |(from, to)| Given { buffer: to, memory: old.backend.give_up(from) };
        Engine::with_buffers(program, &device, pairs.into_iter().map(give).collect())
    }

    /// Copies the parameters of another engine of the same model piece by piece, with its adapters merged into them.
    ///
    /// # Errors
    ///
    /// If a device is lost.
    ///
    /// # Panics
    ///
    /// If the models differ.
    pub fn copy_from(&mut self, other: &mut Engine) -> Result<()> {
        let params = self.program.params.clone();
        for param in params.iter().filter(|param| !param.role.is_adapter()) {
            let theirs = other.program.param(&param.name).expect("the same model").clone();
            let adapter = other.adapter(&param.name)?;
            self.write_param(param, Tensor::Value, |start, out| {
                other.read_param(&theirs, Tensor::Value, start, out)?;
                if let Some((lora, [a, b])) = &adapter
                    && let ParamRole::LinearWeight(layout) = param.role
                {
                    merge(lora.scale(), lora.rank, [a, b], layout, start, out);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Returns the settings, A and B of the adapter of the weight called `name`, if it has one.
    fn adapter(&mut self, name: &str) -> Result<Option<(Lora, [Vec<f32>; 2])>> {
        let Some(lora) = self.program.finetune.lora.clone() else { return Ok(None) };
        let part = |role| {
            let is_it = |p: &&Param| p.role == role && p.adapts.as_deref() == Some(name);
            self.program.params.iter().find(is_it).cloned()
        };
        let (a, b) = (part(ParamRole::LoraA), part(ParamRole::LoraB));
        let Some((a, b)) = a.zip(b) else { return Ok(None) };
        Ok(Some((lora, [self.param_data(&a, Tensor::Value)?, self.param_data(&b, Tensor::Value)?])))
    }

    /// Returns whether the engine has adapters beside the model's own parameters.
    pub fn has_adapters(&self) -> bool {
        self.program.finetune.lora.is_some()
    }
}

/// Returns a matrix with its rows, of `width` elements, as columns; some columns at a time, so that whole cache lines are read.
fn transposed(matrix: &[f32], width: usize) -> Vec<f32> {
    const COLUMNS: usize = 16;
    let height = matrix.len() / width;
    let mut turned = vec![0.0; matrix.len()];
    turned.par_chunks_mut(COLUMNS * height).enumerate().for_each(|(i, out)| {
        for (row, numbers) in matrix.chunks_exact(width).enumerate() {
            let columns = &numbers[i * COLUMNS..];
            for (out, x) in out.chunks_exact_mut(height).zip(columns) {
                out[row] = *x;
            }
        }
    });
    turned
}

/// The slices of a parameter, each with the number of its first element.
fn slices(param: &Param) -> impl Iterator<Item = (usize, Var)> {
    let width = param.len() / param.shape[0];
    param.slices.iter().map(move |slice| (slice.start * width, slice.var))
}

/// Maps each buffer that holds parameters of one program to the buffer that holds the same parameters of another;
/// `None` if the programs lay them out differently.
fn same_arenas(from: &Program, to: &Program) -> Option<BTreeMap<usize, usize>> {
    if from.splits_weights() || to.splits_weights() {
        return None;
    }
    let mut pairs = BTreeMap::new();
    let alike = from.params.iter().zip(to.params.iter()).all(|(a, b)| {
        let same = (&a.name, &a.shape, a.slices.len()) == (&b.name, &b.shape, b.slices.len())
            && a.is_transposed == b.is_transposed;
        same && a.slices.iter().zip(&b.slices).all(|(a, b)| {
            let (from, to) = (a.var.value, b.var.value);
            let place = |view: View| View { buffer: 0, ..view };
            *pairs.entry(from.buffer).or_insert(to.buffer) == to.buffer && place(from) == place(to)
        })
    });
    let len = |program: &Program, buffer: usize| program.plan.buffers[buffer].len;
    let targets: BTreeSet<_> = pairs.values().collect();
    let whole = pairs.iter().all(|(&a, &b)| len(from, a) == len(to, b));
    (alike && from.params.len() == to.params.len() && targets.len() == pairs.len() && whole)
        .then_some(pairs)
}

/// Fills `out` with normal numbers by Box & Muller: numbers `start + i` of a key's sequence, which is the same for any
/// split into pieces.
fn normals(key: [u32; 2], start: usize, deviation: f32, out: &mut [f32]) {
    out.par_iter_mut().enumerate().with_min_len(1 << 12).for_each(|(i, out)| {
        let [a, b] = random::threefry(key, [(start + i) as u32, ((start + i) as u64 >> 32) as u32]);
        let radius = (-2.0 * ((f64::from(a) + 1.0) * 2f64.powi(-32)).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(b) * 2f64.powi(-32);
        *out = deviation * (radius * angle.cos()) as f32;
    });
}

/// Fills `out` with uniform numbers within `bound`: numbers `start + i` of a key's sequence.
fn uniforms(key: [u32; 2], start: usize, bound: f64, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let [word, _] = random::threefry(key, [(start + i) as u32, 0]);
        *out = (bound * (f64::from(word) * 2f64.powi(-31) - 1.0)) as f32;
    }
}
