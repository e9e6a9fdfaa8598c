//! The model: a decoder-only transformer as a list of ops.

use crate::arch::Family;
use crate::config::GptConfig;
use crate::graph::{Graph, Joins, Slice, Var};
use crate::ops::attention::Qkv;
use crate::plan::View;

/// Builds the model from `tokens` to the last normalisation (B,T,C); also returns the token table for the head.
///
/// The family defines the names of the parts and the initialisation of parameters; the projections into the residual
/// stream are scaled down by the root of the number of branches, so that the stream's spread does not grow with depth.
pub fn decoder(
    g: &mut Graph,
    config: &GptConfig,
    tokens: View,
    dropout: bool,
) -> (Var, Vec<Slice>) {
    let GptConfig { n_layer, n_head, n_embd: c, vocab_size, n_positions, .. } = *config;
    let family = Family::of(config);
    let names = &family.names;
    let residual = family.deviation / ((2 * n_layer) as f32).sqrt();
    let drop = |g: &mut Graph, name: &str, x: Var| {
        if dropout { g.dropout(name, x, Joins::Stream) } else { x }
    };
    let branch = |g: &mut Graph, name: &str, x: Var| {
        g.begin_matrices_with(residual);
        let out = if dropout {
            let out = g.linear(name, x, c);
            g.dropout(&format!("{name}.dropout"), out, Joins::Stream)
        } else {
            g.linear_to_stream(name, x, c)
        };
        g.begin_matrices_with(family.deviation);
        out
    };

    g.begin_matrices_with(family.deviation);
    let table = family.token_table();
    let tables = [table.as_str(), names.positions.name];
    let joins = if dropout { Joins::Nothing } else { Joins::Stream };
    let embedding = g.embedding(tables, tokens, [vocab_size, n_positions, c], joins);
    let mut stream = drop(g, "embedding.dropout", embedding);
    g.enter_layer(names.blocks.name, 0);
    let mut normed = g.layernorm(names.norm_1.name, stream);
    for l in 0..n_layer {
        g.begin_block(names.norm_1.name, stream);
        let qkv = g.linear(names.qkv.name, normed, 3 * c);
        let heads = Qkv::packed(qkv, [n_head, n_head], c / n_head);
        let mixed = g.attention(names.attention, heads, n_positions);
        let attended = branch(g, names.attention_out.name, mixed);
        (stream, normed) = g.residual_layernorm(names.norm_2.name, stream, attended);
        let wide = g.linear_gelu(names.up.name, normed, config.n_inner());
        let again = g.end_block();
        let narrow = branch(g, names.down.name, wide);
        let is_last = l + 1 == n_layer;
        // The backward pass starts where the forward pass ended, at the last block, whose activations are still in
        // memory, and ends above the frozen layers.
        if !is_last && narrow.has_grad() {
            g.push(again);
        }
        let next = if is_last { names.last_norm.name } else { names.norm_1.name };
        match is_last {
            true => g.leave_layers(),
            false => g.enter_layer(names.blocks.name, l + 1),
        }
        (stream, normed) = g.residual_layernorm(next, stream, narrow);
    }
    let shape = [vocab_size, c];
    let wanted = g.token_table(&table, &shape);
    (normed, g.table(wanted))
}
