//! The model: a decoder-only transformer as a list of ops.

use std::ops::Range;

use crate::arch::{Family, Mlp, Names, Part, Projections};
use crate::config::{Blocks, GptConfig};
use crate::graph::{Graph, Joins, Slice, Var};
use crate::ops::attention::Qkv;
use crate::ops::linear::Form;
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
    let GptConfig { n_layer, n_embd: c, vocab_size, n_positions, .. } = *config;
    assert!(!layers.is_empty(), "a part of the model has a layer");
    let family = Family::of(config);
    let Names { positions, blocks, norm_1, attention, norm_2, last_norm, .. } = family.names;
    let Blocks { biases, is_tied, .. } = config.blocks;
    let residual = family.deviation / ((2 * n_layer) as f32).sqrt();
    let branch = |g: &mut Graph, part: Part, bias: bool, x: Var| {
        let form = Form { channels: c, layout: family.layout, bias };
        g.begin_matrices_with(residual);
        let out = if dropout {
            let out = g.linear_to_dropout(part.name, x, form);
            g.dropout(&format!("{}.dropout", part.name), out, Joins::Stream)
        } else {
            g.linear_to_stream(part.name, x, form)
        };
        g.begin_matrices_with(family.deviation);
        out
    };

    g.begin_matrices_with(family.deviation);
    let table = family.token_table();
    let (is_last, shape) = (layers.end == n_layer, [vocab_size, c]);
    // A tied table is the first parameter, also where only the head needs it.
    let tied = (is_last && is_tied).then(|| {
        let wanted = g.token_table(&table, &shape);
        g.table(wanted)
    });
    let mut stream = match input {
        Input::Stream(stream) => stream,
        Input::Tokens(tokens) => {
            let tables = (table.as_str(), positions.map(|part| part.name));
            let joins = if dropout { Joins::Dropout } else { Joins::Begins };
            let embedding = g.embedding(tables, tokens, [vocab_size, n_positions, c], joins);
            match dropout {
                true => g.dropout("embedding.dropout", embedding, Joins::Begins),
                false => embedding,
            }
        }
    };
    g.enter_layer(blocks.name, layers.start);
    let mut normed = g.normalize(family.norm, norm_1.name, stream);
    for l in layers.clone() {
        g.begin_block(family.norm, norm_1.name, stream);
        let qkv = heads(g, config, family, normed);
        let mixed = g.attention_in(attention, qkv, n_positions, config.window(l));
        let attended = branch(g, family.names.attention_out, biases.attention_out, mixed);
        (stream, normed) = g.residual_normalize(family.norm, norm_2.name, stream, attended);
        let wide = widened(g, config, family, normed);
        let again = g.end_block();
        let narrow = branch(g, family.names.down, biases.mlp, wide);
        let is_end = l + 1 == layers.end;
        // The backward pass starts where the forward pass ended, at the last block, whose activations are still in
        // memory unless other micro-batches came in between; it ends above the frozen layers.
        if narrow.has_grad() && !(is_end && g.keeps_last_block()) {
            g.push(again);
        }
        match is_end {
            true => g.leave_layers(),
            false => g.enter_layer(blocks.name, l + 1),
        }
        if is_end && !is_last {
            return Output::Stream(g.last_residual("sent", stream, narrow));
        }
        let next = if is_end { last_norm.name } else { norm_1.name };
        (stream, normed) = g.residual_normalize(family.norm, next, stream, narrow);
    }
    let head = tied.unwrap_or_else(|| {
        let wanted = g.head_table(family.head, &shape);
        g.table(wanted)
    });
    Output::Normed(normed, head)
}

/// Adds the projections of `x` (B,T,C) to the queries, keys and values of a layer, the normalisation of their heads, and
/// their rotation.
fn heads(g: &mut Graph, config: &GptConfig, family: &Family, x: Var) -> Qkv {
    let (heads, head_size) = ([config.n_head, config.n_kv_head()], config.head_size());
    let form = |heads| Form {
        channels: heads * head_size,
        layout: family.layout,
        bias: config.blocks.biases.qkv,
    };
    let [nh, kvh] = heads;
    let qkv = match family.names.qkv {
        Projections::Joined(part) => {
            Qkv::packed(g.linear(part.name, x, form(nh + 2 * kvh)), heads, head_size)
        }
        Projections::Separate([q, k, v]) => {
            let name = format!("{}.qkv", family.names.attention);
            let layers = [(q.name, form(nh)), (k.name, form(kvh)), (v.name, form(kvh))];
            let norms = family.names.head_norms.map(|norms| norms.map(|norm| norm.name));
            g.separate_heads(&name, x, layers, norms, heads, head_size)
        }
    };
    if let Some(rotary) = &config.blocks.rotary {
        g.rotary(qkv, &rotary.frequencies(head_size));
    }
    qkv
}

/// Adds the layers of the MLP before its last one, from `x` (B,T,C).
fn widened(g: &mut Graph, config: &GptConfig, family: &Family, x: Var) -> Var {
    let bias = config.blocks.biases.mlp;
    let form = Form { channels: config.n_inner(), layout: family.layout, bias };
    match family.names.mlp {
        Mlp::Gelu(up) => g.linear_gelu(up.name, x, form),
        Mlp::SwiGlu([gate, up]) => {
            let [gated, widened] = g.linears(x, [(gate.name, form), (up.name, form)]);
            g.swiglu(&format!("{}.swiglu", gate.name), gated, widened)
        }
    }
}
