//! Causal self-attention (Vaswani et al. 2017) with the signature of flash attention (Dao et al. 2022).
//!
//! ```text
//! s[i, j] = q[i] · k[j] / √HS                lse[i] = log Σ_j exp(s[i, j])      p = exp(s - lse)
//! out[i]  = Σ_j p[i, j] v[j]
//!
//! delta[i] = dout[i] · out[i]      ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i])
//! dq[i] = Σ_j ds[i, j] k[j] / √HS      dk[j] = Σ_i ds[i, j] q[i] / √HS      dv[j] = Σ_i p[i, j] dout[i]
//! ```
//!
//! The sums run over the keys that row i sees: from its first key `F[i]`, which is at most i, up to itself:
//! `F[i] <= j <= i`. F is 0 everywhere unless the host writes it, where a document begins; a window of W positions
//! ([`Dims::WINDOW`]) makes it at least i - W + 1.
//!
//! Queries, keys and values lie in one buffer ([`Qkv`]): GPT-2's (B,T,3C), q | k | v in each row, is one such
//! layout. KVH heads of keys and values serve NH heads of queries, NH / KVH each (Ainslie et al. 2023); the gradients
//! of a key head are summed over its query heads in order. No (T,T) matrix is kept: the backward pass recomputes
//! p from the row log-sum-exp.

mod copy;
mod cpu;
pub(crate) mod extend;
mod heads;
mod projections;
mod twins;

use crate::graph::{Graph, Op, Recorder, Sharing, Var};
use crate::kernel::{
    Dims, FLOATS, Format, Kernel, Needs, Variant, always, grid, reads, reads_u32, shared, twin,
    writes, writes_part,
};
use crate::ops::matrix_units::{
    EMULATED, EMULATED_AS_4, EMULATED_AS_8, LIKE_AMD, LIKE_APPLE, LIKE_NVIDIA,
};
use crate::ops::variants::portable;
use crate::plan::{Plan, Role, View};
pub use copy::{EXTEND_COPY, record_copies};
use extend::AttentionExtend;
pub use extend::{EXTEND_FORWARD, EXTEND_STORE};
pub use heads::{Heads, Qkv};
use twins::{backward, backward_delta, forward};

/// Counts B·NH·T²/2 pairs of a query and a key, times `work` operations per channel.
fn pair_flops(d: &Dims, work: u64) -> u64 {
    work * u64::from(d.B) * u64::from(d.T) * u64::from(d.T) * u64::from(d.C) / 2
}

/// Returns one workgroup per `positions` positions of a head; z counts parts of the head's channels.
fn blocks_of(d: &Dims, positions: u32, channels: u32) -> [u32; 3] {
    let [x, y, _] = grid::fold(d.B * d.NH * d.T.div_ceil(positions));
    [x, y, d.HS.div_ceil(channels)]
}

/// Returns the same for positions as queries and then for positions as keys.
fn blocks_twice(d: &Dims, positions: u32, channels: u32) -> [u32; 3] {
    let [x, y, z] = blocks_of(d, positions, channels);
    [x, y, 2 * z]
}

/// Whether each head can be read four channels at a time.
pub(crate) fn four_head_channels(d: &Dims, _: &[Format]) -> bool {
    let starts = [d.Q_START, d.K_START, d.V_START];
    let strides = [d.HS, d.Q_ROW, d.K_ROW, d.Q_HEAD, d.K_HEAD];
    starts.into_iter().chain(strides).all(|n| n.is_multiple_of(4))
}

/// Whether subgroups of 8 can compute it four channels at a time, in loops of fewer rounds than the 65,535 after which Mesa's
/// drivers that run on a CPU end the loops of a shader.
///
/// In a tile of 32 keys, a block of 16 channels has five rounds, and the rest of the tile at most 20; each query head that reads
/// the keys goes through all tiles.
fn subgroup_blocks(d: &Dims, formats: &[Format]) -> bool {
    let in_tile = 20 + 5 * u64::from(d.HS.div_ceil(16));
    let tiles = u64::from(d.T.div_ceil(32)) * u64::from(d.NH / d.KVH.max(1));
    four_head_channels(d, formats) && in_tile * tiles <= 60_000
}

