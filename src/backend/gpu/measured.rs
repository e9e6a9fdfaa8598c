//! The measurements of an adapter with its driver, and the file in the cache folder that keeps them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::notice::Notice;
use super::variants::{Choices, candidates, class, full_name};
use crate::cache;
use crate::error::{Error, Result};
use crate::files;
use crate::kernel::{Needs, Variant};
use crate::plan::{Dispatch, Plan};

/// Times of kernels on one adapter with one driver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The adapter, its API and its driver.
    pub adapter: String,
    /// The times of the variants for each [`class`] of dispatches.
    pub classes: BTreeMap<String, Timing>,
    /// For each variant, as `KERNEL VARIANT`, whether it computes the same as its twin.
    pub verdicts: BTreeMap<String, Verdict>,
    /// The device's peak performance, if it was measured.
    pub peak: Option<Peak>,
}

/// The times of a kernel's variants for a class of dispatches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// A hash of the variants' texts: if it changes, they are timed again.
    pub texts: String,
    /// Milliseconds by the name of the variant.
    pub ms: BTreeMap<String, f64>,
}

impl Timing {
    /// Returns the fastest variant.
    pub fn best(&self) -> Option<&str> {
        let best = self.ms.iter().min_by(|a, b| a.1.total_cmp(b.1));
        best.map(|(name, _)| name.as_str())
    }
}

/// Whether a variant computes the same as its twin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// A hash of the text: if it changes, the variant is compared again.
    pub texts: String,
    /// The fault; `None` if there is none.
    pub fault: Option<String>,
}

/// The measured peak performance of a device: of a large matrix product, and of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Floating-point operations per second in a product of single precision, in 10⁹.
    pub gflops: f64,
    /// The same in half precision with sums in single precision; `None` if the device has none.
    pub half_gflops: Option<f64>,
    /// Bytes per second that a copy reads and writes, in 10⁹.
    pub gb_per_s: f64,
}

/// Returns a hash of the texts of some variants of a kernel, for the arguments of this dispatch.
fn texts<'a>(dispatch: &Dispatch, variants: impl Iterator<Item = &'a Variant>) -> String {
    let mut hash = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
    variants.for_each(|v| hash.update(v.source(dispatch.kernel.args, &dispatch.formats())));
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the current value of [`Timing::texts`].
fn texts_now(dispatch: &Dispatch, has: &Needs) -> String {
    texts(dispatch, candidates(has, dispatch))
}

impl Measured {
    /// Creates an empty set of measurements.
    pub fn new(adapter: String) -> Measured {
        Measured { adapter, ..Measured::default() }
    }

    /// Returns the file in `folder` that keeps the measurements of this adapter.
    pub fn path(folder: &Path, adapter: &str) -> PathBuf {
        let hash = Sha256::digest(adapter);
        let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        folder.join(format!("kernels-{hash}.json"))
    }

    /// Loads the measurements of this adapter from `folder`, empty if there are none; a file that is damaged or
    /// of another adapter is ignored and reported.
    pub fn load(folder: &Path, adapter: &str) -> (Measured, Option<Notice>) {
        let path = Measured::path(folder, adapter);
        let nothing = Measured::new(adapter.to_owned());
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (nothing, None),
            Err(error) => return (nothing, Some(Notice::ignored(path, error))),
        };
        match serde_json::from_slice::<Measured>(&text) {
            Ok(found) if found.adapter == adapter => (found, None),
            Ok(found) => {
                let what = format!("it is of another adapter, {}", found.adapter);
                (nothing, Some(Notice::ignored(path, what)))
            }
            Err(error) => (nothing, Some(Notice::ignored(path, error))),
        }
    }

    /// Saves the measurements in `folder`.
    ///
    /// # Errors
    ///
    /// If the system cannot write them.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = Measured::path(folder, &self.adapter);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::input(format!("writing {}: {e}", path.display())))?;
        cache::make_parent(&path)?;
        files::write_bytes(&path, &text)
    }

    /// Returns the times of a dispatch's class, if its variants have not changed since.
    pub fn timing(&self, dispatch: &Dispatch, has: &Needs) -> Option<&Timing> {
        let timing = self.classes.get(&class(dispatch))?;
        let mut sound = candidates(has, dispatch).filter(|v| !self.refuses(dispatch, v));
        let whole = sound.all(|v| timing.ms.contains_key(v.name));
        (whole && timing.texts == texts_now(dispatch, has)).then_some(timing)
    }

    /// Stores the times of the variants of a dispatch.
    pub fn learn(&mut self, dispatch: &Dispatch, has: &Needs, ms: BTreeMap<String, f64>) {
        let timing = Timing { texts: texts_now(dispatch, has), ms };
        self.classes.insert(class(dispatch), timing);
    }

    /// Returns the verdict on a variant, if its text has not changed since.
    pub fn verdict(&self, dispatch: &Dispatch, variant: &Variant) -> Option<&Verdict> {
        let verdict = self.verdicts.get(&full_name(dispatch, variant))?;
        (verdict.texts == text(dispatch, variant)).then_some(verdict)
    }

    /// Stores whether a variant computes the correct result.
    pub fn judge(&mut self, dispatch: &Dispatch, variant: &Variant, fault: Option<String>) {
        let verdict = Verdict { texts: text(dispatch, variant), fault };
        self.verdicts.insert(full_name(dispatch, variant), verdict);
    }

    /// Whether a variant is known to compute a wrong result.
    pub fn refuses(&self, dispatch: &Dispatch, variant: &Variant) -> bool {
        self.verdict(dispatch, variant).is_some_and(|verdict| verdict.fault.is_some())
    }

    /// Returns the variants that the dispatches of a plan should use.
    pub fn choices(&self, plan: &Plan, has: &Needs) -> Choices {
        let mut choices = Choices::default();
        let classes: BTreeMap<String, &Dispatch> =
            plan.dispatches.iter().map(|dispatch| (class(dispatch), dispatch)).collect();
        for (class, dispatch) in classes {
            let refused = candidates(has, dispatch).filter(|v| self.refuses(dispatch, v));
            choices.refused.extend(refused.map(|v| full_name(dispatch, v)));
            if let Some(best) = self.timing(dispatch, has).and_then(Timing::best) {
                choices.taken.insert(class, best.to_owned());
            }
        }
        choices.refused.sort();
        choices.refused.dedup();
        choices.of(plan, has)
    }
}

/// Returns the current value of [`Verdict::texts`] of a variant: for any formats, since all are compared.
fn text(dispatch: &Dispatch, variant: &Variant) -> String {
    let mut plain = dispatch.clone();
    let args = plain.args.iter_mut().zip(dispatch.kernel.args);
    args.for_each(|(view, arg)| view.format = arg.usual_format());
    texts(&plain, [variant].into_iter())
}
