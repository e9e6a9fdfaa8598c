//! Updates of which each rank makes a part, because it has a part of the optimiser's state or of the model.
//!
//! In stage 1 of ZeRO (Rajbhandari et al. 2019, <https://arxiv.org/abs/1910.02054>) every rank has all parameters and gradients, but
//! moments only for its shares of the [buckets](super::buckets()): it computes the norm's partials of these, and updates their
//! parameters, which all ranks then take over. In mixed precision it has the matrices in single precision for its shares alone, and
//! of the others the copies that products read. Shares are whole blocks of the norm, so that the partials, and with them the
//! parameters, have the same bits whether the state is split or not.
//!
//! In a pipeline a rank has the parameters of its stage. A token table that is the head, too, is in the first stage and in the last one:
//! the sum of its two gradients is in both, and the first one counts it in the norm.

use std::ops::Range;

use super::buckets::{Bucket, buckets};
use super::{UpdateViews, Uses, norm_views, stage};
use crate::arch::Family;
use crate::config::{GptConfig, Optimizer};
use crate::finetune::FineTune;
use crate::graph::{Graph, Slot};
use crate::kernel::constants::{NORM_BLOCK, NORM_PARTIAL_LEN};
use crate::kernel::{Format, LossScale};
use crate::ops::global_norm::{self, NormViews};
use crate::ops::{cast, optimizer};
use crate::params::ParamRole;
use crate::pipeline::Stage;
use crate::plan::{BINDING_ALIGNMENT, Phase, Role, View};

/// A rank among those that split the optimiser's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 0.
    pub rank: usize,
    /// The number of ranks.
    pub size: usize,
}

/// What the ranks tell each other in an update.
#[derive(Clone, Debug)]
pub struct Split {
    /// The norm's partials that this rank computes.
    pub own: View,
    /// Those of all gradients.
    pub all: View,
    /// For each rank that has a part where its partials lie: in what it computes, and among all of them.
    pub partials: Vec<Vec<(Range<usize>, usize)>>,
    /// For each bucket the parameters that each rank updates, if they are to be told to others and it has some of them.
    pub params: Vec<Vec<Option<View>>>,
    /// The parameter of which the first and the last stage have a gradient each.
    pub table: Option<String>,
}

/// The numbers of the partials of so many gradients.
fn partials_len(grads: usize) -> usize {
    grads.div_ceil(NORM_BLOCK as usize) * NORM_PARTIAL_LEN as usize
}

/// Records the update of a part: [`Phase::Norm`] computes its partials, [`Phase::Update`] starts from those of all ranks. Returns
/// the slots that this rank updates, too.
pub(super) fn record_part(
    g: &mut Graph,
    (optimizer, scale): (Optimizer, LossScale),
    part: Part,
    loss: View,
) -> (UpdateViews, Split, Vec<Slot>) {
    let slots = g.slots();
    let grads: Vec<View> = slots.iter().map(|slot| slot.grads).collect();
    let buckets: Vec<(usize, Bucket)> = buckets(&grads).into_iter().enumerate().collect();
    let shares = |rank: usize| {
        let share = move |&(index, bucket): &(usize, Bucket)| {
            let Range { start, end } = bucket.share(index, rank, part.size);
            (bucket.view, bucket.start + start..bucket.start + end)
        };
        let shares: Vec<(usize, Range<usize>)> = buckets.iter().map(share).collect();
        shares.into_iter().filter(|(_, share)| !share.is_empty())
    };
    let firsts: Vec<usize> = global_norm::partials_starts(&grads);
    let partials = |rank: usize| {
        let mut at = 0;
        let place = |(view, share): (usize, Range<usize>)| {
            let own = at..at + partials_len(share.len());
            at = global_norm::next_partials(own.end);
            (own, firsts[view] + partials_len(share.start))
        };
        shares(rank).map(place).collect::<Vec<_>>()
    };
    let partials: Vec<_> = (0..part.size).map(partials).collect();
    let params = |&(index, bucket): &(usize, Bucket)| {
        let params = slots[bucket.view].params.slice(bucket.start, bucket.len);
        let share = |rank| {
            let share = bucket.share(index, rank, part.size);
            (!share.is_empty()).then(|| params.slice(share.start, share.len()))
        };
        (0..part.size).map(share).collect()
    };
    let params = buckets.iter().map(params).collect();

    let own_len = partials[part.rank].last().map_or(0, |(own, _)| own.end).max(1);
    let own = g.buffer(Role::Staging, "norm.own", own_len, Format::F32);
    let start = g.plan.dispatches.len();
    for ((view, share), (place, _)) in shares(part.rank).zip(&partials[part.rank]) {
        let grads = slots[view].grads.slice(share.start, share.len());
        global_norm::record_partials(&mut g.plan, grads, own.slice(place.start, place.len()));
    }
    g.plan.end_phase(Phase::Norm, start);

    let all_len = global_norm::partials_len(&grads);
    let views = norm_views(g, all_len, loss);
    let NormViews { partials: all, norm, state, .. } = views;
    let start = g.plan.dispatches.len();
    global_norm::record_finish(&mut g.plan, views, scale);
    let mut owned = vec![];
    for (view, share) in shares(part.rank) {
        let part = |view: View| view.slice(share.start, share.len());
        let Slot { params, grads, decays, .. } = slots[view];
        let (params, grads, len) = (part(params), part(grads), share.len());
        let moments = (optimizer != Optimizer::Sgd)
            .then(|| room(g, Role::Moments, ["adam.m", "adam.v"], len));
        let (params, copy) = match params.format == Format::F32 {
            true => (params, None),
            false => (room(g, Role::Parameters, ["params"], len)[0], Some(params)),
        };
        owned.push(Slot { params, grads, moments, copy, decays });
    }
    for slot in &owned {
        optimizer::record(&mut g.plan, optimizer, slot, norm, state);
    }
    for (params, copy) in owned.iter().filter_map(|slot| Some((slot.params, slot.copy?))) {
        cast::record(&mut g.plan, params, copy);
    }
    g.plan.end_phase(Phase::Update, start);
    (UpdateViews { norm, state }, Split { own, all, partials, params, table: None }, owned)
}

