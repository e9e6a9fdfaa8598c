//! A few numbers of each tensor of a model, by which adapters recognise the model that they were trained on: the folder
//! that they name may hold another one by now, as a run's folder does after the run has gone on.

use std::collections::{BTreeMap, HashMap};

use super::tensor_file::coordinates;
use crate::arch::Schema;
use crate::error::{Error, Result};
use crate::params::ParamInfo;

/// The entry of a file's metadata that holds the sample.
pub(super) const ENTRY: &str = "wgpt.base";
/// The numbers of each tensor.
const NUMBERS: usize = 4;

/// Numbers at even distances in each tensor of a model, as bits, by the tensors' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseSample(BTreeMap<String, Vec<u32>>);

/// How close the numbers of two models are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closeness {
    /// They have the same bits.
    Bits,
    /// They may have been rounded to half precision or to bf16.
    Rounded,
}

impl Closeness {
    fn holds(self, a: f32, b: f32) -> bool {
        match self {
            Closeness::Bits => a.to_bits() == b.to_bits(),
            // Both formats round by at most 2⁻⁹ of a number, but half precision more coarsely below 2⁻¹⁴.
            Closeness::Rounded => (a - b).abs() <= a.abs().max(b.abs()) / 256.0 + 1e-7,
        }
    }
}

impl BaseSample {
    /// Takes a sample of tensors, given with their names and shapes; `read` reads numbers of one from an element on.
    ///
    /// # Errors
    ///
    /// As `read`.
    pub(super) fn of<'a>(
        tensors: impl Iterator<Item = (&'a str, &'a [usize])>,
        read: impl Fn(&str, usize, &mut [f32]) -> Result<()>,
    ) -> Result<BaseSample> {
        let of_tensor = |(name, shape): (&str, &[usize])| {
            let bits = elements(shape).map(|at| {
                let mut number = [0.0];
                read(name, at, &mut number).map(|()| number[0].to_bits())
            });
            Ok((name.to_owned(), bits.collect::<Result<_>>()?))
        };
        tensors.map(of_tensor).collect::<Result<_>>().map(BaseSample)
    }

    /// Reads a sample that [`BaseSample::to_json`] wrote.
    ///
    /// # Errors
    ///
    /// If the text is something else.
    pub(super) fn parse(text: &str) -> Result<BaseSample> {
        let parsed = serde_json::from_str(text).map(BaseSample);
        parsed.map_err(|e| Error::input(format!("{ENTRY} in the metadata: {e}")))
    }

    /// Returns the sample as text.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(&self.0).expect("names and numbers are JSON")
    }

    /// Returns, in words, the first difference of a model with the sample `now` from the model of this sample; `None` if
    /// their numbers are as close as asked for. The models have the parameters of `schema`.
    pub fn difference(
        &self,
        now: &BaseSample,
        close: Closeness,
        schema: &Schema,
    ) -> Option<String> {
        let shapes: HashMap<String, Vec<usize>> =
            schema.own().map(ParamInfo::named_shape).collect();
        for (name, was) in &self.0 {
            let (Some(is), Some(shape)) = (now.0.get(name), shapes.get(name)) else {
                return Some(format!("it has no {name}"));
            };
            let both = was.iter().zip(is).map(|(was, is)| [was, is].map(|x| f32::from_bits(*x)));
            let differs = both.zip(elements(shape)).find(|([a, b], _)| !close.holds(*a, *b));
            if let Some(([was, is], at)) = differs {
                let place = coordinates(at, shape);
                return Some(format!("{name} was {was} at {place:?}, and is {is}"));
            }
        }
        None
    }
}

/// Returns the elements of a tensor that are in a sample.
fn elements(shape: &[usize]) -> impl Iterator<Item = usize> {
    let len = shape.iter().product::<usize>();
    (0..NUMBERS.min(len)).map(move |i| i * (len / NUMBERS.min(len)))
}
