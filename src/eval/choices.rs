//! Multiple choice by log-likelihood, as HellaSwag (Zellers et al. 2019) is scored by EleutherAI's lm-evaluation-harness.
//!
//! Each choice follows the context after a delimiter, by default a blank. With `ll` the sum of the log-probabilities of the
//! choice's tokens given the context's:
//!
//! ```text
//! acc      = questions whose right choice has the largest ll / questions
//! acc_norm = the same with ll / characters of the choice, without the delimiter
//! stderr   = √(acc (1 - acc) / (questions - 1))
//! ```
//!
//! Of equal choices the first counts. White space at the context's end belongs to the choice. Context and choice are encoded
//! together, and the choice's tokens are those beyond as many as the context has alone. An empty context is an end-of-text token.
//! What does not fit the model's context is cut off at the left.

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use super::rows::Rows;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// A context and how it may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is given.
    pub context: String,
    /// At least two texts, none empty.
    pub choices: Vec<String>,
    /// The index of the right one, from 0.
    pub answer: usize,
}

/// What a model made of the questions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChoiceReport {
    /// Questions.
    pub n: usize,
    /// The share of questions whose right choice is the likeliest.
    pub acc: f64,
    /// The standard error of `acc`; 0 for a single question.
    pub acc_stderr: f64,
    /// The share of questions whose right choice is the likeliest by character.
    pub acc_norm: f64,
    /// The standard error of `acc_norm`.
    pub acc_norm_stderr: f64,
    /// Choices whose context was cut to fit.
    pub cut: usize,
    /// By question and choice: the log-likelihood (natural logarithm).
    #[serde(skip)]
    pub log_likelihoods: Vec<Vec<f64>>,
}

/// A line as it may be: ours, or HellaSwag's own.
#[derive(Deserialize)]
struct Line {
    #[serde(alias = "ctx")]
    context: Option<String>,
    #[serde(alias = "endings")]
    choices: Option<Vec<String>>,
    #[serde(alias = "label")]
    answer: Option<Answer>,
    activity_label: Option<String>,
    ctx_a: Option<String>,
    ctx_b: Option<String>,
}

/// An index, which some files have as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Number(usize),
    Text(String),
}

/// Reads a question a line: an object with `context`, `choices` and `answer`, the index of the right choice from 0; or with
/// HellaSwag's names, `ctx`, `endings` and `label`. Lines with HellaSwag's `activity_label`, `ctx_a` and `ctx_b` are put together
/// and cleaned as the harness does it. Empty lines are passed over.
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
/// Names the line, counted from 1, that cannot be read or is no question; if there is none.
pub fn read_questions(file: impl BufRead, name: &str) -> Result<Vec<Question>> {
    let mut questions = vec![];
    for (i, line) in file.lines().enumerate() {
        let place = format!("{name}, line {}", i + 1);
        let line = line.map_err(|cause| Error::input(format!("{place}: {cause}")))?;
        // Windows' editors begin a file with a byte order mark.
        let line = line.trim_start_matches('\u{feff}');
        if !line.trim().is_empty() {
            questions.push(question(line).map_err(|what| {
                Error::input(format!("{place}: {what}")).hint(
                    "a line is {\"context\": \"...\", \"choices\": [\"...\", \"...\"], \"answer\": 0}",
                )
            })?);
        }
    }
    if questions.is_empty() {
        return Err(Error::input(format!("{name} has no questions"))
            .hint("give a .jsonl file with a question a line"));
    }
    Ok(questions)
}

/// The question of a line, or what is wrong with it.
fn question(line: &str) -> Result<Question, String> {
    let line: Line = serde_json::from_str(line).map_err(|cause| {
        let text = cause.to_string();
        text[..text.rfind(" at line ").unwrap_or(text.len())].to_owned()
    })?;
    let mut choices = line.choices.ok_or("it has no choices")?;
    let context = match (line.activity_label, line.ctx_a, line.ctx_b) {
        (Some(activity), Some(a), Some(b)) => {
            choices = choices.iter().map(|choice| clean(choice)).collect();
            clean(&format!("{activity}: {a} {}", capitalize(&b)))
        }
        _ => line.context.ok_or("it has no context")?,
    };
    let answer = match line.answer.ok_or("it has no answer")? {
        Answer::Number(answer) => answer,
        Answer::Text(text) => {
            text.trim().parse().map_err(|_| format!("the answer is {text:?}, must be an index"))?
        }
    };
    match () {
        () if choices.len() < 2 => {
            Err(format!("there must be at least 2 choices, got {}", choices.len()))
        }
        () if choices.iter().any(String::is_empty) => Err("a choice is empty".to_owned()),
        () if answer >= choices.len() => Err(format!(
            "the answer is {answer}, must be the index of one of {} choices, counted from 0",
            choices.len()
        )),
        () => Ok(Question { context, choices, answer }),
    }
}

