//! WGSL texts of `shaders/shared/`, for [`Variant::shared`](super::Variant::shared).

/// The places of the rows of generation.
pub const ROWS: &str = include_str!("../../shaders/shared/rows.wgsl");
/// How the slots of generation draw tokens.
pub const SLOTS: &str = include_str!("../../shaders/shared/slots.wgsl");
/// Sums and maxima over a workgroup.
pub const REDUCE: &str = include_str!("../../shaders/shared/reduce.wgsl");
/// Rows that one subgroup each processes.
pub const SUBGROUP_ROWS: &str = include_str!("../../shaders/shared/subgroup_rows.wgsl");
/// The invocations of a workgroup with a subgroup per row, for large subgroups.
pub const INVOCATIONS_256: &str = "const INVOCATIONS = 256u;";
/// The invocations of a workgroup with a subgroup per row, for subgroups of 8.
pub const INVOCATIONS_64: &str = "const INVOCATIONS = 64u;";
/// The formulas of layer normalisation that use the statistics of a row.
pub const NORM: &str = include_str!("../../shaders/shared/norm.wgsl");
/// Rows of logits in vectors of four.
pub const LOGITS: &str = include_str!("../../shaders/shared/logits.wgsl");
/// How these logits become their gradients.
pub const LOGITS_GRADIENT: &str = include_str!("../../shaders/shared/logits_gradient.wgsl");
/// Broadcasts matrices from one lane of a subgroup of 8 to all lanes.
pub const BROADCAST: &str = include_str!("../../shaders/shared/broadcast.wgsl");
/// The input of a linear layer.
pub const LINEAR_X: &str = include_str!("../../shaders/shared/linear_x.wgsl");
/// The output of a linear layer.
pub const LINEAR_OUT: &str = include_str!("../../shaders/shared/linear_out.wgsl");
/// The weight (OC,C) of a linear layer.
pub const LINEAR_OUT_IN: &str = include_str!("../../shaders/shared/linear_out_in.wgsl");
/// The weight (C,OC) of a linear layer.
pub const LINEAR_IN_OUT: &str = include_str!("../../shaders/shared/linear_in_out.wgsl");
/// The tanh form of GELU.
pub const GELU: &str = include_str!("../../shaders/shared/gelu.wgsl");
/// The exact form of GELU.
pub const GELU_EXACT: &str = include_str!("../../shaders/shared/gelu_exact.wgsl");
/// The logistic function of SiLU.
pub const SILU: &str = include_str!("../../shaders/shared/silu.wgsl");
/// The angles of rotary embeddings.
pub const ROTARY: &str = include_str!("../../shaders/shared/rotary.wgsl");
/// The part that the engines of a matrix product share.
pub const PRODUCT: &str = include_str!("../../shaders/shared/product.wgsl");
/// For products that do not need the sums of the second operand's columns.
pub const PRODUCT_NO_SUMS: &str = include_str!("../../shaders/shared/product_no_sums.wgsl");
/// The engine of a matrix product that every device runs.
pub const PRODUCT_TILES: &str = include_str!("../../shaders/shared/product_tiles.wgsl");
/// The engine for small products with long sums.
pub const PRODUCT_SLICED: &str = include_str!("../../shaders/shared/product_sliced.wgsl");
/// The engine for a few rows.
pub const PRODUCT_ROWS: &str = include_str!("../../shaders/shared/product_rows.wgsl");
/// The engine for subgroups of 8.
pub const PRODUCT_BROADCAST: &str = include_str!("../../shaders/shared/product_broadcast.wgsl");
/// The engine for matrix units.
pub const PRODUCT_COOP: &str = include_str!("../../shaders/shared/product_coop.wgsl");
/// Tiles of vectors for that engine.
pub const COOP_VECTORS: &str = include_str!("../../shaders/shared/coop_vectors.wgsl");
/// Tiles of numbers for that engine.
pub const COOP_NUMBERS: &str = include_str!("../../shaders/shared/coop_numbers.wgsl");
/// The layout of attention's heads.
pub const HEADS: &str = include_str!("../../shaders/shared/heads.wgsl");
/// The positions of rows in their documents.
pub const POSITIONS: &str = include_str!("../../shaders/shared/positions.wgsl");
/// The keys that a position sees in training.
pub const FIRST_KEY: &str = include_str!("../../shaders/shared/first_key.wgsl");
/// Attention's online softmax for four keys and four queries at a time.
pub const ATTENTION_SOFTMAX: &str = include_str!("../../shaders/shared/attention_softmax.wgsl");
/// The probabilities and the gradients of scores of one position with four others.
pub const ATTENTION_PAIRS: &str = include_str!("../../shaders/shared/attention_pairs.wgsl");
/// How attention's `tiles` variants use workgroup memory.
pub const ATTENTION_TILES: &str = include_str!("../../shaders/shared/attention_tiles.wgsl");
/// Four positions per invocation of attention's backward pass in tiles.
pub const ATTENTION_FOUR: &str = include_str!("../../shaders/shared/attention_four.wgsl");
/// Two positions per invocation of attention's backward pass in tiles.
pub const ATTENTION_TWO: &str = include_str!("../../shaders/shared/attention_two.wgsl");
/// The reads of attention's `broadcast` variants.
pub const ATTENTION_BROADCAST: &str = include_str!("../../shaders/shared/attention_broadcast.wgsl");
/// The part that attention's kernels on matrix units share.
pub const ATTENTION_COOP: &str = include_str!("../../shaders/shared/attention_coop.wgsl");
/// Sums and maxima over the lanes of a row on matrix units, by shuffles.
pub const ROW_SHUFFLES: &str = include_str!("../../shaders/shared/row_shuffles.wgsl");
/// The same by way of workgroup memory.
pub const ROW_EXCHANGE: &str = include_str!("../../shaders/shared/row_exchange.wgsl");
/// Adam's constants.
pub const ADAM: &str = include_str!("../../shaders/shared/adam.wgsl");
/// Counter-based random numbers.
pub const THREEFRY: &str = include_str!("../../shaders/shared/threefry.wgsl");
