//! Multiple choice by log-likelihood, as EleutherAI's lm-evaluation-harness scores HellaSwag (Zellers et al. 2019).
//!
//! Each choice follows the context after a delimiter, by default a space. Let `ll` be the sum of the log-probabilities
//! of the choice's tokens given the context's:
//!
//! ```text
//! acc      = questions whose right choice has the largest ll / questions
//! acc_norm = the same with ll / characters of the choice, without the delimiter
//! stderr   = √(acc (1 - acc) / (questions - 1))
//! ```
//!
//! Of equal choices the first counts. White space at the context's end belongs to the choice. Context and choice are
//! encoded together, and the choice's tokens are those after the number of tokens that the context alone has. If there
//! are none, since the choice merges into the context's last token, both are encoded separately. An empty context is
//! replaced by the token that begins a text. A sequence that is too long for the model's context is cut off at the
//! left. A question that cannot be scored is left out.

use std::io::BufRead;

use serde::Serialize;
use serde_json::{Map, Value};

use super::rows::Rows;
use crate::checkpoint::EndOfText;
use crate::error::{Error, Result};
use crate::runner::Runner;
use crate::tokenizer::Tokenizer;

/// A context and its possible continuations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The given text.
    pub context: String,
    /// The continuations; at least two texts, none of them empty, or else the question is left out.
    pub choices: Vec<String>,
    /// The index of the right choice, from 0.
    pub answer: usize,
}

/// A question that cannot be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The reason.
    pub reason: String,
}

/// The results of a model on the questions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChoiceReport {
    /// Questions scored.
    pub n: usize,
    /// The share of questions whose right choice is the most likely.
    pub acc: f64,
    /// The standard error of `acc`; 0 for a single question.
    pub acc_stderr: f64,
    /// The share of questions whose right choice is the most likely per character.
    pub acc_norm: f64,
    /// The standard error of `acc_norm`.
    pub acc_norm_stderr: f64,
    /// Choices whose context was cut to fit the model.
    pub cut: usize,
    /// By scored question and choice: the log-likelihood (natural logarithm).
    #[serde(skip)]
    pub log_likelihoods: Vec<Vec<f64>>,
}

/// Reads one question per line: an object with `context`, `choices` and `answer`, the index of the right choice from 0;
/// or with HellaSwag's names, `ctx`, `endings` and `label`. Lines with HellaSwag's `activity_label`, `ctx_a` and
/// `ctx_b` are combined and cleaned like in the harness. Empty lines are skipped.
///
/// ```
/// let line = r#"{"context": "Two and two is", "choices": ["four", "five"], "answer": 0}"#;
/// let questions = wgpt::eval::read_questions(line.as_bytes(), "sums.jsonl")?;
/// assert_eq!(questions[0].choices[questions[0].answer], "four");
/// # Ok::<(), wgpt::Error>(())
/// ```
///
/// # Errors
///
/// Names the line, counted from 1, that cannot be read, is not a question, or has no known answer; or if there are no
/// questions.
pub fn read_questions(file: impl BufRead, name: &str) -> Result<Vec<Question>> {
    let mut questions = vec![];
    for (i, line) in file.lines().enumerate() {
        let place = format!("{name}, line {}", i + 1);
        let line = line.map_err(|cause| Error::input(format!("{place}: {cause}")))?;
        // Windows editors begin a file with a byte order mark.
        let line = line.trim_start_matches('\u{feff}');
        if !line.trim().is_empty() {
            let question = question(line, i + 1);
            questions.push(question.map_err(|error| error.at(place))?);
        }
    }
    if questions.is_empty() {
        return Err(Error::input(format!("{name} has no questions"))
            .hint("give a .jsonl file with one question per line"));
    }
    Ok(questions)
}

/// A line's value under one of two names, the first of which is wgpt's and the second HellaSwag's.
struct Field<'a> {
    name: &'a str,
    value: &'a Value,
}

/// Returns an error about a line, with a hint about the expected format.
fn no_question(what: impl Into<String>) -> Error {
    Error::input(what)
        .hint("a line is {\"context\": \"...\", \"choices\": [\"...\", \"...\"], \"answer\": 0}")
}

