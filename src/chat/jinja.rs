//! Jinja as Hugging Face's `transformers` sets it up for chat templates, with a limit to what a template may do.

use std::io::{self, Write};

use chrono::NaiveDateTime;
use chrono::format::{Item, StrftimeItems};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// What a template may do: about this many instructions, or texts of 64 times as many bytes.
const FUEL: u64 = 16_000_000;

/// How deep loops, conditions and macros may lie in each other, a macro counting as several: enough for any template, and
/// not too much for a thread with a small stack.
const DEPTH: usize = 200;

/// The name by which its messages call the template.
const NAME: &str = "template";

/// A compiled template.
#[derive(Debug)]
pub(super) struct Jinja(Environment<'static>);

impl Jinja {
    /// Compiles a template without generation blocks. `now` is the time that `strftime_now` writes.
    pub(super) fn compile(
        source: String,
        now: impl Fn() -> NaiveDateTime + Send + Sync + 'static,
    ) -> Result<Jinja, Error> {
        let mut jinja = Environment::new();
        jinja.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        jinja.set_auto_escape_callback(|_| AutoEscape::None);
        jinja.set_fuel(Some(FUEL));
        jinja.set_recursion_limit(DEPTH);
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        jinja.add_filter("tojson", to_json);
        jinja.add_filter("indent", indent);
        jinja.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(refused(message))
        });
        jinja.add_function("strftime_now", move |format: String| strftime(&format, now()));
        jinja.add_template_owned(NAME, source)?;
        Ok(Jinja(jinja))
    }

    /// Renders it with these names.
    pub(super) fn render(&self, names: &impl Serialize) -> Result<String, Error> {
        self.0.get_template(NAME)?.render(Serde(names)).map_err(|cause| match cause.kind() {
            ErrorKind::OutOfFuel => refused("it takes too much time or memory".to_owned()),
            _ => cause,
        })
    }
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Writes a time as C's `strftime` does.
fn strftime(format: &str, time: NaiveDateTime) -> Result<String, Error> {
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(refused(format!("strftime_now({format:?}) is no format of a time")));
    }
    Ok(time.format_with_items(items.iter()).to_string())
}

/// Puts blanks in front of all lines but the first, as Jinja2's filter does; minijinja's drops a line end at the end of the text.
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width.or(named.get("width")?).unwrap_or(Value::from(4));
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let before = match (width.as_str(), width.as_usize()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(width)) if width <= 1_000 => " ".repeat(width),
        _ => return Err(refused(format!("indent by {width}, wanted a text or at most 1000"))),
    };
    let mut out = String::with_capacity(text.len());
    for (i, line) in text.replace("\r\n", "\n").split(is_line_end).enumerate() {
        let is_indented = match i {
            0 => first,
            _ => blank || !line.is_empty(),
        };
        out += if i > 0 { "\n" } else { "" };
        out += if is_indented { &before } else { "" };
        out += line;
    }
    Ok(out)
}

/// Whether Python ends a line there.
fn is_line_end(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// Writes a value as Python's `json.dumps(value, ensure_ascii=False)` does: with `indent` in lines, with `separators` between
/// what is in one line, with `sort_keys` in the order of the names.
fn to_json(value: Value, named: Kwargs) -> Result<String, Error> {
    let because = |error: serde_json::Error| refused(format!("tojson: {error}"));
    let indent: Option<usize> = named.get("indent")?;
    let separators: Option<Vec<String>> = named.get("separators")?;
    let mut value = serde_json::to_value(&value).map_err(because)?;
    if named.get::<Option<bool>>("sort_keys")? == Some(true) {
        value.sort_all_objects();
    }
    let mut out = vec![];
    match (indent, separators.as_deref().unwrap_or(&[", ".to_owned(), ": ".to_owned()])) {
        (Some(width @ ..=1_000), _) => {
            let width = vec![b' '; width];
            let lines = PrettyFormatter::with_indent(&width);
            value.serialize(&mut Serializer::with_formatter(&mut out, lines)).map_err(because)?;
        }
        (None, [comma, colon]) => {
            let line = Line { comma, colon };
            value.serialize(&mut Serializer::with_formatter(&mut out, line)).map_err(because)?;
        }
        (Some(width), _) => {
            return Err(refused(format!("tojson with indent={width}, wanted at most 1000")));
        }
        (None, given) => {
            return Err(refused(format!("tojson with {} separators, wanted 2", given.len())));
        }
    }
    Ok(String::from_utf8(out).expect("JSON is text"))
}

/// JSON in one line.
struct Line<'a> {
    comma: &'a str,
    colon: &'a str,
}

