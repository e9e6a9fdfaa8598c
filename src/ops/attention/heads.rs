//! The memory layout of queries, keys and values, and the keys that each row sees.

use std::ops::Range;

use crate::graph::Var;
use crate::kernel::Dims;

/// The layout of the heads of the queries, the keys or the values in a buffer: head h of row r (of B · T)
/// begins at `start + r · row_stride + h · head_stride`. All numbers count elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The number of heads.
    pub heads: usize,
    /// Where head 0 of row 0 begins.
    pub start: usize,
    /// The distance from one row to the next.
    pub row_stride: usize,
    /// The distance from one head of a row to the next.
    pub head_stride: usize,
}

impl Heads {
    /// Returns where a head of a row begins.
    pub fn at(&self, row: usize, head: usize) -> usize {
        self.start + row * self.row_stride + head * self.head_stride
    }

    /// Returns the layouts of the queries, keys and values of a dispatch.
    pub(crate) fn of(dims: &Dims) -> [Heads; 3] {
        let Dims { NH, KVH, Q_START, K_START, V_START, Q_ROW, K_ROW, Q_HEAD, K_HEAD, .. } = *dims;
        let heads = |[heads, start, row, head]: [u32; 4]| Heads {
            heads: heads as usize,
            start: start as usize,
            row_stride: row as usize,
            head_stride: head as usize,
        };
        let [k, v] = [K_START, V_START].map(|start| heads([KVH, start, K_ROW, K_HEAD]));
        [heads([NH, Q_START, Q_ROW, Q_HEAD]), k, v]
    }

    /// Returns the range of elements that `rows` rows span, from the start of the first head to the end of the last.
    fn range(&self, rows: usize, head_size: usize) -> Range<usize> {
        self.start..self.at(rows - 1, self.heads - 1) + head_size
    }
}

/// Queries, keys and values in one buffer, with one gradient: the input of attention.
///
/// They share one buffer because a dispatch writes one range per buffer; three linear layers write it as three slices.
#[derive(Clone, Copy, Debug)]
pub struct Qkv {
    /// The buffer.
    pub var: Var,
    /// Channels of each head.
    pub head_size: usize,
    /// The layout of the queries.
    pub q: Heads,
    /// The layout of the keys; their number of heads divides the number of query heads.
    pub k: Heads,
    /// The layout of the values; it has the same number of heads and the same strides as the keys.
    pub v: Heads,
}

impl Qkv {
    /// Describes q | k | v side by side in each row, as in GPT-2's (B,T,3C); `heads` are the number of query heads
    /// and the number of key heads.
    pub fn packed(var: Var, [nh, kvh]: [usize; 2], head_size: usize) -> Qkv {
        let row_stride = (nh + 2 * kvh) * head_size;
        let part = |first: usize, heads| Heads {
            heads,
            start: first * head_size,
            row_stride,
            head_stride: head_size,
        };
        Qkv { var, head_size, q: part(0, nh), k: part(nh, kvh), v: part(nh + kvh, kvh) }
    }

    /// Describes all queries, then all keys, then all values: (B,T,NH·HS), (B,T,KVH·HS) and (B,T,KVH·HS).
    pub fn blocks(var: Var, heads: [usize; 2], head_size: usize) -> Qkv {
        let rows = var.value.len / ((heads[0] + 2 * heads[1]) * head_size);
        Qkv::blocks_from(var, Qkv::starts(rows, heads, head_size, 1), heads, head_size)
    }

    /// Describes the same, each beginning at one of [`Qkv::starts`].
    pub fn blocks_from(
        var: Var,
        [q, k, v, _]: [usize; 4],
        [nh, kvh]: [usize; 2],
        head_size: usize,
    ) -> Qkv {
        let part = |start, heads| Heads {
            heads,
            start,
            row_stride: heads * head_size,
            head_stride: head_size,
        };
        Qkv { var, head_size, q: part(q, nh), k: part(k, kvh), v: part(v, kvh) }
    }

    /// Returns where queries, keys and values of `rows` rows begin, one after the other at multiples of `unit`, and where
    /// they end.
    pub fn starts(rows: usize, [nh, kvh]: [usize; 2], head_size: usize, unit: usize) -> [usize; 4] {
        let after =
            |start: usize, heads: usize| (start + rows * heads * head_size).next_multiple_of(unit);
        let (k, v) = (after(0, nh), after(after(0, nh), kvh));
        [0, k, v, after(v, kvh)]
    }

