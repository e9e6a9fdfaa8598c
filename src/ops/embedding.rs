//! The embedding of a token at its position p in its document: `out[b, t] = wte[tokens[b, t]] + wpe[p]`, or of a token
//! alone, where positions are not in a table.
//!
//! ```text
//! p = t - starts[b, t]
//! dwte[v] += Σ over (b, t) with tokens[b, t] = v of dout[b, t]      dwpe[p] += Σ over (b, t) at position p of dout[b, t]
//! ```
//!
//! The document begins where [`Graph::document_starts`] says, which is 0 unless the host writes it. The rows of a document lie side
//! by side and have the same start: on that the gradient's kernel relies.
//!
//! In mixed precision the tables' copies are read, as products read them, so that ranks may split what is in single precision.
//!
//! The token table may be split into slices of V rows from START; a slice's kernel writes only the rows of its own
//! tokens. A token that is in no slice is an error of the caller; its row stays unchanged.
//!
//! In generation a row is a token of any slot at any position ([`crate::kernel::rows`]), with a kernel of its own.
//! Rows may be masked: the first slice writes zeros for them, and neither a token nor a position is read.

use rayon::prelude::*;

use crate::graph::{Graph, Joins, Op, Recorder, Sharing, Slice, Var, Wanted};
use crate::kernel::rows::Place;
use crate::kernel::{
    Accumulate, Dims, FLOATS, Format, Io, Kernel, Needs, Real, Step, accumulate, adds,
    four_channels, grid, reads, reads_u32, twin, writes_part,
};
use crate::math::simd;
use crate::math::stored::Stored;
use crate::ops::variants::portable;
use crate::params::ParamRole;
use crate::plan::{Plan, View};

/// Computes `out` from a slice of the token table.
pub const FORWARD: Kernel = Kernel {
    name: "embedding_forward",
    args: &[
        reads_u32("tokens"),
        reads_u32("starts"),
        reads("wte").stored(),
        reads("wpe").takes(FLOATS),
        writes_part("out"),
    ],
    twin: twin!(forward),
    cpu: Some(fast_forward),
    flops: |d| d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("embedding_forward", [POSITIONS], grid::rows),
};

/// Computes `out` of rows of generation from a slice of the token table.
pub const EXTEND_FORWARD: Kernel = Kernel {
    name: "embedding_extend_forward",
    args: &[
        reads_u32("rows"),
        reads_u32("tokens"),
        reads("wte").stored(),
        reads("wpe").takes(FLOATS),
        writes_part("out"),
    ],
    twin: twin!(extend_forward),
    cpu: Some(fast_extend_forward),
    flops: |d| u64::from(d.T) * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("embedding_extend_forward", [ROWS], grid::rows),
};

/// Computes `out` from a slice of the token table, without positions.
pub const FORWARD_TOKENS: Kernel = Kernel {
    name: "embedding_forward_tokens",
    args: &[reads_u32("tokens"), reads("wte").stored(), writes_part("out")],
    twin: twin!(forward_tokens),
    cpu: Some(fast_forward_tokens),
    flops: |_| 0,
    tolerance: Kernel::TOLERANCE,
    variants: portable!("embedding_forward_tokens", [], grid::rows),
};

/// Computes `out` of rows of generation from a slice of the token table, without positions.
pub const EXTEND_FORWARD_TOKENS: Kernel = Kernel {
    name: "embedding_extend_forward_tokens",
    args: &[reads_u32("rows"), reads_u32("tokens"), reads("wte").stored(), writes_part("out")],
    twin: twin!(extend_forward_tokens),
    cpu: Some(fast_extend_forward_tokens),
    flops: |_| 0,
    tolerance: Kernel::TOLERANCE,
    variants: portable!("embedding_extend_forward_tokens", [ROWS], grid::rows),
};