impl<'a> Field<'a> {
    fn of(line: &'a Map<String, Value>, names: [&'a str; 2]) -> Result<Field<'a>> {
        let found = names.into_iter().find_map(|name| Some(Field { name, value: line.get(name)? }));
        found.ok_or_else(|| no_question(format!("it has no {}", names[0])))
    }

    fn text(&self) -> Result<&'a str> {
        let Field { name, value } = self;
        value
            .as_str()
            .ok_or_else(|| no_question(format!("{name} is {}, must be a text", short(value))))
    }

    fn texts(&self) -> Result<Vec<String>> {
        let Field { name, value } = self;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts = value.as_array().and_then(|all| all.iter().map(text).collect());
        let wanted = "must be a list of texts";
        texts.ok_or_else(|| no_question(format!("{name} is {}, {wanted}", short(value))))
    }

    /// Returns the index of the right one of `choices` choices. Some files have it as text.
    fn index(&self, choices: usize) -> Result<usize> {
        let Field { name, value } = self;
        if choices == 0 {
            // A question without choices is left out, regardless of its answer.
            return Ok(0);
        }
        // Table programs turn whole numbers into 1.0.
        let whole = number(value).filter(|number| number.fract() == 0.0 && *number >= 0.0);
        match whole.map(|number| number as usize) {
            Some(index) if index < choices => Ok(index),
            _ => {
                let last = choices - 1;
                Err(Error::input(format!(
                    "{name} is {}, must be the index of the right choice, from 0 to {last}",
                    short(value)
                ))
                .hint(way_out(value)))
            }
        }
    }
}

/// Advice about a question without an answer.
const NOT_PUBLIC: &str = "questions whose answers are not public cannot be scored: take a file with answers, or leave the line out";

/// Returns a value's number, or the number in its text.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_f64(),
    }
}

/// Returns the advice about an answer that is not the index of a choice.
fn way_out(answer: &Value) -> &'static str {
    match (answer, number(answer)) {
        (Value::Null, _) => NOT_PUBLIC,
        (Value::String(text), _) if text.trim().is_empty() => NOT_PUBLIC,
        (_, Some(number)) if number < 0.0 => NOT_PUBLIC,
        (_, Some(number)) if number.fract() == 0.0 => {
            "answers count from 0: take 1 away if those of the file count from 1"
        }
        _ => {
            "write which choice is right as a whole number: 0 for the first (A), 1 for the second (B), and so on"
        }
    }
}

/// Returns a value as it is written in the file, shortened if it is long.
fn short(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Parses the question in the line with this number.
fn question(text: &str, number: usize) -> Result<Question> {
    let value: Value = serde_json::from_str(text).map_err(|cause| {
        let cause = cause.to_string();
        let cause = &cause[..cause.rfind(" at line ").unwrap_or(cause.len())];
        no_question(format!("it is not JSON: {cause}"))
    })?;
    let Value::Object(line) = &value else {
        return Err(no_question(format!("{} is not a JSON object", short(&value))));
    };
    let mut choices = Field::of(line, ["choices", "endings"])?.texts()?;
    let hellaswag = ["activity_label", "ctx_a", "ctx_b"].map(|name| line.get(name)?.as_str());
    let context = match hellaswag {
        [Some(activity), Some(a), Some(b)] => {
            choices = choices.iter().map(|choice| clean(choice)).collect();
            clean(&format!("{activity}: {a} {}", capitalize(b)))
        }
        _ => Field::of(line, ["context", "ctx"])?.text()?.to_owned(),
    };
    let answer = Field::of(line, ["answer", "label"]).map_err(|error| error.hint(NOT_PUBLIC))?;
    let answer = answer.index(choices.len())?;
    Ok(Question { line: number, context, choices, answer })
}

/// Removes the traces of the sources from HellaSwag's text, like the harness.
fn clean(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut cleaned = String::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        // Text in brackets is removed, unless a line ends within the brackets.
        let close = rest[open..].find([']', '\n']).map(|at| open + at);
        let Some(close) = close.filter(|&close| rest[close..].starts_with(']')) else {
            cleaned.push_str(&rest[..=open]);
            rest = &rest[open + 1..];
            continue;
        };
        cleaned.push_str(&rest[..open]);
        rest = &rest[close + 1..];
    }
    (cleaned + rest).replace("  ", " ")
}

