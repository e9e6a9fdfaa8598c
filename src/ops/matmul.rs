//! Matrix products in the three layouts that a layer and its gradients need.
//!
//! ```text
//! nn: out (M,N) = a (M,K) · b (K,N)      da = dout · bᵀ (nt)      db = aᵀ · dout (tn)
//! nt: out (M,N) = a (M,K) · bᵀ, b (N,K)  da = dout · b (nn)       db = doutᵀ · a (tn)
//! tn: out (M,N) = aᵀ · b, a (K,M), b (K,N)
//! ```
//!
//! One of the matrices may be a slice of columns of a wider one (the logits of a part of the
//! vocabulary): rows of `out` in `nt` and of `a` in `nn` and `tn` are LD elements apart and begin at
//! START.

use crate::graph::{Graph, Op, Recorder, Var};
use crate::kernel::{
    Accumulate, Arg, Dims, FLOATS, Io, Kernel, Real, Step, accumulate, adds, reads, twin,
    writes_part,
};
use crate::math::gemm::Into;
use crate::math::operand::{Operand, product, rows_product};
use crate::math::stored::{Stored, rows_dots};
use crate::ops::variants::products;
use crate::plan::Plan;

fn flops(d: &Dims) -> u64 {
    2 * u64::from(d.M) * u64::from(d.K) * u64::from(d.N)
}

/// Computes `out += a · b`; `a` is a slice of columns.
pub const NN: Kernel = Kernel {
    name: "matmul_nn",
    args: &[reads("a").factor(), reads("b").factor(), adds("out").takes(FLOATS)],
    twin: twin!(nn),
    cpu: Some(fast_nn),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: products!("matmul_nn", [PRODUCT_NO_SUMS], |d| [d.M, d.N]),
};

/// Computes `out = a · bᵀ`; `out` is a slice of columns.
pub const NT: Kernel = Kernel {
    name: "matmul_nt",
    args: &[reads("a").factor(), reads("b").stored(), writes_part("out").takes(FLOATS)],
    twin: twin!(nt),
    cpu: Some(fast_nt),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: products!("matmul_nt", [PRODUCT_NO_SUMS], |d| [d.M, d.N]),
};

/// Computes `out += aᵀ · b`; `a` is a slice of columns.
pub const TN: Kernel = Kernel {
    name: "matmul_tn",
    args: &[reads("a").factor(), reads("b").factor(), adds("out").takes(FLOATS)] as &[Arg],
    twin: twin!(tn),
    cpu: Some(fast_tn),
    flops,
    tolerance: Kernel::TOLERANCE,
    variants: products!("matmul_tn", [PRODUCT_NO_SUMS], |d| [d.M, d.N]),
};

/// Which matrix of a product is transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// a · b
    NN,
    /// a · bᵀ
    NT,
    /// aᵀ · b
    TN,
}

/// A product of two activations, with the gradients of both.
pub struct MatMul {
    /// Which of them is transposed.
    pub layout: Layout,
    /// M, K, N of the output.
    pub dims: Dims,
    /// (M,K), or (K,M) in TN
    pub a: Var,
    /// (K,N), or (N,K) in NT
    pub b: Var,
    /// (M,N)
    pub out: Var,
}

/// Returns the sizes of a product (M, K, N) that overwrites its output, with a sliced matrix of rows of `ld` elements.
pub(crate) fn whole([m, k, n]: [u32; 3], ld: u32) -> Dims {
    Dims { M: m, K: k, N: n, LD: ld, ACC: Accumulate::Set as u32, ..Dims::default() }
}

impl Graph {
    /// Adds a product of two activations: `m`, `k` and `n` are the number of rows of the output, the length of the
    /// sums and the number of columns of the output.
    pub fn matmul(
        &mut self,
        name: &str,
        layout: Layout,
        [m, k, n]: [usize; 3],
        a: Var,
        b: Var,
    ) -> Var {
        let out = self.input(name, m * n);
        let dims = Dims { M: m as u32, K: k as u32, N: n as u32, ..Dims::default() };
        self.push(MatMul { layout, dims, a, b, out });
        out
    }
}

