//! A few numbers of each tensor of a model, by which adapters recognise the model that they were trained on: the folder
//! that they name may hold another one by now, as a run's folder does after the run has gone on.

use std::collections::BTreeMap;

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
        let mut sample = BTreeMap::new();
        for (name, shape) in tensors {
            let bits = elements(shape).map(|at| {
                let mut number = [0.0];
                read(name, at, &mut number).map(|()| number[0].to_bits())
            });
            sample.insert(name.to_owned(), bits.collect::<Result<_>>()?);
        }
        Ok(BaseSample(sample))
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
        schema.own().map(ParamInfo::named_shape).find_map(|(name, shape)| {
            let count = elements(&shape).count();
            let numbers = |sample: &BaseSample| match sample.0.get(&name) {
                Some(bits) if bits.len() == count => Some(bits.clone()),
                _ => None,
            };
            let (Some(was), Some(is)) = (numbers(self), numbers(now)) else {
                return Some(format!("it had another {name}"));
            };
            let both = was.iter().zip(is).map(|(was, is)| [*was, is].map(f32::from_bits));
            let mut placed = both.zip(elements(&shape));
            let ([was, is], at) = placed.find(|([a, b], _)| !close.holds(*a, *b))?;
            Some(format!("{name} was {was} at {:?}, and is {is}", coordinates(at, &shape)))
        })
    }
}

/// Returns the elements of a tensor that are in a sample.
fn elements(shape: &[usize]) -> impl Iterator<Item = usize> {
    let len = shape.iter().product::<usize>();
    (0..NUMBERS.min(len)).map(move |i| i * (len / NUMBERS.min(len)))
}

#[cfg(test)]
mod tests {
    use super::Closeness;

    #[test]
    fn numbers_are_close_as_their_formats_round() {
        let mut x = 1e-9_f32;
        while x < 1e4 {
            for rounded in [half::bf16::from_f32(x).to_f32(), half::f16::from_f32(x).to_f32()] {
                assert!(Closeness::Rounded.holds(x, rounded), "{x} and {rounded}");
                assert_eq!(Closeness::Bits.holds(x, rounded), x == rounded, "{x} and {rounded}");
            }
            assert!(!Closeness::Rounded.holds(x, x * 1.01 + 1e-6), "{x}");
            x *= 1.37;
        }
        for other in [0.0, f32::NAN, f32::INFINITY] {
            assert!(!Closeness::Rounded.holds(f32::NAN, other));
        }
    }
}
