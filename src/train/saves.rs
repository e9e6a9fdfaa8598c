//! The files that a run writes on the way, and reads when it resumes.

use std::path::Path;

use super::collect::with_tensors_of_all;
use super::{Base, Event, Trainer, curve, local};
use crate::arch::Schema;
use crate::checkpoint::{
    self, Adapter, AdapterFiles, Closeness, Metrics, ModelFiles, RunDir, TrainState,
};
use crate::config::{GptConfig, Optimizer, TrainConfig};
use crate::engine::{MOMENTS, Tensor};
use crate::error::{Error, Result, field};
use crate::finetune::FineTune;
use crate::model;
use crate::params::NamedShape;

/// Returns the tensors of a training state other than the parameters.
pub(super) fn moments(config: &GptConfig, train: &TrainConfig) -> Vec<NamedShape> {
    match train.optimizer {
        Optimizer::Sgd => vec![],
        Optimizer::Adamw | Optimizer::Adam => model::moments(config, &train.finetune),
    }
}

/// Returns the adapters' files if a run saves only adapters.
fn adapter<'a>(config: &'a TrainConfig, base: Option<&'a Base>) -> Option<AdapterFiles<'a>> {
    let adapted = config.finetune.lora.as_ref().zip(base);
    adapted.map(|(lora, base)| AdapterFiles {
        lora,
        base: &base.folder,
        sample: base.sample.as_ref(),
    })
}

/// Draws the loss curve into the run's folder, with the folder's name as its title.
pub(super) fn draw_curve(run: &RunDir, metrics: &[Metrics]) -> Result<()> {
    let title = run.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    curve::write(&run.path().join("loss.svg"), metrics, &title)
}

impl Trainer {
    /// Restores the moments and numbers of a checkpoint; the model already has its parameters.
    pub(super) fn restore(&mut self, step: usize, path: &Path) -> Result<()> {
        let tensors = moments(self.gpt.config(), &self.config);
        let (mut saved, file) = checkpoint::open_state(path, &tensors)?;
        self.check_saved(&saved, step, path)?;
        self.open_ranks(path, &mut saved)?;
        if !tensors.is_empty() {
            let params = self.engine.program().params.clone();
            for param in params.iter().filter(|param| param.is_trained()) {
                for (i, prefix) in MOMENTS.iter().enumerate() {
                    let name = format!("{prefix}.{}", param.name);
                    self.engine.write_param(param, Tensor::Moment(i), |start, out| {
                        file.read(&name, start, out)
                    })?;
                }
            }
        }
        if self.engine.has_adapters() {
            let schema = model::schema(self.gpt.config(), &FineTune::default());
            let adapter = Adapter::open(path, &schema)?;
            self.check_base(&adapter, &schema)?;
            let params = self.engine.program().params.clone();
            for param in params.iter().filter(|param| param.is_trained()) {
                self.engine.write_param(param, Tensor::Value, |start, out| {
                    adapter.read(param, start, out)
                })?;
            }
        }
        let words = saved.device_words.as_slice().try_into().map_err(|_| {
            Error::input(format!("{} has counters of another version", path.display()))
                .hint("go on with the version of the program that began the run")
        })?;
        self.engine.write_state(&words);
        self.state = saved;
        self.restored = Some(path.to_owned());
        Ok(())
    }

    /// Checks that the model under the adapters of a checkpoint is the one that they were trained on.
    fn check_base(&self, adapter: &Adapter, schema: &Schema) -> Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        let both = adapter.sample().zip(base.sample.as_ref());
        let difference = both.and_then(|(was, now)| was.difference(now, Closeness::Bits, schema));
        difference.map_or(Ok(()), |difference| {
            let what = format!("the model is not the one that the run began with: {difference}");
            Err(Error::input(what).at(base.folder.display()).hint(format!(
                "put it back as it was, or begin a new run with {} and its folder",
                field("init")
            )))
        })
    }

    /// Checks that a saved state belongs to this run and these data.
    fn check_saved(&self, saved: &TrainState, step: usize, path: &Path) -> Result<()> {
        let path = path.display();
        if saved.step != step as u64 {
            let message = format!("{path} holds the state of step {}", saved.step);
            return Err(Error::input(message).hint("give the folder its name again, or remove it"));
        }
        if saved.seed != self.config.seed {
            return Err(Error::input(format!(
                "the seed is {} in run.json and {} in {path}",
                self.config.seed, saved.seed
            ))
            .hint("put run.json back as it was"));
        }
        if saved.data_fingerprint != self.state.data_fingerprint {
            return Err(Error::input(format!(
                "{} is not what the run was trained on so far: it was changed",
                self.tokens.name()
            ))
            .hint(super::encoded::put_back()));
        }
        Ok(())
    }

    /// Writes `best/`.
    pub(super) fn save_best(&mut self) -> Result<()> {
        let Trainer { engine, link, run, gpt, config, base, .. } = self;
        with_tensors_of_all(engine, link, |fill| {
            let Some(run) = run else { return Ok(()) };
            let adapter = adapter(config, base.as_ref());
            let schema = model::schema(gpt.config(), &config.finetune);
            run.save_best(&ModelFiles { adapter, schema, ..gpt.files() }, fill)
        })
        .map(drop)
    }

    /// Writes a checkpoint and the loss curve, unless this step is already saved.
    pub(super) fn save(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<()> {
        self.state.device_words = self.engine.read_state()?.to_vec();
        if self.saved {
            return Ok(());
        }
        self.gather_words()?;
        let rank_files = self.rank_files();
        let Trainer { engine, link, run, gpt, config, base, state, metrics, apart, .. } = self;
        if run.is_some() {
            on_event(&Event::Saving { step: state.step as usize });
        }
        let saved = with_tensors_of_all(engine, link, |fill| {
            let Some(run) = run else { return Ok(None) };
            let adapter = adapter(config, base.as_ref());
            let schema = model::schema(gpt.config(), &config.finetune);
            let files = ModelFiles { adapter, schema, ..gpt.files() };
            let tensors = moments(gpt.config(), config);
            let more = &mut |dir: &Path| local::write_files(apart, link, &rank_files, dir);
            let path = run.save_checkpoint(&files, (state, &tensors), fill, more, config.keep)?;
            draw_curve(run, metrics).map(|()| Some(path))
        });
        self.end_save()?;
        let path = saved?;
        self.saved = true;
        if let Some(path) = path.flatten() {
            on_event(&Event::Saved { step: self.state.step as usize, path });
        }
        Ok(())
    }
}
