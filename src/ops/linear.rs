//! A linear layer, alone or followed by GELU: `out = x · weight + bias`.
//!
//! ```text
//! dx      = dout · weightᵀ
//! dweight += xᵀ · dout      dbias += Σ_rows dout
//! ```
//!
//! The weight is (C,OC), as in GPT-2's checkpoints, or (OC,C), as in most others ([`WeightLayout`]); the bias may be
//! absent. Either weight or bias may be trained alone. A layer with a weight (C,OC) and a bias has kernels of its
//! own; in other cases [`matmul`]'s kernels are used where possible.

use rayon::prelude::*;

use crate::config::{GeluForm, Recompute};
use crate::graph::{Graph, Op, Recorder, Sharing, Var, Wanted, any_grad};
use crate::kernel::{
    Accumulate, Dims, FLOATS, Io, Kernel, Real, Step, accumulate, adds, grid, reads, twin, writes,
};
use crate::math::gemm::Into;
use crate::math::operand::{Operand, product, rows_product};
use crate::math::simd::vector_fn;
use crate::math::stored::{Stored, rows_dots};
use crate::ops::gelu::Gelu;
use crate::ops::lora::Lora;
use crate::ops::variants::{portable, products};
use crate::ops::{cast, gelu, matmul};
pub use crate::params::WeightLayout;
use crate::params::{Init, ParamRole};
use crate::plan::{Plan, Role, View};

fn flops(d: &Dims) -> u64 {
    2 * d.rows() as u64 * u64::from(d.C) * u64::from(d.OC)
}

/// Computes `out = x · weight + bias`.
pub const FORWARD: Kernel = Kernel {
    name: "linear_forward",
    args: &[
        reads("x").factor(),
        reads("weight").factor(),
        reads("bias"),
        writes("out").takes(FLOATS),
    ],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: products!(
        "linear_forward",
        [LINEAR_X, LINEAR_IN_OUT, LINEAR_OUT, PRODUCT_NO_SUMS],
        |d| [d.B * d.T, d.OC]
    ),
};

/// Computes `out = x · weightᵀ + bias`.
pub const FORWARD_OUT_IN: Kernel = Kernel {
    name: "linear_forward_out_in",
    args: &[
        reads("x").factor(),
        reads("weight").stored(),
        reads("bias"),
        writes("out").takes(FLOATS),
    ],
    twin: twin!(forward_out_in),
    cpu: Some(fast_forward_out_in),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: products!(
        "linear_forward_out_in",
        [LINEAR_X, LINEAR_OUT_IN, LINEAR_OUT, PRODUCT_NO_SUMS],
        |d| [d.B * d.T, d.OC]
    ),
};

/// Computes `pre = x · weight + bias`, `out = gelu(pre)`.
pub const GELU_FORWARD: Kernel = Kernel {
    name: "linear_gelu_forward",
    args: &[
        reads("x").factor(),
        reads("weight").factor(),
        reads("bias"),
        writes("pre").takes(FLOATS),
        writes("out").takes(FLOATS),
    ],
    twin: twin!(gelu_forward),
    cpu: Some(fast_gelu_forward),
    flops,
    // In half precision a GPU applies GELU to the rounded number that it stores, the twin to the unrounded one.
    tolerance: 1e-4,
    variants: products!(
        "linear_gelu_forward",
        [LINEAR_X, LINEAR_IN_OUT, PRODUCT_NO_SUMS, GELU],
        |d| [d.B * d.T, d.OC]
    ),
};

/// Computes `dx` from `dout`.
pub const BACKWARD_INPUT: Kernel = Kernel {
    name: "linear_backward_input",
    args: &[reads("weight").factor(), reads("dout").factor(), writes("dx").takes(FLOATS)],
    twin: twin!(backward_input),
    cpu: Some(fast_backward_input),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: products!("linear_backward_input", [PRODUCT_NO_SUMS], |d| [d.B * d.T, d.C]),
};

/// Computes `dweight` and `dbias` from `dout`.
pub const BACKWARD_PARAMS: Kernel = Kernel {
    name: "linear_backward_params",
    args: &[reads("x").factor(), reads("dout").factor(), adds("dweight"), adds("dbias")],
    twin: twin!(backward_params),
    cpu: Some(fast_backward_params),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: products!("linear_backward_params", [], |d| [d.C, d.OC]),
};

