//! Text of a model whose layers lie on several ranks: rank 0 says what is fed, the last stage draws.

use serde::{Deserialize, Serialize};

use super::Trainer;
use super::stages::Neighbours;
use crate::engine::{Drawn, prompt_feeds};
use crate::error::{Error, Result};
use crate::generate::Request;
use crate::kernel::{Draw, Feed};

/// What all stages do next.
#[derive(Serialize, Deserialize)]
enum Command {
    /// A sequence begins, in which these tokens were seen.
    Begin(Vec<u32>),
    /// The tokens at some positions go through the stages: the first one, and their number. Then a token is drawn, if it is
    /// said how.
    Feed(usize, usize, Option<HowToDraw>),
    /// The text is complete.
    End,
}

/// A [`Draw`], with the bits of its numbers.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct HowToDraw {
    seed: [u32; 2],
    top_k: u32,
    /// Temperature, top-p, min-p, repetition penalty.
    bits: [u64; 4],
}

impl HowToDraw {
    fn of(draw: Draw) -> HowToDraw {
        let Draw { seed, top_k, temperature, top_p, min_p, repetition_penalty } = draw;
        let bits = [temperature, top_p, min_p, repetition_penalty].map(f64::to_bits);
        HowToDraw { seed, top_k, bits }
    }

    fn draw(self) -> Draw {
        let HowToDraw { seed, top_k, bits } = self;
        let [temperature, top_p, min_p, repetition_penalty] = bits.map(f64::from_bits);
        Draw { seed, top_k, temperature, top_p, min_p, repetition_penalty }
    }
}

impl Trainer {
    /// Whether the layers lie on several ranks: they must then make a text together, rank 0 by
    /// [`Trainer::generate_on_stages`], the others by [`Trainer::help_to_generate`].
    pub fn is_in_stages(&self) -> bool {
        self.link.grid().stages > 1
    }

    /// Continues a prompt on rank 0 by up to `max_tokens` tokens, up to a token of `ends` or the end of the model's context;
    /// passes each one to `seen`.
    ///
    /// # Errors
    ///
    /// If an option is out of range, the prompt does not fit, a device is lost, or a rank is gone.
    pub fn generate_on_stages(
        &mut self,
        request: Request<'_>,
        ends: &[u32],
        seen: &mut dyn FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        let made = self.continue_prompt(request, ends, seen);
        // The others wait for it in either case.
        self.tell(&Command::End)?;
        made
    }

    fn continue_prompt(
        &mut self,
        Request { prompt, options }: Request<'_>,
        ends: &[u32],
        seen: &mut dyn FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        options.validate()?;
        let context = self.gpt.config().n_positions;
        if prompt.is_empty() || prompt.len() > context {
            let message =
                format!("the prompt has {} tokens, must have 1 to {context}", prompt.len());
            return Err(Error::input(message).hint("give a shorter one"));
        }
        self.tell(&Command::Begin(prompt.to_vec()))?;
        self.engine.write_sequence(0, 0, prompt);
        let mut feeds = prompt_feeds(0, prompt.len(), options.draw(0));
        let room = (context - prompt.len()).min(options.max_tokens);
        for index in 0..room {
            let mut token = None;
            for Feed { position, count, draw, .. } in feeds {
                token = self.tell(&Command::Feed(position, count, draw.map(HowToDraw::of)))?;
            }
            let token = token.expect("the last feed draws a token");
            seen(token)?;
            if ends.contains(&token) {
                break;
            }
            let position = prompt.len() + index;
            self.engine.write_sequence(0, position, &[token]);
            let draw = Some(options.draw(index + 1));
            feeds = vec![Feed { slot: 0, position, count: 1, draw }];
        }
        Ok(())
    }

    /// Does what rank 0 says until its text is complete.
    ///
    /// # Errors
    ///
    /// If a device is lost, or a rank is gone.
    pub fn help_to_generate(&mut self) -> Result<()> {
        loop {
            let bytes = self.link.call(|world| {
                let mut bytes = vec![];
                world.broadcast(&mut bytes).map(|()| bytes)
            })?;
            let command = serde_json::from_slice(&bytes).expect("a command of rank 0");
            if let Command::End = command {
                return Ok(());
            }
            self.obey(&command)?;
        }
    }

    /// Tells all ranks what to do, and does it; returns the token that was drawn.
    fn tell(&mut self, command: &Command) -> Result<Option<u32>> {
        let mut bytes = serde_json::to_vec(command).expect("a command is JSON");
        self.link.call(move |world| world.broadcast(&mut bytes))?;
        self.obey(command)
    }

    fn obey(&mut self, command: &Command) -> Result<Option<u32>> {
        match command {
            Command::Begin(seen) => {
                self.engine.begin_sequence(0);
                self.engine.mark_seen(0, seen);
                Ok(None)
            }
            Command::Feed(position, count, draw) => {
                let draw = draw.map(HowToDraw::draw);
                self.feed(Feed { slot: 0, position: *position, count: *count, draw })
            }
            Command::End => Ok(None),
        }
    }

    /// Sends tokens through the stages of this rank's column; all columns do the same. Returns the token that is drawn.
    fn feed(&mut self, feed: Feed) -> Result<Option<u32>> {
        let grid = self.link.grid();
        let mut neighbours = Neighbours::new(&self.link, &self.engine);
        neighbours.extend(&mut self.engine, feed)?;
        neighbours.finish()?;
        if feed.draw.is_none() {
            return Ok(None);
        }
        let mut own = vec![];
        if grid.stage().is_last() {
            self.engine.sample();
            let start = feed.position + feed.count;
            let ticket = self.engine.request_drawn(&[Drawn { slot: 0, start, count: 1 }]);
            let drawn = self.engine.take_drawn(ticket)?.swap_remove(0);
            own = vec![u64::from(drawn.ids[0]), u64::from(drawn.finite)];
        }
        let all = self.gather(own)?;
        let [token, finite] = all[grid.size - grid.replicas()][..] else {
            panic!("the last stage draws a token")
        };
        if finite == 0 {
            return Err(Error::training("the logits are not finite: no token can be drawn"));
        }
        Ok(Some(token as u32))
    }
}
