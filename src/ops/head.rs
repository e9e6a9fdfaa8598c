//! The head: logits from a token table, `logits = x · tableᵀ`: the embedding's table (a tied head) or its own.
//!
//! Training works in chunks of rows, so that the logits of a chunk fit one binding, and over the slices
//! of the table; the gradient of a chunk overwrites its logits, so that (B,T,V) is never in memory as a
//! whole. Its rows are padded ([`row_stride`]), so that products and loss read and write vectors for any
//! V; the padding does not affect the results. The kernels are those of [`matmul`] and
//! [`cross_entropy`]. Generation needs only the logits of the rows after which a slot draws a token
//! ([`crate::kernel::rows`]), for which there is a separate kernel.

use crate::graph::{Op, Recorder, Slice, Var};
use crate::kernel::{
    Accumulate, Dims, Draw, FLOATS, Io, Kernel, Needs, Real, Step, four_channels, grid, reads,
    reads_u32, twin, writes_part,
};
use crate::math::stored::rows_dots;
use crate::ops::variants::portable;
use crate::ops::{cross_entropy, matmul};
use crate::plan::{Plan, View};

/// Computes the logits of the slots that draw a token, each from its row, against a slice of the table.
pub const FORWARD: Kernel = Kernel {
    name: "head_forward",
    args: &[
        reads_u32("slots"),
        reads("x").takes(FLOATS),
        reads("table").stored(),
        writes_part("logits"),
    ],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| 2 * u64::from(d.SLOTS) * u64::from(d.V) * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "head_forward", [SLOTS], |d, _| grid::fold(d.V.div_ceil(8)),
        "vectors": [SLOTS], Needs::NOTHING, four_channels, |d, _| grid::fold(d.V.div_ceil(8))
    ),
};

/// Returns the number of elements from one row of a chunk of logits to the next, for a vocabulary of `v`.
///
/// Rows begin at multiples of 64 elements, which are 256 bytes, or 128 in half precision: whole lines of any cache.
/// Where that would cost more than a few permille, they begin at multiples of 4: vectors need no more.
///
/// ```
/// assert_eq!([65, 50_257].map(wgpt::ops::head::row_stride), [68, 50_304]);
/// ```
pub fn row_stride(v: usize) -> usize {
    v.next_multiple_of(if v < 16_384 { 4 } else { 64 })
}

/// Computes head and loss over row chunks of `logits`.
pub struct Head {
    /// B, T, C, and V of the whole vocabulary.
    pub dims: Dims,
    /// (B,T,C)
    pub x: Var,
    /// (V,C) in slices.
    pub table: Vec<Slice>,
    /// (B,T)
    pub targets: View,
    /// (R,LD): the logits of R rows, [`row_stride`] apart.
    pub logits: View,
    /// (B,T)
    pub row_loss: View,
    /// (1)
    pub loss: View,
    /// The words of [`crate::kernel::state`], in training.
    pub state: Option<View>,
}

/// Some rows of the head's inputs.
struct Chunk {
    rows: usize,
    x: Var,
    targets: View,
    logits: View,
    row_loss: View,
}

impl Head {
    fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        let (c, stride) = (self.dims.C as usize, self.stride());
        let (all, most) = (self.dims.rows(), self.logits.len / stride);
        (0..all).step_by(most).map(move |start| {
            let rows = most.min(all - start);
            Chunk {
                rows,
                x: self.x.slice(start * c, rows * c),
                targets: self.targets.slice(start, rows),
                logits: self.logits.slice(0, rows * stride),
                row_loss: self.row_loss.slice(start, rows),
            }
        })
    }

    fn stride(&self) -> usize {
        row_stride(self.dims.V as usize)
    }

    /// Computes the logits of some rows into `out`, whose rows are `stride` apart.
    fn project(&self, plan: &mut Plan, x: View, rows: usize, out: View, stride: usize) {
        for slice in &self.table {
            let (start, n) = (slice.start as u32, slice.rows as u32);
            let dims = Dims { M: rows as u32, K: self.dims.C, N: n, ..Dims::default() };
            let dims = Dims { LD: stride as u32, START: start, ..dims };
            plan.push(&matmul::NT, dims, &[x, slice.var.value, out]);
        }
    }

    fn project_chunk(&self, plan: &mut Plan, chunk: &Chunk) {
        self.project(plan, chunk.x.value, chunk.rows, chunk.logits, self.stride());
    }

    fn loss_dims(&self, chunk: &Chunk) -> Dims {
        let (rows, stride) = (chunk.rows as u32, self.stride() as u32);
        Dims { M: rows, V: self.dims.V, LD: stride, ..Dims::default() }
    }

    /// Records the logits of every row, without loss: `out` is (B,T,V), as the host reads it.
    pub fn logits(&self, plan: &mut Plan, out: View) {
        self.project(plan, self.x.value, self.dims.rows(), out, self.dims.V as usize);
    }

    fn sum(&self, plan: &mut Plan, mode: Accumulate) {
        let dims = Dims { M: self.dims.rows() as u32, ACC: mode as u32, ..Dims::default() };
        plan.push(&cross_entropy::SUM, dims, &[self.row_loss, self.loss]);
    }
}