/// Computes `dbias` from `dout`, where the weight is not trained.
pub const BACKWARD_BIAS: Kernel = Kernel {
    name: "linear_backward_bias",
    args: &[reads("dout").factor(), adds("dbias")],
    twin: twin!(backward_bias),
    cpu: Some(fast_backward_bias),
    flops: |d| d.rows() as u64 * u64::from(d.OC),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("linear_backward_bias", [], |d, _| grid::fold(d.OC.div_ceil(16))),
};

/// The form of a linear layer. A number of channels alone is GPT-2's layer: a weight (C,OC) and a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Channels of the output.
    pub channels: usize,
    /// The layout of its weight.
    pub layout: WeightLayout,
    /// Whether it has a bias.
    pub bias: bool,
}

impl From<usize> for Form {
    fn from(channels: usize) -> Form {
        Form { channels, layout: WeightLayout::InOut, bias: true }
    }
}

/// Computes `out` (B,T,OC) from `x` (B,T,C).
pub struct Linear {
    /// B, T, C, OC.
    pub dims: Dims,
    /// (B,T,C)
    pub x: Var,
    /// The layout of the weight.
    pub layout: WeightLayout,
    /// (C,OC) or (OC,C)
    pub weight: Var,
    /// (OC), if the layer has one.
    pub bias: Option<Var>,
    /// (B,T,OC)
    pub out: Var,
    /// (B,T,OC): receives the gradient of `out` rounded to the precision of `x`, if the two precisions differ.
    pub rounded_dout: Option<View>,
    /// A low-rank adapter.
    pub lora: Option<Lora>,
}

impl Linear {
    /// Whether its output has a gradient.
    fn trains(&self) -> bool {
        let adapted = self.lora.as_ref().is_some_and(|lora| lora.low.has_grad());
        let own = any_grad(&[self.x, self.weight]) || self.bias.is_some_and(Var::has_grad);
        adapted || own
    }

    /// Records `out`, without the contribution of an adapter.
    fn forward_plain(&self, plan: &mut Plan) {
        let Linear { dims, x, layout, weight, bias, out, .. } = *self;
        let (rows, Dims { C: c, OC: oc, .. }) = (dims.rows() as u32, dims);
        match (layout, bias) {
            (WeightLayout::InOut, Some(bias)) => {
                plan.push(&FORWARD, dims, &[x.value, weight.value, bias.value, out.value]);
            }
            (WeightLayout::OutIn, Some(bias)) => {
                plan.push(&FORWARD_OUT_IN, dims, &[x.value, weight.value, bias.value, out.value]);
            }
            (WeightLayout::InOut, None) => {
                let dims = Dims { SLOTS: dims.SLOTS, ..matmul::whole([rows, c, oc], c) };
                plan.push(&matmul::NN, dims, &[x.value, weight.value, out.value]);
            }
            (WeightLayout::OutIn, None) => {
                let dims = Dims { SLOTS: dims.SLOTS, ..matmul::whole([rows, c, oc], oc) };
                plan.push(&matmul::NT, dims, &[x.value, weight.value, out.value]);
            }
        }
    }

    /// Records the gradient of the input from `dout`, which is in the precision of `x`.
    fn backward_input(&self, plan: &mut Plan, dout: View, into: Accumulate) {
        let Linear { dims, x, weight, .. } = *self;
        let args = [weight.value, dout, x.grad];
        match self.layout {
            WeightLayout::InOut => {
                assert_eq!(into, Accumulate::Set, "its kernel overwrites");
                plan.push(&BACKWARD_INPUT, dims, &args);
            }
            WeightLayout::OutIn => {
                let (rows, Dims { C: c, OC: oc, .. }) = (dims.rows() as u32, dims);
                let dims = Dims { ACC: into as u32, ..matmul::whole([rows, oc, c], oc) };
                let [weight, dout, dx] = args;
                plan.push(&matmul::NN, dims, &[dout, weight, dx]);
            }
        }
    }

