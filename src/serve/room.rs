//! Room in memory: how many slots of which context fit, found by recording programs.

use crate::backend::Device;
use crate::config::GptConfig;
use crate::error::{Error, Result, field};
use crate::model::{Program, Uses};
use crate::plan::Role;
use crate::serve::schedule::MOST_SLOTS;

/// The default number of slots: as many as a small replay of the model has rows.
pub const SLOTS: usize = 8;
/// The most positions of a slot unless others are asked for: caches take memory for all of them.
pub const CONTEXT: usize = 4096;

/// The memory that a server takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Sequences at once.
    pub slots: usize,
    /// Positions of a slot.
    pub context: usize,
    /// Keys and values of all slots.
    pub cache_bytes: u64,
    /// Everything.
    pub total_bytes: u64,
}

impl Room {
    /// Returns what a program takes.
    pub fn of(program: &Program) -> Room {
        Room {
            slots: program.uses.generation.unwrap_or(0),
            context: program.context(),
            cache_bytes: program.plan.bytes(Role::Cache),
            total_bytes: program.plan.total_bytes(),
        }
    }
}

/// Records the program of a server.
///
/// # Errors
///
/// If there are no slots or too many, or they do not fit the device; the hint has the largest that do.
pub fn record(config: &GptConfig, uses: Uses, device: &Device) -> Result<Program> {
    let slots = uses.generation.unwrap_or(0);
    if !(1..=MOST_SLOTS).contains(&slots) {
        let name = field("slots");
        return Err(Error::usage(format!("{name} is {slots}, must be 1 to {MOST_SLOTS}")));
    }
    let program = Program::record(config, uses, device.limits());
    if device.fits(&program.plan) {
        return Ok(program);
    }
    let fits = |uses: Uses| device.fits(&Program::record(config, uses, device.limits()).plan);
    Err(does_not_fit(Room::of(&program), uses, fits))
}

/// Returns the error about slots that do not fit, with the largest that do.
fn does_not_fit(room: Room, uses: Uses, fits: impl Fn(Uses) -> bool) -> Error {
    let Room { slots, context, .. } = room;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let error = Error::device(format!(
        "{slots} slots of {context} positions do not fit the device's memory: they take {:.2} GiB, and with the model {:.2} GiB",
        gib(room.cache_bytes),
        gib(room.total_bytes)
    ));
    let (slots_name, context_name) = (field("slots"), field("context"));
    let fewer = largest(slots, |slots| fits(Uses { generation: Some(slots), ..uses }));
    let shorter = || {
        let fits = |context| fits(Uses { generation: Some(1), context: Some(context), ..uses });
        largest(context, fits)
    };
    match fewer {
        Some(slots) => error.hint(format!("take {slots_name} {slots}, the most that fit")),
        None => match shorter() {
            Some(context) => error.hint(format!(
                "take {slots_name} 1 and {context_name} {context}, the most that fits"
            )),
            None => error.hint("take a smaller model, or store its matrices in fewer bits"),
        },
    }
}

/// Returns the largest number below `end` that fits, if all smaller ones than one that fits do too.
fn largest(end: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut low, mut high) = (0, end);
    while high - low > 1 {
        let middle = low.midpoint(high);
        match fits(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    (low > 0).then_some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_named() {
        let room = Room { slots: 8, context: 100, cache_bytes: 3 << 30, total_bytes: 4 << 30 };
        let uses = Uses { generation: Some(8), ..Uses::default() };
        let most = |limit: usize| {
            let taken = |uses: Uses| uses.generation.unwrap_or(1) * uses.context.unwrap_or(100);
            does_not_fit(room, uses, |uses| taken(uses) <= limit).advice().expect("a hint")
        };
        assert_eq!(most(350), "take slots 3, the most that fit");
        assert_eq!(most(700), "take slots 7, the most that fit");
        assert_eq!(most(99), "take slots 1 and context 99, the most that fits");
        assert!(most(0).starts_with("take a smaller model"));
        let error =
            record(&GptConfig::small(), Uses { generation: Some(65), ..uses }, &Device::Cpu);
        assert_eq!(error.expect_err("refused").to_string(), "slots is 65, must be 1 to 64");
    }
}
