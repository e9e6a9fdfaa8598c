//! The parts of a rendered conversation that are learned.
//!
//! Without generation blocks they are found by rendering beginnings of the conversation: what the template writes for an
//! assistant's turn is what comes after the same messages before it with the generation prompt. That is only true if each of these texts begins
//! the next one, which is checked: a template that writes an earlier turn otherwise once later ones are there is refused.
//!
//! Generation blocks, `{% generation %}` … `{% endgeneration %}`, are rewritten as calls of a macro that puts a mark around what
//! is inside, and leave blanks around them alone, as `transformers` does. The texts of turns are compared in this case too.

use std::ops::Range;

use serde_json::Value;

use super::conversation::Conversation;
use super::template::ChatTemplate;
use crate::error::{Error, Result};

/// The marks around a generation block. Both are Unicode noncharacters, which do not occur in texts.
pub(super) const OPEN: char = '\u{fdd2}';
pub(super) const CLOSE: char = '\u{fdd3}';

/// The name of the macro that marks a block.
const MACRO: &str = "wgpt_generation_";

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text, in the normal form of the tokenizer.
    pub text: String,
    /// What is learned, in bytes of the text, in order.
    pub learned: Vec<Range<usize>>,
    /// For each of the assistant's turns the number of messages up to it, and where its text ends.
    pub turns: Vec<(usize, usize)>,
}

/// Returns a template without its generation blocks, whose contents stay.
pub(super) fn without_blocks(source: &str) -> String {
    with_tags(source, ["if true", "endif"]).unwrap_or_else(|| source.to_owned())
}

/// Returns a template with marks around its generation blocks; `None` if it has none.
pub(super) fn with_marks(source: &str) -> Option<String> {
    let marked = with_tags(source, [&format!("call {MACRO}()"), "endcall"])?;
    // The line end after the macro goes with it, so that the template begins a line.
    let marks = format!("{{% macro {MACRO}() %}}{OPEN}{{{{ caller() }}}}{CLOSE}{{% endmacro %}}\n");
    Some(marks + &marked)
}

/// Returns a template with other tags in the place of those of its generation blocks; `None` if it has none.
fn with_tags(source: &str, tags: [&str; 2]) -> Option<String> {
    let (mut out, mut rest, mut found) = (String::new(), source, false);
    while let Some(begin) = rest.find("{%") {
        if let Some(comment) = rest[..begin].find("{#") {
            let length = rest[comment..].find("#}").map_or(rest.len() - comment, |at| at + 2);
            out += &rest[..comment + length];
            rest = &rest[comment + length..];
            continue;
        }
        let Some(length) = rest[begin..].find("%}").map(|at| at + 2) else { break };
        let tag = &rest[begin..begin + length];
        let inner = &tag[2..length - 2];
        let instead = match inner.trim_matches(['-', '+']).trim() {
            "generation" => Some(tags[0]),
            "endgeneration" => Some(tags[1]),
            _ => None,
        };
        out += &rest[..begin];
        match instead {
            Some(instead) => {
                found = true;
                let before = if inner.starts_with(['-', '+']) { &inner[..1] } else { "" };
                let after = if inner.ends_with('-') { "-" } else { "" };
                out += &format!("{{%{before} {instead} {after}%}}");
            }
            None => out += tag,
        }
        rest = &rest[begin + length..];
    }
    found.then(|| out + rest)
}

impl ChatTemplate {
    /// Renders a conversation up to its last turn of the assistant, and finds what is learned of it. `normal` returns a text
    /// as the tokenizer sees it.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::render`]; or if what the template writes for fewer messages does not begin what it writes for more, with the
    /// first difference.
    pub fn spans(
        &self,
        conversation: &Conversation,
        normal: &dyn Fn(String) -> String,
    ) -> Result<Rendered> {
        let Some(last) = conversation.learned().last() else { return Ok(Rendered::default()) };
        let render = |count, prompts| self.render(conversation, count, prompts).map(normal);
        let text = render(last + 1, false)?;
        let whole = (last + 1, &text[..]);
        let (mut learned, mut turns) = (vec![], vec![]);
        for i in (0..=last).filter(|i| conversation.is_assistants(*i)) {
            let end = match i == last {
                true => text.len(),
                false => self.begins((i + 1, false, &render(i + 1, false)?), whole)?,
            };
            turns.push((i + 1, end));
            if i >= conversation.first && !self.has_blocks() {
                let start = self.begins((i, true, &render(i, true)?), whole)?;
                learned.push(start.min(end)..end);
            }
        }
        if let Some(marked) = self.render_marked(conversation, last + 1)? {
            learned = self.blocks(&marked, whole, normal)?;
            let first = conversation.learned().next().unwrap_or(0);
            if conversation.first > 0 {
                // The blocks of the prompt's own turns are not learned.
                let prompt = self.begins((first, true, &render(first, true)?), whole)?;
                learned.retain(|block| block.start >= prompt);
            }
        }
        self.check_calls(conversation, &text, &turns)?;
        Ok(Rendered { text, learned, turns })
    }

