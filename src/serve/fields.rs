//! The fields of a request's JSON object. A field that is null is as one that is not there.

use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult};

/// The fields of a request. Those that nobody asks for are ignored: other servers may know them.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads the body of a request.
    ///
    /// # Errors
    ///
    /// If it is not a JSON object in UTF-8.
    pub fn read(body: &[u8]) -> ApiResult<Fields> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(other) => {
                Err(ApiError::bad(format!("the body is {}, must be an object", kind(&other))))
            }
            Err(cause) => Err(ApiError::bad(format!("the body is not JSON: {cause}"))),
        }
    }

    /// Returns a field, if it is there.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Returns a field.
    ///
    /// # Errors
    ///
    /// If it is missing.
    pub fn need(&self, name: &str) -> ApiResult<&Value> {
        self.get(name).ok_or_else(|| ApiError::field(name, format!("{name} is missing")))
    }

    /// Returns a number.
    pub fn number(&self, name: &str) -> ApiResult<Option<f64>> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// Returns a whole number.
    pub fn integer(&self, name: &str) -> ApiResult<Option<i64>> {
        let integer = |value: &Value| {
            value.as_i64().or_else(|| value.as_u64().map(u64::cast_signed)).or_else(|| whole(value))
        };
        self.typed(name, "a whole number", integer)
    }

    /// Returns a whole number from `least` to `most`.
    pub fn count(&self, name: &str, least: usize, most: usize) -> ApiResult<Option<usize>> {
        let Some(number) = self.integer(name)? else { return Ok(None) };
        match usize::try_from(number) {
            Ok(count) if (least..=most).contains(&count) => Ok(Some(count)),
            _ => {
                let to = if most == usize::MAX { "or more".into() } else { format!("to {most}") };
                Err(ApiError::field(name, format!("{name} is {number}, must be {least} {to}")))
            }
        }
    }

    /// Returns whether something is wanted; no if it is not said.
    pub fn flag(&self, name: &str) -> ApiResult<bool> {
        Ok(self.typed(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// Returns a text.
    pub fn text(&self, name: &str) -> ApiResult<Option<&str>> {
        self.typed(name, "a text", Value::as_str)
    }

    /// Returns a list of texts; a text is a list of one.
    pub fn texts(&self, name: &str) -> ApiResult<Vec<String>> {
        let texts = |value: &Value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(all) => all.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        Ok(self.typed(name, "a text or a list of texts", texts)?.unwrap_or_default())
    }

    /// Returns the fields of an object.
    pub fn object(&self, name: &str) -> ApiResult<Fields> {
        let fields = self.typed(name, "an object", |value| value.as_object().cloned())?;
        Ok(Fields(fields.unwrap_or_default()))
    }

    fn typed<'a, T>(
        &'a self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> ApiResult<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong =
            || ApiError::field(name, format!("{name} is {}, must be {wanted}", kind(value)));
        read(value).map(Some).ok_or_else(wrong)
    }
}

/// Returns a whole number that is written with a fraction of 0.
fn whole(value: &Value) -> Option<i64> {
    let number = value.as_f64()?;
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// Returns what a value is, in words; a short one as it is.
pub fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().count() <= 20 => value.to_string(),
        Value::String(_) => "a text".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(result: ApiResult<impl Sized>) -> String {
        let error = result.err().expect("it is refused").to_json();
        error["error"]["message"].as_str().expect("a message").to_owned()
    }

    #[test]
    fn a_wrong_field_is_named_with_what_it_must_be() {
        let fields =
            br#"{"n": "two", "k": 2.5, "m": -1, "s": [1], "f": 1, "o": [], "x": null, "w": 3.0}"#;
        let fields = Fields::read(fields).expect("an object");
        assert_eq!(said(fields.number("n")), "n is \"two\", must be a number");
        assert_eq!(said(fields.integer("k")), "k is 2.5, must be a whole number");
        assert_eq!(said(fields.count("m", 0, 20)), "m is -1, must be 0 to 20");
        assert_eq!(said(fields.count("m", 1, usize::MAX)), "m is -1, must be 1 or more");
        assert_eq!(said(fields.texts("s")), "s is a list, must be a text or a list of texts");
        assert_eq!(said(fields.flag("f")), "f is 1, must be true or false");
        assert_eq!(said(fields.object("o")), "o is a list, must be an object");
        assert_eq!(said(fields.need("x")), "x is missing");
        assert_eq!(fields.count("w", 0, 9), Ok(Some(3)));
        assert_eq!(fields.number("x"), Ok(None));
        assert_eq!(fields.get("y"), None);
    }

    #[test]
    fn a_body_is_an_object() {
        assert_eq!(said(Fields::read(b"[]")), "the body is a list, must be an object");
        for body in [&b"{"[..], b"", b"{\"a\": \"\xff\"}", b"{\"a\": \"\\ud800\"}", b"{} {}"] {
            assert!(said(Fields::read(body)).starts_with("the body is not JSON: "));
        }
        let deep = "[".repeat(100_000);
        assert!(said(Fields::read(deep.as_bytes())).starts_with("the body is not JSON: "));
    }
}
