//! The model: a decoder-only transformer as a list of ops.

use std::ops::Range;

use crate::arch::{Family, Mlp, Names, Part, Projections};
use crate::config::{Blocks, GptConfig};
use crate::graph::{Graph, Joins, Slice, Var, any_grad};
use crate::ops::attention::Qkv;
use crate::ops::linear::Form;
use crate::ops::recompute::Recompute;
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
    let Names { positions, blocks, norm_1, last_norm, .. } = family.names;
    let is_tied = config.blocks.is_tied;
    let parts = Parts { config, family, dropout };

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
        let end = match config.blocks.is_parallel {
            true => parts.parallel_block(g, l, stream, normed),
            false => parts.block(g, l, stream, normed),
        };
        let is_end = l + 1 == layers.end;
        // The backward pass starts where the forward pass ended, at the last block, whose activations are still in
        // memory unless other micro-batches came in between; it ends above the frozen layers.
        if end.is_trained && !(is_end && g.keeps_last_block()) {
            g.push(end.again);
        }
        match is_end {
            true => g.leave_layers(),
            false => g.enter_layer(blocks.name, l + 1),
        }
        if is_end && !is_last {
            return Output::Stream(g.last_residual("sent", end.stream, end.branch));
        }
        let next = if is_end { last_norm.name } else { norm_1.name };
        (stream, normed) = g.residual_normalize(family.norm, next, end.stream, end.branch);
    }
    let head = tied.unwrap_or_else(|| {
        let wanted = g.head_table(family.head, &shape);
        g.table(wanted)
    });
    Output::Normed(normed, head)
}

/// The parts of a block.
struct Parts<'a> {
    config: &'a GptConfig,
    family: &'a Family,
    dropout: bool,
}

/// What a block ends with.
struct BlockEnd {
    /// The residual stream (B,T,C) without the last branch.
    stream: Var,
    /// The last branch (B,T,C), which is still to be added.
    branch: Var,
    /// Computes the block's activations again.
    again: Recompute,
    /// Whether anything in the block, or before it, is trained.
    is_trained: bool,
}

impl Parts<'_> {
    /// Adds layer `l`: attention, and then the MLP, which reads the stream that attention was added to.
    fn block(&self, g: &mut Graph, l: usize, stream: Var, normed: Var) -> BlockEnd {
        let norm_2 = self.family.names.norm_2.name;
        let mixed = self.mixed(g, l, normed);
        let attended = self.attended(g, mixed);
        let (stream, normed) = g.residual_normalize(self.family.norm, norm_2, stream, attended);
        let wide = self.widened(g, normed);
        let again = g.end_block();
        let branch = self.narrowed(g, wide);
        BlockEnd { stream, branch, again, is_trained: branch.has_grad() }
    }

    /// Adds layer `l`: attention and MLP, which both read the same stream.
    ///
    /// The backward pass adds to the stream's gradient at the two normalisations. Both branches have to read it before, so
    /// both come after both normalisations.
    fn parallel_block(&self, g: &mut Graph, l: usize, stream: Var, normed: Var) -> BlockEnd {
        let norm_2 = self.family.names.norm_2.name;
        let other = g.normalize(self.family.norm, norm_2, stream);
        let mixed = self.mixed(g, l, normed);
        let wide = self.widened(g, other);
        let again = g.end_block();
        let attended = self.attended(g, mixed);
        let branch = self.narrowed(g, wide);
        let stream = g.passing_residual("residual", stream, attended);
        BlockEnd { stream, branch, again, is_trained: any_grad(&[attended, branch]) }
    }

    /// Adds attention of layer `l`, from `x` (B,T,C) to the heads side by side (B,T,NH·HS).
    fn mixed(&self, g: &mut Graph, l: usize, x: Var) -> Var {
        let qkv = self.heads(g, x);
        let GptConfig { n_positions, .. } = *self.config;
        g.attention_in(self.family.names.attention, qkv, n_positions, self.config.window(l))
    }

    /// Adds the linear layer after attention.
    fn attended(&self, g: &mut Graph, x: Var) -> Var {
        let bias = self.config.blocks.biases.attention_out;
        self.branch(g, self.family.names.attention_out, bias, x)
    }

    /// Adds the last linear layer of the MLP.
    fn narrowed(&self, g: &mut Graph, x: Var) -> Var {
        self.branch(g, self.family.names.down, self.config.blocks.biases.mlp, x)
    }

    /// Adds a projection of `x` into the residual stream (B,T,C).
    fn branch(&self, g: &mut Graph, part: Part, bias: bool, x: Var) -> Var {
        let GptConfig { n_layer, n_embd: c, .. } = *self.config;
        let (name, deviation) = (part.name, self.family.deviation);
        let form = Form { channels: c, layout: self.family.layout, bias };
        g.begin_matrices_with(deviation / ((2 * n_layer) as f32).sqrt());
        let out = if self.dropout {
            let out = g.linear_to_dropout(name, x, form);
            g.dropout(&format!("{name}.dropout"), out, Joins::Stream)
        } else {
            g.linear_to_stream(name, x, form)
        };
        g.begin_matrices_with(deviation);
        out
    }

    /// Adds the projections of `x` (B,T,C) to the queries, keys and values of a layer, the normalisation of their heads,
    /// and their rotation.
    fn heads(&self, g: &mut Graph, x: Var) -> Qkv {
        let Parts { config, family, .. } = *self;
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
            Projections::Interleaved(part) => {
                Qkv::interleaved(g.linear(part.name, x, form(3 * nh)), nh, head_size, 0)
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
    fn widened(&self, g: &mut Graph, x: Var) -> Var {
        let Blocks { biases, gelu, .. } = self.config.blocks;
        let channels = self.config.n_inner();
        let form = Form { channels, layout: self.family.layout, bias: biases.mlp };
        match self.family.names.mlp {
            Mlp::Gelu(up) => g.linear_gelu(up.name, x, form, gelu),
            Mlp::SwiGlu([gate, up]) => {
                let [gated, widened] = g.linears(x, [(gate.name, form), (up.name, form)]);
                g.swiglu(&format!("{}.swiglu", gate.name), gated, widened)
            }
        }
    }
}
