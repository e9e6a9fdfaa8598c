//! The run folder: settings, checkpoints, the best model, the last model, metrics.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::metrics::METRICS;
use super::save::{MODEL_FILES, ModelFiles, write_model};
use super::state::{self, TrainState};
use super::tensor_file::Fill;
use crate::disk::{self, File, TryLockError};
use crate::error::{Error, Result, field};
use crate::files::{self, write_json};
use crate::params::NamedShape;

const SETTINGS: &str = "run.json";
/// The file in which a GPU run stores the kernel variants that it uses.
pub const CHOICES: &str = "variants.json";
const LOCK: &str = ".lock";

/// The folder of a training run. No other process can open it until this value is dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The lock. The system releases it when the process ends for any reason.
    _lock: File,
}

impl RunDir {
    /// Creates a run folder and writes the run's settings, so that the run can be resumed from its
    /// first moment on.
    ///
    /// # Errors
    ///
    /// If the folder holds a run or other files.
    pub fn create(path: &Path, settings: &impl Serialize) -> Result<RunDir> {
        if disk::exists(&path.join(SETTINGS)) {
            return Err(Error::usage(format!("{} holds a run already", path.display())).hint(
                format!(
                    "go on with it by {} {}, or give another {}",
                    field("resume"),
                    path.display(),
                    field("out")
                ),
            ));
        }
        disk::create_dir_all(path).map_err(|e| Error::io("creating", path, &e))?;
        let entries = disk::read_dir(path).map_err(|e| Error::io("reading", path, &e))?;
        // Hidden files may come from a run that was killed in this very function.
        let visible = |name: std::ffi::OsString| !name.to_string_lossy().starts_with('.');
        if entries.flatten().any(|entry| visible(entry.file_name())) {
            return Err(Error::usage(format!("{} is not empty", path.display()))
                .hint(format!("give {} a new folder", field("out"))));
        }
        let run = RunDir::hold(path)?;
        write_json(&path.join(SETTINGS), settings)?;
        Ok(run)
    }

    /// Opens a run folder, and removes the leftovers of a killed process.
    ///
    /// # Errors
    ///
    /// If there is no run, or another process is training in it.
    pub fn open(path: &Path) -> Result<RunDir> {
        if !is_run(path) {
            return Err(Error::usage(format!("{} holds no run: no {SETTINGS}", path.display()))
                .hint("give the folder that wgpt train named at its start"));
        }
        let run = RunDir::hold(path)?;
        if let Some((_, checkpoint)) = run.newest_checkpoint()? {
            // The process may have been killed after its last checkpoint and before this step.
            run.publish(&checkpoint)?;
        }
        Ok(run)
    }

