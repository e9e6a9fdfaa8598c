//! What was measured on an adapter with its driver, and the file of the cache folder that keeps it.

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
    /// For each [`class`] of dispatches what its variants take.
    pub classes: BTreeMap<String, Timing>,
    /// For each variant, as `KERNEL VARIANT`, whether it computes what its twin computes.
    pub verdicts: BTreeMap<String, Verdict>,
    /// The device's best, if it was measured.
    pub peak: Option<Peak>,
}

/// How long the variants of a kernel took on a class of dispatches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Tells the texts of the variants: others are timed again.
    pub texts: String,
    /// Milliseconds by the name of the variant.
    pub ms: BTreeMap<String, f64>,
}

impl Timing {
    /// The fastest variant.
    pub fn best(&self) -> Option<&str> {
        let best = self.ms.iter().min_by(|a, b| a.1.total_cmp(b.1));
        best.map(|(name, _)| name.as_str())
    }
}

/// Whether a variant does what its twin does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Tells the text: another one is compared again.
    pub texts: String,
    /// What is wrong; `None`: nothing.
    pub fault: Option<String>,
}

/// What a device can do at its best, measured: a large matrix product, and a copy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Floating-point operations a second in a product of single precision, in 10⁹.
    pub gflops: f64,
    /// The same of half precision with sums in single precision; `None` where there is none.
    pub half_gflops: Option<f64>,
    /// Bytes a second that a copy reads and writes, in 10⁹.
    pub gb_per_s: f64,
}

/// Tells the texts of some variants of a kernel, as these arguments have them, from all others.
fn texts<'a>(dispatch: &Dispatch, variants: impl Iterator<Item = &'a Variant>) -> String {
    let mut hash = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
    variants.for_each(|v| hash.update(v.source(dispatch.kernel.args, &dispatch.formats())));
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// [`Timing::texts`] as they are now.
fn texts_now(dispatch: &Dispatch, has: &Needs) -> String {
    texts(dispatch, candidates(has, dispatch))
}

impl Measured {
    /// Nothing yet.
    pub fn new(adapter: String) -> Measured {
        Measured { adapter, ..Measured::default() }
    }

    /// The file in `folder` that keeps what is measured on this adapter.
    pub fn path(folder: &Path, adapter: &str) -> PathBuf {
        let hash = Sha256::digest(adapter);
        let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        folder.join(format!("kernels-{hash}.json"))
    }

    /// What `folder` keeps of this adapter, nothing if it keeps nothing; a file that is damaged or of
    /// another adapter is ignored and reported.
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

    /// Keeps it in `folder`.
    ///
    /// # Errors
    ///
    /// What the system refused.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = Measured::path(folder, &self.adapter);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::input(format!("writing {}: {e}", path.display())))?;
        cache::make_parent(&path)?;
        files::write_bytes(&path, &text)
    }

    /// What is known of a dispatch's class, if its variants are still those.
    pub fn timing(&self, dispatch: &Dispatch, has: &Needs) -> Option<&Timing> {
        let timing = self.classes.get(&class(dispatch))?;
        let mut sound = candidates(has, dispatch).filter(|v| !self.refuses(dispatch, v));
        let whole = sound.all(|v| timing.ms.contains_key(v.name));
        (whole && timing.texts == texts_now(dispatch, has)).then_some(timing)
    }

    /// Remembers how long the variants of a dispatch took.
    pub fn learn(&mut self, dispatch: &Dispatch, has: &Needs, ms: BTreeMap<String, f64>) {
        let timing = Timing { texts: texts_now(dispatch, has), ms };
        self.classes.insert(class(dispatch), timing);
    }

    /// What is known of a variant, if its text is still the same.
    pub fn verdict(&self, dispatch: &Dispatch, variant: &Variant) -> Option<&Verdict> {
        let verdict = self.verdicts.get(&full_name(dispatch, variant))?;
        (verdict.texts == text(dispatch, variant)).then_some(verdict)
    }

    /// Remembers whether a variant computes what it should.
    pub fn judge(&mut self, dispatch: &Dispatch, variant: &Variant, fault: Option<String>) {
        let verdict = Verdict { texts: text(dispatch, variant), fault };
        self.verdicts.insert(full_name(dispatch, variant), verdict);
    }

    /// Whether a variant computes what it should not.
    pub fn refuses(&self, dispatch: &Dispatch, variant: &Variant) -> bool {
        self.verdict(dispatch, variant).is_some_and(|verdict| verdict.fault.is_some())
    }

    /// What the dispatches of a plan should take.
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

/// [`Verdict::texts`] of a variant as it is now: for any formats, since all are compared.
fn text(dispatch: &Dispatch, variant: &Variant) -> String {
    let mut plain = dispatch.clone();
    let args = plain.args.iter_mut().zip(dispatch.kernel.args);
    args.for_each(|(view, arg)| view.format = arg.usual_format());
    texts(&plain, [variant].into_iter())
}