/// Whether matrix units can compute it with a variant for heads of up to `head` channels, 64 or 128: half precision, and
/// heads of at least 16 channels, in multiples of four, that are too large for the other variant if that is for 64.
fn fits_matrix_units(d: &Dims, formats: &[Format], head: u32) -> bool {
    let sizes = if head == 64 { 16..=64 } else { 65..=head };
    formats[0] == Format::F16 && four_head_channels(d, formats) && sizes.contains(&d.HS)
}

/// The variants of the kernel whose file is `$file`. `$blocks` returns the grid for a number of positions and
/// channels per workgroup. `$maths` is the mathematics that `tiles` and `broadcast` share.
///
/// `tiles` and `tiles_128` have `$tile` positions, in 64 invocations with the text `$few` and in 128 with `$many`. Matrix
/// units have `$coop` channels, use the texts `$uses`, and need so many KiB of workgroup memory.
macro_rules! variants {
    (
        $file:literal, $blocks:expr, $maths:ident,
        tiles: $tile:literal [$few:expr, $many:expr],
        coop: $coop:literal [$($uses:ident),*] [$kib_8x8:literal, $kib_16x16:literal]
    ) => {{
        const PORTABLE: Variant = Variant {
            name: "",
            wgsl: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file, ".wgsl")),
            shared: &[shared::HEADS, shared::FIRST_KEY],
            needs: Needs::NOTHING,
            fits: always,
            tolerance: None,
            grid: |d, _| $blocks(d, 16, 256),
        };
        const TILES: Variant = Variant {
            name: "tiles",
            wgsl: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file, "_tiles.wgsl")),
            shared: &[
                shared::HEADS,
                shared::FIRST_KEY,
                shared::$maths,
                shared::ATTENTION_TILES,
                $few,
            ],
            fits: four_head_channels,
            grid: |d, _| $blocks(d, $tile, 64),
            ..PORTABLE
        };
        const COOP: Variant = Variant {
            wgsl: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file, "_coop.wgsl")),
            // They take probabilities and their gradients in half precision: each has a relative error of 2^-12 on
            // average, and so does a sum of such numbers.
            tolerance: Some(5e-4),
            ..PORTABLE
        };
        macro_rules! coop {
            (
                $name:literal, $units:ident, $elements:ident, $rows:ident, $kib:literal, $head:literal
            ) => {
                Variant {
                    name: $name,
                    shared: &[
                        shared::HEADS,
                        shared::FIRST_KEY,
                        $(shared::$uses,)*
                        shared::ATTENTION_COOP,
                        shared::$rows,
                        $units.matrices.shape().wgsl,
                        shared::$elements,
                        $units.wgsl,
                        concat!("const HEAD = ", $head, "u;"),
                    ],
                    needs: $units.needs($kib << 10),
                    fits: |d, formats| fits_matrix_units(d, formats, $head),
                    grid: |d, _| $blocks(d, 4 * $units.matrices.shape().m, $coop),
                    ..COOP
                }
            };
        }
        &[
            PORTABLE,
            TILES,
            // With half of the registers: for devices that would spill them, or run few invocations at a time.
            Variant {
                name: "tiles_128",
                shared: &[
                    shared::HEADS,
                    shared::FIRST_KEY,
                    shared::$maths,
                    shared::ATTENTION_TILES,
                    $many,
                ],
                ..TILES
            },
            Variant {
                name: "broadcast",
                wgsl: include_str!(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/shaders/",
                    $file,
                    "_broadcast.wgsl"
                )),
                shared: &[
                    shared::HEADS,
                    shared::FIRST_KEY,
                    shared::$maths,
                    shared::ATTENTION_BROADCAST,
                    shared::BROADCAST,
                ],
                needs: Needs::SUBGROUPS_OF_8,
                fits: subgroup_blocks,
                tolerance: None,
                grid: |d, _| $blocks(d, 8, 32),
            },
            // Workgroups of 8 or 4 subgroups: both numbers on an emulator of matrix units, and those like AMD's; then matrix
            // units like Apple's, those of the emulator, those like NVIDIA's. Each for heads of up to 64 and of up to 128
            // channels.
            coop!("coop_8x8_as_8", EMULATED_AS_8, COOP_VECTORS, ROW_EXCHANGE, $kib_8x8, 64),
            coop!("coop_8x8_as_8_128", EMULATED_AS_8, COOP_VECTORS, ROW_EXCHANGE, $kib_8x8, 128),
            coop!("coop_8x8_as_4", EMULATED_AS_4, COOP_VECTORS, ROW_EXCHANGE, $kib_8x8, 64),
            coop!("coop_8x8_as_4_128", EMULATED_AS_4, COOP_VECTORS, ROW_EXCHANGE, $kib_8x8, 128),
            coop!("coop_16x16_either", LIKE_AMD, COOP_VECTORS, ROW_EXCHANGE, $kib_16x16, 64),
            coop!("coop_16x16_either_128", LIKE_AMD, COOP_VECTORS, ROW_EXCHANGE, $kib_16x16, 128),
            coop!("coop_8x8", LIKE_APPLE, COOP_NUMBERS, ROW_SHUFFLES, $kib_8x8, 64),
            coop!("coop_8x8_128", LIKE_APPLE, COOP_NUMBERS, ROW_SHUFFLES, $kib_8x8, 128),
            coop!("coop_8x8_narrow", EMULATED, COOP_VECTORS, ROW_SHUFFLES, $kib_8x8, 64),
            coop!("coop_8x8_narrow_128", EMULATED, COOP_NUMBERS, ROW_SHUFFLES, $kib_8x8, 128),
            coop!("coop_16x16", LIKE_NVIDIA, COOP_VECTORS, ROW_SHUFFLES, $kib_16x16, 64),
            coop!("coop_16x16_128", LIKE_NVIDIA, COOP_VECTORS, ROW_SHUFFLES, $kib_16x16, 128),
        ]
    }};
}

