//! What a training changes of a model: everything, what patterns of names leave, or low-rank adapters beside it.

use glob::Pattern;
use serde::{Deserialize, Serialize};

use crate::config::model::GptConfig;
use crate::error::{Error, Result};
use crate::params::{NamedShape, parameters};

/// What a training changes of a model; by default everything.
///
/// Patterns are those of a shell over the parameters' names, with Hugging Face's prefix `transformer.` or
/// without: `*` is any text, `?` any character, `[0-5]` one of these. What is frozen has no gradient, no
/// moments and no share in the gradient's norm.
///
/// ```
/// use wgpt::FineTune;
/// let freeze = FineTune { freeze: vec!["wte.*".into(), "h.[0-3].*".into()], ..FineTune::default() };
/// assert!(!freeze.trains("h.2.attn.c_attn.weight") && freeze.trains("h.4.attn.c_attn.weight"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineTune {
    /// Parameters that stay as they are.
    pub freeze: Vec<String>,
    /// Unless it is empty, all parameters but these stay as they are.
    pub train_only: Vec<String>,
    /// Adapters that are trained in the place of the model's own parameters.
    pub lora: Option<Lora>,
}

/// Low-rank adapters of linear layers: `x W + b` becomes `x W + b + (alpha / rank) x Aᵀ B` (Hu et al. 2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of A and of B.
    pub rank: usize,
    /// What the adapters' share is, times the rank.
    pub alpha: f64,
    /// The ends of the names of the layers that are adapted: `c_attn`, `mlp.c_proj`, `h.0.attn.c_proj`.
    pub targets: Vec<String>,
}

/// The linear layers of a block.
const LAYERS: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];

impl Lora {
    /// Adapters as others have them by default: of attention's queries, keys and values, with an alpha of
    /// twice the rank.
    pub fn of_rank(rank: usize) -> Lora {
        Lora { rank, alpha: 2.0 * rank as f64, targets: vec!["c_attn".to_owned()] }
    }

    /// alpha / rank.
    pub fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// Whether the linear layer `h.L.NAME` is adapted.
    pub fn adapts(&self, layer: &str) -> bool {
        self.targets.iter().any(|target| is_end(target, layer))
    }

    /// The adapters of a model: names and shapes, A (rank, in) and B (rank, out), in the order of the forward pass.
    ///
    /// ```
    /// use wgpt::{GptConfig, finetune::Lora};
    /// let adapters = Lora::of_rank(8).parameters(&GptConfig::gpt2());
    /// assert_eq!(adapters[1], ("h.0.attn.c_attn.lora_B.weight".to_string(), vec![8, 3 * 768]));
    /// ```
    pub fn parameters(&self, model: &GptConfig) -> Vec<NamedShape> {
        let weights = parameters(model).into_iter().filter_map(|(name, shape)| {
            let layer = name.strip_suffix(".weight").filter(|layer| layer.starts_with("h."))?;
            let adapted = shape.len() == 2 && self.adapts(layer);
            adapted.then(|| (layer.to_owned(), shape[0], shape[1]))
        });
        let pair = |(layer, c, oc): (String, usize, usize)| {
            [("lora_A", c), ("lora_B", oc)]
                .map(|(part, width)| (format!("{layer}.{part}.weight"), vec![self.rank, width]))
        };
        weights.flat_map(pair).collect()
    }

