//! Texts of `shaders/shared/`, for [`Variant::shared`](super::Variant::shared).

/// Where the rows of generation are.
pub const ROWS: &str = include_str!("../../shaders/shared/rows.wgsl");
/// What the slots of generation draw by.
pub const SLOTS: &str = include_str!("../../shaders/shared/slots.wgsl");
/// Sums and maxima over a workgroup.
pub const REDUCE: &str = include_str!("../../shaders/shared/reduce.wgsl");
/// Rows that are a subgroup's work each.
pub const SUBGROUP_ROWS: &str = include_str!("../../shaders/shared/subgroup_rows.wgsl");
/// What layer normalisation does with the statistics of a row.
pub const NORM: &str = include_str!("../../shaders/shared/norm.wgsl");
/// Rows of logits in vectors of four.
pub const LOGITS: &str = include_str!("../../shaders/shared/logits.wgsl");
/// How they become their gradients.
pub const LOGITS_GRADIENT: &str = include_str!("../../shaders/shared/logits_gradient.wgsl");
/// Matrices from one lane of a subgroup of 8 to all.
pub const BROADCAST: &str = include_str!("../../shaders/shared/broadcast.wgsl");
/// The input of a linear layer.
pub const LINEAR_X: &str = include_str!("../../shaders/shared/linear_x.wgsl");
/// What comes out of it.
pub const LINEAR_OUT: &str = include_str!("../../shaders/shared/linear_out.wgsl");
/// Its weight (OC,C).
pub const LINEAR_OUT_IN: &str = include_str!("../../shaders/shared/linear_out_in.wgsl");
/// Its weight (C,OC).
pub const LINEAR_IN_OUT: &str = include_str!("../../shaders/shared/linear_in_out.wgsl");
/// The tanh form of GELU.
pub const GELU: &str = include_str!("../../shaders/shared/gelu.wgsl");
/// What the engines of a matrix product have in common.
pub const PRODUCT: &str = include_str!("../../shaders/shared/product.wgsl");
/// For products that do not want the sums of the second operand's columns.
pub const PRODUCT_NO_SUMS: &str = include_str!("../../shaders/shared/product_no_sums.wgsl");
/// The engine of a matrix product that every device runs.
pub const PRODUCT_TILES: &str = include_str!("../../shaders/shared/product_tiles.wgsl");
/// The engine for small products of long sums.
pub const PRODUCT_SLICED: &str = include_str!("../../shaders/shared/product_sliced.wgsl");
/// The engine for a few rows.
pub const PRODUCT_ROWS: &str = include_str!("../../shaders/shared/product_rows.wgsl");
/// The engine for subgroups of 8.
pub const PRODUCT_BROADCAST: &str = include_str!("../../shaders/shared/product_broadcast.wgsl");
/// The engine for matrix units.
pub const PRODUCT_COOP: &str = include_str!("../../shaders/shared/product_coop.wgsl");
/// Its tiles of vectors.
pub const COOP_VECTORS: &str = include_str!("../../shaders/shared/coop_vectors.wgsl");
/// Its tiles of numbers.
pub const COOP_NUMBERS: &str = include_str!("../../shaders/shared/coop_numbers.wgsl");
/// Its matrices of 8 x 8.
pub const COOP_8X8: &str = include_str!("../../shaders/shared/coop_8x8.wgsl");
/// Its matrices of 16 x 16.
pub const COOP_16X16: &str = include_str!("../../shaders/shared/coop_16x16.wgsl");
/// Where attention's heads lie.
pub const HEADS: &str = include_str!("../../shaders/shared/heads.wgsl");
/// Which keys a position sees in training.
pub const FIRST_KEY: &str = include_str!("../../shaders/shared/first_key.wgsl");
/// Its online softmax of four keys and four queries at a time.
pub const ATTENTION_SOFTMAX: &str = include_str!("../../shaders/shared/attention_softmax.wgsl");
/// Probabilities and the gradients of scores of one position with four others.
pub const ATTENTION_PAIRS: &str = include_str!("../../shaders/shared/attention_pairs.wgsl");
/// How its `tiles` go through workgroup memory.
pub const ATTENTION_TILES: &str = include_str!("../../shaders/shared/attention_tiles.wgsl");
/// What its `broadcast` reads.
pub const ATTENTION_BROADCAST: &str = include_str!("../../shaders/shared/attention_broadcast.wgsl");
/// What attention's kernels on matrix units have in common.
pub const ATTENTION_COOP: &str = include_str!("../../shaders/shared/attention_coop.wgsl");
/// Adam's constants.
pub const ADAM: &str = include_str!("../../shaders/shared/adam.wgsl");
/// Counter-based random numbers.
pub const THREEFRY: &str = include_str!("../../shaders/shared/threefry.wgsl");
