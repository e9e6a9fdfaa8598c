//! An update where the ranks split the optimiser's state: [`crate::model::Split`].

use std::collections::VecDeque;
use std::ops::Range;

use super::{Link, Pending};
use crate::engine::Engine;
use crate::error::Result;
use crate::kernel::Step;
use crate::model::Split;
use crate::plan::View;

/// Buckets that are under way at once, at most.
const MOST_PENDING: usize = 8;

/// The parameters of a bucket that are under way.
type Sent<'a> = (&'a [Option<View>], Pending<Result<Vec<Vec<f32>>>>);

/// Makes the update of which all gradients are summed: each rank updates its part, and all take over the others'.
///
/// # Errors
///
/// If a device is lost, or a rank is gone.
///
/// # Panics
///
/// If the engine's program does not split the optimiser's state.
pub fn update_split(engine: &mut Engine, link: &mut Link, step: &Step) -> Result<()> {
    let split = engine.program().split.clone().expect("a program that splits it");
    share_partials(engine, link, &split, step)?;
    engine.update(step);
    share_params(engine, link, &split)
}

/// Computes this rank's partials of the norm, and gives them to all.
fn share_partials(engine: &mut Engine, link: &mut Link, split: &Split, step: &Step) -> Result<()> {
    let own = engine.norm_partials(step)?;
    let lens: Vec<usize> = split.partials.iter().map(|places| end(places).max(1)).collect();
    let group = link.grid().with_same_parameters();
    let all = link.call(move |world| group.to_all(world, own, &lens))?;
    let mut partials = vec![0.0; split.all.len];
    for (places, sent) in split.partials.iter().zip(&all) {
        for (from, to) in places {
            partials[*to..][..from.len()].copy_from_slice(&sent[from.clone()]);
        }
    }
    engine.write_partials(&partials);
    Ok(())
}

/// The length of what a rank sends of its partials.
fn end(places: &[(Range<usize>, usize)]) -> usize {
    places.last().map_or(0, |(own, _)| own.end)
}

/// Gives every rank the parameters that each has updated, bucket by bucket.
fn share_params(engine: &mut Engine, link: &mut Link, split: &Split) -> Result<()> {
    let mut pending: VecDeque<Sent<'_>> = VecDeque::new();
    let group = link.grid().with_same_parameters();
    for views in &split.params {
        let mut own = vec![];
        if let Some(view) = views[group.own()] {
            own.resize(view.len, 0.0);
            engine.backend().read(view, &mut own)?;
        }
        let lens: Vec<usize> = views.iter().map(|view| view.map_or(0, |view| view.len)).collect();
        let group = group.clone();
        pending.push_back((views, link.start(move |world| group.to_all(world, own, &lens))));
        if pending.len() > MOST_PENDING {
            take_over(engine, link, pending.pop_front())?;
        }
    }
    while !pending.is_empty() {
        take_over(engine, link, pending.pop_front())?;
    }
    Ok(())
}

/// Writes the parameters that the other ranks have updated.
fn take_over(engine: &mut Engine, link: &mut Link, sent: Option<Sent<'_>>) -> Result<()> {
    let Some((views, pending)) = sent else { return Ok(()) };
    let all = link.take(pending)?;
    for other in link.grid().with_same_parameters().others() {
        if let Some(view) = views[other] {
            engine.backend().write(view, &all[other]);
        }
    }
    Ok(())
}
