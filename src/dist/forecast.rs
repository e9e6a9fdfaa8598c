//! How long an update on several ranks takes over a link: a simulation of its exchange.

use std::collections::VecDeque;
use std::ops::Range;

use super::costs::HostCosts;
use super::sum::{Layout, MOST_PENDING};
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

/// The parts of an update on one rank, as they were measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Seconds of the forward pass of a micro-batch.
    pub forward_s: f64,
    /// Seconds of the backward pass of a micro-batch.
    pub backward_s: f64,
    /// Seconds of norm, clipping and optimiser.
    pub update_s: f64,
    /// What the host does for each byte of an exchange.
    pub host: HostCosts,
    /// Seconds until the thread that exchanges has a processor again when it has waited for a message, while the rank computes.
    pub wake_s: f64,
    /// Seconds that the computation loses for each second in which the thread that exchanges uses a processor: 0 if a core is free for
    /// it, 1 if it takes the only core that computes for this rank.
    pub lost: f64,
    /// Whether a bucket is read while the device computes the next one, and leaves only after that.
    pub leaves_late: bool,
}

/// What an update takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Bytes that a rank sends per update.
    pub sent_bytes: u64,
    /// Seconds of copies between the device and the host.
    pub copy_s: f64,
    /// Seconds in which something is under way with the other ranks: sent, received, or added.
    pub exchange_s: f64,
    /// Seconds of them in which this rank computes or copies, and does not wait.
    pub hidden_s: f64,
    /// Seconds of the whole update.
    pub step_s: f64,
}

/// Simulates an update of rank 0: each bucket leaves when the backward pass of the last micro-batch is done with it, it is
/// read, and the link is free. All ranks are as fast as this one.
pub fn forecast(
    program: &Program,
    layout: &Layout,
    shares: &[Range<usize>],
    measured: Measured,
    link: LinkSpeed,
) -> Forecast {
    let Measured { forward_s, backward_s, update_s, leaves_late, .. } = measured;
    let (ranks, is_split) = (shares.len(), program.split.is_some());
    let mut rank = Rank::new(measured, link, shares[0].len() as f64 * (forward_s + backward_s));
    rank.compute(rank.left_s - backward_s);
    if ranks == 1 {
        rank.compute(rank.left_s);
    } else {
        let (done, mut before, mut late) = (progress(program), 0.0, None);
        for (index, (bucket, after)) in layout.numbered() {
            rank.compute(backward_s * (done[after] - before));
            before = done[after];
            rank.copy(4 * layout.nodes_of_ranks()[0] * bucket.len, measured.host.read_s);
            let sum = Exchange::sum(bucket, index, layout, is_split);
            let ready = if leaves_late { late.replace(sum) } else { Some(sum) };
            ready.into_iter().for_each(|sum| rank.start(&sum));
        }
        rank.compute(rank.left_s);
        late.into_iter().for_each(|sum| rank.start(&sum));
        rank.settle(0);
    }
    rank.now_s += update_s;
    if is_split && ranks > 1 {
        for (index, (bucket, _)) in layout.numbered() {
            let [sent, received] = to_all(bucket, index, ranks);
            rank.copy(sent / (ranks - 1), measured.host.read_s);
            let params = Exchange { messages: vec![[sent, received]], added: 0, written: received };
            rank.start(&params);
        }
        rank.settle(0);
    }
    rank.forecast()
}

/// What is done with a bucket over the link. Counts are of bytes.
struct Exchange {
    /// What this rank sends, and what it receives, one pair after the other.
    messages: Vec<[usize; 2]>,
    /// What is added to something else.
    added: usize,
    /// What is written to the device in the end.
    written: usize,
}

impl Exchange {
    /// The sum of a bucket's gradients over all ranks.
    fn sum(bucket: Bucket, index: usize, layout: &Layout, is_split: bool) -> Exchange {
        let nodes = layout.nodes_of_ranks();
        let own = bucket.share(index, 0, nodes.len()).len();
        let others: usize = nodes[1..].iter().sum();
        let gather = [4 * nodes[0] * (bucket.len - own), 4 * others * own];
        let added = gather[1] + 4 * (nodes[0] - 1) * own;
        match is_split {
            true => Exchange { messages: vec![gather], added, written: 4 * own },
            false => {
                let messages = vec![gather, to_all(bucket, index, nodes.len())];
                Exchange { messages, added, written: 4 * bucket.len }
            }
        }
    }
}