impl Op for MatMul {
    fn forward(&self, plan: &mut Plan) {
        let (Dims { M, K, N, .. }, args) =
            (self.dims, [self.a.value, self.b.value, self.out.value]);
        match self.layout {
            Layout::NN => plan.push(&NN, whole([M, K, N], K), &args),
            Layout::NT => plan.push(&NT, whole([M, K, N], N), &args),
            Layout::TN => plan.push(&TN, whole([M, K, N], M), &args),
        }
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let Dims { M, K, N, .. } = self.dims;
        let (a, b, dout) = (self.a, self.b, self.out.grad);
        let plan = &mut recorder.plan;
        match self.layout {
            Layout::NN => {
                plan.push(&NT, whole([M, N, K], K), &[dout, b.value, a.grad]);
                plan.push(&TN, whole([K, M, N], K), &[a.value, dout, b.grad]);
            }
            Layout::NT => {
                plan.push(&NN, whole([M, N, K], N), &[dout, b.value, a.grad]);
                plan.push(&TN, whole([N, M, K], N), &[dout, a.value, b.grad]);
            }
            Layout::TN => {
                plan.push(&NT, whole([K, N, M], M), &[b.value, dout, a.grad]);
                plan.push(&NN, whole([K, M, N], M), &[a.value, dout, b.grad]);
            }
        }
    }
}

/// Returns M, K, N, LD, START as indices.
fn sizes(d: &Dims) -> [usize; 5] {
    [d.M, d.K, d.N, d.LD, d.START].map(|x| x as usize)
}

fn nn<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([a, b], [out]) = io.reals();
    let [m, k, n, ld, start] = sizes(dims);
    for row in 0..m {
        for col in 0..n {
            let dot = (0..k).map(|i| a[row * ld + start + i] * b[i * n + col]).sum();
            accumulate(&mut out[row * n + col], dot, step.overwrites(dims));
        }
    }
}

fn nt<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let ([a, b], [out]) = io.reals();
    let [m, k, n, ld, start] = sizes(dims);
    for row in 0..m {
        for col in 0..n {
            out[row * ld + start + col] = (0..k).map(|i| a[row * k + i] * b[col * k + i]).sum();
        }
    }
}

fn tn<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let ([a, b], [out]) = io.reals();
    let [m, k, n, ld, start] = sizes(dims);
    for row in 0..m {
        for col in 0..n {
            let dot = (0..k).map(|i| a[i * ld + start + row] * b[i * n + col]).sum();
            accumulate(&mut out[row * n + col], dot, step.overwrites(dims));
        }
    }
}

/// Returns what a sliced matrix has from its slice on.
fn sliced(matrix: Stored<'_>, start: usize) -> Stored<'_> {
    matrix.part(start..matrix.len())
}

fn fast_nn(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let [a, b] = io.stored();
    let ([], [out]) = io.reals();
    let [m, k, n, ld, start] = sizes(dims);
    let (a, b) = (Operand::new(sliced(a, start), m, k, ld), Operand::new(b, k, n, n));
    if dims.SLOTS > 0 {
        if step.overwrites(dims) {
            out.fill(0.0);
        }
        return rows_product(out, a, b);
    }
    product(out, n, Into::set_if(step.overwrites(dims)), a, b);
}

fn fast_nt(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let [a, b] = io.stored();
    let ([], [out]) = io.reals();
    let [m, k, n, ld, start] = sizes(dims);
    if dims.SLOTS > 0 {
        let a = a.widened();
        let a: Vec<&[f32]> = a.chunks(k).collect();
        return rows_dots(out[start..].chunks_mut(ld).map(|row| &mut row[..n]).collect(), &a, b);
    }
    let (a, b) = (Operand::new(a, m, k, k), Operand::new(b, n, k, k).t());
    product(&mut out[start..], ld, Into::Set, a, b);
}

fn fast_tn(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let [a, b] = io.stored();
    let ([], [out]) = io.reals();
    let [m, k, n, ld, start] = sizes(dims);
    let (a, b) = (Operand::new(sliced(a, start), k, m, ld).t(), Operand::new(b, k, n, n));
    product(out, n, Into::set_if(step.overwrites(dims)), a, b);
}
