//! The part of a model that is trained: everything, the parameters that name patterns select, or low-rank adapters.

use glob::Pattern;
use serde::{Deserialize, Serialize};

use crate::arch::{Family, Schema, without_prefix};
use crate::config::model::GptConfig;
use crate::error::{Error, Result, field};
use crate::params::{ParamInfo, ParamRole, WeightLayout};

/// The part of a model that is trained; by default everything.
///
/// A pattern is a shell pattern over the parameters' names, with or without Hugging Face's prefix, as `transformer.`: `*`
/// is any text, `?` any character, `[0-5]` one of these. A frozen parameter has no gradient and no moments, and is left
/// out of the gradient's norm.
///
/// ```
/// use wgpt::{FineTune, params::ParamRole::TokenTable};
/// let freeze = FineTune { freeze: vec!["wte.*".into(), "h.[0-3].*".into()], ..FineTune::default() };
/// let trains = |name| freeze.trains(name, TokenTable);
/// assert!(!trains("h.2.attn.c_attn.weight") && trains("h.4.attn.c_attn.weight"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineTune {
    /// Parameters that are not trained.
    pub freeze: Vec<String>,
    /// Unless it is empty, only these parameters are trained.
    pub train_only: Vec<String>,
    /// Adapters that are trained instead of the model's own parameters.
    pub lora: Option<Lora>,
}

/// Low-rank adapters of linear layers: `x W + b` becomes `x W + b + (alpha / rank) x Aᵀ B` (Hu et al. 2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of A and of B.
    pub rank: usize,
    /// The adapters are scaled by `alpha` divided by the rank.
    pub alpha: f64,
    /// The adapted layers, by the ends of their names: `c_attn`, `mlp.c_proj`, `h.0.attn.c_proj`; or [`ALL_LINEAR`].
    pub targets: Vec<String>,
}

/// PEFT's name of all linear layers except the output head.
pub const ALL_LINEAR: &str = "all-linear";

impl Lora {
    /// Creates adapters of a GPT-2 with PEFT's usual settings: they adapt attention's queries, keys and values, and `alpha`
    /// is twice the rank.
    pub fn of_rank(rank: usize) -> Lora {
        Lora { rank, alpha: 2.0 * rank as f64, targets: vec!["c_attn".to_owned()] }
    }

    /// Does the same for a model, of which PEFT adapts the layers that it adapts in such models if none is named.
    pub fn for_model(model: &GptConfig, rank: usize) -> Lora {
        let adapted = Family::of(model).adapted.iter();
        Lora { targets: adapted.map(|name| (*name).to_owned()).collect(), ..Lora::of_rank(rank) }
    }

    /// Returns alpha / rank.
    pub fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// Returns whether the linear layer `h.L.NAME` is adapted.
    pub fn adapts(&self, layer: &str) -> bool {
        self.targets.iter().any(|target| target == ALL_LINEAR || is_end(target, layer))
    }

    /// Checks the adapters against a model and its parameters.
    ///
    /// # Errors
    ///
    /// Names the setting that is out of range, or the target that matches no layer.
    pub fn validate(&self, model: &GptConfig, parameters: &[ParamInfo]) -> Result<()> {
        let Lora { rank, alpha, targets } = self;
        if !(1..=model.n_embd).contains(rank) {
            return Err(Error::usage(format!(
                "{} is {rank}, must be 1 to the model's width, {}",
                field("lora.rank"),
                model.n_embd
            )));
        }
        // With a scale of 0 nothing could be learned.
        if !(alpha.is_finite() && *alpha > 0.0) {
            return Err(Error::usage(format!(
                "{} is {alpha}, must be above 0 and finite",
                field("lora.alpha")
            )));
        }
        if targets.is_empty() {
            return Err(Error::usage(format!("{} names no layer", field("lora.targets"))));
        }
        let weights = || parameters.iter().filter(|param| param.role.is_linear_weight());
        let is_layer = |target: &&String| {
            *target == ALL_LINEAR || weights().any(|weight| is_end(target, weight.module()))
        };
        match targets.iter().find(|target| !is_layer(target)) {
            None => Ok(()),
            Some(target) => Err(Error::usage(format!("there is no layer {target:?} to adapt"))
                .hint(format!(
                    "the linear layers of a block are {}; {ALL_LINEAR} adapts all of them",
                    Schema::linear_layers(parameters).join(", ")
                ))),
        }
    }
}