/// Computes a slice of `dwte`.
pub const BACKWARD_TOKENS: Kernel = Kernel {
    name: "embedding_backward_tokens",
    args: &[reads_u32("tokens"), reads("dout"), adds("dwte")],
    twin: twin!(backward_tokens),
    cpu: Some(fast_backward_tokens),
    flops: |d| d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "embedding_backward_tokens",
        [],
        |d, _| grid::fold(d.V),
        "first": [],
        Needs::SUBGROUPS,
        |d, formats| d.ACC == Accumulate::Add as u32 && four_channels(d, formats),
        grid::rows
    ),
};

/// Computes `dwpe`.
pub const BACKWARD_POSITIONS: Kernel = Kernel {
    name: "embedding_backward_positions",
    args: &[reads_u32("starts"), reads("dout"), adds("dwpe")],
    twin: twin!(backward_positions),
    cpu: Some(fast_backward_positions),
    flops: |d| d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!("embedding_backward_positions", [POSITIONS], grid::elements),
};

/// Computes `out` (B,T,C) from tokens (B,T).
pub struct Embedding {
    /// B, T, C, S.
    pub dims: Dims,
    /// (B,T)
    pub tokens: View,
    /// (V,C) in slices.
    pub wte: Vec<Slice>,
    /// If positions are in a table: that table (S,C), and where the document of each row (B,T) begins.
    pub positions: Option<(Var, View)>,
    /// (B,T,C)
    pub out: Var,
}

impl Embedding {
    fn slice_dims(&self, slice: &Slice) -> Dims {
        slice_dims(&self.dims, slice)
    }
}

fn slice_dims(dims: &Dims, slice: &Slice) -> Dims {
    Dims { V: slice.rows as u32, START: slice.start as u32, ..*dims }
}

/// Computes `out` (T,C) of rows of generation.
pub struct EmbeddingExtend {
    /// T, C, S, SLOTS.
    pub dims: Dims,
    /// (T,[`ROW_WORDS`](crate::kernel::rows::ROW_WORDS))
    pub rows: View,
    /// (SLOTS,S+1)
    pub tokens: View,
    /// (V,C) in slices.
    pub wte: Vec<Slice>,
    /// (S,C), if positions are in a table.
    pub wpe: Option<View>,
    /// (T,C)
    pub out: View,
}

impl Op for EmbeddingExtend {
    fn forward(&self, plan: &mut Plan) {
        for slice in &self.wte {
            let (dims, wte) = (slice_dims(&self.dims, slice), slice.var.value);
            match self.wpe {
                Some(wpe) => {
                    let args = [self.rows, self.tokens, wte, wpe, self.out];
                    plan.push(&EXTEND_FORWARD, dims, &args);
                }
                None => {
                    let args = [self.rows, self.tokens, wte, self.out];
                    plan.push(&EXTEND_FORWARD_TOKENS, dims, &args);
                }
            }
        }
    }

    fn backward(&self, _: &mut Recorder<'_>) {
        unreachable!("generation has no backward pass");
    }
}

impl Graph {
    /// Describes the table of tokens (V,C) as a parameter to request; `name` is its full name.
    pub fn token_table<'a>(&self, name: &'a str, shape: &'a [usize]) -> Wanted<'a> {
        Wanted { name, shape, role: ParamRole::TokenTable, init: self.matrix_init() }
    }

    /// Describes the table (V,C) of an output head of its own as a parameter to request; `name` is its full name.
    pub fn head_table<'a>(&self, name: &'a str, shape: &'a [usize]) -> Wanted<'a> {
        Wanted { name, shape, role: ParamRole::Head, init: self.matrix_init() }
    }

