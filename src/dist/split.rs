//! An update of which each rank makes a part: [`crate::model::Split`].

use std::collections::VecDeque;
use std::ops::Range;

use super::group::Group;
use super::link::{Link, Pending};
use super::world::World;
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Result};
use crate::kernel::Step;
use crate::math::simd::add_to;
use crate::model::{BUCKET, Split};
use crate::plan::View;

/// Buckets that are under way at once, at most.
const MOST_PENDING: usize = 8;

/// The parameters of a bucket that are under way.
type Sent<'a> = (&'a [Option<View>], Pending<Result<Vec<Vec<f32>>>>);

/// Makes the update of which all gradients are summed within each stage: each rank updates its part, and takes over what others
/// have updated of its parameters.
///
/// # Errors
///
/// If a device is lost, or a rank is gone.
///
/// # Panics
///
/// If the engine's program does not split the update.
pub fn update_split(engine: &mut Engine, link: &Link, step: &Step) -> Result<()> {
    let split = engine.program().split.clone().expect("a program that splits it");
    if let Some(table) = &split.table {
        sum_tables(engine, link, table)?;
    }
    share_partials(engine, link, &split, step)?;
    engine.update(step);
    share_params(engine, link, &split)
}

/// Adds the gradients that the first and the last stage have of the same table, on both.
fn sum_tables(engine: &mut Engine, link: &Link, table: &str) -> Result<()> {
    let (grid, stage) = (link.grid(), link.grid().stage());
    let other = match (stage.is_first(), stage.is_last()) {
        (true, _) => grid.in_stage(stage.of - 1),
        (_, true) => grid.in_stage(0),
        _ => return Ok(()),
    };
    let param =
        engine.program().param(table).expect("the first and the last stage have it").clone();
    for start in (0..param.len()).step_by(BUCKET) {
        let mut own = vec![0.0; BUCKET.min(param.len() - start)];
        engine.read_param(&param, Tensor::Gradient, start, &mut own)?;
        let sum = link.call(move |world: &mut dyn World| {
            let mut sum = vec![0.0; own.len()];
            world.exchange(&[(other, &own)], &mut [(other, &mut sum)])?;
            // Two numbers have the same sum in either order.
            add_to(&mut sum, &own);
            Ok::<_, Error>(sum)
        })?;
        engine.write_elements(&param, Tensor::Gradient, start, &sum);
    }
    Ok(())
}

/// Computes this rank's partials of the norm, and gives them to all that make other parts of the update; the last stage adds the
/// loss.
fn share_partials(engine: &mut Engine, link: &Link, split: &Split, step: &Step) -> Result<()> {
    let (grid, is_staged) = (link.grid(), link.grid().stages > 1);
    let group = match is_staged {
        true => Group::with_same_batches(grid),
        false => Group::with_same_parameters(grid),
    };
    let mut own = engine.norm_partials(step)?;
    own.truncate(end(&split.partials[group.own()]));
    own.push(if is_staged && grid.stage().is_last() { engine.read_loss()? } else { 0.0 });
    let lens: Vec<usize> = split.partials.iter().map(|places| end(places) + 1).collect();
    let all = link.call(move |world| group.to_all(world, own, &lens))?;
    let mut partials = vec![0.0; split.all.len];
    for (places, sent) in split.partials.iter().zip(&all) {
        for (from, to) in places {
            partials[*to..][..from.len()].copy_from_slice(&sent[from.clone()]);
        }
    }
    engine.write_partials(&partials);
    if let Some(loss) = all.last().and_then(|last| last.last()).filter(|_| is_staged) {
        engine.write_loss(*loss);
    }
    Ok(())
}

/// The length of what a rank sends of its partials.
fn end(places: &[(Range<usize>, usize)]) -> usize {
    places.last().map_or(0, |(own, _)| own.end)
}

/// Gives every rank the parameters that each has updated, bucket by bucket.
fn share_params(engine: &mut Engine, link: &Link, split: &Split) -> Result<()> {
    let mut pending: VecDeque<Sent<'_>> = VecDeque::new();
    let group = Group::with_same_parameters(link.grid());
    for views in &split.params {
        let mut own = vec![];
        if let Some(view) = views[group.own()] {
            own.resize(view.len, 0.0);
            engine.copies(|engine| engine.backend().read(view, &mut own))?;
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
fn take_over(engine: &mut Engine, link: &Link, sent: Option<Sent<'_>>) -> Result<()> {
    let Some((views, pending)) = sent else { return Ok(()) };
    let all = link.take(pending)?;
    for other in Group::with_same_parameters(link.grid()).others() {
        if let Some(view) = views[other] {
            engine.copies(|engine| engine.backend().write(view, &all[other]));
        }
    }
    Ok(())
}