/// The two threads of a rank: one computes and copies, the other exchanges.
struct Rank {
    measured: Measured,
    link: LinkSpeed,
    /// When the first one goes on.
    now_s: f64,
    /// What is left of its passes.
    left_s: f64,
    /// How long it waited for the second one.
    waited_s: f64,
    /// When the second one has nothing more to do.
    free_s: f64,
    /// What is under way, the oldest first: when each ends, and the bytes that are then written.
    pending: VecDeque<(f64, usize)>,
    /// What is known so far.
    forecast: Forecast,
}

impl Rank {
    /// A rank at the beginning of passes that take so many seconds.
    fn new(measured: Measured, link: LinkSpeed, passes_s: f64) -> Rank {
        Rank {
            measured,
            link,
            now_s: 0.0,
            left_s: passes_s,
            waited_s: 0.0,
            free_s: 0.0,
            pending: VecDeque::new(),
            forecast: Forecast::default(),
        }
    }

    /// Goes on with the passes for so many seconds.
    fn compute(&mut self, seconds: f64) {
        self.now_s += seconds;
        self.left_s -= seconds;
    }

    /// Copies between the device and the host.
    fn copy(&mut self, bytes: usize, seconds_a_byte: f64) {
        let seconds = bytes as f64 * seconds_a_byte;
        self.now_s += seconds;
        self.forecast.copy_s += seconds;
    }

    /// Gives the second thread something to do, and takes what it has done. What it does itself takes time from the passes,
    /// as long as they go on.
    fn start(&mut self, exchange: &Exchange) {
        let (host, link) = (self.measured.host, self.link);
        let adds_s = host.add_s * exchange.added as f64;
        let (mut takes_s, mut works_s) = (adds_s, adds_s);
        let wakes_s = if self.left_s > 0.0 { self.measured.wake_s } else { 0.0 };
        for [sent, received] in &exchange.messages {
            let copies_s = host.copy_s * (sent + received) as f64;
            let on_link_s = link.latency_s + *sent.max(received) as f64 / link.bytes_per_s;
            takes_s += on_link_s.max(copies_s) + wakes_s;
            works_s += copies_s;
            self.forecast.sent_bytes += *sent as u64;
        }
        self.forecast.exchange_s += takes_s;
        self.free_s = self.free_s.max(self.now_s) + takes_s;
        self.pending.push_back((self.free_s, exchange.written));
        if self.left_s > 0.0 {
            self.now_s += self.measured.lost * works_s;
        }
        self.settle(MOST_PENDING);
    }

    /// Writes to the device what is done, until at most `most` exchanges are under way.
    fn settle(&mut self, most: usize) {
        while let Some(&(end_s, written)) = self.pending.front() {
            if self.pending.len() <= most && end_s > self.now_s {
                return;
            }
            self.waited_s += (end_s - self.now_s).max(0.0);
            self.now_s = self.now_s.max(end_s);
            self.copy(written, self.measured.host.write_s);
            self.pending.pop_front();
        }
    }

    /// The forecast of an update that is now at its end.
    fn forecast(self) -> Forecast {
        let hidden_s = self.forecast.exchange_s - self.waited_s;
        Forecast { hidden_s, step_s: self.now_s, ..self.forecast }
    }
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

/// The bytes that rank 0 sends and receives where each rank gives its share of a bucket to all.
fn to_all(bucket: Bucket, index: usize, ranks: usize) -> [usize; 2] {
    let own = bucket.share(index, 0, ranks).len();
    [4 * own * (ranks - 1), 4 * (bucket.len - own)]
}

#[cfg(test)]
mod tests {
    use super::{Forecast, HostCosts, LinkSpeed, Measured, forecast};
    use crate::config::{GptConfig, Sum, TrainConfig};
    use crate::dist::Layout;
    use crate::model::{Program, Uses};
    use crate::plan::Limits;