    /// Records the gradients of weight and bias from `dout`, which is in the precision of `x`.
    fn backward_params(&self, recorder: &mut Recorder<'_>, dout: View) {
        let Linear { dims, x, layout, weight, bias, .. } = *self;
        let params: Vec<Var> = [weight].into_iter().chain(bias).collect();
        let Some(acc) = recorder.parameters(&params) else { return };
        let dims = Dims { ACC: acc, ..dims };
        let bias = bias.filter(|bias| bias.has_grad());
        if let (true, Some(bias), WeightLayout::InOut) = (weight.has_grad(), bias, layout) {
            let args = [x.value, dout, weight.grad, bias.grad];
            return recorder.plan.push(&BACKWARD_PARAMS, dims, &args);
        }
        if weight.has_grad() {
            let (rows, Dims { C: c, OC: oc, .. }) = (dims.rows() as u32, dims);
            let (a, b, [m, n]) = match layout {
                WeightLayout::InOut => (x.value, dout, [c, oc]),
                WeightLayout::OutIn => (dout, x.value, [oc, c]),
            };
            let dims = Dims { ACC: acc, ..matmul::whole([m, rows, n], m) };
            recorder.plan.push(&matmul::TN, dims, &[a, b, weight.grad]);
        }
        if let Some(bias) = bias {
            recorder.plan.push(&BACKWARD_BIAS, dims, &[dout, bias.grad]);
        }
    }
}

impl Graph {
    /// Creates a linear layer of `x` (B,T,C); `out` creates its output, given whether it has a gradient.
    fn linear_into(
        &mut self,
        name: &str,
        x: Var,
        form: Form,
        out: impl FnOnce(&mut Graph, bool) -> Var,
    ) -> Linear {
        let linear = self.linear_without_output(name, x, form);
        let out = out(self, linear.trains());
        self.with_output(linear, out)
    }

    /// Creates the parameters of a linear layer of `x`; its output is not there yet.
    fn linear_without_output(&mut self, name: &str, x: Var, form: Form) -> Linear {
        let Form { channels: oc, layout, bias } = form;
        let c = x.value.len / self.rows();
        let shape = match layout {
            WeightLayout::InOut => [c, oc],
            WeightLayout::OutIn => [oc, c],
        };
        let (role, init) = (ParamRole::LinearWeight(layout), self.matrix_init());
        let weight_name = format!("{name}.weight");
        let weight = self.whole(Wanted { name: &weight_name, shape: &shape, role, init });
        let weight = self.operand(weight);
        let bias = bias.then(|| {
            let (role, init) = (ParamRole::LinearBias, Init::Constant(0.0));
            let name = format!("{name}.bias");
            self.whole(Wanted { name: &name, shape: &[oc], role, init })
        });
        let lora = self.lora(name, x, oc);
        let dims = Dims { C: c as u32, OC: oc as u32, ..self.dims() };
        let layout = self.stored_layout(layout, &shape);
        Linear { dims, x, layout, weight, bias, out: x, rounded_dout: None, lora }
    }

    /// Completes a linear layer.
    fn with_output(&mut self, linear: Linear, out: Var) -> Linear {
        let format = linear.x.value.format;
        // Matrix units take operands of one precision, but the stream's gradient has the other.
        let differs = out.has_grad() && out.grad.format != format;
        let rounded_dout =
            differs.then(|| self.buffer(Role::Activations, "rounded_dout", out.grad.len, format));
        Linear { out, rounded_dout, ..linear }
    }

    /// Adds linear layers of one input `x` (B,T,C), whose weights are (OC,C), and returns their outputs, which have gradients
    /// together or not at all.
    pub fn linears<const N: usize>(&mut self, x: Var, layers: [(&str, Form); N]) -> [Var; N] {
        let mut all = [x; N];
        self.linears_into(x, layers, |g, has_grad| {
            all = layers.map(|(name, form)| {
                g.activation_of(name, form.channels, Sharing::InBlocks, has_grad)
            });
            all
        });
        all
    }