    /// Checks the adapters against a model.
    ///
    /// # Errors
    ///
    /// Names what is out of range, or the target that is no layer.
    pub fn validate(&self, model: &GptConfig) -> Result<()> {
        let Lora { rank, alpha, targets } = self;
        if !(1..=model.n_embd).contains(rank) {
            return Err(Error::usage(format!(
                "--lora-rank is {rank}, must be 1 to the model's width, {}",
                model.n_embd
            )));
        }
        // Of a scale of 0 there would be nothing to learn.
        if !(alpha.is_finite() && *alpha > 0.0) {
            return Err(Error::usage(format!(
                "--lora-alpha is {alpha}, must be above 0 and finite"
            )));
        }
        if targets.is_empty() {
            return Err(Error::usage("--lora-targets names no layer"));
        }
        let is_layer = |target: &&String| {
            let layers =
                (0..model.n_layer).flat_map(|l| LAYERS.map(|name| format!("h.{l}.{name}")));
            layers.into_iter().any(|layer| is_end(target, &layer))
        };
        match targets.iter().find(|target| !is_layer(target)) {
            None => Ok(()),
            Some(target) => Err(Error::usage(format!("there is no layer {target:?} to adapt"))
                .hint(format!("the linear layers of a block are {}", LAYERS.join(", ")))),
        }
    }
}

/// Whether a name ends with all of `end`, from a dot or the beginning on.
fn is_end(end: &str, name: &str) -> bool {
    let end = end.strip_prefix("transformer.").unwrap_or(end);
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        && !end.is_empty()
}

/// Whether this is the name of a part of an adapter.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}

/// Adds `scale` · Aᵀ · B to elements of a weight (in, out), the first of which is element `start` of it; A and B
/// are (R,in) and (R,out).
pub(crate) fn merge(scale: f32, [a, b]: [&[f32]; 2], width: usize, start: usize, out: &mut [f32]) {
    let rank = b.len() / width;
    let rows = a.len() / rank;
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
    /// Whether the parameter called `name` is trained.
    pub fn trains(&self, name: &str) -> bool {
        if self.lora.is_some() {
            return is_adapter(name);
        }
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.train_only.is_empty() || any(&self.train_only)) && !any(&self.freeze)
    }

    /// What is trained of a model: names and shapes, in the order of the forward pass.
    pub fn trained(&self, model: &GptConfig) -> Vec<NamedShape> {
        if let Some(lora) = &self.lora {
            return lora.parameters(model);
        }
        let mut parameters = parameters(model);
        parameters.retain(|(name, _)| self.trains(name));
        parameters
    }

    /// Checks the patterns against a model's parameters.
    ///
    /// # Errors
    ///
    /// Names the pattern that is none, or matches no parameter or all of them, or says that nothing is left
    /// to train; or what is wrong with the adapters.
    pub fn validate(&self, model: &GptConfig) -> Result<()> {
        if *self == FineTune::default() {
            return Ok(());
        }
        if let Some(lora) = &self.lora {
            if !self.freeze.is_empty() || !self.train_only.is_empty() {
                return Err(Error::usage("--lora-rank freezes all of the model itself").hint(
                    "leave --freeze and --train-only out; --lora-targets names what is adapted",
                ));
            }
            return lora.validate(model);
        }
        let parameters = parameters(model);
        let given = [("--freeze", &self.freeze), ("--train-only", &self.train_only)];
        for (option, pattern) in
            given.iter().flat_map(|(option, all)| all.iter().map(move |pattern| (option, pattern)))
        {
            let fault = |what: &str| Error::usage(format!("{option} {pattern}: {what}"));
            Pattern::new(pattern).map_err(|e| fault(e.msg))?;
            let matched = parameters.iter().filter(|(name, _)| matches(pattern, name)).count();
            if matched == 0 {
                return Err(fault("no parameter has such a name").hint(
                    "names are like wte.weight, h.0.attn.c_attn.weight, ln_f.bias; * is any text",
                ));
            }
            if matched == parameters.len() {
                return Err(fault("every parameter has such a name")
                    .hint("leave it out to train all of the model"));
            }
        }
        if self.trained(model).is_empty() {
            let patterns: Vec<&str> = self.freeze.iter().map(String::as_str).collect();
            return Err(Error::usage(format!(
                "--freeze {}: nothing is left to train",
                patterns.join(" ")
            )));
        }
        Ok(())
    }
}

/// Whether a pattern is for this parameter; what is no pattern is for none.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.strip_prefix("transformer.").unwrap_or(pattern);
    Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name))
}