    const MEASURED: Measured = Measured {
        forward_s: 1.0,
        backward_s: 2.0,
        update_s: 0.5,
        host: HostCosts { read_s: 0.0, write_s: 0.0, copy_s: 0.0, add_s: 0.0 },
        wake_s: 0.0,
        lost: 0.0,
        leaves_late: false,
    };

    fn of(ranks: usize, bytes_per_s: f64, measured: Measured) -> Forecast {
        let train =
            TrainConfig { ranks, grad_accum: ranks, sum: Sum::Exact, ..TrainConfig::default() };
        let model = GptConfig::medium();
        let program = Program::record(&model, Uses::training(&train, &model), Limits::NONE);
        let shares: Vec<_> = (0..ranks).map(|rank| rank..rank + 1).collect();
        let layout = Layout::new(&program, &shares, Sum::Exact);
        let link = LinkSpeed { bytes_per_s, latency_s: 0.0 };
        forecast(&program, &layout, &shares, measured, link)
    }

    #[test]
    fn copies_and_a_shared_core_take_time_from_the_passes() {
        let (ideal, fast) = (of(2, 1e15, MEASURED), 1e15);
        let bytes = 2.0 * ideal.sent_bytes as f64;
        let read = HostCosts { read_s: 0.3 / bytes, ..MEASURED.host };
        let copied = of(2, fast, Measured { host: read, ..MEASURED });
        assert!((copied.copy_s - 0.15).abs() < 0.01, "{copied:?}");
        assert!((copied.step_s - ideal.step_s - copied.copy_s).abs() < 1e-6, "{copied:?}");
        // All that is sent and received is copied once; the last bucket comes after the passes.
        let copy = HostCosts { copy_s: 0.1 / bytes, ..MEASURED.host };
        let free = of(2, fast, Measured { host: copy, ..MEASURED });
        let shared = of(2, fast, Measured { host: copy, lost: 1.0, ..MEASURED });
        assert!((free.exchange_s - 0.1).abs() < 0.01, "{free:?}");
        assert!(shared.step_s > free.step_s + 0.02 && shared.step_s < free.step_s + 0.1);
    }

    #[test]
    fn a_thread_that_wakes_up_late_makes_the_exchange_longer() {
        let late = of(2, 1e8, Measured { wake_s: 0.001, ..MEASURED });
        let early = of(2, 1e8, MEASURED);
        let messages = (late.exchange_s - early.exchange_s) / 0.001;
        assert!((messages - messages.round()).abs() < 1e-6 && messages >= 2.0, "{messages}");
    }

    #[test]
    fn a_bucket_that_leaves_late_ends_late() {
        let [early, late] =
            [false, true].map(|leaves_late| of(2, 1e8, Measured { leaves_late, ..MEASURED }));
        assert_eq!(early.exchange_s, late.exchange_s);
        assert!(late.step_s > early.step_s && late.hidden_s < early.hidden_s, "{early:?} {late:?}");
    }

    #[test]
    fn one_rank_sends_nothing() {
        let alone = of(1, 1e6, MEASURED);
        assert_eq!((alone.sent_bytes, alone.exchange_s, alone.step_s), (0, 0.0, 3.5));
    }

    #[test]
    fn a_fast_link_is_hidden_and_a_slow_one_is_not() {
        let (fast, slow) = (of(2, 1e12, MEASURED), of(2, 1e6, MEASURED));
        assert!(fast.step_s < 3.5001 && slow.step_s > 3.5, "{fast:?} {slow:?}");
        // Two ranks send half of the gradients, and half of the sums.
        let bytes = slow.sent_bytes as f64;
        assert!((slow.exchange_s - bytes / 1e6).abs() < 0.2 * slow.exchange_s, "{slow:?}");
        assert!(slow.hidden_s > 0.0 && slow.hidden_s < 2.0, "{slow:?}");
        assert!((slow.step_s - (3.5 + slow.exchange_s - slow.hidden_s)).abs() < 1e-9, "{slow:?}");
    }
}
