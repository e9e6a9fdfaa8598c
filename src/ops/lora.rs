//! A low-rank adapter of a linear layer (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>).
//!
//! ```text
//! out += low · B           low  = s · (x · Aᵀ)       s = alpha / R
//! dlow = dout · Bᵀ         dB += lowᵀ · dout
//! g    = s · dlow          dA += gᵀ · x              dx += g · A
//! ```
//!
//! A is (R,C), as in adapter files; B is (R,OC), the transpose of the one in the files, so that the product can be
//! accumulated. The products are [`matmul`]'s; a small kernel between them scales, so that A and B equal those of
//! the files and Adam treats them alike.

use crate::graph::{Graph, Recorder, Sharing, Var, Wanted};
use crate::kernel::{
    Accumulate, Dims, FLOATS, Format, Io, Kernel, Real, Step, grid, reads, twin, writes,
};
use crate::ops::linear::Linear;
use crate::ops::matmul;
use crate::ops::variants::portable;
use crate::params::{Init, ParamRole};
use crate::plan::{Plan, View};

/// Computes `out = SCALE · x` (N).
pub const SCALE: Kernel = Kernel {
    name: "scale_forward",
    args: &[reads("x"), writes("out").takes(FLOATS)],
    twin: twin!(scale),
    cpu: None,
    flops: |d| u64::from(d.N),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("scale_forward", [], grid::elements),
};

/// A low-rank adapter of a linear layer.
pub struct Lora {
    /// (R,C)
    pub a: Var,
    /// (R,OC)
    pub b: Var,
    /// (B,T,R): x · Aᵀ, in single precision; its gradient has the precision of `x`.
    pub product: Var,
    /// (B,T,R): the same scaled, in the precision of `x`; its gradient is in single precision.
    pub low: Var,
    /// alpha / R
    pub scale: f32,
}

impl Lora {
    /// Records the adapter's addition to the layer's output; it comes after the layer.
    pub fn forward(&self, plan: &mut Plan, linear: &Linear) {
        let Lora { a, b, product, low, .. } = self;
        let [rows, c, oc, r] = self.sizes(linear);
        let dims = |sizes| Dims { SLOTS: linear.dims.SLOTS, ..dims(sizes, r) };
        plan.push(&matmul::NT, dims([rows, c, r]), &[linear.x.value, a.value, product.value]);
        self.record_scale(plan, product.value, low.value);
        plan.push(&matmul::NN, dims([rows, r, oc]), &[low.value, b.value, linear.out.value]);
    }

    /// Records the gradients of A and B, and the adapter's addition to the gradient of the layer's input, which comes
    /// after the layer's own; `dout` is in the precision of `x`.
    pub fn backward(&self, recorder: &mut Recorder<'_>, linear: &Linear, dout: View) {
        let Lora { a, b, product, low, .. } = self;
        let [rows, c, oc, r] = self.sizes(linear);
        if let Some(acc) = recorder.parameters(&[*b]) {
            let dims = Dims { ACC: acc, ..dims([r, rows, oc], r) };
            recorder.plan.push(&matmul::TN, dims, &[low.value, dout, b.grad]);
        }
        recorder.plan.push(&matmul::NT, dims([rows, oc, r], r), &[dout, b.value, low.grad]);
        self.record_scale(recorder.plan, low.grad, product.grad);
        let x = linear.x;
        if let Some(acc) = recorder.parameters(&[*a]) {
            let dims = Dims { ACC: acc, ..dims([r, rows, c], r) };
            recorder.plan.push(&matmul::TN, dims, &[product.grad, x.value, a.grad]);
        }
        if x.has_grad() {
            let args = [product.grad, a.value, x.grad];
            recorder.plan.push(&matmul::NN, dims([rows, r, c], r), &args);
        }
    }

    /// Returns B · T, C, OC, R.
    fn sizes(&self, linear: &Linear) -> [u32; 4] {
        let Dims { C: c, OC: oc, .. } = linear.dims;
        let rows = linear.dims.rows();
        [rows as u32, c, oc, (self.low.value.len / rows) as u32]
    }

    fn record_scale(&self, plan: &mut Plan, x: View, out: View) {
        let dims = Dims { N: x.len as u32, SCALE: self.scale, ..Dims::default() };
        plan.push(&SCALE, dims, &[x, out]);
    }
}

/// Returns the sizes of a product (M, K, N) that adds to its output; `ld` is the width of its sliced matrix.
fn dims([m, k, n]: [u32; 3], ld: u32) -> Dims {
    Dims { M: m, K: k, N: n, LD: ld, ACC: Accumulate::Add as u32, ..Dims::default() }
}

fn scale<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([x], [out]) = io.reals();
    let scale = F::of(f64::from(dims.SCALE));
    out.iter_mut().zip(x).for_each(|(out, x)| *out = scale * *x);
}
impl Graph {
    /// Creates the adapter of the linear layer called `name`, if it has one.
    pub(crate) fn lora(&mut self, name: &str, x: Var, oc: usize) -> Option<Lora> {
        let layer = self.full_name(name);
        let lora = self.finetune().lora.as_ref().filter(|lora| lora.adapts(&layer))?;
        let (r, scale) = (lora.rank, lora.scale());
        let c = x.value.len / self.rows();
        // PEFT's initialisation: A is uniform within 1 / √in, B is zero, so that at first they change nothing.
        let bound = 1.0 / (c as f64).sqrt();
        let parts = [
            ("lora_A", c, ParamRole::LoraA, Init::Uniform(bound)),
            ("lora_B", oc, ParamRole::LoraB, Init::Constant(0.0)),
        ];
        let [a, b] = parts.map(|(part, width, role, init)| {
            let name = format!("{name}.{part}.weight");
            let wanted = Wanted { name: &name, shape: &[r, width], role, init };
            let param = self.adapter(wanted, format!("{layer}.weight"));
            self.operand(param)
        });
        let (len, format, has_grad) = (self.rows() * r, self.format(), self.trains());
        let part = format!("{name}.lora_product");
        let product = self.activations(&part, len, Format::F32, Sharing::Always);
        let product = self.var(&part, product, format, has_grad);
        let part = format!("{name}.lora_low");
        let low = self.activations(&part, len, format, Sharing::InBlocks);
        let low = self.var(&part, low, Format::F32, has_grad);
        Some(Lora { a, b, product, low, scale })
    }
}