    /// Adds linear layers of one input `x` (B,T,C), whose weights are (OC,C); `outputs` creates all of their outputs, given
    /// whether any has a gradient.
    pub(crate) fn linears_into<const N: usize>(
        &mut self,
        x: Var,
        layers: [(&str, Form); N],
        outputs: impl FnOnce(&mut Graph, bool) -> [Var; N],
    ) {
        let layers = layers.map(|(name, form)| self.linear_without_output(name, x, form));
        let outputs = outputs(self, layers.iter().any(Linear::trains));
        let layers = layers.into_iter().zip(outputs);
        let linears = layers.map(|(linear, out)| self.with_output(linear, out)).collect();
        self.push(Linears(linears));
    }

    /// Adds `x` (B,T,C) times a weight, plus a bias if there is one; a number of channels alone is GPT-2's [`Form`].
    pub fn linear(&mut self, name: &str, x: Var, form: impl std::convert::Into<Form>) -> Var {
        self.linear_of(name, x, form.into(), Sharing::InBlocks)
    }

    fn linear_of(&mut self, name: &str, x: Var, form: Form, sharing: Sharing) -> Var {
        let linear = self.linear_into(name, x, form, |g, has_grad| {
            g.activation_of(name, form.channels, sharing, has_grad)
        });
        let out = linear.out;
        self.push(linear);
        out
    }

    /// Adds a linear layer whose output only a dropout reads.
    pub fn linear_to_dropout(
        &mut self,
        name: &str,
        x: Var,
        form: impl std::convert::Into<Form>,
    ) -> Var {
        self.linear_of(name, x, form.into(), Sharing::OfFlights)
    }

    /// Adds a linear layer whose output joins the stream next and so has the stream's gradient.
    pub fn linear_to_stream(
        &mut self,
        name: &str,
        x: Var,
        form: impl std::convert::Into<Form>,
    ) -> Var {
        let (form, format) = (form.into(), self.format());
        let branch = |g: &mut Graph, has_grad| g.branch(name, form.channels, format, has_grad);
        let linear = self.linear_into(name, x, form, branch);
        let out = linear.out;
        self.push(linear);
        out
    }

    /// Adds GELU of a linear layer.
    ///
    /// Where the backward pass recomputes it, all layers share its output.
    pub fn linear_gelu(
        &mut self,
        name: &str,
        x: Var,
        form: impl std::convert::Into<Form>,
        gelu: GeluForm,
    ) -> Var {
        let form = form.into();
        let oc = form.channels;
        let linear = self.linear_into(name, x, form, |g, has_grad| {
            g.activation_of(&format!("{name}.pre"), oc, Sharing::InBlocks, has_grad)
        });
        let pre = linear.out;
        let again = self.recompute() == Recompute::Gelu && self.is_in_block();
        let sharing = if again { Sharing::Always } else { Sharing::InBlocks };
        let out = self.activation_of(name, oc, sharing, pre.has_grad());
        let dims = Dims { C: oc as u32, ..self.dims() };
        let gelu = Gelu { dims, form: gelu, x: pre, out };
        self.push(LinearGelu { linear, gelu });
        if again {
            self.compute_again(gelu);
        }
        out
    }
}

impl Op for Linear {
    fn forward(&self, plan: &mut Plan) {
        self.forward_plain(plan);
        if let Some(lora) = &self.lora {
            lora.forward(plan, self);
        }
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        self.backward_into(recorder, Accumulate::Set);
    }
}

impl Linear {
    /// Records the backward pass; `into` says how the gradient of the input is written.
    fn backward_into(&self, recorder: &mut Recorder<'_>, into: Accumulate) {
        let Linear { x, out, rounded_dout, .. } = *self;
        if let Some(rounded) = rounded_dout {
            cast::record(recorder.plan, out.grad, rounded);
        }
        let dout = rounded_dout.unwrap_or(out.grad);
        self.backward_params(recorder, dout);
        if x.has_grad() {
            self.backward_input(recorder.plan, dout, into);
        }
        if let Some(lora) = &self.lora {
            lora.backward(recorder, self, dout);
        }
    }
}

/// Several linear layers of one input, whose weights are (OC,C): the gradients that they give it are added up.
pub struct Linears(Vec<Linear>);

