//! The sum of the gradients over the micro-batches of an update: in place, or along the [tree](crate::tree).

use std::ops::Range;

use super::batches::step_of;
use super::{Engine, MicroBatch};
use crate::backend::{Out, Ticket};
use crate::error::Result;
use crate::kernel::Step;
use crate::math::simd;
use crate::model::Bucket;
use crate::plan::{Phase, View};
use crate::tree::Nodes;

/// The sum of gradients over some micro-batches of an update.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    /// The micro-batches.
    range: Range<usize>,
    /// How many targets count in all micro-batches of the update.
    all: usize,
    /// How many have been added.
    done: usize,
    /// The complete nodes, if micro-batches are added along the tree.
    nodes: Option<Nodes>,
    /// How many of the nodes are kept beside the gradients.
    kept: usize,
    /// How many of these, the newest, are still to be added to the last one, which is in the gradients.
    unjoined: usize,
}

impl Sum {
    /// The number of the next micro-batch.
    pub(super) fn next(&self) -> usize {
        self.range.start + self.done
    }

    /// Whether the next micro-batch is the last one.
    fn is_at_last(&self) -> bool {
        self.next() + 1 == self.range.end
    }

    /// Returns the step of its passes.
    pub(super) fn step(&self, step: Step) -> Step {
        let before = if self.nodes.is_some() { 0 } else { self.done };
        step_of(before, self.all, step)
    }
}

/// A bucket of all nodes that is being read.
struct Asked {
    bucket: Bucket,
    numbers: Vec<f32>,
    /// What `numbers` gets, unless it is there already.
    tickets: Vec<Ticket>,
}

/// What is done with the gradients as soon as they are final: the buckets in order, each with the number of dispatches of the
/// backward pass after which that is so, and what gets the numbers of the next one, the nodes of this range of micro-batches one after the other.
pub type Finals<'a> =
    (&'a [(Bucket, usize)], &'a mut dyn FnMut(&mut Engine, Vec<f32>) -> Result<()>);

impl Engine {
    /// Forward and backward over some micro-batches of an update in which `all` targets count.
    ///
    /// Their gradients are added in place, or if the program was recorded for it ([`Uses::nodes`]) along the
    /// [tree](crate::tree). The sum is then in the gradients. With `finals`, which get it bucket by bucket while the backward
    /// pass of the last micro-batch goes on, it is added only as far as the tree lies within the range.
    ///
    /// # Errors
    ///
    /// The first of `fill`, which makes a micro-batch by its number in the place of the one before; if there is but one, it
    /// is there already. Or the first of `finals`, or if the device is lost.
    ///
    /// # Panics
    ///
    /// As [`Engine::train_batch`], or if the range needs more nodes than were recorded.
    ///
    /// [`Uses::nodes`]: crate::model::Uses::nodes
    pub fn train_micro_batches(
        &mut self,
        range: Range<usize>,
        all: usize,
        batch: &mut MicroBatch,
        fill: &mut dyn FnMut(usize, &mut MicroBatch) -> Result<()>,
        step: Step,
        mut finals: Option<Finals<'_>>,
    ) -> Result<()> {
        self.begin_sum(range.clone(), all);
        for micro in range.clone() {
            if range.len() > 1 {
                fill(micro, batch)?;
            }
            let step = self.sum.step(Step { seed: batch.seed, ..step });
            if !batch.starts.is_empty() {
                self.write_document_starts(&batch.starts);
            }
            self.train_forward(&batch.tokens, &batch.targets, &step);
            self.backward_and_add(Phase::Backward, &step, finals.as_mut())?;
        }
        Ok(())
    }

    /// Begins the sum over some micro-batches of an update in which `all` targets count.
    pub(super) fn begin_sum(&mut self, range: Range<usize>, all: usize) {
        let nodes = (self.program.uses.nodes > 0).then(Nodes::default);
        self.sum = Sum { range, all, nodes, ..Sum::default() };
    }

    /// Runs the backward pass of the next micro-batch, and adds its gradients to those before it.
    pub(super) fn backward_and_add(
        &mut self,
        phase: Phase,
        step: &Step,
        finals: Option<&mut Finals<'_>>,
    ) -> Result<()> {
        let (micro, is_last) = (self.sum.next(), self.sum.is_at_last());
        let joined = self.sum.nodes.as_mut().map_or(0, |nodes| nodes.push(micro));
        self.sum.done += 1;
        match finals {
            Some(finals) if is_last => {
                self.sum.unjoined = joined;
                return self.backward_in_buckets(phase, step, finals);
            }
            _ => self.run(phase, step),
        }
        // Where nobody else has micro-batches, the last one ends the sum.
        let joined = if is_last { self.sum.kept } else { joined };
        (0..joined).for_each(|_| self.join());
        if self.sum.nodes.is_some() && !is_last {
            self.replay(Phase::Keep(self.sum.kept as u32), step);
            self.sum.kept += 1;
        }
        Ok(())
    }

    /// Adds the newest node that is kept to the gradients.
    fn join(&mut self) {
        self.sum.kept -= 1;
        self.replay(Phase::Join(self.sum.kept as u32), &Step::default());
    }

