//! Which parameters a training changes: all of them, or those that patterns of names leave.

use glob::Pattern;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, NamedShape};
use crate::config::GptConfig;
use crate::error::{Error, Result};

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
}

impl FineTune {
    /// Whether the parameter called `name` is trained.
    pub fn trains(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.train_only.is_empty() || any(&self.train_only)) && !any(&self.freeze)
    }

    /// What is trained of a model: names and shapes, in the order of the forward pass.
    pub fn trained(&self, model: &GptConfig) -> Vec<NamedShape> {
        let mut parameters = checkpoint::parameters(model);
        parameters.retain(|(name, _)| self.trains(name));
        parameters
    }

    /// Checks the patterns against a model's parameters.
    ///
    /// # Errors
    ///
    /// Names the pattern that is none, or matches no parameter or all of them, or says that nothing is left
    /// to train.
    pub fn validate(&self, model: &GptConfig) -> Result<()> {
        if *self == FineTune::default() {
            return Ok(());
        }
        let parameters = checkpoint::parameters(model);
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
