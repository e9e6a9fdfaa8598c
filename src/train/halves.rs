//! The formats of mixed precision among the ranks of a run: f16 on GPUs, bf16 on CPUs; and the loss scale, which f16 needs.

use super::{Event, Trainer};
use crate::error::Result;
use crate::kernel::{Format, LossScale, state};

/// Returns the loss scale of ranks that compute in these formats, and all make the same updates.
fn scale_of(halves: &[String]) -> LossScale {
    match halves.iter().any(|half| half == Format::F16.name) {
        true => LossScale::Dynamic,
        false => LossScale::Fixed,
    }
}

impl Trainer {
    /// Agrees with the other ranks on the loss scale: that of f16, if one of them computes in it, on all; otherwise 1. A run that
    /// goes on in other formats says so, and begins with a new scale if it needs another kind.
    pub(super) fn settle_halves(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<()> {
        let Some(own) = self.engine.program().half() else { return Ok(()) };
        let all = self.gather(vec![u64::from(own == Format::F16)])?;
        let formats = [(0, Format::BF16), (1, Format::F16)];
        let has = |word| all.iter().any(|words| words[0] == word);
        let formats = formats.into_iter().filter(|(word, _)| has(*word));
        let now: Vec<String> = formats.map(|(_, format)| format.name.to_owned()).collect();
        let scale = scale_of(&now);
        self.engine.set_loss_scale(scale)?;
        let (step, before) = (self.state.step, std::mem::replace(&mut self.state.halves, now));
        let before = match before.is_empty() {
            true => vec![Format::F16.name.to_owned()],
            false => before,
        };
        if step == 0 || scale_of(&before) != scale {
            let mut words = self.engine.read_state()?;
            words[state::SCALE_LOG2] = state::first(scale)[state::SCALE_LOG2];
            words[state::SCALE_AGE] = 0;
            self.engine.write_state(&words);
        }
        if step > 0 && before != self.state.halves {
            on_event(&Event::Note(format!(
                "mixed precision was in {} until update {step}, and goes on in {}, which rounds otherwise",
                before.join(" and "),
                self.state.halves.join(" and ")
            )));
        }
        Ok(())
    }
}