/// Computes `out` and `lse` from `qkv`.
pub const FORWARD: Kernel = Kernel {
    name: "attention_forward",
    args: &[
        reads("qkv").takes(FLOATS),
        reads_u32("first_key"),
        writes("out").takes(FLOATS),
        writes("lse"),
    ],
    twin: twin!(forward),
    cpu: Some(cpu::forward),
    flops: |d| pair_flops(d, 4),
    // The exponential of a sum of about 20 magnifies its rounding error by the same factor.
    tolerance: 5e-5,
    variants: variants!(
        "attention_forward", blocks_of, ATTENTION_SOFTMAX,
        tiles: 64 ["const SIZE = 64u;", "const SIZE = 128u;"],
        coop: 128 [] [18, 25]
    ),
};

/// Computes `delta` from `out` and `dout`.
pub const BACKWARD_DELTA: Kernel = Kernel {
    name: "attention_backward_delta",
    args: &[reads("out").takes(FLOATS), reads("dout").takes(FLOATS), writes("delta")],
    twin: twin!(backward_delta),
    cpu: Some(cpu::backward_delta),
    flops: |d| 2 * d.rows() as u64 * u64::from(d.C),
    tolerance: Kernel::TOLERANCE,
    variants: portable!(
        "attention_backward_delta",
        [],
        |d, _| grid::fold((d.B * d.T * d.NH).div_ceil(256)),
        "vectors": [],
        Needs::NOTHING,
        four_head_channels,
        |d, _| grid::fold((d.B * d.T * d.NH).div_ceil(256))
    ),
};

/// Computes `dqkv` from `dout`.
pub const BACKWARD: Kernel = Kernel {
    name: "attention_backward",
    args: &[
        reads("qkv").takes(FLOATS),
        reads_u32("first_key"),
        reads("lse"),
        reads("delta"),
        reads("dout").takes(FLOATS),
        writes_part("dqkv").takes(FLOATS),
    ],
    twin: twin!(backward),
    cpu: Some(cpu::backward),
    flops: |d| pair_flops(d, 10),
    // It multiplies several differences of sums and exponentials of sums.
    tolerance: 1e-4,
    variants: variants!(
        "attention_backward", blocks_twice, ATTENTION_PAIRS,
        tiles: 32 [shared::ATTENTION_FOUR, shared::ATTENTION_TWO],
        coop: 64 [ATTENTION_PAIRS] [19, 28]
    ),
};

/// Computes `out` (B,T,NH·HS) from `qkv`; `lse` (B,NH,T) is kept for the backward pass.
pub struct Attention {
    /// B, T, C (NH·HS), NH, and the places of the heads.
    pub dims: Dims,
    /// The layout that `dims` describes.
    pub qkv: Var,
    /// (B,T): the first key that each row may see.
    pub first_key: View,
    /// (B,T,C)
    pub out: Var,
    /// (B,NH,T)
    pub lse: View,
    /// (B,NH,T); used by the backward pass.
    pub delta: View,
}