/// HellaSwag's text without the traces of its sources, as the harness cleans it.
fn clean(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut cleaned = String::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        // What stands in brackets is dropped, unless a line ends in it.
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

/// The first letter large, all others small.
fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &letters.as_str().to_lowercase()
}

/// A choice as tokens.
struct Candidate {
    tokens: Vec<u32>,
    /// How many of the last tokens are the choice's.
    scored: usize,
}

impl Candidate {
    /// Encodes a context and a choice, the delimiter before it.
    fn new(tokenizer: &Tokenizer, context: &str, choice: &str) -> Result<Candidate> {
        let (context, blank) = context.split_at(context.trim_end().len());
        let choice = format!("{blank}{choice}");
        let (tokens, given) = if context.is_empty() {
            let end = tokenizer.end_of_text().ok_or_else(|| {
                Error::input("the context is empty, and the tokenizer has no end-of-text token to stand for it")
            })?;
            ([vec![end], tokenizer.encode_with_special(&choice)].concat(), 1)
        } else {
            let both = tokenizer.encode_with_special(&format!("{context}{choice}"));
            (both, tokenizer.encode_with_special(context).len())
        };
        match tokens.len().saturating_sub(given) {
            0 => Err(Error::input("a choice has no tokens of its own")),
            scored => Ok(Candidate { tokens, scored }),
        }
    }

    /// Cuts the beginning off, so that all but the last token fit `context`; whether there was anything to cut.
    fn cut(&mut self, context: usize) -> Result<bool> {
        if self.scored > context {
            return Err(Error::input(format!(
                "a choice has {} tokens, the model's context {context}",
                self.scored
            )));
        }
        let over = self.tokens.len().saturating_sub(context + 1);
        self.tokens.drain(..over);
        Ok(over > 0)
    }
}

/// Questions as tokens, ready to be put to a model.
pub struct Prepared<'a> {
    questions: &'a [Question],
    candidates: Vec<Vec<Candidate>>,
    cut: usize,
}

impl<'a> Prepared<'a> {
    /// Encodes questions for a model of `context` positions; `delimiter` stands between a context and a choice.
    ///
    /// # Errors
    ///
    /// Names the question, counted from 1, with a choice that has no tokens or more than the model's context.
    pub fn new(
        questions: &'a [Question],
        tokenizer: &Tokenizer,
        context: usize,
        delimiter: &str,
    ) -> Result<Prepared<'a>> {
        let mut cut = 0;
        let mut prepare = |choice: &String, given: &str| -> Result<Candidate> {
            let mut candidate = Candidate::new(tokenizer, given, &format!("{delimiter}{choice}"))?;
            cut += usize::from(candidate.cut(context)?);
            Ok(candidate)
        };
        let mut candidates = Vec::with_capacity(questions.len());
        for (i, question) in questions.iter().enumerate() {
            let all = question.choices.iter().map(|choice| prepare(choice, &question.context));
            let all = all.collect::<Result<Vec<_>>>();
            candidates.push(all.map_err(|error| error.at(format!("question {}", i + 1)))?);
        }
        Ok(Prepared { questions, candidates, cut })
    }

    /// How many tokens the longest sequence feeds to the model: the `seq` of the engine that they need.
    pub fn longest(&self) -> usize {
        self.candidates.iter().flatten().map(|c| c.tokens.len() - 1).max().unwrap_or(1)
    }

    /// How many sequences there are: a choice each.
    pub fn len(&self) -> usize {
        self.candidates.iter().map(Vec::len).sum()
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Scores every choice, on an engine with batches; `progress` hears how many choices are done.
    ///
    /// # Errors
    ///
    /// If a loss is not finite, or the device is lost.
    pub fn choose(
        &self,
        engine: &mut Engine,
        progress: &mut dyn FnMut(usize),
    ) -> Result<ChoiceReport> {
        let mut lls: Vec<Vec<f64>> =
            self.candidates.iter().map(|choices| vec![f64::NAN; choices.len()]).collect();
        let mut done = 0;
        let mut scored = |(question, choice): (usize, usize), nll: f64| {
            lls[question][choice] = -nll;
            done += 1;
            progress(done);
        };
        let mut rows = Rows::new(engine);
        for (q, choices) in self.candidates.iter().enumerate() {
            for (c, Candidate { tokens, scored: count }) in choices.iter().enumerate() {
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
            let right =
                both.filter(|(question, lls)| largest(&score(question, lls)) == question.answer);
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
            cut: self.cut,
            log_likelihoods,
        }
    }
}

/// The index of the first of the largest numbers.
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
        let question = question(line).expect("a question");
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