impl Line<'_> {
    fn between<W: ?Sized + Write>(&self, to: &mut W, is_first: bool) -> io::Result<()> {
        if is_first { Ok(()) } else { to.write_all(self.comma.as_bytes()) }
    }
}

impl Formatter for Line<'_> {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.between(to, first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.between(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(self.colon.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::Jinja;

    fn render(source: &str) -> Result<String, String> {
        let now = || DateTime::from_timestamp(1_720_256_703, 0).unwrap().naive_utc();
        let names = json!({"x": {"b": [1, 2.5, "\u{e9}"], "a": {}}, "text": "one\n\ntwo\n"});
        let compiled = Jinja::compile(source.to_owned(), now);
        compiled.and_then(|jinja| jinja.render(&names)).map_err(|error| error.to_string())
    }

    /// The texts are Python's: `json.dumps`, and Jinja2's filter.
    #[test]
    fn filters_are_pythons() {
        for (source, wanted) in [
            ("{{ x | tojson }}", "{\"b\": [1, 2.5, \"\u{e9}\"], \"a\": {}}"),
            ("{{ x | tojson(sort_keys=true) }}", "{\"a\": {}, \"b\": [1, 2.5, \"\u{e9}\"]}"),
            ("{{ x | tojson(separators=(',', ':')) }}", "{\"b\":[1,2.5,\"\u{e9}\"],\"a\":{}}"),
            ("{{ [1, [], 2] | tojson(indent=2) }}", "[\n  1,\n  [],\n  2\n]"),
            ("{{ text | indent(2) }}.", "one\n\n  two\n."),
            ("{{ text | indent }}.", "one\n\n    two\n."),
            ("{{ text | indent(1, true, true) }}.", " one\n \n two\n ."),
            ("{{ text | indent(width='> ', first=true) }}.", "> one\n\n> two\n."),
            ("{{ 'a\r\nb\u{2028}c' | indent(1) }}", "a\n b\n c"),
            ("{{ strftime_now('%-d %b %Y %H:%M, 100 %%') }}", "6 Jul 2024 09:05, 100 %"),
        ] {
            assert_eq!(render(source).as_deref(), Ok(wanted), "{source}");
        }
        for (source, wanted) in [
            ("{{ x | tojson(separators=(',',)) }}", "1 separators, wanted 2"),
            ("{{ text | indent(1000000000) }}", "at most 1000"),
            ("{{ x | tojson(indent=1000000000) }}", "at most 1000"),
            ("{{ strftime_now('%!') }}", "is no format of a time"),
            ("{{ raise_exception('no system here') }}", "no system here"),
        ] {
            assert!(render(source).unwrap_err().contains(wanted), "{source}: {:?}", render(source));
        }
    }

    /// None of them takes all time, all memory or the stack.
    #[test]
    fn a_template_has_limits() {
        let loops = "{% for i in range(9999) %}".repeat(6) + "x" + &"{% endfor %}".repeat(6);
        let longer = "{% set s = namespace(x='abcdefgh') %}{% for i in range(99) %}{% set s.x = s.x ~ s.x %}{% endfor %}{{ s.x | length }}";
        let calls = "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}";
        let repeats = "{{ ('x' * 9999999999) | length }}";
        for source in [&loops[..], longer, calls, repeats] {
            let error = render(source).unwrap_err();
            assert!(
                ["too much time or memory", "recursion limit"]
                    .iter()
                    .any(|why| error.contains(why)),
                "{source}: {error}"
            );
        }
        let long = "{% for i in range(50000) %}{{ i }}: {{ text }}{% endfor %}";
        assert!(render(long).unwrap().len() > 500_000);
    }
}
