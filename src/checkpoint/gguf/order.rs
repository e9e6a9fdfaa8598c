//! The order of a tensor's numbers in GGUF files, where it is not that of a model's own files.

use crate::arch::{Family, Pairs};
use crate::config::GptConfig;
use crate::params::WeightLayout;

/// The order of a tensor's numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// That of the parameter.
    Same,
    /// Columns as rows.
    Transposed,
    /// In each head of so many rows, those of the two halves in turn: [`Pairs::Neighbours`].
    HalvesInTurn { head: usize },
    /// The queries of all heads, then their keys, then their values; the parameter has the three of each head together.
    PartByPart { heads: usize, head: usize },
}

impl Order {
    /// Returns the order of a model's tensor, by its name in GGUF; `is_linear` says whether it is a linear layer's matrix.
    pub(crate) fn of(config: &GptConfig, tensor: &str, is_linear: bool) -> Order {
        let (family, heads, head) = (Family::of(config), config.n_head, config.head_size());
        let pairs = family.gguf.map(|gguf| gguf.pairs);
        if is_linear && family.layout == WeightLayout::InOut {
            Order::Transposed
        } else if pairs == Some(Pairs::Neighbours) && family.gguf_makes_queries_or_keys(tensor) {
            Order::HalvesInTurn { head }
        } else if family.gguf_takes_heads_apart(tensor) {
            Order::PartByPart { heads, head }
        } else {
            Order::Same
        }
    }

    /// Returns the row of the parameter that is row `row` of the file. The rows of a head's queries lie together in both, so
    /// that they can be moved at once, and so do those of its keys and of its values.
    pub(crate) fn source(self, row: usize) -> usize {
        match self {
            Order::Same | Order::Transposed => row,
            Order::HalvesInTurn { head } => {
                let within = row % head;
                row - within + within % 2 * (head / 2) + within / 2
            }
            Order::PartByPart { heads, head } => {
                let (part, of) = (row / (heads * head), row / head % heads);
                (3 * of + part) * head + row % head
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(order: Order, rows: usize) -> Vec<usize> {
        (0..rows).map(|row| order.source(row)).collect()
    }

    #[test]
    fn halves_come_in_turn() {
        assert_eq!(sources(Order::HalvesInTurn { head: 4 }, 8), [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    /// The parameter has q q k k v v of the first head, then of the second. With three heads the way back would be the same.
    #[test]
    fn parts_follow_each_other() {
        let order = Order::PartByPart { heads: 2, head: 2 };
        assert_eq!(sources(order, 12), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }
}
