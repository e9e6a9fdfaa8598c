//! The measurements of an adapter with its driver, and the file in the cache folder that keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::notice::Notice;
use super::variants::{Choices, candidates, class, full_name};
use crate::cache;
use crate::disk;
use crate::error::{Error, Result};
use crate::files;
use crate::kernel::{Needs, Variant};
use crate::plan::{Dispatch, Plan};

/// A variant whose first run takes so many times as long as the best one's is not the fastest.
pub const HOPELESS: f64 = 4.0;
/// A variant that takes so many times as long as the best one for everything that was timed, of [`DULL_KERNELS`] kernels or
/// more, is tried for no other kernel.
const DULL: f64 = 1.5;
const DULL_KERNELS: usize = 4;

/// Times of kernels on one adapter with one driver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The adapter, its API and its driver.
    pub adapter: String,
    /// The times of the variants for each [`class`] of dispatches.
    pub classes: BTreeMap<String, Timing>,
    /// For each variant, by its [full name](full_name), whether it computes the same as its twin.
    pub verdicts: BTreeMap<String, Verdict>,
    /// The device's peak performance, as far as it was measured.
    #[serde(default)]
    pub best: Best,
}

/// The times of a kernel's variants for a class of dispatches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// A hash of the variants' texts: if it changes, they are timed again.
    pub texts: String,
    /// Milliseconds by the name of the variant; of a variant that was much slower than the best, those of one run.
    pub ms: BTreeMap<String, f64>,
}

impl Timing {
    /// Returns the fastest variant.
    pub fn best(&self) -> Option<&str> {
        let best = self.ms.iter().min_by(|a, b| a.1.total_cmp(b.1));
        best.map(|(name, _)| name.as_str())
    }

