//! Reading the fields of config.json, with errors that name them.

use serde_json::{Map, Value};

use super::rotary::{Llama3, Rotary, Scaling};
use crate::config::model::GeluForm;
use crate::error::{Error, Result};

/// The advice where a field is missing or wrong.
const ORIGINAL: &str = "take the config.json that came with the weights";

/// The names of the exact form of GELU; the first one is written.
const EXACT_GELU: &[&str] = &["gelu", "gelu_python"];
/// The names of the form by tanh.
const TANH_GELU: &[&str] = &["gelu_new", "gelu_fast", "gelu_pytorch_tanh"];

/// Returns the name of a form of GELU that is written.
pub(super) fn gelu_name(form: GeluForm) -> &'static str {
    match form {
        GeluForm::Exact => EXACT_GELU[0],
        GeluForm::Tanh => TANH_GELU[0],
    }
}

/// The fields of config.json, or of an object in it. A missing field is null, unless a method says otherwise.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// Returns a field.
    pub(super) fn get(self, name: &str) -> &'a Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// Whether a field is there, even as null.
    pub(super) fn has(self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Refuses settings with other values than the supported ones, each given as in JSON.
    pub(super) fn refuse_others(self, settings: &[(&str, &[&str])], title: &str) -> Result<()> {
        for (name, supported) in settings {
            let Some(value) = self.0.get(*name) else { continue };
            let value = value.to_string();
            if !supported.contains(&value.as_str()) {
                let wanted = supported.join(" or ");
                let hint = format!(
                    "this model computes something other than {title} does; use another one"
                );
                return Err(Error::input(format!("{name} is {value}, only {wanted} is supported"))
                    .hint(hint));
            }
        }
        Ok(())
    }

    fn wrong(self, name: &str, wanted: &str) -> Error {
        let error = match self.0.get(name) {
            None => Error::input(format!("{name} is missing, must be {wanted}")),
            Some(value) => Error::input(format!("{name} is {value}, must be {wanted}")),
        };
        error.hint(ORIGINAL)
    }

    /// Returns the error for a field that is missing.
    pub(super) fn missing(self, name: &str) -> Error {
        Error::input(match self.0.get("model_type") {
            Some(family) => format!("{name} is missing, which model_type {family} needs"),
            None => format!("{name} is missing"),
        })
        .hint(ORIGINAL)
    }

    /// Returns a size: a whole number from 1 to 2^24 - 1, so that no product of a few sizes overflows.
    pub(super) fn size(self, name: &str) -> Result<usize> {
        if self.get(name).is_null() {
            return Err(self.missing(name));
        }
        match self.get(name).as_u64() {
            Some(number @ 1..0x100_0000) => Ok(number as usize),
            _ => Err(self.wrong(name, "a whole number from 1 to 16777215")),
        }
    }

    /// Returns a size; `None` if the field is null.
    pub(super) fn size_if_given(self, name: &str) -> Result<Option<usize>> {
        if self.get(name).is_null() { Ok(None) } else { self.size(name).map(Some) }
    }

    /// Returns a number.
    pub(super) fn number(self, name: &str) -> Result<f64> {
        self.get(name).as_f64().ok_or_else(|| self.wrong(name, "a number"))
    }

    /// Returns a number above 0; `default` if the field is null.
    pub(super) fn positive(self, name: &str, default: Option<f64>) -> Result<f64> {
        let given = match (self.get(name), default) {
            (Value::Null, Some(default)) => Some(default),
            (value, _) => value.as_f64(),
        };
        let fits = given.filter(|x| *x > 0.0 && x.is_finite());
        fits.ok_or_else(|| self.wrong(name, "a number above 0"))
    }

    /// Returns a text; `default` if the field is null.
    pub(super) fn text(self, name: &str, default: &'static str) -> Result<&'a str> {
        match self.get(name) {
            Value::Null => Ok(default),
            value => value.as_str().ok_or_else(|| self.wrong(name, "a text")),
        }
    }

    /// Returns whether a setting is on; off if the field is null.
    pub(super) fn flag(self, name: &str) -> Result<bool> {
        self.flag_or(name, false)
    }

    /// Returns whether a setting is on; `default` if the field is null.
    pub(super) fn flag_or(self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            Value::Null => Ok(default),
            value => value.as_bool().ok_or_else(|| self.wrong(name, "true or false")),
        }
    }

    /// Returns the form of GELU that is named; the exact one if the field is null.
    pub(super) fn gelu(self, name: &str) -> Result<GeluForm> {
        match self.text(name, EXACT_GELU[0])? {
            form if EXACT_GELU.contains(&form) => Ok(GeluForm::Exact),
            form if TANH_GELU.contains(&form) => Ok(GeluForm::Tanh),
            form => {
                let all = [EXACT_GELU, TANH_GELU].concat().join(", ");
                Err(Error::input(format!("{name} is {form:?}, must be one of {all}")))
            }
        }
    }

    fn object(self, name: &str) -> Result<Option<Fields<'a>>> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::Object(fields) => Ok(Some(Fields(fields))),
            _ => Err(self.wrong(name, "an object")),
        }
    }

    /// Returns the rotary embeddings of all channels of a head, in the spelling of either version of Hugging Face's library:
    /// `rope_parameters` of version 5, or `rope_theta` and `rope_scaling` of version 4.
    pub(super) fn rotary(self) -> Result<Rotary> {
        let rotary = self.partial_rotary("rope_theta", ("partial_rotary_factor", 1.0))?;
        match rotary.share == 1.0 {
            true => Ok(rotary),
            false => {
                let got = format!("partial_rotary_factor is {}, must be 1", rotary.share);
                Err(Error::input(got).hint(ORIGINAL))
            }
        }
    }

    /// Returns the rotary embeddings of a share of the channels; version 4 of Hugging Face's library has the base and the share
    /// under these names, and where the share is missing, it is the number given here.
    pub(super) fn partial_rotary(
        self,
        theta_name: &str,
        (share_name, share): (&str, f64),
    ) -> Result<Rotary> {
        const DEFAULT_THETA: Option<f64> = Some(10_000.0);
        let empty = Map::new();
        let (theta, kind) = match self.object("rope_parameters")? {
            Some(newer) if newer.has("rope_theta") => {
                (newer.positive("rope_theta", DEFAULT_THETA)?, Some(newer))
            }
            newer => {
                let scaling = self.object("rope_scaling")?;
                (self.positive(theta_name, DEFAULT_THETA)?, newer.or(scaling))
            }
        };
        let kind = kind.unwrap_or(Fields(&empty));
        let share = match kind.has("partial_rotary_factor") {
            true => kind.positive("partial_rotary_factor", None)?,
            false => self.positive(share_name, Some(share))?,
        };
        // The oldest files call it `type`.
        let name = if kind.has("rope_type") { "rope_type" } else { "type" };
        let scaling = match kind.get(name) {
            Value::Null => Scaling::None,
            Value::String(text) if text == "default" => Scaling::None,
            Value::String(text) if text == "linear" => {
                Scaling::Linear(kind.positive("factor", None)?)
            }
            Value::String(text) if text == "llama3" => Scaling::Llama3(kind.llama3()?),
            _ => return Err(kind.wrong(name, "\"default\", \"linear\" or \"llama3\"")),
        };
        Ok(Rotary { theta, scaling, share })
    }

    fn llama3(self) -> Result<Llama3> {
        let llama3 = Llama3 {
            factor: self.positive("factor", None)?,
            low: self.positive("low_freq_factor", None)?,
            high: self.positive("high_freq_factor", None)?,
            original: self.positive("original_max_position_embeddings", None)?,
        };
        if llama3.high <= llama3.low {
            return Err(self.wrong("high_freq_factor", "above low_freq_factor"));
        }
        Ok(llama3)
    }
}
