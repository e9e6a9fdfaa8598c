//! The profile of a run on several ranks: does its trace have a row for each of them, on one clock, and does it agree with the
//! table?

use std::thread;
use std::time::Duration;

use serde_json::Value;
use wgpt::backend::Device;
use wgpt::config::Sum;
use wgpt::fit::Programs;
use wgpt::profile::Profile;
use wgpt::timeline::{Activity, Span};
use wgpt::train::{RankTimes, RunSettings, join, start_with};
use wgpt::{Event, Result, Trainer};

use crate::ranks::ranks;
use crate::training::Place;

/// Updates that are profiled.
const PROFILED: u32 = 3;

/// How much later each rank begins its profile than the one before it.
const BREAK: Duration = Duration::from_millis(200);

/// What a rank knows of all ranks after its run, and its own profile.
type Found = (Vec<RankTimes>, Vec<Vec<Span>>, Profile);

/// Runs with a profile; all ranks do. Each starts its clock at another time: after so long a break.
fn profile(mut trainer: Trainer, after: Duration) -> Result<Found> {
    trainer.begin_profile(PROFILED);
    trainer.run(&mut |event| match event {
        Event::Step(report) if report.step == 1 => thread::sleep(after),
        _ => {}
    })?;
    let (times, spans) = (trainer.times_of_ranks()?, trainer.spans_of_ranks()?);
    let (profile, _) = trainer.end_profile()?.expect("updates were profiled");
    Ok((times, spans, profile))
}

/// What the first of `size` ranks knows.
fn profile_on(size: usize, settings: &RunSettings) -> Found {
    let mut all = ranks(size).into_iter();
    let first = all.next().expect("a rank");
    thread::scope(|scope| {
        for (i, rank) in (1..).zip(all) {
            scope.spawn(move || {
                let joined = join(Box::new(rank), |_| Ok(Device::Cpu)).unwrap();
                profile(joined.expect("the run has updates to make"), i * BREAK).unwrap()
            });
        }
        let mut programs = Programs::default();
        let mut trainer = start_with(settings, Device::Cpu, &mut programs, &mut |_| {}).unwrap();
        trainer.lead(Box::new(first)).unwrap();
        profile(trainer, Duration::ZERO).unwrap()
    })
}

fn settings(place: &Place, size: usize) -> RunSettings {
    let mut settings = place.settings();
    let train = &mut settings.train;
    (train.ranks, train.grad_accum, train.sum) = (size, size, Sum::Exact);
    (train.max_iters, train.eval_every, train.save_every) = (6, 0, 0);
    settings
}

/// The spans of the rank's own thread, or of the one that speaks to the others.
fn row(spans: &[Span], is_transfer: bool) -> Vec<Span> {
    let belongs = |span: &&Span| (span.activity == Activity::Transfer) == is_transfer;
    spans.iter().filter(belongs).copied().collect()
}

fn seconds(spans: &[Span], activity: Activity) -> f64 {
    spans.iter().filter(|span| span.activity == activity).map(|span| span.seconds).sum()
}

fn end(span: &Span) -> f64 {
    span.start_s + span.seconds
}

#[test]
fn spans_of_all_ranks_are_on_one_clock() {
    let place = Place::new();
    let size = 3;
    let (times, ranks, _) = profile_on(size, &settings(&place, size));
    assert_eq!((times.len(), ranks.len()), (size, size));
    for (rank, (spans, times)) in ranks.iter().zip(&times).enumerate() {
        for activity in Activity::ALL {
            assert!(seconds(spans, activity) > 0.0, "rank {rank} has no {}", activity.name());
        }
        for is_transfer in [false, true] {
            let row = row(spans, is_transfer);
            let overlap = row.windows(2).find(|pair| pair[1].start_s < end(&pair[0]) - 1e-9);
            assert_eq!(overlap, None, "rank {rank}");
        }
        // The table has the copies of the trace, per update.
        let copied_ms = 1e3 * seconds(spans, Activity::Copy) / f64::from(PROFILED);
        assert!((times.copied_ms - copied_ms).abs() < 1e-6, "rank {rank}: {times:?}");
        // One thing at a time.
        let own = row(spans, false);
        let length_s = end(own.last().unwrap()) - own[0].start_s;
        let sum_s: f64 = own.iter().map(|span| span.seconds).sum();
        assert!(sum_s <= length_s + 1e-9, "rank {rank}: {sum_s} of {length_s}");
        assert!(times.computed_ms > 0.0 && times.waited_ms > 0.0, "rank {rank}: {times:?}");
    }
    // No transfer of all ends on one rank before it has begun on another.
    let transfers: Vec<_> = ranks.iter().map(|spans| row(spans, true)).collect();
    let counts: Vec<_> = transfers.iter().map(Vec::len).collect();
    assert_eq!(counts, vec![counts[0]; size]);
    for i in 0..counts[0] {
        let latest_start = transfers.iter().map(|row| row[i].start_s).fold(f64::MIN, f64::max);
        let earliest_end = transfers.iter().map(|row| end(&row[i])).fold(f64::MAX, f64::min);
        assert!(latest_start < earliest_end + 0.03, "transfer {i}: {latest_start} {earliest_end}");
    }
}

#[test]
fn the_trace_of_ranks_has_a_process_for_each() {
    let place = Place::new();
    let (_, ranks, profile) = profile_on(2, &settings(&place, 2));
    let trace = profile.trace_of_ranks(&ranks);
    let events = trace["traceEvents"].as_array().expect("events");
    let names = |pid: u64, kind: &str| -> Vec<&Value> {
        let of = events.iter().filter(|event| event["pid"] == pid && event["name"] == kind);
        of.map(|event| &event["args"]["name"]).collect()
    };
    assert_eq!(names(0, "process_name"), ["rank 0"]);
    assert_eq!(names(1, "process_name"), ["rank 1"]);
    assert_eq!(names(0, "thread_name"), ["computing", "kernels", "exchange"]);
    assert_eq!(names(1, "thread_name"), ["computing", "exchange"]);
    for (pid, spans) in (0_u64..).zip(&ranks) {
        let of_rank = |event: &&Value| event["pid"] == pid && event["cat"] == "rank";
        assert_eq!(events.iter().filter(of_rank).count(), spans.len());
        let transfers = spans.iter().filter(|span| span.activity == Activity::Transfer).count();
        assert_eq!(events.iter().filter(of_rank).filter(|e| e["tid"] == 2).count(), transfers);
    }
}