impl Op for Linears {
    fn forward(&self, plan: &mut Plan) {
        self.0.iter().for_each(|linear| linear.forward(plan));
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let mut into = Accumulate::Set;
        for linear in self.0.iter().rev().filter(|linear| linear.out.has_grad()) {
            linear.backward_into(recorder, into);
            into = Accumulate::Add;
        }
    }
}

/// Computes gelu(x · weight + bias) (B,T,OC); the input of GELU is kept.
pub struct LinearGelu {
    /// The layer; its output is the input of GELU.
    pub linear: Linear,
    /// GELU.
    pub gelu: Gelu,
}

impl Op for LinearGelu {
    fn forward(&self, plan: &mut Plan) {
        let Linear { dims, x, layout, weight, bias, out: pre, .. } = self.linear;
        // The contribution of an adapter is added between the two.
        let is_fused = self.linear.lora.is_none()
            && layout == WeightLayout::InOut
            && self.gelu.form == GeluForm::Tanh;
        if let Some(bias) = bias.filter(|_| is_fused) {
            let args = [x.value, weight.value, bias.value, pre.value, self.gelu.out.value];
            return plan.push(&GELU_FORWARD, dims, &args);
        }
        self.linear.forward(plan);
        self.gelu.forward(plan);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        if self.linear.out.has_grad() {
            self.gelu.backward(recorder);
            self.linear.backward(recorder);
        }
    }
}

/// Computes x · weight + bias at one row and column.
fn at<F: Real>(dims: &Dims, [x, weight, bias]: [&[F]; 3], row: usize, o: usize) -> F {
    let (c, oc) = (dims.C as usize, dims.OC as usize);
    bias[o] + (0..c).map(|i| x[row * c + i] * weight[i * oc + o]).sum()
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (inputs, [out]) = io.reals();
    let oc = dims.OC as usize;
    for row in 0..dims.rows() {
        for o in 0..oc {
            out[row * oc + o] = at(dims, inputs, row, o);
        }
    }
}

fn forward_out_in<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x, weight, bias], [out]) = io.reals();
    let (c, oc) = (dims.C as usize, dims.OC as usize);
    for row in 0..dims.rows() {
        for o in 0..oc {
            let dot: F = (0..c).map(|i| x[row * c + i] * weight[o * c + i]).sum();
            out[row * oc + o] = bias[o] + dot;
        }
    }
}

fn gelu_forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (inputs, [pre, out]) = io.reals();
    let oc = dims.OC as usize;
    for row in 0..dims.rows() {
        for o in 0..oc {
            pre[row * oc + o] = at(dims, inputs, row, o);
            out[row * oc + o] = gelu::gelu(pre[row * oc + o]);
        }
    }
}

fn backward_input<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([weight, dout], [dx]) = io.reals();
    let (c, oc) = (dims.C as usize, dims.OC as usize);
    for row in 0..dims.rows() {
        for i in 0..c {
            dx[row * c + i] = (0..oc).map(|o| dout[row * oc + o] * weight[i * oc + o]).sum();
        }
    }
}

fn backward_params<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([x, dout], [dweight, dbias]) = io.reals();
    let (c, oc, rows) = (dims.C as usize, dims.OC as usize, dims.rows());
    let overwrite = step.overwrites(dims);
    for o in 0..oc {
        accumulate(&mut dbias[o], (0..rows).map(|row| dout[row * oc + o]).sum(), overwrite);
        for i in 0..c {
            let dot = (0..rows).map(|row| x[row * c + i] * dout[row * oc + o]).sum();
            accumulate(&mut dweight[i * oc + o], dot, overwrite);
        }
    }
}

fn backward_bias<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([dout], [dbias]) = io.reals();
    let oc = dims.OC as usize;
    for (o, dbias) in dbias.iter_mut().enumerate() {
        let sum = (0..dims.rows()).map(|row| dout[row * oc + o]).sum();
        accumulate(dbias, sum, step.overwrites(dims));
    }
}