/// Returns whether a name ends with `end`, which must begin at a dot or at the start of the name.
fn is_end(end: &str, name: &str) -> bool {
    let end = without_prefix(end);
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        && !end.is_empty()
}

/// Adds `scale` · Aᵀ · B to a run of elements of a weight (in, out), or its transpose to one (out, in), that begins at the
/// weight's element `start`; A and B are (R,in) and (R,out).
pub(crate) fn merge(
    scale: f32,
    rank: usize,
    [a, b]: [&[f32]; 2],
    layout: WeightLayout,
    start: usize,
    out: &mut [f32],
) {
    let [a, b] = if layout == WeightLayout::OutIn { [b, a] } else { [a, b] };
    let (rows, width) = (a.len() / rank, b.len() / rank);
    let mut done = 0;
    while done < out.len() {
        let (row, column) = ((start + done) / width, (start + done) % width);
        let part = (width - column).min(out.len() - done);
        for r in 0..rank {
            let factor = scale * a[r * rows + row];
            let b = &b[r * width + column..][..part];
            out[done..done + part].iter_mut().zip(b).for_each(|(out, b)| *out += factor * b);
        }
        done += part;
    }
}

impl FineTune {
    /// Returns whether the parameter called `name` is trained.
    pub fn trains(&self, name: &str, role: ParamRole) -> bool {
        if self.lora.is_some() {
            return role.is_adapter();
        }
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.train_only.is_empty() || any(&self.train_only)) && !any(&self.freeze)
    }

    /// Checks the patterns against a model's parameters.
    ///
    /// # Errors
    ///
    /// Names the pattern that is invalid, matches no parameter or matches all of them; reports that nothing is left to
    /// train, or the fault of the adapters.
    pub fn validate(&self, model: &GptConfig, parameters: &[ParamInfo]) -> Result<()> {
        if *self == FineTune::default() {
            return Ok(());
        }
        if let Some(lora) = &self.lora {
            if !self.freeze.is_empty() || !self.train_only.is_empty() {
                return Err(Error::usage(format!(
                    "{} freezes all of the model itself",
                    field("lora.rank")
                ))
                .hint(format!(
                    "leave {} and {} out; {} names what is adapted",
                    field("freeze"),
                    field("train_only"),
                    field("lora.targets")
                )));
            }
            return lora.validate(model, parameters);
        }
        let given = [(field("freeze"), &self.freeze), (field("train_only"), &self.train_only)];
        for (option, pattern) in
            given.iter().flat_map(|(option, all)| all.iter().map(move |pattern| (option, pattern)))
        {
            let fault = |what: &str| Error::usage(format!("{option} {pattern}: {what}"));
            Pattern::new(pattern).map_err(|e| fault(e.msg))?;
            let matched = parameters.iter().filter(|param| matches(pattern, &param.name)).count();
            if matched == 0 {
                return Err(fault("no parameter has such a name")
                    .hint(format!("names are like {}; * is any text", examples(parameters))));
            }
            if matched == parameters.len() {
                return Err(fault("every parameter has such a name")
                    .hint("leave it out to train all of the model"));
            }
        }
        if !parameters.iter().any(|param| self.trains(&param.name, param.role)) {
            let patterns: Vec<&str> = self.freeze.iter().map(String::as_str).collect();
            return Err(Error::usage(format!(
                "{} {}: nothing is left to train",
                field("freeze"),
                patterns.join(" ")
            )));
        }
        Ok(())
    }
}

/// Returns the names of some parameters: the first, a matrix of the first block, and the last.
fn examples(parameters: &[ParamInfo]) -> String {
    let matrix = parameters.iter().find(|param| param.role.is_linear_weight());
    let all = parameters.first().into_iter().chain(matrix).chain(parameters.last());
    all.map(|param| param.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns whether `pattern` matches `name`; an invalid pattern matches nothing.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = without_prefix(pattern);
    Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name))
}