    /// Describes q | k | v per head, with `gap` unused elements after each, as in GPT-NeoX, which has no gaps;
    /// each query head has its own key head.
    pub fn interleaved(var: Var, heads: usize, head_size: usize, gap: usize) -> Qkv {
        let head_stride = 3 * head_size + gap;
        let part = |first: usize| Heads {
            heads,
            start: first * head_size,
            row_stride: heads * head_stride,
            head_stride,
        };
        Qkv { var, head_size, q: part(0), k: part(1), v: part(2) }
    }

    /// Returns the sizes of a dispatch over B sequences of T positions that reads this layout.
    ///
    /// # Panics
    ///
    /// If the number of query heads is not a multiple of the number of key heads, keys and values differ in layout,
    /// any of the three reaches beyond the buffer, or two heads share an element.
    pub(crate) fn dims(&self, dims: Dims) -> Dims {
        let Qkv { head_size, q, k, v, .. } = *self;
        assert!(k.heads > 0 && q.heads.is_multiple_of(k.heads), "each key has as many queries");
        assert_eq!(Heads { start: k.start, ..v }, k, "keys and values lie alike");
        let (rows, parts) = (dims.rows(), [q, k, v]);
        for (i, part) in parts.iter().enumerate() {
            let end = part.range(rows, head_size).end;
            assert!(end <= self.var.value.len, "{part:?} reaches {end} in {:?}", self.var.value);
            for other in &parts[i..] {
                let apart = are_apart([part, other], rows, head_size);
                assert!(apart, "heads share elements: {part:?} and {other:?}");
            }
        }
        let [nh, hs, kvh] = [q.heads, head_size, k.heads].map(|n| n as u32);
        let [q_start, k_start, v_start] = parts.map(|part| part.start as u32);
        let [q_row, k_row, _] = parts.map(|part| part.row_stride as u32);
        let [q_head, k_head, _] = parts.map(|part| part.head_stride as u32);
        Dims {
            C: nh * hs,
            NH: nh,
            HS: hs,
            KVH: kvh,
            Q_START: q_start,
            K_START: k_start,
            V_START: v_start,
            Q_ROW: q_row,
            K_ROW: k_row,
            Q_HEAD: q_head,
            K_HEAD: k_head,
            ..dims
        }
    }
}

/// Whether no two heads of two parts, or of one part, share an element: one part lies entirely before the other,
/// or their heads lie side by side within each row.
fn are_apart([a, b]: [&Heads; 2], rows: usize, head_size: usize) -> bool {
    let ranges = [a, b].map(|part| part.range(rows, head_size));
    if ranges[0].end <= ranges[1].start || ranges[1].end <= ranges[0].start {
        return true;
    }
    let of_row = |part: &Heads| (0..part.heads).map(|head| part.at(0, head)).collect::<Vec<_>>();
    let mut starts = of_row(a);
    if !std::ptr::eq(a, b) {
        starts.extend(of_row(b));
    }
    starts.sort_unstable();
    let width = starts[starts.len() - 1] - starts[0] + head_size;
    let fits_a_row = rows == 1 || (a.row_stride == b.row_stride && width <= a.row_stride);
    fits_a_row && starts.windows(2).all(|pair| pair[0] + head_size <= pair[1])
}

/// Returns the key head that a query head reads.
pub(super) fn kv_head(dims: &Dims, head: usize) -> usize {
    head / (dims.NH / dims.KVH) as usize
}

/// The columns of a tile of scores that its rows see: the keys from each row's first key, or from the start of its window,
/// up to its own position.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    dims: &'a Dims,
    /// The position of the tile's first row.
    row: usize,
    /// The position of the key of column 0: no row sees a key before it.
    begin: usize,
    /// The first key that each row may see.
    first_keys: &'a [u32],
}

impl<'a> Seen<'a> {
    /// Describes `n` rows of a sequence from position `row` on; a row whose first key is after it sees itself.
    pub(super) fn of(dims: &'a Dims, first_keys: &'a [u32], row: usize, n: usize) -> Seen<'a> {
        let first_keys = &first_keys[row..row + n];
        let mut seen = Seen { dims, row, begin: row, first_keys };
        seen.begin = (0..n).map(|r| seen.first(r)).min().unwrap_or(row);
        seen
    }

    /// Returns the position of the first key that row `r` of the tile sees.
    #[inline(always)]
    fn first(&self, r: usize) -> usize {
        let position = self.row + r;
        (self.first_keys[r] as usize).min(position).max(self.dims.window_start(position))
    }

    /// Returns the position of the key of column 0.
    pub(super) fn begin(&self) -> usize {
        self.begin
    }

    /// Returns the columns that row `r` of the tile sees.
    #[inline(always)]
    pub(super) fn columns(&self, r: usize) -> Range<usize> {
        self.first(r) - self.begin..self.row + r + 1 - self.begin
    }
}