    /// Adds the embeddings (B,T,C) of `tokens`, from the named tables of tokens (V,C) and of positions (S,C), if there is
    /// one; in generation `tokens` are the sequences. `joins` says whether they begin the residual stream, at once or
    /// after a dropout.
    pub fn embedding(
        &mut self,
        (tokens_name, positions_name): (&str, Option<&str>),
        tokens: View,
        [v, s, c]: [usize; 3],
        joins: Joins,
    ) -> Var {
        let wte = self.table(self.token_table(tokens_name, &[v, c]));
        let wpe = positions_name.map(|name| {
            let name = format!("{name}.weight");
            let (role, init) = (ParamRole::PositionTable, self.matrix_init());
            let wpe = self.whole(Wanted { name: &name, shape: &[s, c], role, init });
            self.operand(wpe)
        });
        let (grad, sharing) = match joins {
            Joins::Begins | Joins::Stream => ("stream", Sharing::InBlocks),
            Joins::Dropout => ("embedding", Sharing::OfFlights),
            Joins::Nothing => ("embedding", Sharing::InBlocks),
        };
        let value = self.activations("embedding", self.rows() * c, Format::F32, sharing);
        let has_grad = wpe.is_some_and(Var::has_grad) || wte.iter().any(|s| s.var.has_grad());
        let out = self.var(grad, value, Format::F32, has_grad);
        let dims = Dims { C: c as u32, S: self.positions(s) as u32, ..self.dims() };
        if self.extends() {
            let (rows, wpe, out) = (self.rows_table(), wpe.map(|wpe| wpe.value), out.value);
            self.push(EmbeddingExtend { dims, rows, tokens, wte, wpe, out });
        } else {
            let positions = wpe.map(|wpe| (wpe, self.document_starts()));
            self.push(Embedding { dims, tokens, wte, positions, out });
        }
        out
    }
}

impl Op for Embedding {
    fn forward(&self, plan: &mut Plan) {
        for slice in &self.wte {
            let (dims, wte, out) = (self.slice_dims(slice), slice.var.value, self.out.value);
            match self.positions {
                Some((wpe, starts)) => {
                    plan.push(&FORWARD, dims, &[self.tokens, starts, wte, wpe.value, out]);
                }
                None => plan.push(&FORWARD_TOKENS, dims, &[self.tokens, wte, out]),
            }
        }
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        for slice in &self.wte {
            if let Some(acc) = recorder.parameters(&[slice.var]) {
                let dims = Dims { ACC: acc, ..self.slice_dims(slice) };
                let args = [self.tokens, self.out.grad, slice.var.grad];
                recorder.plan.push(&BACKWARD_TOKENS, dims, &args);
            }
        }
        if let Some((wpe, starts)) = self.positions
            && let Some(acc) = recorder.parameters(&[wpe])
        {
            let dims = Dims { ACC: acc, ..self.dims };
            recorder.plan.push(&BACKWARD_POSITIONS, dims, &[starts, self.out.grad, wpe.grad]);
        }
    }
}

fn forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([wte, wpe], [out]), [tokens, starts], []) = io.split();
    let c = dims.C as usize;
    for row in 0..dims.rows() {
        let position = position_of(dims, starts, row);
        embed([wte, wpe], dims, (tokens[row], position), &mut out[row * c..(row + 1) * c]);
    }
}

/// Returns the position of a row in its document.
fn position_of(dims: &Dims, starts: &[u32], row: usize) -> usize {
    let t = row % dims.T as usize;
    t - t.min(starts[row] as usize)
}

/// Computes `out` of a token at a position, if the slice has the token.
fn embed<F: Real>(
    [wte, wpe]: [&[F]; 2],
    dims: &Dims,
    (token, position): (u32, usize),
    out: &mut [F],
) {
    let (c, token) = (dims.C as usize, token.wrapping_sub(dims.START));
    if token < dims.V {
        for i in 0..c {
            out[i] = wte[token as usize * c + i] + wpe[position * c + i];
        }
    }
}

fn forward_tokens<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([wte], [out]), [tokens], []) = io.split();
    for (token, out) in tokens.iter().zip(out.chunks_exact_mut(dims.C as usize)) {
        embed_token(wte, dims, *token, out);
    }
}