impl Graph {
    /// Adds causal attention and returns its output (B,T,NH·HS); `s` positions fit the cache of generation.
    ///
    /// In training and inference the first key that a row may see is where its document begins
    /// ([`Graph::document_starts`]); in generation it is in the table of rows.
    ///
    /// # Panics
    ///
    /// If the number of query heads is not a multiple of the number of key heads, keys and values differ in layout, any
    /// of the three reaches beyond the buffer, or two heads share an element.
    pub fn attention(&mut self, name: &str, qkv: Qkv, s: usize) -> Var {
        self.attention_in(name, qkv, s, None)
    }

    /// Adds the same attention, in which each position sees at most `window` positions, its own included.
    ///
    /// # Panics
    ///
    /// As [`Graph::attention`].
    pub fn attention_in(&mut self, name: &str, qkv: Qkv, s: usize, window: Option<usize>) -> Var {
        let s = self.positions(s);
        // A window that holds the whole context is none.
        let window = window.filter(|window| *window < s).unwrap_or(0) as u32;
        let dims = qkv.dims(Dims { S: s as u32, WINDOW: window, ..self.dims() });
        let Qkv { var: qkv, .. } = qkv;
        let out = self.activation_of(name, dims.C as usize, Sharing::InBlocks, qkv.has_grad());
        if self.extends() {
            let cached = (dims.KVH * dims.HS) as usize;
            let cache = self.cache(name, dims.SLOTS as usize * 2 * s * cached);
            let (rows, qkv, out) = (self.rows_table(), qkv.value, out.value);
            self.push(AttentionExtend { dims, rows, qkv, cache, out });
        } else {
            let first_key = self.document_starts();
            let rows = self.rows() * dims.NH as usize;
            let lse = format!("{name}.lse");
            let lse = self.activations(&lse, rows, Format::F32, Sharing::InBlocks);
            let delta = match qkv.has_grad() {
                true => self.buffer(Role::Activations, &format!("{name}.delta"), rows, Format::F32),
                false => lse,
            };
            self.push(Attention { dims, qkv, first_key, out, lse, delta });
        }
        out
    }
}

impl Op for Attention {
    fn forward(&self, plan: &mut Plan) {
        let args = [self.qkv.value, self.first_key, self.out.value, self.lse];
        plan.push(&FORWARD, self.dims, &args);
    }

    fn backward(&self, recorder: &mut Recorder<'_>) {
        let Attention { dims, qkv, first_key, out, lse, delta } = *self;
        if !qkv.has_grad() {
            return;
        }
        recorder.plan.push(&BACKWARD_DELTA, dims, &[out.value, out.grad, delta]);
        let args = [qkv.value, first_key, lse, delta, out.grad, qkv.grad];
        recorder.plan.push(&BACKWARD, dims, &args);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rounds of `attention_backward_broadcast.wgsl` for keys that `heads` query heads read: those of tiles, and in each
    /// those of blocks of channels, of four lanes in each block, of eight pairs, and of eight lanes.
    fn rounds(positions: u32, channels: u32, heads: u32) -> u32 {
        let in_tile = 1 + channels.div_ceil(16) * (1 + 4) + 8 + 8;
        heads * (1 + positions.div_ceil(32) * in_tile)
    }

    #[test]
    fn loops_of_subgroups_end_before_the_driver_ends_them() {
        let fits = |positions, channels, heads| {
            let dims = Dims { T: positions, HS: channels, NH: heads, KVH: 1, ..Dims::default() };
            subgroup_blocks(&dims, &[])
        };
        assert!(fits(128, 32, 1) && fits(8192, 64, 1) && fits(2048, 64, 4));
        assert!(!fits(8192, 128, 8), "the driver would end them");
        let heads = (1..=64).flat_map(|heads| [(heads, 16), (heads, 64), (heads, 128)]);
        for (heads, channels) in heads {
            let most =
                (1..4096).map(|tiles| 32 * tiles).take_while(|t| fits(*t, channels, heads)).last();
            let most = most.expect("some positions fit");
            assert!(rounds(most, channels, heads) < 65_000, "{most} positions of {heads} heads");
        }
    }
}
