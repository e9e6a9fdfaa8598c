//! `wgpt devices --ranks`: the device of each rank, and the links between them.

use std::time::Instant;

use serde::Serialize;
use wgpt::backend::Device;
use wgpt::backend::gpu::DeviceChoice;
use wgpt::dist::World;
use wgpt::{Error, Result};

use crate::cli::launch::host;
use crate::cli::outcome::Outcome;
use crate::cli::ranks::{self, Ranks};
use crate::cli::{number, output};

/// Numbers of the small and of the large message.
const NUMBERS: [usize; 2] = [1, 4 << 20];
/// How often each is sent.
const TIMES: [u32; 2] = [100, 4];

/// A rank and the link from the first one to it.
#[derive(Serialize)]
struct Link {
    rank: usize,
    host: String,
    device: String,
    /// Microseconds of half a round trip; `None` for the first rank itself.
    latency_us: Option<f64>,
    /// Gigabytes per second in each direction, while both send.
    gb_per_s: Option<f64>,
}

/// Shows the ranks.
///
/// # Errors
///
/// If no launcher has started several processes, or a rank is gone or has no usable device.
pub fn run(json: bool) -> Result<Outcome> {
    let ranks = Ranks::begin()?;
    let mut world = ranks.world();
    if world.size() == 1 {
        return Err(Error::usage("there is only one rank".to_owned())
            .hint("start several, for example by `mpirun -n 4 wgpt devices --ranks`"));
    }
    let device = Device::open(ranks::device(DeviceChoice::Auto))?;
    let names =
        [host(), crate::cli::options::device_name(&device)].map(|name| all(&mut *world, &name));
    let [hosts, devices] = names;
    let (hosts, devices) = (hosts?, devices?);
    let mut links = vec![];
    for (rank, (host, device)) in hosts.into_iter().zip(devices).enumerate() {
        let (latency_us, gb_per_s) = match rank {
            0 => (None, None),
            _ => {
                let [small, large] = measure(&mut *world, rank)?;
                (Some(small * 1e6), Some(4.0 * NUMBERS[1] as f64 / large / 1e9))
            }
        };
        links.push(Link { rank, host, device, latency_us, gb_per_s });
    }
    if world.rank() == 0 {
        show(&links, json);
    }
    ranks.end();
    Ok(Outcome::Good)
}

/// The texts of all ranks.
fn all(world: &mut dyn World, own: &str) -> Result<Vec<String>> {
    let bytes: Vec<u64> = own.bytes().map(u64::from).collect();
    let text = |words: &Vec<u64>| {
        String::from_utf8_lossy(&words.iter().map(|word| *word as u8).collect::<Vec<_>>())
            .into_owned()
    };
    Ok(world.gather(&bytes)?.iter().map(text).collect())
}

/// Seconds in which rank 0 and another rank exchange a small and a large message; the others wait.
fn measure(world: &mut dyn World, rank: usize) -> Result<[f64; 2]> {
    let mut seconds = [0.0; 2];
    let other = match world.rank() {
        0 => Some(rank),
        own => (own == rank).then_some(0),
    };
    for (i, (numbers, times)) in NUMBERS.into_iter().zip(TIMES).enumerate() {
        let (out, mut back) = (vec![1.0; numbers], vec![0.0; numbers]);
        let mut exchange = |world: &mut dyn World| match other {
            Some(other) => world.exchange(&[(other, &out)], &mut [(other, &mut back)]),
            None => Ok(()),
        };
        // The first one sets up the link.
        exchange(world)?;
        world.gather(&[])?;
        let clock = Instant::now();
        for _ in 0..times {
            exchange(world)?;
        }
        seconds[i] = clock.elapsed().as_secs_f64() / f64::from(times);
    }
    Ok(seconds)
}

fn show(links: &[Link], json: bool) {
    if json {
        return output::json(&serde_json::json!({ "ranks": links }));
    }
    let row = |link: &Link| {
        [
            link.rank.to_string(),
            link.host.clone(),
            link.device.clone(),
            link.latency_us.map_or(String::new(), |us| format!("{us:.0} µs")),
            link.gb_per_s.map_or(String::new(), |rate| format!("{} GB/s", number::rate(rate))),
        ]
    };
    let head = ["rank", "machine", "device", "latency", "both directions"];
    output::line(&output::table(head, &[1, 2], links.iter().map(row).collect()));
}