/// Records the update of a stage.
pub(super) fn record_stage(
    g: &mut Graph,
    config: &GptConfig,
    uses: Uses,
    finetune: &FineTune,
    loss: View,
) -> (UpdateViews, Split) {
    let optimizer = uses.training.expect("an update is recorded for training");
    let counted: Vec<Vec<View>> = Stage::all(uses.stage.of)
        .map(|stage| match stage == uses.stage {
            true => counted(g, config, stage),
            false => {
                counted(&stage::list(g, config, Uses { stage, ..uses }, finetune), config, stage)
            }
        })
        .collect();
    let mut first = 0;
    let place = |grads: &Vec<View>| {
        let own = 0..global_norm::partials_len(grads);
        let place = (own.clone(), first);
        first += own.len();
        vec![place]
    };
    let partials: Vec<_> = counted.iter().map(place).collect();
    let grads = &counted[uses.stage.index];
    // A stage may train nothing.
    let least = NORM_PARTIAL_LEN as usize;
    let own_len = global_norm::partials_len(grads).max(least);
    let own = g.buffer(Role::Staging, "norm.own", own_len, Format::F32);
    let start = g.plan.dispatches.len();
    for (view, at) in grads.iter().zip(global_norm::partials_starts(grads)) {
        global_norm::record_partials(&mut g.plan, *view, own.slice(at, partials_len(view.len)));
    }
    g.plan.end_phase(Phase::Norm, start);

    let views = norm_views(g, first.max(least), loss);
    let NormViews { partials: all, norm, state, .. } = views;
    let (start, scale) = (g.plan.dispatches.len(), LossScale::of(g.format()));
    global_norm::record_finish(&mut g.plan, views, scale);
    for slot in g.slots() {
        optimizer::record(&mut g.plan, optimizer, &slot, norm, state);
    }
    g.plan.end_phase(Phase::Update, start);
    let table = Family::of(config).token_table();
    let is_trained = config.blocks.is_tied && finetune.trains(&table, ParamRole::TokenTable);
    let table = is_trained.then_some(table);
    (UpdateViews { norm, state }, Split { own, all, partials, params: vec![], table })
}

/// The gradients that a stage counts in the norm.
fn counted(g: &Graph, config: &GptConfig, stage: Stage) -> Vec<View> {
    let name = Family::of(config).token_table();
    let table = g.params.iter().find(|param| param.name == name && !stage.is_first());
    let apart: Vec<View> =
        table.into_iter().flat_map(|table| &table.slices).map(|slice| slice.var.grad).collect();
    g.slots().into_iter().flat_map(|slot| without(slot.grads, &apart)).collect()
}

/// The parts of a view that lie in none of some others.
fn without(view: View, others: &[View]) -> Vec<View> {
    let mut parts = vec![];
    let mut start = view.start;
    let mut inside: Vec<&View> = others.iter().filter(|other| other.overlaps(view)).collect();
    inside.sort_by_key(|other| other.start);
    for other in inside {
        parts.push(start..other.start.max(start));
        // The next tensor begins where a device can bind it.
        let unit = Format::F32.elements_per(BINDING_ALIGNMENT);
        start = other.range().end.next_multiple_of(unit).min(view.range().end);
    }
    parts.push(start..view.range().end);
    let part = |part: Range<usize>| view.slice(part.start - view.start, part.len());
    parts.into_iter().filter(|part| !part.is_empty()).map(part).collect()
}

/// Room for so many numbers of a rank's own under each of these names: in the last buffers of these names, or in new ones if a
/// buffer would become too large.
fn room<const N: usize>(g: &mut Graph, role: Role, names: [&str; N], len: usize) -> [View; N] {
    let limits = g.limits();
    let plan = &mut g.plan;
    names.map(|name| {
        let name = format!("{name}.own");
        let mut same = plan.buffers.iter().enumerate().filter(|(_, b)| b.name.starts_with(&name));
        let (count, last) = (same.clone().count(), same.next_back().map(|(index, _)| index));
        let fits =
            |last: &usize| Format::F32.bytes(plan.next_start(*last) + len) <= limits.buffer_bytes;
        let buffer = last.filter(fits).unwrap_or_else(|| {
            let number = if count == 0 { String::new() } else { format!(".{count}") };
            plan.buffer(role, &format!("{name}{number}"), 0, Format::F32).buffer
        });
        plan.grow(buffer, len)
    })
}