    /// Checks that the text of each turn has the names of the tools that it calls: a template that does not write calls would
    /// have an empty answer learned in their place.
    fn check_calls(
        &self,
        conversation: &Conversation,
        text: &str,
        turns: &[(usize, usize)],
    ) -> Result<()> {
        let mut before = 0;
        for (count, end) in turns {
            let turn = &text[before.min(*end)..*end];
            before = *end;
            let calls = conversation.messages[count - 1]["tool_calls"].as_array();
            let name = |call: &Value| {
                let named = call.get("function").unwrap_or(call);
                named["name"].as_str().map(str::to_owned)
            };
            for name in calls.into_iter().flatten().filter_map(name) {
                if *count > conversation.first && !turn.contains(&name) {
                    return Err(Error::input(format!(
                        "message {count} calls the tool {name:?}, which {} does not write",
                        self.place()
                    ))
                    .hint(
                        "an answer without the call would be learned: take a template for tools, or leave that conversation out",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Returns the length of a text for some messages, after checking that it begins the text of more messages.
    fn begins(
        &self,
        (count, prompts, text): (usize, bool, &str),
        (more, whole): (usize, &str),
    ) -> Result<usize> {
        if whole.starts_with(text) {
            return Ok(text.len());
        }
        let prompt = if prompts { " and the generation prompt" } else { "" };
        let what = format!("its text for {count} messages{prompt} does not begin that for {more}");
        Err(self.refused(&what, text, whole))
    }

    /// Returns the error for two texts that should be alike, with their first difference.
    fn refused(&self, what: &str, a: &str, b: &str) -> Error {
        let at = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        let at = (0..=at).rev().find(|at| a.is_char_boundary(*at) && b.is_char_boundary(*at));
        let at = at.unwrap_or(0);
        let around = |text: &str| {
            let before: String = text[..at].chars().rev().take(20).collect();
            let after: String = text[at..].chars().take(20).collect();
            format!("{:?}", before.chars().rev().collect::<String>() + &after)
        };
        Error::input(format!(
            "{} is refused: {what}; the first difference is at byte {at}, {} and {}",
            self.place(),
            around(a),
            around(b)
        ))
        .hint(
            "what is learned would not be what the model is given in a chat: take a template that does not rewrite earlier turns, or \
             split the conversations so that each ends with its only turn of the assistant",
        )
    }

    /// Returns the places in a text of its generation blocks; `marked` is the same text with their marks.
    fn blocks(
        &self,
        marked: &str,
        (_, whole): (usize, &str),
        normal: &dyn Fn(String) -> String,
    ) -> Result<Vec<Range<usize>>> {
        let plain: String = marked.chars().filter(|c| ![OPEN, CLOSE].contains(c)).collect();
        let plain = normal(plain);
        if plain != whole {
            return Err(self.refused(
                "marking its generation blocks changes its text",
                &plain,
                whole,
            ));
        }
        let (mut blocks, mut open, mut before) = (vec![], None, String::new());
        for part in marked.split_inclusive([OPEN, CLOSE]) {
            let mark = part.chars().next_back();
            before.extend(part.chars().filter(|c| ![OPEN, CLOSE].contains(c)));
            let at = normal(before.clone()).len();
            match mark {
                Some(OPEN) => open = open.or(Some(at)),
                Some(CLOSE) => blocks.extend(open.take().map(|start| start..at)),
                _ => {}
            }
        }
        Ok(blocks)
    }
}
