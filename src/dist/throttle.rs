//! A slow link, to see what it costs without having one.

use std::time::Duration;

use super::forecast::LinkSpeed;
use super::world::World;
use crate::clock::Stopwatch;
use crate::error::Result;
use crate::wait;

/// Ranks behind a link: each exchange of numbers takes as long as the link needs for them, at least.
pub struct Throttled {
    world: Box<dyn World>,
    link: LinkSpeed,
}

impl Throttled {
    /// Puts ranks behind a link.
    pub fn new(world: Box<dyn World>, link: LinkSpeed) -> Throttled {
        Throttled { world, link }
    }
}

impl World for Throttled {
    fn rank(&self) -> usize {
        self.world.rank()
    }

    fn size(&self) -> usize {
        self.world.size()
    }

    fn gather(&mut self, own: &[u64]) -> Result<Vec<Vec<u64>>> {
        self.world.gather(own)
    }

    fn exchange(
        &mut self,
        sent: &[(usize, &[f32])],
        received: &mut [(usize, &mut [f32])],
    ) -> Result<()> {
        let clock = Stopwatch::start();
        self.world.exchange(sent, received)?;
        let out: usize = sent.iter().map(|(_, numbers)| size_of_val(*numbers)).sum();
        let back: usize = received.iter().map(|(_, numbers)| size_of_val(&**numbers)).sum();
        let takes = self.link.latency_s + out.max(back) as f64 / self.link.bytes_per_s;
        wait::for_time(Duration::from_secs_f64((takes - clock.seconds()).max(0.0)));
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.world.broadcast(bytes)
    }
}