/// Computes `out = x · weight + bias`; in generation the bits of a row do not depend on the number of rows.
fn layer(dims: &Dims, [x, weight]: [Stored<'_>; 2], bias: &[f32], out: &mut [f32]) {
    let (c, oc, rows) = (dims.C as usize, dims.OC as usize, dims.rows());
    out.par_chunks_exact_mut(oc).for_each(|row| row.copy_from_slice(bias));
    let (x, weight) = (Operand::new(x, rows, c, c), Operand::new(weight, c, oc, oc));
    match dims.SLOTS > 0 || rows == 1 {
        true => rows_product(out, x, weight),
        false => product(out, oc, Into::Add, x, weight),
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let factors = io.stored();
    let ([bias], [out]) = io.reals();
    layer(dims, factors, bias, out);
}

fn fast_forward_out_in(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let [x, weight] = io.stored();
    let ([bias], [out]) = io.reals();
    let (c, oc, rows) = (dims.C as usize, dims.OC as usize, dims.rows());
    if dims.SLOTS > 0 {
        let x = x.widened();
        let x: Vec<&[f32]> = x.chunks_exact(c).collect();
        rows_dots(out.chunks_exact_mut(oc).collect(), &x, weight);
        let add = |row: &mut [f32]| row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        return out.chunks_exact_mut(oc).for_each(add);
    }
    out.par_chunks_exact_mut(oc).for_each(|row| row.copy_from_slice(bias));
    let (x, weight) = (Operand::new(x, rows, c, c), Operand::new(weight, oc, c, c).t());
    product(out, oc, Into::Add, x, weight);
}

fn fast_gelu_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let factors = io.stored();
    let ([bias], [pre, out]) = io.reals();
    layer(dims, factors, bias, pre);
    gelu::fast_gelu(pre, out);
}

fn fast_backward_input(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let [weight, dout] = io.stored();
    let ([], [dx]) = io.reals();
    let (c, oc, rows) = (dims.C as usize, dims.OC as usize, dims.rows());
    let (dout, weight) = (Operand::new(dout, rows, oc, oc), Operand::new(weight, c, oc, oc).t());
    product(dx, c, Into::Set, dout, weight);
}

fn fast_backward_params(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let [x, dout] = io.stored();
    let ([], [dweight, dbias]) = io.reals();
    let (c, oc, rows) = (dims.C as usize, dims.OC as usize, dims.rows());
    let overwrite = step.overwrites(dims);
    add_columns(dout, dbias, overwrite);
    let (x, dout) = (Operand::new(x, rows, c, c).t(), Operand::new(dout, rows, oc, oc));
    product(dweight, oc, Into::set_if(overwrite), x, dout);
}

fn fast_backward_bias(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let [dout] = io.stored();
    let ([], [dbias]) = io.reals();
    add_columns(dout, dbias, step.overwrites(dims));
}

/// Adds the sums of the columns of `x` to `total`, or overwrites it with them.
fn add_columns(x: Stored<'_>, total: &mut [f32], overwrite: bool) {
    if overwrite {
        total.fill(0.0);
    }
    let columns = total.len();
    for sums in column_sums(x, columns).chunks_exact(columns) {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
}

/// Returns the sums of the columns of every run of [`SUM_ROWS`] rows.
fn column_sums(x: Stored<'_>, columns: usize) -> Vec<f32> {
    let run = SUM_ROWS * columns;
    let mut sums = vec![0.0; x.len().div_ceil(run) * columns];
    sums.par_chunks_mut(columns).enumerate().for_each(|(i, sums)| {
        add_rows(&x.part(i * run..x.len().min((i + 1) * run)).widened(), sums);
    });
    sums
}

/// The number of rows per partial sum of a bias's gradient.
const SUM_ROWS: usize = 128;

vector_fn! {
    /// Adds all rows to `sums`, four at a time.
    fn add_rows<'a>(x: &'a [f32], sums: &'a mut [f32]) -> () {
        let n = sums.len();
        let fours = x.chunks_exact(4 * n);
        for row in fours.remainder().chunks_exact(n) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        for rows in fours {
            let (a, bcd) = rows.split_at(n);
            let (b, cd) = bcd.split_at(n);
            let (c, d) = cd.split_at(n);
            for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum += (a + b) + (c + d);
            }
        }
    }
}
