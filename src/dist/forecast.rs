//! How long an update on several ranks takes over a link: a simulation of its exchange.

use std::ops::Range;

use super::sum::Layout;
use crate::model::{Bucket, Program};
use crate::plan::Phase;

/// A link from each rank to the others, in both directions at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpeed {
    /// Bytes per second that a rank can send, and can receive meanwhile.
    pub bytes_per_s: f64,
    /// Seconds until the first byte arrives.
    pub latency_s: f64,
}

/// Seconds of the parts of an update on one rank, as they were measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The forward pass of a micro-batch.
    pub forward_s: f64,
    /// The backward pass of a micro-batch.
    pub backward_s: f64,
    /// Norm, clipping and optimiser.
    pub update_s: f64,
}

/// What an update takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Bytes that a rank sends per update.
    pub sent_bytes: u64,
    /// Seconds in which the link is busy.
    pub exchange_s: f64,
    /// Seconds of them during which the rank computes.
    pub hidden_s: f64,
    /// Seconds of the whole update.
    pub step_s: f64,
}

/// Simulates an update of rank 0: each bucket leaves when the backward pass of the last micro-batch is done with it and the
/// link is free.
pub fn forecast(
    program: &Program,
    layout: &Layout,
    shares: &[Range<usize>],
    measured: Measured,
    link: LinkSpeed,
) -> Forecast {
    let ranks = shares.len();
    let Measured { forward_s, backward_s, update_s } = measured;
    let passes_s = shares[0].len() as f64 * (forward_s + backward_s);
    let is_split = program.split.is_some();
    let done = progress(program);
    let (mut free_s, mut exchange_s, mut hidden_s, mut sent) = (0.0_f64, 0.0, 0.0, 0);
    let mut send = |ready_s: f64, bytes: [usize; 2]| {
        let start = free_s.max(ready_s);
        let takes = link.latency_s + bytes[0].max(bytes[1]) as f64 / link.bytes_per_s;
        free_s = start + takes;
        exchange_s += takes;
        hidden_s += (passes_s.min(free_s) - start).max(0.0);
        sent += bytes[0] as u64;
        free_s
    };
    let mut end_s = passes_s;
    if ranks > 1 {
        for (index, (bucket, after)) in layout.numbered() {
            let ready_s = passes_s - backward_s * (1.0 - done[after]);
            for bytes in exchanges(bucket, index, layout, is_split) {
                end_s = end_s.max(send(ready_s, bytes));
            }
        }
    }
    end_s += update_s;
    if is_split && ranks > 1 {
        for (index, (bucket, _)) in layout.numbered() {
            end_s = send(end_s, to_all(bucket, index, ranks));
        }
    }
    Forecast { sent_bytes: sent, exchange_s, hidden_s, step_s: end_s }
}

/// The share of the backward pass that is done after each number of its dispatches, by their operations.
fn progress(program: &Program) -> Vec<f64> {
    let dispatches = &program.plan.dispatches[program.plan.phase(Phase::Backward)];
    let flops = |dispatch: &crate::plan::Dispatch| (dispatch.kernel.flops)(&dispatch.dims) as f64;
    let all: f64 = dispatches.iter().map(flops).sum();
    let sums = dispatches.iter().scan(0.0, |sum, dispatch| {
        *sum += flops(dispatch);
        Some(*sum / all.max(1.0))
    });
    std::iter::once(0.0).chain(sums).collect()
}

/// The bytes that rank 0 sends and receives in each of the exchanges in which a bucket is summed.
fn exchanges(bucket: Bucket, index: usize, layout: &Layout, is_split: bool) -> Vec<[usize; 2]> {
    let nodes = layout.nodes_of_ranks();
    let own = bucket.share(index, 0, nodes.len()).len();
    let others: usize = nodes[1..].iter().sum();
    let gather = [4 * nodes[0] * (bucket.len - own), 4 * others * own];
    match is_split {
        true => vec![gather],
        false => vec![gather, to_all(bucket, index, nodes.len())],
    }
}

/// The bytes that rank 0 sends and receives where each rank gives its share of a bucket to all.
fn to_all(bucket: Bucket, index: usize, ranks: usize) -> [usize; 2] {
    let own = bucket.share(index, 0, ranks).len();
    [4 * own * (ranks - 1), 4 * (bucket.len - own)]
}

#[cfg(test)]
mod tests {
    use super::{Forecast, LinkSpeed, Measured, forecast};
    use crate::config::{GptConfig, Sum, TrainConfig};
    use crate::dist::Layout;
    use crate::model::{Program, Uses};
    use crate::plan::Limits;

    const MEASURED: Measured = Measured { forward_s: 1.0, backward_s: 2.0, update_s: 0.5 };

    fn of(ranks: usize, bytes_per_s: f64) -> Forecast {
        let train =
            TrainConfig { ranks, grad_accum: ranks, sum: Sum::Exact, ..TrainConfig::default() };
        let model = GptConfig::small();
        let program = Program::record(&model, Uses::training(&train, &model), Limits::NONE);
        let shares: Vec<_> = (0..ranks).map(|rank| rank..rank + 1).collect();
        let layout = Layout::new(&program, &shares, Sum::Exact);
        let link = LinkSpeed { bytes_per_s, latency_s: 0.0 };
        forecast(&program, &layout, &shares, MEASURED, link)
    }

    #[test]
    fn one_rank_sends_nothing() {
        let alone = of(1, 1e6);
        assert_eq!((alone.sent_bytes, alone.exchange_s, alone.step_s), (0, 0.0, 3.5));
    }

    #[test]
    fn a_fast_link_is_hidden_and_a_slow_one_is_not() {
        let (fast, slow) = (of(2, 1e12), of(2, 1e6));
        assert!(fast.step_s < 3.5001 && slow.step_s > 3.5, "{fast:?} {slow:?}");
        // Two ranks send half of the gradients, and half of the sums.
        let bytes = slow.sent_bytes as f64;
        assert!((slow.exchange_s - bytes / 1e6).abs() < 0.2 * slow.exchange_s, "{slow:?}");
        assert!(slow.hidden_s > 0.0 && slow.hidden_s < 2.0, "{slow:?}");
        assert!((slow.step_s - (3.5 + slow.exchange_s - slow.hidden_s)).abs() < 1e-9, "{slow:?}");
    }
}