    /// Returns the milliseconds of the fastest variant.
    pub fn best_ms(&self) -> Option<f64> {
        self.best().map(|name| self.ms[name])
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

/// What was measured of a device's peak performance: each when it was first asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// A large product of single precision.
    pub single: Option<Product>,
    /// A large product of half precision with sums in single precision.
    pub half: Option<Product>,
    /// Bytes per second that a copy reads and writes, in 10⁹.
    pub gb_per_s: Option<f64>,
}

impl Best {
    /// Returns the speed of a product of half precision if `half`, else of single precision.
    pub fn product(&mut self, half: bool) -> &mut Option<Product> {
        if half { &mut self.half } else { &mut self.single }
    }
}

/// The speed of a large matrix product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// Floating-point operations per second with the fastest variant, in 10⁹.
    pub gflops: f64,
    /// The names of the variants among which it is the fastest.
    pub among: Vec<String>,
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
        let text = match disk::read(&path) {
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

    /// Returns the times of a dispatch's class, if its variants have not changed since; those of some variants may be missing.
    pub fn timing(&self, dispatch: &Dispatch, has: &Needs) -> Option<&Timing> {
        let timing = self.classes.get(&class(dispatch))?;
        (timing.texts == texts_now(dispatch, has)).then_some(timing)
    }

    /// Stores the time of a variant for a dispatch's class.
    pub fn learn(&mut self, dispatch: &Dispatch, has: &Needs, variant: &Variant, ms: f64) {
        let texts = texts_now(dispatch, has);
        let timing = self.classes.entry(class(dispatch)).or_default();
        if timing.texts != texts {
            *timing = Timing { texts, ms: BTreeMap::new() };
        }
        timing.ms.insert(variant.name.to_owned(), ms);
    }

    /// Whether the variants of this name need not be tried for other kernels: variants with one name have one method, and on
    /// this adapter it was never near the best one.
    pub fn is_dull(&self, name: &str) -> bool {
        let mut kernels = BTreeSet::new();
        for (class, timing) in &self.classes {
            let (Some(ms), Some(best_ms)) = (timing.ms.get(name), timing.best_ms()) else {
                continue;
            };
            if *ms < DULL * best_ms {
                return false;
            }
            kernels.insert(class.split(' ').next());
        }
        kernels.len() >= DULL_KERNELS
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

    /// Whether a variant is the portable one, or was compared with its twin and computes the same.
    pub fn is_sound(&self, dispatch: &Dispatch, variant: &Variant) -> bool {
        let verdict = self.verdict(dispatch, variant);
        variant.name.is_empty() || verdict.is_some_and(|verdict| verdict.fault.is_none())
    }

    /// Returns the variants that the dispatches of a plan should use: the fastest known, else a good guess. None that uses
    /// matrix units is a guess, since its compilation may crash the driver.
    pub fn choices(&self, plan: &Plan, has: &Needs) -> Choices {
        self.choices_without(plan, has, |dispatch, variant| {
            let is_untried = variant.uses_matrix_units() && !self.is_sound(dispatch, variant);
            is_untried || self.refuses(dispatch, variant)
        })
    }

    /// Does the same as [`Measured::choices`], but takes no variant that was not compared with its twin, except the portable
    /// one.
    pub fn compared_choices(&self, plan: &Plan, has: &Needs) -> Choices {
        self.choices_without(plan, has, |dispatch, variant| !self.is_sound(dispatch, variant))
    }

    fn choices_without(
        &self,
        plan: &Plan,
        has: &Needs,
        is_refused: impl Fn(&Dispatch, &Variant) -> bool,
    ) -> Choices {
        let mut choices = Choices::default();
        let classes: BTreeMap<String, &Dispatch> =
            plan.dispatches.iter().map(|dispatch| (class(dispatch), dispatch)).collect();
        for (class, dispatch) in classes {
            let refused = candidates(has, dispatch).skip(1).filter(|v| is_refused(dispatch, v));
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

/// Returns the current value of [`Verdict::texts`] of a variant: for either precision, since both are compared.
fn text(dispatch: &Dispatch, variant: &Variant) -> String {
    let mut plain = dispatch.clone();
    let args = plain.args.iter_mut().zip(dispatch.kernel.args);
    let in_either = args.filter(|(view, _)| !view.format.is_coded());
    in_either.for_each(|(view, arg)| view.format = arg.usual_format());
    texts(&plain, [variant].into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::{Choice, choose};
    use crate::kernel::{Dims, Format, Matrices};
    use crate::ops::matmul;
    use crate::plan::Role;

    /// Measurements of kernels `a`, `b` and so on, in which a variant takes so many times as long as the best one.
    fn with_ratios(ratios: &[f64]) -> Measured {
        let timing = |ratio: &f64| {
            let ms = [("best", 2.0), ("slow", 2.0 * ratio)];
            let ms = ms.map(|(name, ms)| (name.to_owned(), ms)).into();
            Timing { texts: String::new(), ms }
        };
        let class = |kernel: char| format!("{kernel} M=64");
        let classes = ('a'..).map(class).zip(ratios.iter().map(timing)).collect();
        Measured { classes, ..Measured::default() }
    }

    #[test]
    fn matrix_units_are_used_only_after_a_comparison() {
        let mut plan = Plan::default();
        let args =
            ["a", "b", "out"].map(|n| plan.buffer(Role::Activations, n, 64 * 64, Format::F32));
        plan.push(&matmul::NN, Dims { M: 64, K: 64, N: 64, LD: 64, ..Dims::default() }, &args);
        let plan = plan.halved(Format::F16);
        let has = Needs {
            f16: true,
            subgroups: Some([32, 64]),
            matrices: Matrices::OF_16X16,
            workgroup_bytes: 32 << 10,
            ..Needs::NOTHING
        };
        let dispatch = &plan.dispatches[0];
        let mut measured = Measured::default();
        let taken = |measured: &Measured| {
            let choices = measured.choices(&plan, &has);
            choose(Choice::Chosen(&choices), &has, dispatch)
        };
        assert!(choose(Choice::Best, &has, dispatch).uses_matrix_units(), "it is the best guess");
        assert!(!taken(&measured).uses_matrix_units());
        let variants = || candidates(&has, dispatch).filter(|v| v.uses_matrix_units());
        variants().for_each(|v| measured.judge(dispatch, v, None));
        assert!(taken(&measured).uses_matrix_units());
        variants().for_each(|v| measured.judge(dispatch, v, Some("it crashed".to_owned())));
        assert!(!taken(&measured).uses_matrix_units());
    }

    #[test]
    fn a_variant_is_dull_if_it_is_never_near_the_best() {
        assert!(with_ratios(&[2.0, 1.6, 30.0, 1.5]).is_dull("slow"));
        assert!(!with_ratios(&[2.0, 1.6, 30.0]).is_dull("slow"), "few kernels show little");
        assert!(!with_ratios(&[2.0, 1.6, 30.0, 9.0, 1.4]).is_dull("slow"), "it was near once");
        assert!(!with_ratios(&[2.0, 2.0, 2.0, 2.0]).is_dull("best"));
        assert!(!with_ratios(&[2.0, 2.0, 2.0, 2.0]).is_dull("another"));
        let mut one = with_ratios(&[2.0, 2.0, 2.0, 2.0]);
        let classes = std::mem::take(&mut one.classes).into_values();
        one.classes = classes.zip(1..).map(|(timing, m)| (format!("a M={m}"), timing)).collect();
        assert!(!one.is_dull("slow"), "several classes of one kernel are one kernel");
    }
}