/// Makes the first letter upper case and all others lower case.
fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &letters.as_str().to_lowercase()
}

/// A choice as tokens.
struct Candidate {
    tokens: Vec<u32>,
    /// The number of last tokens that belong to the choice.
    scored: usize,
    /// Whether the context was cut.
    cut: bool,
}

/// The settings for encoding questions.
struct Encoding<'a> {
    tokenizer: &'a Tokenizer,
    end: &'a EndOfText,
    /// The maximum number of tokens that the model is fed.
    most: usize,
    delimiter: &'a str,
}

impl Encoding<'_> {
    /// Returns the choices of a question, or the reason why it cannot be scored.
    fn candidates(&self, question: &Question) -> Result<Vec<Candidate>, String> {
        match question.choices.as_slice() {
            [] => Err("it has no choices".to_owned()),
            [_] => Err("it has a single choice, which is right in any case".to_owned()),
            all if all.iter().any(String::is_empty) => Err("a choice is empty".to_owned()),
            all => all.iter().map(|choice| self.candidate(&question.context, choice)).collect(),
        }
    }

    /// Returns a choice after a context, cut so that all but the last token fit the model.
    fn candidate(&self, context: &str, choice: &str) -> Result<Candidate, String> {
        let (context, blank) = context.split_at(context.trim_end().len());
        let choice = format!("{blank}{}{choice}", self.delimiter);
        let (mut tokens, scored) = self.encode(context, &choice)?;
        if scored > self.most {
            let most = self.most;
            return Err(format!(
                "a choice has {scored} tokens, more than the model's context, {most}"
            ));
        }
        let over = tokens.len().saturating_sub(self.most + 1);
        tokens.drain(..over);
        Ok(Candidate { tokens, scored, cut: over > 0 })
    }

    /// Returns the tokens of both, and how many of the last ones belong to the choice.
    fn encode(&self, context: &str, choice: &str) -> Result<(Vec<u32>, usize), String> {
        let encode = |text: &str| self.tokenizer.encode_with_special(text);
        if context.is_empty() {
            let opening = self.end.opening().ok_or_else(|| {
                "its context is empty, and there is no end-of-text token to stand for it".to_owned()
            })?;
            let tokens = [vec![opening], encode(choice)].concat();
            let scored = tokens.len() - 1;
            return Ok((tokens, scored));
        }
        let (given, both) = (encode(context), encode(&format!("{context}{choice}")));
        if both.len() > given.len() {
            let scored = both.len() - given.len();
            return Ok((both, scored));
        }
        let own = encode(choice);
        let scored = own.len();
        Ok(([given, own].concat(), scored))
    }
}

/// Encoded questions, ready for a model.
pub struct Prepared<'a> {
    /// The questions that can be scored, with one candidate per choice.
    questions: Vec<(&'a Question, Vec<Candidate>)>,
    left_out: Vec<LeftOut>,
}