impl Op for Head {
    /// Records the loss without gradients.
    fn forward(&self, plan: &mut Plan) {
        for chunk in self.chunks() {
            self.project_chunk(plan, &chunk);
            let args = [chunk.targets, chunk.logits, chunk.row_loss];
            plan.push(&cross_entropy::FORWARD, self.loss_dims(&chunk), &args);
        }
        self.sum(plan, Accumulate::Set);
    }

    /// Records the loss, and the gradients of `x` and of the table.
    fn backward(&self, recorder: &mut Recorder<'_>) {
        let state = self.state.expect("training has a state");
        for chunk in self.chunks() {
            self.project_chunk(recorder.plan, &chunk);
            let args = [chunk.targets, state, chunk.logits, chunk.row_loss];
            recorder.plan.push(&cross_entropy::BACKWARD, self.loss_dims(&chunk), &args);
            for slice in &self.table {
                let (c, rows, v) = (self.dims.C, chunk.rows as u32, slice.rows as u32);
                let (ld, start) = (self.stride() as u32, slice.start as u32);
                let part = Dims { N: c, LD: ld, START: start, ..Dims::default() };
                let acc = recorder.contribution(chunk.x.grad);
                let dims = Dims { M: rows, K: v, ACC: acc, ..part };
                let args = [chunk.logits, slice.var.value, chunk.x.grad];
                recorder.plan.push(&matmul::NN, dims, &args);
                if let Some(acc) = recorder.parameters(&[slice.var]) {
                    let dims = Dims { M: v, K: rows, ACC: acc, ..part };
                    let args = [chunk.logits, chunk.x.value, slice.var.grad];
                    recorder.plan.push(&matmul::TN, dims, &args);
                }
            }
        }
        self.sum(recorder.plan, Accumulate::SetFirst);
    }
}

/// Computes `logits` (SLOTS,V) of the rows of `x` (T,C) after which the slots draw.
pub struct HeadExtend {
    /// T, C, SLOTS; LD, which is the size of the whole vocabulary.
    pub dims: Dims,
    /// (SLOTS,[`slot::WORDS`](crate::kernel::rows::slot))
    pub slots: View,
    /// (T,C)
    pub x: View,
    /// (V,C) in slices.
    pub table: Vec<Slice>,
    /// (SLOTS,V)
    pub logits: View,
}

impl Op for HeadExtend {
    fn forward(&self, plan: &mut Plan) {
        for slice in &self.table {
            let dims = Dims { V: slice.rows as u32, START: slice.start as u32, ..self.dims };
            plan.push(&FORWARD, dims, &[self.slots, self.x, slice.var.value, self.logits]);
        }
    }

    fn backward(&self, _: &mut Recorder<'_>) {
        unreachable!("generation has no backward pass");
    }
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([x, table], [logits]), [slots], []) = io.split();
    let c = dims.C as usize;
    for (slot, logits) in logits.chunks_mut(dims.LD as usize).enumerate() {
        let Some((row, _)) = Draw::of_slot(slots, slot, dims.T as usize) else { continue };
        let x = &x[row * c..(row + 1) * c];
        for (v, table) in table.chunks(c).enumerate() {
            logits[dims.START as usize + v] = x.iter().zip(table).map(|(&x, &w)| x * w).sum();
        }
    }
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let [table] = io.stored();
    let (([x], [logits]), [slots], []) = io.split();
    let c = dims.C as usize;
    let drawing = logits.chunks_mut(dims.LD as usize).enumerate().filter_map(|(slot, logits)| {
        let (row, _) = Draw::of_slot(slots, slot, dims.T as usize)?;
        Some((&mut logits[dims.START as usize..][..table.len() / c], &x[row * c..][..c]))
    });
    let (logits, x): (Vec<_>, Vec<_>) = drawing.unzip();
    rows_dots(logits, &x, table);
}