/// Copies the row of a token to `out`, if the slice has it.
fn embed_token<F: Copy>(wte: &[F], dims: &Dims, token: u32, out: &mut [F]) {
    let (c, token) = (dims.C as usize, token.wrapping_sub(dims.START));
    if token < dims.V {
        out.copy_from_slice(&wte[token as usize * c..][..c]);
    }
}

fn extend_forward_tokens<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([wte], [out]), [rows, tokens], []) = io.split();
    let (c, length) = (dims.C as usize, dims.S as usize + 1);
    for (row, out) in out.chunks_exact_mut(c).enumerate() {
        match Place::of_row(dims, rows, row) {
            Some(Place { slot, position, .. }) => {
                embed_token(wte, dims, tokens[slot * length + position], out);
            }
            None if dims.START == 0 => out.fill(F::zero()),
            None => {}
        }
    }
}

fn extend_forward<F: Real>(dims: &Dims, _: &Step, io: Io<'_, F>) {
    let (([wte, wpe], [out]), [rows, tokens], []) = io.split();
    let (c, length) = (dims.C as usize, dims.S as usize + 1);
    for row in 0..dims.T as usize {
        let out = &mut out[row * c..(row + 1) * c];
        match Place::of_row(dims, rows, row) {
            Some(Place { slot, position, .. }) => {
                embed([wte, wpe], dims, (tokens[slot * length + position], position), out);
            }
            None if dims.START == 0 => out.fill(F::zero()),
            None => {}
        }
    }
}

fn backward_tokens<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let (([dout], [dwte]), [tokens], []) = io.split();
    let c = dims.C as usize;
    if step.overwrites(dims) {
        dwte.fill(F::zero());
    }
    for row in 0..dims.rows() {
        let token = tokens[row].wrapping_sub(dims.START);
        if token < dims.V {
            for i in 0..c {
                let at = token as usize * c + i;
                dwte[at] = dwte[at] + dout[row * c + i];
            }
        }
    }
}

fn backward_positions<F: Real>(dims: &Dims, step: &Step, io: Io<'_, F>) {
    let (([dout], [dwpe]), [starts], []) = io.split();
    let c = dims.C as usize;
    for position in 0..dims.S as usize {
        let at_position = |row: &usize| position_of(dims, starts, *row) == position;
        let rows: Vec<usize> = (0..dims.rows()).filter(at_position).collect();
        for i in 0..c {
            let sum = rows.iter().map(|row| dout[row * c + i]).sum();
            accumulate(&mut dwpe[position * c + i], sum, step.overwrites(dims));
        }
    }
}

/// Writes the row of a token of the stored table to `out`, if the slice has it; returns whether it has.
fn embed_stored(wte: Stored<'_>, dims: &Dims, token: u32, out: &mut [f32]) -> bool {
    let (c, token) = (dims.C as usize, token.wrapping_sub(dims.START));
    let has = token < dims.V;
    if has {
        wte.part(token as usize * c..(token as usize + 1) * c).widen(out);
    }
    has
}

fn fast_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let [wte] = io.stored();
    let (([wpe], [out]), [tokens, starts], []) = io.split();
    let c = dims.C as usize;
    let task = simd::rows_per_task(c);
    out.par_chunks_mut(task * c).enumerate().for_each(|(first, out)| {
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            let row = first * task + i;
            if embed_stored(wte, dims, tokens[row], out) {
                simd::add_to(out, &wpe[position_of(dims, starts, row) * c..][..c]);
            }
        }
    });
}

fn fast_forward_tokens(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let [wte] = io.stored();
    let (([], [out]), [tokens], []) = io.split();
    let c = dims.C as usize;
    let rows = out.par_chunks_exact_mut(c).zip(tokens).with_min_len(simd::rows_per_task(c));
    rows.for_each(|(out, token)| {
        embed_stored(wte, dims, *token, out);
    });
}

fn fast_extend_forward(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let [wte] = io.stored();
    let (([wpe], [out]), [rows, tokens], []) = io.split();
    extend_stored(wte, Some(wpe), dims, [rows, tokens], out);
}

