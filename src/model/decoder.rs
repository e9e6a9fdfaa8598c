//! The model: a decoder-only transformer as a list of ops.

use std::ops::Range;

use crate::arch::Family;
use crate::config::GptConfig;
use crate::graph::{Graph, Joins, Slice, Var};
use crate::ops::attention::Qkv;
use crate::plan::View;

/// What some layers of the model begin with.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// The tokens (B,T): the layers are the first ones, and the embedding comes before them.
    Tokens(View),
    /// The residual stream (B,T,C) that the layers before have made.
    Stream(Var),
}

/// What some layers of the model end with.
#[derive(Clone, Debug)]
pub enum Output {
    /// The residual stream (B,T,C), for the layers after them.
    Stream(Var),
    /// The last normalisation (B,T,C), and the token table for the head: there are no more layers.
    Normed(Var, Vec<Slice>),
}

/// Builds some layers of the model; the whole model is from `tokens` to the last normalisation (B,T,C).
///
/// The family defines the names of the parts and the initialisation of parameters; the projections into the residual
/// stream are scaled down by the root of the number of branches, so that the stream's spread does not grow with depth.
///
/// # Panics
///
/// If there are no layers.
pub fn decoder(
    g: &mut Graph,
    config: &GptConfig,
    layers: Range<usize>,
    input: Input,
    dropout: bool,
) -> Output {
    let GptConfig { n_layer, n_head, n_embd: c, vocab_size, n_positions, .. } = *config;
    assert!(!layers.is_empty(), "a part of the model has a layer");
    let family = Family::of(config);
    let names = &family.names;
    let residual = family.deviation / ((2 * n_layer) as f32).sqrt();
    let branch = |g: &mut Graph, name: &str, x: Var| {
        g.begin_matrices_with(residual);
        let out = if dropout {
            let out = g.linear_to_dropout(name, x, c);
            g.dropout(&format!("{name}.dropout"), out, Joins::Stream)
        } else {
            g.linear_to_stream(name, x, c)
        };
        g.begin_matrices_with(family.deviation);
        out
    };

    g.begin_matrices_with(family.deviation);
    let table = family.token_table();
    // It is the first parameter, also where only the head needs it.
    let head = (layers.end == n_layer).then(|| {
        let shape = [vocab_size, c];
        let wanted = g.token_table(&table, &shape);
        g.table(wanted)
    });
    let mut stream = match input {
        Input::Stream(stream) => stream,
        Input::Tokens(tokens) => {
            let tables = (table.as_str(), Some(names.positions.name));
            let joins = if dropout { Joins::Dropout } else { Joins::Begins };
            let embedding = g.embedding(tables, tokens, [vocab_size, n_positions, c], joins);
            match dropout {
                true => g.dropout("embedding.dropout", embedding, Joins::Begins),
                false => embedding,
            }
        }
    };
    g.enter_layer(names.blocks.name, layers.start);
    let mut normed = g.layernorm(names.norm_1.name, stream);
    for l in layers.clone() {
        g.begin_block(names.norm_1.name, stream);
        let qkv = g.linear(names.qkv.name, normed, 3 * c);
        let heads = Qkv::packed(qkv, [n_head, n_head], c / n_head);
        let mixed = g.attention(names.attention, heads, n_positions);
        let attended = branch(g, names.attention_out.name, mixed);
        (stream, normed) = g.residual_layernorm(names.norm_2.name, stream, attended);
        let wide = g.linear_gelu(names.up.name, normed, config.n_inner());
        let again = g.end_block();
        let narrow = branch(g, names.down.name, wide);
        let is_end = l + 1 == layers.end;
        // The backward pass starts where the forward pass ended, at the last block, whose activations are still in
        // memory unless other micro-batches came in between; it ends above the frozen layers.
        if narrow.has_grad() && !(is_end && g.keeps_last_block()) {
            g.push(again);
        }
        match is_end {
            true => g.leave_layers(),
            false => g.enter_layer(names.blocks.name, l + 1),
        }
        if is_end && head.is_none() {
            return Output::Stream(g.last_residual("sent", stream, narrow));
        }
        let next = if is_end { names.last_norm.name } else { names.norm_1.name };
        (stream, normed) = g.residual_layernorm(next, stream, narrow);
    }
    Output::Normed(normed, head.unwrap_or_default())
}
