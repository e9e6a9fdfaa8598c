//! The trained parameters of an engine as one vector.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::{Engine, Tensor};
use crate::error::Result;
use crate::graph::Param;

/// The trained parameters one after the other, in the model's order: the same vector on every device, however a device
/// lays them out.
#[derive(Clone, Debug)]
pub struct Flat {
    params: Arc<[Param]>,
    /// Where each trained parameter is among all, and where it begins in the vector.
    starts: Vec<(usize, usize)>,
    len: usize,
}

/// A part of a parameter in a range of the vector.
#[derive(Debug)]
pub struct Part<'a> {
    /// The parameter.
    pub param: &'a Param,
    /// Where the part begins in the parameter.
    pub start: usize,
    /// Where it lies in the range.
    pub place: Range<usize>,
}

impl Flat {
    /// The trained parameters of an engine's program.
    pub fn of(engine: &Engine) -> Flat {
        let params = engine.program().params.clone();
        let (mut starts, mut len) = (vec![], 0);
        for (i, param) in params.iter().enumerate().filter(|(_, param)| param.is_trained()) {
            starts.push((i, len));
            len += param.len();
        }
        Flat { params, starts, len }
    }

    /// The number of all elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the parameter of this name begins, if it is trained.
    pub fn start_of(&self, name: &str) -> Option<usize> {
        self.starts.iter().find(|(i, _)| self.params[*i].name == name).map(|(_, start)| *start)
    }

    /// The parts of a range, in order.
    pub fn parts(&self, range: Range<usize>) -> impl Iterator<Item = Part<'_>> {
        let before = self.starts.partition_point(|(_, start)| *start <= range.start);
        let from = self.starts[before.saturating_sub(1)..].iter();
        from.take_while(move |(_, first)| *first < range.end).map(move |&(i, first)| {
            let param = &self.params[i];
            let (start, end) = (range.start.max(first), range.end.min(first + param.len()));
            let place = start - range.start..end - range.start;
            Part { param, start: start - first, place }
        })
    }

    /// Reads the elements from `start` on of the parameters, or of their moments.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read(
        &self,
        engine: &mut Engine,
        tensor: Tensor,
        start: usize,
        out: &mut [f32],
    ) -> Result<()> {
        self.parts(start..start + out.len()).try_for_each(|Part { param, start, place }| {
            engine.read_param(param, tensor, start, &mut out[place])
        })
    }

    /// Overwrites the elements from `start` on of the parameters, or of their moments.
    pub fn write(&self, engine: &mut Engine, tensor: Tensor, start: usize, numbers: &[f32]) {
        for Part { param, start, place } in self.parts(start..start + numbers.len()) {
            engine.write_elements(param, tensor, start, &numbers[place]);
        }
    }
}