fn fast_extend_forward_tokens(dims: &Dims, _: &Step, io: Io<'_, f32>) {
    let [wte] = io.stored();
    let (([], [out]), [rows, tokens], []) = io.split();
    extend_stored(wte, None, dims, [rows, tokens], out);
}

fn extend_stored(
    wte: Stored<'_>,
    wpe: Option<&[f32]>,
    dims: &Dims,
    [rows, tokens]: [&[u32]; 2],
    out: &mut [f32],
) {
    let (c, length) = (dims.C as usize, dims.S as usize + 1);
    for (row, out) in out.chunks_exact_mut(c).take(dims.T as usize).enumerate() {
        match Place::of_row(dims, rows, row) {
            Some(Place { slot, position, .. }) => {
                let has = embed_stored(wte, dims, tokens[slot * length + position], out);
                if let Some(wpe) = wpe.filter(|_| has) {
                    simd::add_to(out, &wpe[position * c..][..c]);
                }
            }
            None if dims.START == 0 => out.fill(0.0),
            None => {}
        }
    }
}

/// Computes a slice of `dwte`: every task reads all tokens and adds those of its own rows of the table.
fn fast_backward_tokens(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let (([dout], [dwte]), [tokens], []) = io.split();
    let c = dims.C as usize;
    let overwrite = step.overwrites(dims);
    let task = (dims.V as usize).div_ceil(TOKEN_TASKS);
    dwte.par_chunks_mut(task * c).enumerate().for_each(|(first, dwte)| {
        if overwrite {
            dwte.fill(0.0);
        }
        let first = dims.START.wrapping_add((first * task) as u32);
        let here = (dwte.len() / c) as u32;
        for (&token, dout) in tokens.iter().zip(dout.chunks_exact(c)) {
            let row = token.wrapping_sub(first);
            if row < here {
                let dwte = &mut dwte[row as usize * c..][..c];
                dwte.iter_mut().zip(dout).for_each(|(sum, x)| *sum += x);
            }
        }
    });
}

/// The number of parts of the token table whose gradients are computed in parallel.
const TOKEN_TASKS: usize = 16;

fn fast_backward_positions(dims: &Dims, step: &Step, io: Io<'_, f32>) {
    let (([dout], [dwpe]), [starts], []) = io.split();
    let c = dims.C as usize;
    // The rows of each position, in order: position p has `rows[firsts[p]..firsts[p + 1]]`.
    let (firsts, rows) = rows_by_position(dims, starts);
    let overwrite = step.overwrites(dims);
    let task = simd::rows_per_task(c);
    dwpe.par_chunks_mut(task * c).enumerate().for_each(|(first, dwpe)| {
        if overwrite {
            dwpe.fill(0.0);
        }
        for (i, dwpe) in dwpe.chunks_exact_mut(c).enumerate() {
            let position = first * task + i;
            for row in &rows[firsts[position]..firsts[position + 1]] {
                let dout = &dout[row * c..][..c];
                dwpe.iter_mut().zip(dout).for_each(|(sum, x)| *sum += x);
            }
        }
    });
}

/// Returns all rows sorted by their position, and where those of each position of the table begin among them; the last of
/// these numbers is the number of rows.
fn rows_by_position(dims: &Dims, starts: &[u32]) -> (Vec<usize>, Vec<usize>) {
    let mut firsts = vec![0; dims.S as usize + 1];
    (0..dims.rows()).for_each(|row| firsts[position_of(dims, starts, row) + 1] += 1);
    (1..firsts.len()).for_each(|i| firsts[i] += firsts[i - 1]);
    let mut rows = vec![0; dims.rows()];
    let mut next = firsts.clone();
    for row in 0..dims.rows() {
        let place = &mut next[position_of(dims, starts, row)];
        rows[*place] = row;
        *place += 1;
    }
    (firsts, rows)
}