impl<'a> Prepared<'a> {
    /// Encodes questions for a model of `context` positions; `delimiter` separates a context and a choice, and texts
    /// begin with the token that `end` defines. Questions that cannot be scored are left out.
    ///
    /// # Errors
    ///
    /// If no question can be scored: gives the first one's line and the reason.
    pub fn new(
        questions: &'a [Question],
        tokenizer: &Tokenizer,
        end: &EndOfText,
        context: usize,
        delimiter: &str,
    ) -> Result<Prepared<'a>> {
        let encoding = Encoding { tokenizer, end, most: context, delimiter };
        let mut prepared = Prepared { questions: vec![], left_out: vec![] };
        for question in questions {
            match encoding.candidates(question) {
                Ok(candidates) => prepared.questions.push((question, candidates)),
                Err(reason) => prepared.left_out.push(LeftOut { line: question.line, reason }),
            }
        }
        match prepared.left_out.as_slice() {
            [LeftOut { line, reason }, ..] if prepared.questions.is_empty() => {
                let all = questions.len();
                Err(Error::input(format!(
                    "none of the {all} questions can be scored; that of line {line}: {reason}"
                ))
                .hint("a question has a context and at least two choices, each within the model's context"))
            }
            _ => Ok(prepared),
        }
    }

    /// Returns the questions that cannot be scored, in the order of the file.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.questions.iter().flat_map(|(_, candidates)| candidates)
    }

    /// Returns the number of tokens that the longest sequence feeds to the model: the `seq` of the required engine.
    pub fn longest(&self) -> usize {
        self.candidates().map(|c| c.tokens.len() - 1).max().unwrap_or(1)
    }

    /// Returns the number of sequences: one per choice.
    pub fn len(&self) -> usize {
        self.candidates().count()
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// Scores every choice on an engine with batches; `progress` is called with the number of finished choices.
    ///
    /// # Errors
    ///
    /// If a loss is not finite, or the device is lost.
    pub fn choose(
        &self,
        engine: &mut impl Runner,
        progress: &mut dyn FnMut(usize),
    ) -> Result<ChoiceReport> {
        let mut lls: Vec<Vec<f64>> =
            self.questions.iter().map(|(_, choices)| vec![f64::NAN; choices.len()]).collect();
        let mut done = 0;
        let mut scored = |(question, choice): (usize, usize), nll: f64| {
            lls[question][choice] = -nll;
            done += 1;
            progress(done);
        };
        let mut rows = Rows::new(engine);
        for (q, (_, choices)) in self.questions.iter().enumerate() {
            for (c, Candidate { tokens, scored: count, .. }) in choices.iter().enumerate() {
                let targets = &tokens[tokens.len() - count..];
                let inputs = &tokens[..tokens.len() - 1];
                rows.push(engine, (q, c), inputs, targets, &mut scored)?;
            }
        }
        rows.flush(engine, &mut scored)?;
        Ok(self.report(lls))
    }

    fn report(&self, log_likelihoods: Vec<Vec<f64>>) -> ChoiceReport {
        let n = self.questions.len();
        let share = |score: &dyn Fn(&Question, &[f64]) -> Vec<f64>| {
            let both = self.questions.iter().zip(&log_likelihoods);
            let right = both
                .filter(|((question, _), lls)| largest(&score(question, lls)) == question.answer);
            right.count() as f64 / n as f64
        };
        let acc = share(&|_, lls| lls.to_vec());
        let acc_norm = share(&|question, lls| {
            let lens = question.choices.iter().map(|choice| choice.chars().count() as f64);
            lls.iter().zip(lens).map(|(ll, len)| ll / len).collect()
        });
        let stderr = |acc: f64| (acc * (1.0 - acc) / (n.max(2) - 1) as f64).sqrt();
        ChoiceReport {
            n,
            acc,
            acc_stderr: stderr(acc),
            acc_norm,
            acc_norm_stderr: stderr(acc_norm),
            cut: self.candidates().filter(|candidate| candidate.cut).count(),
            log_likelihoods,
        }
    }
}

/// Returns the index of the first of the largest numbers.
fn largest(numbers: &[f64]) -> usize {
    let all = numbers.iter().enumerate();
    all.fold((0, f64::NEG_INFINITY), |(at, max), (i, &x)| if x > max { (i, x) } else { (at, max) })
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hellaswags_lines_are_cleaned_as_the_harness_does() {
        let line = r#"{"ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
            "ctx": "A man is sitting on a roof. he", "label": "3",
            "endings": ["is using wrap [x] to wrap.", " is ripping level tiles off. [title] So [y", "c", "d"]}"#;
        let question = question(line, 1).expect("a question");
        assert_eq!(question.context, "Roof shingle removal: A man is sitting on a roof. He");
        assert_eq!(question.choices[0], "is using wrap to wrap.");
        assert_eq!(question.choices[1], "is ripping level tiles off.. So [y");
        assert_eq!(question.answer, 3);
    }

    #[test]
    fn ties_go_to_the_first() {
        assert_eq!(largest(&[-2.0, -1.0, -1.0]), 1);
        assert_eq!(largest(&[-3.0, -3.0]), 0);
    }
}
