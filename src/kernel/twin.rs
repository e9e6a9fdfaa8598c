//! The CPU side of a kernel: its plain loops, and the buffers that they access.

use bytemuck::Pod;

use super::dims::Dims;
use super::step::Step;
use crate::math::stored::Stored;

/// A function that runs one dispatch on the CPU.
pub type Run<F> = fn(&Dims, &Step, Io<'_, F>);

/// The plain loops of a kernel, for both precisions.
#[derive(Clone, Copy)]
pub struct Twin {
    /// In single precision.
    pub f32: Run<f32>,
    /// In double precision, for tests.
    pub f64: Run<f64>,
}

/// Creates the [`Twin`] of a generic function `fn name<F: Real>(&Dims, &Step, Io<F>)`.
macro_rules! twin {
    ($function:ident) => {
        crate::kernel::Twin { f32: $function::<f32>, f64: $function::<f64> }
    };
}
pub(crate) use twin;

/// The buffers of one dispatch for the CPU, each kind in signature order.
#[derive(Default)]
pub struct Io<'a, F> {
    /// Real numbers that are read.
    pub inputs: Vec<&'a [F]>,
    /// Real numbers that are written.
    pub outputs: Vec<&'a mut [F]>,
    /// For a CPU kernel what it takes as it is stored ([`Arg::comes_as_stored`](super::Arg::comes_as_stored)); a twin has it
    /// among `inputs`.
    pub stored: Vec<Stored<'a>>,
    /// Integers that are read.
    pub words: Vec<&'a [u32]>,
    /// Integers that are written.
    pub words_out: Vec<&'a mut [u32]>,
}

/// Real numbers in signature order: those that are read, then those that are written.
type Reals<'a, F, const I: usize, const O: usize> = ([&'a [F]; I], [&'a mut [F]; O]);

impl<'a, F> Io<'a, F> {
    /// Returns what the CPU kernel takes as it is stored: `let [x, weight] = io.stored();`
    ///
    /// # Panics
    ///
    /// If there is not as much in the signature.
    pub fn stored<const N: usize>(&self) -> [Stored<'a>; N] {
        let stored = self.stored.as_slice().try_into();
        stored.expect("a CPU kernel has what its signature stores")
    }

    /// Returns the buffers of a kernel without integers: `let ([x, weight], [out]) = io.reals();`
    ///
    /// # Panics
    ///
    /// If the numbers of buffers do not match the signature.
    pub fn reals<const I: usize, const O: usize>(self) -> Reals<'a, F, I, O> {
        let (reals, [], []) = self.split();
        reals
    }

    /// Returns all buffers: `let (([dout], [dx]), [tokens], []) = io.split();`
    ///
    /// # Panics
    ///
    /// If the numbers of buffers do not match the signature.
    pub fn split<const I: usize, const O: usize, const W: usize, const WO: usize>(
        self,
    ) -> (Reals<'a, F, I, O>, [&'a [u32]; W], [&'a mut [u32]; WO]) {
        let wrong = "a kernel takes the buffers of its signature";
        let inputs = self.inputs.try_into().ok().expect(wrong);
        let outputs = self.outputs.try_into().ok().expect(wrong);
        let words = self.words.try_into().expect(wrong);
        let words_out = self.words_out.try_into().expect(wrong);
        ((inputs, outputs), words, words_out)
    }
}

/// f32 or f64: the type parameter of twins.
pub trait Real: num_traits::Float + std::iter::Sum + Default + Send + Sync + Pod {
    /// Returns the nearest number to `x`.
    fn of(x: f64) -> Self;
    /// Returns the number in double precision.
    fn f64(self) -> f64;
    /// Returns the function of a twin for this precision.
    fn twin(twin: &Twin) -> Run<Self>;
    /// Returns the CPU kernel, if this is its precision.
    fn cpu(kernel: Option<Run<f32>>) -> Option<Run<Self>>;
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }

    fn f64(self) -> f64 {
        f64::from(self)
    }

    fn twin(twin: &Twin) -> Run<f32> {
        twin.f32
    }

    fn cpu(kernel: Option<Run<f32>>) -> Option<Run<f32>> {
        kernel
    }
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }

    fn f64(self) -> f64 {
        self
    }

    fn twin(twin: &Twin) -> Run<f64> {
        twin.f64
    }

    fn cpu(_: Option<Run<f32>>) -> Option<Run<f64>> {
        None
    }
}

/// Adds to or overwrites `old`, depending on [`Step::overwrites`].
pub fn accumulate<F: Real>(old: &mut F, new: F, overwrite: bool) {
    *old = if overwrite { new } else { *old + new };
}
