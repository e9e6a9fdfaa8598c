//! The parameters of an engine: initialised, written, read, copied.

use rayon::prelude::*;

use super::Engine;
use crate::error::Result;
use crate::finetune::{is_adapter, merge};
use crate::graph::Param;
use crate::ops::random;
use crate::plan::View;

/// What a moment's tensor is called beside its parameter's name, in saves of a training state.
pub const MOMENTS: [&str; 2] = ["adam.m", "adam.v"];

/// Which tensor of a parameter: the parameter itself, or one of Adam's moments.
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
    /// GPT-2's initialisation: normal with deviation 0.02, that of the projections into the residual
    /// stream divided by √(2 layers); biases 0, layer normalisation's weights 1.
    pub fn initialize(&mut self, seed: u64) {
        let residual = 0.02 / ((2 * self.program.config.n_layer) as f32).sqrt();
        let params = self.program.params.clone();
        let own = params.iter().filter(|param| !is_adapter(&param.name));
        for (index, param) in own.enumerate() {
            let deviation = match param.name.as_str() {
                name if name.ends_with("c_proj.weight") => residual,
                _ => 0.02,
            };
            let norm_weight = param.name.contains("ln_") && param.name.ends_with("weight");
            self.write_param(param, Tensor::Value, |start, out| {
                match (param.decays(), norm_weight) {
                    (true, _) => normals(seed, index as u32, start, deviation, out),
                    (false, true) => out.fill(1.0),
                    (false, false) => out.fill(0.0),
                }
                Ok(())
            })
            .expect("numbers are made without error");
        }
    }

    /// Adapters as PEFT begins: A uniform within 1 / √in, B zero, so that at first they change nothing.
    pub fn initialize_adapters(&mut self, seed: u64) {
        let params = self.program.params.clone();
        let adapters = params.iter().filter(|param| is_adapter(&param.name));
        for (index, param) in adapters.enumerate() {
            let bound = match param.name.ends_with("lora_A.weight") {
                true => 1.0 / (param.shape[1] as f64).sqrt(),
                false => 0.0,
            };
            let key = random::key(seed, u32::from_be_bytes(*b"lora"), index as u32);
            self.write_param(param, Tensor::Value, |start, out| {
                for (i, out) in out.iter_mut().enumerate() {
                    let [word, _] = random::threefry(key, [(start + i) as u32, 0]);
                    *out = (bound * (f64::from(word) * 2f64.powi(-31) - 1.0)) as f32;
                }
                Ok(())
            })
            .expect("numbers are made without error");
        }
    }

    /// The views of one tensor of a parameter, each with where it begins in the whole.
    fn views(&self, param: &Param, tensor: Tensor) -> Vec<(usize, View)> {
        let width = param.len() / param.shape[0];
        let place = |view: View| match tensor {
            Tensor::Value | Tensor::Gradient => view,
            Tensor::Moment(i) => {
                let slot = self.program.slots.iter().find(|slot| slot.params.buffer == view.buffer);
                view.of(slot.and_then(|slot| slot.moments).expect("Adam has moments")[i].buffer)
            }
        };
        let slices = param.slices.iter().map(|slice| {
            let var = slice.var;
            let view = if tensor == Tensor::Gradient { var.grad } else { place(var.value) };
            (slice.start * width, view)
        });
        slices.collect()
    }

    /// Fills a tensor in pieces: `fill(start, out)` gives the elements from `start` on.
    ///
    /// # Errors
    ///
    /// The first of `fill`.
    pub fn write_param(
        &mut self,
        param: &Param,
        tensor: Tensor,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        const PIECE: usize = 1 << 20;
        self.changed |= tensor == Tensor::Value;
        let mut piece = vec![];
        for (start, view) in self.views(param, tensor) {
            for at in (0..view.len).step_by(PIECE) {
                piece.resize(PIECE.min(view.len - at), 0.0);
                fill(start + at, &mut piece)?;
                self.backend.write(view.slice(at, piece.len()), &piece);
            }
        }
        Ok(())
    }

    /// Reads the elements of a tensor from `start` on.
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
        let end = start + out.len();
        for (first, view) in self.views(param, tensor) {
            let (from, to) = (start.max(first), end.min(first + view.len));
            if from < to {
                let part = view.slice(from - first, to - from);
                self.backend.read(part, &mut out[from - start..to - start])?;
            }
        }
        Ok(())
    }

    /// A tensor as a whole.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn param_data(&mut self, param: &Param, tensor: Tensor) -> Result<Vec<f32>> {
        let mut data = vec![0.0; param.len()];
        self.read_param(param, tensor, 0, &mut data)?;
        Ok(data)
    }

    /// Takes over the parameters of another engine of the same model, with its adapters merged into them.
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
        for param in params.iter().filter(|param| !is_adapter(&param.name)) {
            let theirs = other.program.param(&param.name).expect("the same model").clone();
            let adapter = other.adapter(&param.name)?;
            self.write_param(param, Tensor::Value, |start, out| {
                other.read_param(&theirs, Tensor::Value, start, out)?;
                if let Some((scale, [a, b])) = &adapter {
                    merge(*scale, [a, b], param.shape[1], start, out);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The scale, A and B of what adapts the weight called `name`, if something does.
    fn adapter(&mut self, name: &str) -> Result<Option<(f32, [Vec<f32>; 2])>> {
        let Some(lora) = self.program.finetune.lora.as_ref() else { return Ok(None) };
        let (scale, layer) = (lora.scale(), name.trim_end_matches(".weight"));
        let [a, b] = ["lora_A", "lora_B"]
            .map(|part| self.program.param(&format!("{layer}.{part}.weight")).cloned());
        let Some((a, b)) = a.zip(b) else { return Ok(None) };
        Ok(Some((
            scale,
            [self.param_data(&a, Tensor::Value)?, self.param_data(&b, Tensor::Value)?],
        )))
    }

    /// Whether adapters stand beside the model's own parameters.
    pub fn has_adapters(&self) -> bool {
        self.program.finetune.lora.is_some()
    }
}

/// Normal numbers by Box & Muller, number `start + i` of tensor `tensor` whatever the pieces.
fn normals(seed: u64, tensor: u32, start: usize, deviation: f32, out: &mut [f32]) {
    let key = random::key(seed, u32::from_be_bytes(*b"init"), tensor);
    out.par_iter_mut().enumerate().with_min_len(1 << 12).for_each(|(i, out)| {
        let [a, b] = random::threefry(key, [(start + i) as u32, ((start + i) >> 32) as u32]);
        let radius = (-2.0 * ((f64::from(a) + 1.0) * 2f64.powi(-32)).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(b) * 2f64.powi(-32);
        *out = deviation * (radius * angle.cos()) as f32;
    });
}
