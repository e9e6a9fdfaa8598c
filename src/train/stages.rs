//! Passes over a pipeline: each rank has some of the layers, and micro-batches go from stage to stage and back.

use std::ops::Range;

use crate::dist::{Link, Neighbours};
use crate::engine::{Engine, Finals, MicroBatch};
use crate::error::Result;
use crate::kernel::Step;
use crate::pipeline::Task::{Backward, Forward};

/// An update on a stage.
pub(super) struct Pipeline<'a> {
    pub engine: &'a mut Engine,
    pub link: &'a Link,
    /// The buffers of a micro-batch.
    pub batch: &'a mut MicroBatch,
    /// Whether micro-batches say where documents begin.
    pub has_documents: bool,
    /// Makes a micro-batch.
    pub fill: &'a mut dyn FnMut(usize, &mut MicroBatch) -> Result<()>,
    /// The dropout and the optimiser's values.
    pub step: Step,
}

impl Pipeline<'_> {
    /// Forward and backward over the micro-batches `share` of an update in which `all` targets count, in the order of the
    /// pipeline. `key` makes the key of a micro-batch's random numbers.
    pub(super) fn train(
        &mut self,
        share: Range<usize>,
        all: usize,
        key: &dyn Fn(usize) -> [u32; 2],
        mut finals: Option<Finals<'_>>,
    ) -> Result<()> {
        let Pipeline { engine, link, batch, has_documents, fill, step } = self;
        let stage = link.grid().stage();
        let tasks = stage.schedule(share.len());
        engine.begin_micro_batches(share.clone(), all);
        let mut neighbours = Neighbours::new(link, engine);
        for (task, next) in tasks.iter().zip(tasks.iter().skip(1).map(Some).chain([None])) {
            match *task {
                Forward(task) => {
                    let micro = share.start + task;
                    // The layers between need neither tokens nor targets, but every layer where documents begin.
                    if stage.is_first() || stage.is_last() || *has_documents {
                        fill(micro, batch)?;
                    }
                    if *has_documents {
                        engine.write_micro_batch_starts(micro, &batch.starts);
                    }
                    let step = Step { seed: key(micro), ..*step };
                    neighbours.forward(engine, micro, &batch.tokens, step)?;
                }
                Backward(task) => {
                    let micro = share.start + task;
                    neighbours.backward(engine, micro, &batch.targets, finals.as_mut())?;
                }
            }
            if !neighbours.receives(engine, next) {
                neighbours.send();
            }
        }
        neighbours.finish()
    }
}