    fn hold(path: &Path) -> Result<RunDir> {
        let name = path.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&name);
        let lock = lock.map_err(|e| Error::io("opening", &name, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::usage(format!("another process trains in {}", path.display()))
                    .hint(format!("wait for it to end, or give another {}", field("out"))));
            }
            // Training continues on a file system without locks.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(Error::io("locking", &name, &e)),
        }
        let run = RunDir { path: path.to_path_buf(), _lock: lock };
        files::clean(&run.path)?;
        if disk::is_dir(&run.checkpoints()) {
            files::clean(&run.checkpoints())?;
        }
        Ok(run)
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the best model. The folder exists once there is a best model.
    pub fn best(&self) -> PathBuf {
        self.path.join("best")
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Returns the path of the run's settings.
    pub fn settings_path(&self) -> PathBuf {
        self.path.join(SETTINGS)
    }

    /// Reads the settings that the run was created with.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or has another format.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.settings_path();
        let text = disk::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
        serde_json::from_slice(&text).map_err(|e| Error::input(format!("{}: {e}", path.display())))
    }

    /// Replaces the settings, after something was measured that the run keeps.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn keep_settings(&self, settings: &impl Serialize) -> Result<()> {
        write_json(&self.settings_path(), settings)
    }

    /// Reads the kernel variants that the run started with; `None` if it did not store them.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or has another format.
    pub fn choices<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let path = self.path.join(CHOICES);
        let text = match disk::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("reading", &path, &e)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::input(format!("{}: {e}", path.display())).hint(
                "remove it: kernels will be re-selected; results may differ in the last digits",
            )
        })
    }

    /// Stores the kernel variants that the run uses.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn keep_choices(&self, choices: &impl Serialize) -> Result<()> {
        write_json(&self.path.join(CHOICES), choices)
    }

    /// Returns the complete checkpoints (step and folder), oldest first. Other entries in the folder are ignored.
    fn all_checkpoints(&self) -> Result<Vec<(usize, PathBuf)>> {
        let dir = self.checkpoints();
        let entries = match disk::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("reading", &dir, &e)),
        };
        let mut list = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| Error::io("reading", &dir, &e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(step) = name.strip_prefix("step-").and_then(|n| n.parse().ok()) else {
                continue;
            };
            // Only the names that this program writes: "step-07" and "step-+7" belong to someone else.
            if name == format!("step-{step}") && is_model(&path) && state::is_there(&path) {
                list.push((step, path));
            }
        }
        list.sort();
        Ok(list)
    }

    /// Returns the newest complete checkpoint (step and folder).
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub fn newest_checkpoint(&self) -> Result<Option<(usize, PathBuf)>> {
        Ok(self.all_checkpoints()?.pop())
    }

    /// Writes `checkpoints/step-N/`, puts its model files into the run folder, and removes all but
    /// the newest `keep` checkpoints (at least this one is kept).
    ///
    /// `fill` provides the parameters and then the train state's `tensors`; `more` writes further files into the
    /// checkpoint's folder.
    ///
    /// # Errors
    ///
    /// If `fill`, `more` or a file operation fails; the earlier checkpoints still exist.
    pub fn save_checkpoint(
        &self,
        model: &ModelFiles,
        (state, tensors): (&TrainState, &[NamedShape]),
        fill: &mut Fill,
        more: &mut dyn FnMut(&Path) -> Result<()>,
        keep: usize,
    ) -> Result<PathBuf> {
        let dir = self.checkpoints();
        disk::create_dir_all(&dir).map_err(|e| Error::io("creating", &dir, &e))?;
        let checkpoint = dir.join(format!("step-{}", state.step));
        files::write_folder(&checkpoint, |dir| {
            write_model(dir, model, fill)?;
            state::write_state(dir, state, tensors, fill)?;
            more(dir)
        })?;
        self.publish(&checkpoint)?;
        let mut all = self.all_checkpoints()?;
        all.retain(|(_, path)| *path != checkpoint);
        let surplus = (all.len() + 1).saturating_sub(keep.max(1));
        for (_, path) in all.iter().take(surplus) {
            files::remove_folder(path)?;
        }
        Ok(checkpoint)
    }

    /// Puts a checkpoint's model files into the run folder.
    fn publish(&self, checkpoint: &Path) -> Result<()> {
        for name in MODEL_FILES {
            let file = checkpoint.join(name);
            if disk::exists(&file) {
                files::link_file(&file, &self.path.join(name))?;
            }
        }
        Ok(())
    }

    /// Writes `best/`, which replaces the previous best model. Call it before writing the checkpoint whose
    /// state names this loss as the best, so that no state ever names a best model that does not exist.
    ///
    /// # Errors
    ///
    /// If `fill` or a file operation fails; the previous best model still exists.
    pub fn save_best(&self, model: &ModelFiles, fill: &mut Fill) -> Result<()> {
        files::write_folder(&self.best(), |dir| write_model(dir, model, fill))
    }

    /// Appends a line to metrics.jsonl.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn append_metrics(&self, line: &impl Serialize) -> Result<()> {
        let path = self.path.join(METRICS);
        let mut text = serde_json::to_string(line)
            .map_err(|e| Error::input(format!("writing {}: {e}", path.display())))?;
        text.push('\n');
        // A single call, so that a killed process leaves a whole line or none.
        let file = File::options().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|e| Error::io("writing", &path, &e))
    }

    /// Removes the lines of metrics.jsonl after `step`, which a resumed run will write again, and
    /// any broken line.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written.
    pub fn truncate_metrics(&self, step: usize) -> Result<()> {
        let path = self.path.join(METRICS);
        if !disk::exists(&path) {
            return Ok(());
        }
        let text = disk::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
        let kept = |line: &&[u8]| {
            let line: Option<Value> = serde_json::from_slice(line).ok();
            let at = line.and_then(|line| line.get("step").and_then(Value::as_u64));
            at.is_some_and(|at| at <= step as u64)
        };
        let lines: Vec<&[u8]> = text.split(|&b| b == b'\n').filter(kept).collect();
        let mut text = lines.join(&b'\n');
        if !text.is_empty() {
            text.push(b'\n');
        }
        files::write_bytes(&path, &text)
    }
}

/// Whether a folder holds a model or adapters, judged by its file names.
fn is_model(dir: &Path) -> bool {
    let files = [["config.json", WEIGHTS[0]], ["adapter_config.json", WEIGHTS[1]]];
    files.iter().any(|names| names.iter().all(|name| disk::is_file(&dir.join(name))))
}

/// Returns the existing model folders of a run: the best model's first, then the last model's.
fn models(run: &Path) -> Vec<PathBuf> {
    let folders = [run.join("best"), run.to_owned()];
    folders.into_iter().filter(|dir| is_model(dir)).collect()
}

/// Whether a folder is a run folder.
pub(super) fn is_run(dir: &Path) -> bool {
    disk::is_file(&dir.join(SETTINGS))
}

/// Returns the model folder of a run: the best model's, or else the last one's.
pub(super) fn model_of(run: &Path) -> Option<PathBuf> {
    models(run).into_iter().next()
}

/// The weights files. Each model folder has one of them.
const WEIGHTS: [&str; 2] = ["model.safetensors", "adapter_model.safetensors"];

/// Returns the model folder of the newest run in the folder `runs` (usually named `runs`). The newest run is the one
/// that last wrote a model; its best model is preferred to its last one. `None` if no run has a model.
///
/// # Errors
///
/// If the folder exists and cannot be read.
pub fn newest_run(runs: &Path) -> Result<Option<PathBuf>> {
    let entries = match disk::read_dir(runs) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("reading", runs, &e)),
    };
    let newest = entries.flatten().map(|entry| entry.path()).filter_map(|run| {
        let written = |dir: &Path| -> Option<SystemTime> {
            let about = WEIGHTS.iter().find_map(|name| disk::metadata(dir.join(name)).ok())?;
            about.modified().ok()
        };
        let models = models(&run);
        let last = models.iter().filter_map(|dir| written(dir)).max()?;
        Some((last, run, models.into_iter().next()?))
    });
    Ok(newest.max_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1))).map(|(_, _, model)| model))
}