    /// Runs the backward pass; each bucket is passed on when it is final. A device works on the next part of the pass while
    /// a bucket is read.
    fn backward_in_buckets(
        &mut self,
        phase: Phase,
        step: &Step,
        finals: &mut Finals<'_>,
    ) -> Result<()> {
        let Range { start, end } = self.program.plan.phase(phase);
        let mut at = start;
        let mut asked = None;
        for (bucket, after) in finals.0 {
            if start + after > at {
                self.replay_range(at..start + after, step);
                at = start + after;
            }
            let newest = self.copies(|engine| engine.ask_for(*bucket))?;
            // What was read at once has nothing to wait for.
            let ready = match newest.tickets.is_empty() {
                true => Some(newest),
                false => asked.replace(newest),
            };
            if let Some(ready) = ready {
                let numbers = self.copies(|engine| engine.nodes_of(ready))?;
                finals.1(self, numbers)?;
            }
        }
        self.replay_range(at..end, step);
        match asked {
            None => Ok(()),
            Some(last) => {
                let numbers = self.copies(|engine| engine.nodes_of(last))?;
                finals.1(self, numbers)
            }
        }
    }

    /// Requests a bucket of all nodes, the oldest first; the last one is in the gradients. Where waiting costs nothing, it is
    /// read at once.
    fn ask_for(&mut self, bucket: Bucket) -> Result<Asked> {
        let of = |views: &[View]| views[bucket.view].slice(bucket.start, bucket.len);
        let kept = self.program.nodes[..self.sum.kept].iter().map(|node| of(node));
        let views: Vec<View> = kept.chain([of(&self.program.summed)]).collect();
        let mut numbers = self.room(bucket.len * views.len());
        let at_once = self.reads_ahead() == 0;
        let mut tickets = vec![];
        for (view, out) in views.into_iter().zip(numbers.chunks_exact_mut(bucket.len)) {
            match at_once {
                true => self.backend.read(view, out)?,
                false => tickets.push(self.backend.request(&[view])),
            }
        }
        Ok(Asked { bucket, numbers, tickets })
    }

    /// Returns the nodes of a bucket one after the other; those that belong to the last one are added to it.
    fn nodes_of(&mut self, asked: Asked) -> Result<Vec<f32>> {
        let Asked { bucket: Bucket { len, .. }, mut numbers, tickets } = asked;
        for (ticket, out) in tickets.into_iter().zip(numbers.chunks_exact_mut(len)) {
            self.backend.take(ticket, &mut [Out::Reals(out)])?;
        }
        for _ in 0..self.sum.unjoined {
            let end = numbers.len() - len;
            let (kept, last) = numbers.split_at_mut(end);
            simd::add_to(&mut kept[end - len..], last);
            numbers.truncate(end);
        }
        Ok(numbers)
    }

    /// Returns host memory for so many numbers, which hold anything: some that was given back, or else new.
    pub fn room(&mut self, len: usize) -> Vec<f32> {
        let mut room = self.rooms.pop().unwrap_or_default();
        room.resize(len, 0.0);
        room
    }

    /// Gives host memory back.
    pub fn give_back(&mut self, room: Vec<f32>) {
        self.rooms.push(room);
    }

    /// Computes this rank's partials of the norm, and reads them.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    ///
    /// # Panics
    ///
    /// If the program does not split the optimiser's state.
    pub fn norm_partials(&mut self, step: &Step) -> Result<Vec<f32>> {
        let view = self.program.split.as_ref().expect("a program that splits it").own;
        self.replay(Phase::Norm, step);
        let mut partials = vec![0.0; view.len];
        self.backend.read(view, &mut partials)?;
        Ok(partials)
    }

    /// Overwrites the partials of the norm of all gradients.
    ///
    /// # Panics
    ///
    /// As [`Engine::norm_partials`].
    pub fn write_partials(&mut self, partials: &[f32]) {
        let view = self.program.split.as_ref().expect("a program that splits it").all;
        self.backend.write(view, partials);
    }

    /// Runs the update of this rank's part without the others: it takes as long as theirs.
    pub fn run_update_alone(&mut self, step: &Step) {
        if self.program.split.is_some() {
            self.replay(Phase::Norm, step);
        }
        self.update(step);
    }

    /// Reads the sum of the update's losses.
    ///
    /// # Errors
    ///
    /// If the device is lost.
    pub fn read_loss(&mut self) -> Result<f32> {
        let (view, mut loss) = (self.batch_views().loss, [0.0]);
        self.backend.read(view, &mut loss)?;
        Ok(loss[0])
    }

    /// Overwrites the sum of the update's losses.
    pub fn write_loss(&mut self, loss: f32) {
        let view = self.batch_views().loss;
        self.backend.write(view, &[loss]);
    }

    /// Overwrites a part of what is summed: of the gradients, or of the loss.
    pub(crate) fn write_summed(&mut self, view: usize, start: usize, numbers: &[f32]) {
        let view = self.program.summed[view].slice(start, numbers.len());
        self.copies(|engine| engine.backend.write(view, numbers));
    }
}
