//! Products of matrices in bf16, summed in single precision: `out = factor · a · b`.
//!
//! The instruction VDPBF16PS of AVX-512 multiplies pairs: it adds to each of 16 sums two products of neighbours along the
//! sum. So both factors are packed as pairs, one after the other for all rows of a (or columns of b) that are multiplied
//! together, and a tile of 12 x 32 sums stays in registers. What the instruction does, the trait `Dot` says, and
//! plain loops do it too, with the same bits: they are the only other implementation, so that all around it is tested on
//! any processor.
//!
//! A number of a product is summed in one order, whatever the other rows and columns, the position in a tile and the number
//! of threads: within a run of 256 numbers pair by pair, the odd one of a pair first, and then run by run.

mod pack;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::cell::Cell;

use half::bf16;
use rayon::prelude::*;

use super::gemm::{Into, Matrix, reach};
use pack::{Panels, pack};
use tile::{COLUMNS, Part, ROWS};

/// The length of the sums that are computed at a time: packed, the columns of a tile then take half of an L1 cache.
const DEPTH: usize = 256;
/// The columns that are packed at a time.
const PACKED_COLUMNS: usize = 2048;
/// The rows that are packed at a time.
const PACKED_ROWS: usize = 4096;
/// The rows of a task: packed, they stay in the L2 cache.
const TASK_ROWS: usize = 8 * ROWS;
/// The columns of a task.
const TASK_COLUMNS: usize = 8 * COLUMNS;

/// The way in which pairs are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the processor's own instruction.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// By plain loops.
    Loops,
}

impl Way {
    /// Returns the fastest way of this processor.
    fn best() -> Way {
        #[cfg(target_arch = "x86_64")]
        if x86::is_there() {
            return Way::Avx512;
        }
        Way::Loops
    }

    fn multiply(self, part: Part<'_, '_>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Way::Avx512 => x86::multiply(part),
            Way::Loops => tile::multiply_by_loops(part),
        }
    }
}

/// Whether this processor has an instruction for products of bf16: AVX-512 BF16. By loops they are slower than products in
/// single precision.
pub fn is_fast() -> bool {
    Way::best() != Way::Loops
}

/// Computes `out = factor · a · b`, or adds the product to `out`, whose rows begin `stride` elements apart; on all threads.
///
/// Numbers below the smallest normal one, of the factors and of the sums, count as 0, as the processor's instruction has it.
///
/// # Panics
///
/// If the sizes do not fit each other, or the output does not lie within its slice.
pub fn product(
    out: &mut [f32],
    stride: usize,
    into: Into,
    a: Matrix<'_, bf16>,
    b: Matrix<'_, bf16>,
    factor: f32,
) {
    product_by(Way::best(), out, stride, into, [a, b], factor);
}

thread_local! {
    /// Room for packed factors, kept from one product to the next.
    static ROOM: Cell<[Vec<u32>; 2]> = Cell::default();
}

fn product_by(
    way: Way,
    out: &mut [f32],
    stride: usize,
    into: Into,
    [a, b]: [Matrix<'_, bf16>; 2],
    factor: f32,
) {
    let (m, n, k) = (a.rows(), b.cols(), a.cols());
    assert_eq!(k, b.rows(), "the inner sizes of a product agree");
    assert!(stride >= n && reach(m, n, stride, 1) <= out.len(), "a product lies within its slice");
    // It is taken away meanwhile, since a thread that waits for others may compute another product.
    let [mut of_a, mut of_b] = ROOM.take();
    for column in (0..n).step_by(PACKED_COLUMNS) {
        let columns = PACKED_COLUMNS.min(n - column);
        // Even an empty sum has a result.
        for first in (0..k.max(1)).step_by(DEPTH) {
            let depth = DEPTH.min(k - first);
            let into = if first == 0 { into } else { Into::Add };
            pack(&mut of_b, b.t().part(column..column + columns, first..first + depth), COLUMNS);
            for row in (0..m).step_by(PACKED_ROWS) {
                let rows = PACKED_ROWS.min(m - row);
                pack(&mut of_a, a.part(row..row + rows, first..first + depth), ROWS);
                let panels = [(&of_a, rows, ROWS), (&of_b, columns, COLUMNS)];
                let panels =
                    panels.map(|(all, lines, width)| Panels::new(all, lines, width, depth));
                let out = &mut out[row * stride + column..];
                let tasks = tasks(out, stride, [rows, columns]);
                tasks.into_par_iter().for_each(|(at, out)| {
                    way.multiply(Part { out, at, panels, into, factor });
                });
            }
        }
    }
    ROOM.set([of_a, of_b]);
}

/// The first row and column of a task, and its part of the output, row by row.
type Task<'a> = ([usize; 2], Vec<&'a mut [f32]>);

/// Splits an output into tasks.
fn tasks(out: &mut [f32], stride: usize, [rows, columns]: [usize; 2]) -> Vec<Task<'_>> {
    let mut tasks = vec![];
    for (i, slab) in out.chunks_mut(TASK_ROWS * stride).take(rows.div_ceil(TASK_ROWS)).enumerate() {
        let count = TASK_ROWS.min(rows - i * TASK_ROWS);
        let first = tasks.len();
        tasks.extend(
            (0..columns)
                .step_by(TASK_COLUMNS)
                .map(|column| ([i * TASK_ROWS, column], Vec::with_capacity(count))),
        );
        for row in slab.chunks_mut(stride).take(count) {
            let parts = row[..columns].chunks_mut(TASK_COLUMNS);
            tasks[first..].iter_mut().zip(parts).for_each(|((_, rows), part)| rows.push(part));
        }
    }
    tasks
}

#[cfg(test)]
mod tests;
