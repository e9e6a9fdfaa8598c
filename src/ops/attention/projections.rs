//! Separate projections to queries, keys and values, into the one buffer that attention reads.

use super::heads::Qkv;
use crate::graph::{Graph, Sharing, Var};
use crate::ops::linear::Form;

impl Graph {
    /// Adds three linear layers of `x` (B,T,C), which make queries, keys and values, and the normalisations `norms` of the
    /// heads of queries and of keys, if they are named; `heads` are the number of query heads and the number of key heads.
    pub(crate) fn separate_heads(
        &mut self,
        name: &str,
        x: Var,
        layers: [(&str, Form); 3],
        norms: Option<[&str; 2]>,
        heads: [usize; 2],
        head_size: usize,
    ) -> Qkv {
        // Each part begins where every device can bind it.
        let starts = Qkv::starts(self.rows(), heads, head_size, self.slice_rows());
        let norms_train = norms.is_some_and(|norms| {
            norms.into_iter().any(|norm| self.rms_weight(norm, head_size).has_grad())
        });
        let lens = layers.map(|(_, form)| self.rows() * form.channels);
        // The parts of the buffer, and what the layers write: the same, but what is still to be normalised.
        let (mut all, mut parts, mut written) = (x, [x; 3], [x; 3]);
        self.linears_into(x, layers, |g, has_grad| {
            let (has_grad, format) = (has_grad || norms_train, g.format());
            let value = g.activations(name, starts[3], format, Sharing::InBlocks);
            all = g.var(name, value, format, has_grad);
            parts = [0, 1, 2].map(|i| all.slice(starts[i], lens[i]));
            written = parts;
            if norms.is_some() {
                for (written, (layer, form)) in written.iter_mut().zip(layers).take(2) {
                    *written = g.activation_of(layer, form.channels, Sharing::InBlocks, has_grad);
                }
            }
            written
        });
        for (i, norm) in norms.into_iter().flatten().enumerate() {
            self.rmsnorm_heads(norm, written[i], head_size, parts[i]);
        }
        Qkv::blocks_from(all, starts, heads, head_size)
    }
}
