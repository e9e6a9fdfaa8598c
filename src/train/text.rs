//! Text of a model in training whose layers lie on several ranks: rank 0 says what is fed, the last stage draws.

use super::Trainer;
use crate::dist::Stages;
use crate::error::Result;
use crate::generate::{Event, Request, generate_all};

impl Trainer {
    /// Whether the layers lie on several ranks: they must then make a text together, rank 0 by
    /// [`Trainer::generate_on_stages`], the others by [`Trainer::help_to_generate`].
    pub fn is_in_stages(&self) -> bool {
        self.link.grid().stages > 1
    }

    /// Continues a prompt on rank 0, as [`generate_all`] does; passes each new token to `seen`.
    ///
    /// # Errors
    ///
    /// As [`generate_all`], or if a rank is gone.
    pub fn generate_on_stages(
        &mut self,
        request: Request<'_>,
        ends: &[u32],
        seen: &mut dyn FnMut(u32) -> Result<()>,
    ) -> Result<()> {
        let mut stages = Stages::new(&mut self.engine, &self.link);
        let made = generate_all(&mut stages, &[request], ends, |_, event| {
            if let Event::Token(token) = event {
                seen(token)?;
            }
            Ok(true)
        });
        // The others wait for it in either case.
        let ended = stages.end();
        made.and(ended)
    }

    /// Does what rank 0 says until its text is complete.
    ///
    /// # Errors
    ///
    /// If a device is lost, or a rank is gone.
    pub fn help_to_generate(&mut self) -> Result<()> {
        Stages::new(&mut self.engine, &self.link).follow()
    }
}
