//! What the ranks of a run tell each other besides gradients, and how long they wait for each other.

use super::Trainer;
use crate::checkpoint::Exchange;
use crate::dist::Times;
use crate::error::Result;

impl Trainer {
    /// Whether the run stops now: one rank hears it at once, several ranks agree after each update.
    pub(super) fn stops_now(&self) -> bool {
        let is_alone = self.link.grid().size == 1 && self.apart.is_none();
        self.stops || (is_alone && self.stopped())
    }

    /// Gives every rank the words of all ranks.
    pub(super) fn gather(&mut self, own: Vec<u64>) -> Result<Vec<Vec<u64>>> {
        self.link.call(move |world| world.gather(&own))
    }

    /// Finds out whether a rank was told to stop: all of them then stop, after the same update. Finds out as well on which
    /// rank the update's gradient was not finite.
    pub(super) fn agree_to_stop(&mut self) -> Result<()> {
        let broken = self.broken.map_or(0, |rank| rank as u64 + 1);
        let all = self.gather(vec![u64::from(self.stopped()), broken])?;
        // Those who have seen it tell all.
        let broken = all.iter().filter_map(|words| words[1].checked_sub(1)).min();
        self.broken = broken.map(|rank| rank as usize);
        self.stops = all.iter().any(|words| words[0] == 1);
        Ok(())
    }

    /// Returns how the ranks spent the time of their exchange, if there are several.
    pub(super) fn exchange(&self) -> Option<Exchange> {
        let Times { busy, waited } = self.times;
        let updates = self.busy.1 as f64 / self.tokens_an_update() as f64;
        let ms = |seconds: f64| 1e3 * seconds / updates.max(1.0);
        (self.link.grid().size > 1).then(|| Exchange {
            ranks: self.link.grid().size,
            hidden_ms: ms((busy - waited).max(0.0)),
            waited_ms: ms(waited),
            waited: waited / self.busy.0.max(1e-9),
        })
    }

    /// Adds the time of the exchange since the last call to that of training alone.
    pub(super) fn count_times(&mut self) {
        let Times { busy, waited } = self.link.take_times();
        self.times = Times { busy: self.times.busy + busy, waited: self.times.waited + waited };
    }
}
