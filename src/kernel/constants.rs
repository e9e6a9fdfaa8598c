//! The constants that Rust and WGSL share: one header, which is part of every shader.
//!
//! In WGSL, a constant of a module has the module's name as a prefix: `state::SKIP` is `STATE_SKIP`.

use std::fmt::Write;
use std::sync::LazyLock;

use super::dims::{Accumulate, Decay, LossScale};
use super::rows::{self, slot};
use super::{grid, state};

/// The number of gradients that one workgroup of the norm reduces.
pub const NORM_BLOCK: u32 = 1 << 14;
/// The number of values that this workgroup writes.
pub const NORM_PARTIAL_LEN: u32 = 3;
/// √(2/π), in the tanh form of GELU.
pub const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
/// The factor of x³ in the tanh form of GELU.
pub const GELU_CUBIC: f64 = 0.044_715;
/// The polynomial of the normal distribution's tail ([`crate::ops::gelu`]), the constant term first.
pub const NORMAL_TAIL: [f64; 9] = [
    0.225_675_901,
    0.225_664_628,
    0.207_944_659,
    0.167_746_282,
    0.144_481_348,
    -0.011_961_593_8,
    0.176_427_948,
    -0.187_325_517,
    0.051_346_487_8,
];

/// The integers, by their names in WGSL.
const INTEGERS: &[(&str, u32)] = &[
    ("GRID_LARGEST", grid::LARGEST),
    ("ACCUMULATE_SET", Accumulate::Set as u32),
    ("ACCUMULATE_SET_FIRST", Accumulate::SetFirst as u32),
    ("DECAY_DECOUPLED", Decay::Decoupled as u32),
    ("DECAY_COUPLED", Decay::Coupled as u32),
    ("LOSS_SCALE_DYNAMIC", LossScale::Dynamic as u32),
    ("STATE_APPLIED", state::APPLIED as u32),
    ("STATE_SKIPPED_IN_A_ROW", state::SKIPPED_IN_A_ROW as u32),
    ("STATE_SKIPPED", state::SKIPPED as u32),
    ("STATE_SKIP", state::SKIP as u32),
    ("STATE_SCALE_LOG2", state::SCALE_LOG2 as u32),
    ("STATE_SCALE_AGE", state::SCALE_AGE as u32),
    ("STATE_OVERFLOWED", state::OVERFLOWED as u32),
    ("STATE_GROWTH_INTERVAL", state::GROWTH_INTERVAL),
    ("STATE_LARGEST_SCALE_LOG2", state::LARGEST_SCALE_LOG2),
    ("ROW_WORDS", rows::ROW_WORDS as u32),
    ("SLOT_WORDS", slot::WORDS as u32),
    ("SLOT_ROW", slot::ROW as u32),
    ("SLOT_SEED", slot::SEED as u32),
    ("SLOT_TOP_K", slot::TOP_K as u32),
    ("SLOT_TEMPERATURE", slot::TEMPERATURE as u32),
    ("SLOT_TOP_P", slot::TOP_P as u32),
    ("SLOT_MIN_P", slot::MIN_P as u32),
    ("SLOT_REPETITION_PENALTY", slot::REPETITION_PENALTY as u32),
    ("NORM_BLOCK", NORM_BLOCK),
    ("NORM_PARTIAL_LEN", NORM_PARTIAL_LEN),
];

/// The real numbers.
const REALS: &[(&str, f64)] = &[("GELU_SCALE", GELU_SCALE), ("GELU_CUBIC", GELU_CUBIC)];

/// Returns the header: a WGSL declaration of each constant.
pub fn header() -> &'static str {
    static HEADER: LazyLock<String> = LazyLock::new(|| {
        let mut text = String::new();
        let integers = INTEGERS.iter().map(|(name, value)| (name, format!("{value}u")));
        let reals = REALS.iter().map(|(name, value)| (name, format!("{value:?}")));
        let tail = NORMAL_TAIL.map(|value| format!("{value:?}")).join(", ");
        let tail = [(&"NORMAL_TAIL", format!("array({tail})"))];
        for (name, value) in integers.chain(reals).chain(tail) {
            writeln!(text, "const {name} = {value};").expect("a text takes what is written");
        }
        text
    });
    &HEADER
}
