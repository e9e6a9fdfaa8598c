//! The settings of a tokenizer.json that are supported, and their meaning.

use serde::Deserialize;
use serde_json::{Value, json};

use super::beside::Besides;
use super::characters::{CharacterRules, Scheme, Stages};
use super::decoder::{Decoder, Start};
use super::normalizer::{Folds, Form, Normalizer, fold};
use super::pretokenizer::PreTokenizer;
use super::schema::{Part, Pattern, Settings};
use super::template::Template;
use crate::error::{Error, Result};

/// The rules for encoding and decoding text in a file's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) normalizer: Normalizer,
    /// How a byte-level tokenizer cuts texts.
    pub(super) pre_tokenizer: PreTokenizer,
    /// Whether a piece that equals a token becomes this token, regardless of the merges.
    pub(super) ignore_merges: bool,
    /// What is put around a whole text.
    pub(super) template: Template,
    /// The post-processor, kept for the file if it does more than `ByteLevel`.
    pub(super) post_processor: Option<Value>,
    /// The rules of a vocabulary of characters; `None`: the vocabulary is byte-level.
    pub(super) characters: Option<CharacterRules>,
}

impl Default for Rules {
    /// The rules of GPT-2.
    fn default() -> Rules {
        Rules {
            normalizer: Normalizer::default(),
            pre_tokenizer: PreTokenizer::GPT2,
            ignore_merges: false,
            template: Template::default(),
            post_processor: None,
            characters: None,
        }
    }
}

pub(super) fn refuse<T>(what: String) -> Result<T> {
    Err(Error::input(what).hint(
        "use a BPE tokenizer: byte-level such as GPT-2's and Llama 3's, or of SentencePiece's kind such as Llama 2's",
    ))
}

fn part(value: Value) -> Result<Option<Part>> {
    Option::<Part>::deserialize(value).map_err(|error| Error::input(error.to_string()))
}

fn kinds(stages: &[&Part]) -> String {
    stages.iter().map(|part| part.r#type.as_str()).collect::<Vec<_>>().join(", ")
}

impl Settings {
    /// Rejects settings that would change the ids and are not implemented. The files beside may set `add_prefix_space`
    /// for a byte-level pre-tokenizer that is not a sequence.
    pub(super) fn check(self, besides: &Besides) -> Result<Rules> {
        let model = &self.model;
        if let Some(kind) = model.r#type.as_deref().filter(|&kind| kind != "BPE") {
            return refuse(format!("the model is {kind}, must be BPE"));
        }
        let is_empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        let settings = [
            ("dropout", model.dropout.is_none_or(|dropout| dropout == 0.0)),
            ("continuing_subword_prefix", is_empty(&model.continuing_subword_prefix)),
            ("end_of_word_suffix", is_empty(&model.end_of_word_suffix)),
        ];
        if let Some((name, _)) = settings.iter().find(|(_, supported)| !supported) {
            return refuse(format!("the model's setting {name} is not supported"));
        }
        let mut rules = Rules {
            normalizer: normalizer(part(self.normalizer.clone())?.as_ref())?,
            ignore_merges: model.ignore_merges,
            ..Rules::default()
        };
        if let Some(value) = &self.post_processor
            && let Some(part) = part(value.clone())?
        {
            rules.template = Template::of(&part)?;
            rules.post_processor = (part.r#type != "ByteLevel").then(|| value.clone());
        }
        let decoder = part(self.decoder.clone())?;
        let mut pre_tokenizer = part(self.pre_tokenizer.clone())?;
        let stages = pre_tokenizer.as_ref().map(Part::stages).unwrap_or_default();
        let of_bytes = |stages: &[&Part]| stages.iter().any(|stage| stage.r#type == "ByteLevel");
        if !of_bytes(&stages) {
            let ends = decoder.as_ref().map(Part::stages).unwrap_or_default();
            if ends.is_empty() || of_bytes(&ends) {
                return match &pre_tokenizer {
                    None => refuse("there is no pre_tokenizer, must be ByteLevel".to_owned()),
                    Some(part) => refuse(format!(
                        "the pre_tokenizer {} {} is not supported without a decoder for it, such as Metaspace",
                        part.r#type,
                        kinds(&stages)
                    )),
                };
            }
            return self.check_characters(rules, &stages, &ends);
        }
        let Normalizer { form: _, prepend, folds } = &rules.normalizer;
        for (kind, is_unused) in [("Prepend", prepend.is_empty()), ("Replace", folds.is_empty())] {
            if !is_unused {
                return refuse(format!("the normalizer {kind} before ByteLevel is not supported"));
            }
        }
        let ends = decoder.as_ref().map(Part::stages).unwrap_or_default();
        if let Some(Part { r#type: kind, .. }) =
            ends.iter().find(|stage| !["ByteLevel", "Fuse"].contains(&stage.r#type.as_str()))
        {
            return refuse(format!("the decoder {kind} is not supported, must be ByteLevel"));
        }
        if let (Some(part), Some(said)) = (&mut pre_tokenizer, besides.add_prefix_space) {
            part.add_prefix_space = said;
        }
        if let Some(part) = pre_tokenizer {
            rules.pre_tokenizer = part.pre_tokenizer()?;
        }
        Ok(rules)
    }

    /// Returns the rules of a vocabulary of characters, given the stages of the pre-tokenizer and of the decoder.
    fn check_characters(self, mut rules: Rules, cuts: &[&Part], ends: &[&Part]) -> Result<Rules> {
        let (mut folds, mut scheme) = (rules.normalizer.folds.clone(), Scheme::Never);
        let (mut blank, mut splits) = (None, false);
        for stage in cuts {
            match (stage.r#type.as_str(), &stage.pattern, stage.replacement) {
                ("Metaspace", _, Some(replacement)) if blank.is_none() => {
                    compose(&mut folds, ' ', replacement)?;
                    (blank, splits) = (Some(replacement), stage.split.unwrap_or(true));
                    scheme = stage.scheme()?;
                }
                // No text has what the normalizer has replaced.
                ("Split", Some(Pattern::String(text)), _)
                    if text.chars().any(|c| fold(&folds, c) != c) => {}
                _ => {
                    let kinds = kinds(cuts);
                    return refuse(format!("the pre_tokenizer {kinds} is not supported"));
                }
            }
        }
        if scheme != Scheme::Never && !rules.normalizer.prepend.is_empty() {
            return refuse(
                "the normalizer Prepend with a Metaspace that prepends, too, is not supported"
                    .to_owned(),
            );
        }
        if rules.ignore_merges && !splits {
            return refuse("the model's setting ignore_merges is not supported without a pre_tokenizer that cuts texts".to_owned());
        }
        rules.characters = Some(CharacterRules {
            folds,
            scheme,
            blank,
            splits,
            byte_fallback: self.model.byte_fallback,
            unk_token: self.model.unk_token,
            fuse_unk: self.model.fuse_unk,
            decoder: decoder(ends)?,
            stages: Stages {
                normalizer: self.normalizer,
                pre_tokenizer: self.pre_tokenizer,
                decoder: self.decoder,
            },
        });
        Ok(rules)
    }
}

/// Adds the replacement of a character to those before it.
fn compose(folds: &mut Folds, from: char, to: char) -> Result<()> {
    for (_, stands) in folds.iter_mut().filter(|(_, stands)| *stands == from) {
        *stands = to;
    }
    if folds.iter().all(|(other, _)| *other != from) {
        folds.push((from, to));
    }
    folds.retain(|(from, to)| from != to);
    match folds.iter().find(|(_, to)| fold(folds, *to) != *to) {
        Some((from, to)) => refuse(format!(
            "Replace of {from:?} by {to:?}, which is replaced, too, is not supported"
        )),
        None => Ok(()),
    }
}

/// Returns the steps of a normalizer. Stages whose settings leave every text unchanged are passed over.
fn normalizer(part: Option<&Part>) -> Result<Normalizer> {
    let mut steps = Normalizer::default();
    let stages = part.map(Part::stages).unwrap_or_default();
    for stage in stages.into_iter().filter(|stage| !stage.is_identity()) {
        let kind = stage.r#type.as_str();
        let form = Form::NAMES.into_iter().find(|(name, _)| *name == kind);
        match (form, &stage.pattern, &stage.content) {
            (Some((_, form)), ..) if steps.is_identity() => steps.form = Some(form),
            (Some(_), ..) => {
                return refuse(format!("the normalizer {kind} after another one is not supported"));
            }
            (None, Some(Pattern::String(from)), Some(to)) if kind == "Replace" => {
                match (only_char(from), only_char(to)) {
                    (Some(from), Some(to)) => {
                        steps.prepend = steps.prepend.replace(from, &to.to_string());
                        compose(&mut steps.folds, from, to)?;
                    }
                    _ => {
                        return refuse(format!(
                            "the normalizer Replace of {from:?} by {to:?} is not supported, must be a character by another one"
                        ));
                    }
                }
            }
            _ => match &stage.prepend {
                Some(text)
                    if kind == "Prepend"
                        && steps.prepend.is_empty()
                        && text.chars().all(|c| fold(&steps.folds, c) == c) =>
                {
                    steps.prepend.clone_from(text);
                }
                _ => return refuse(format!("the normalizer {kind} is not supported")),
            },
        }
    }
    Ok(steps)
}

fn only_char(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

/// Returns the meaning of the decoder of a vocabulary of characters: texts are replaced in tokens, then bytes are put
/// together, then all tokens, and then the beginning is stripped.
fn decoder(stages: &[&Part]) -> Result<Decoder> {
    let mut decoder = Decoder::default();
    let mut is_fused = false;
    for (number, stage) in stages.iter().enumerate() {
        let kind = stage.r#type.as_str();
        let are_tokens = !is_fused && !decoder.bytes;
        match (kind, &stage.pattern, &stage.content, stage.replacement) {
            ("Replace", Some(Pattern::String(from)), Some(to), _)
                if are_tokens && !from.is_empty() && !to.is_empty() =>
            {
                decoder.replaced.push((from.clone(), to.clone()));
            }
            ("Metaspace", _, _, Some(character)) if number == 0 => {
                decoder.replaced.push((character.to_string(), " ".to_owned()));
                if stage.scheme()? != Scheme::Never {
                    decoder.start = Start::Within(character);
                }
            }
            ("ByteFallback", ..) if are_tokens => decoder.bytes = true,
            ("Fuse", ..) => is_fused = true,
            ("Strip", _, Some(text), _)
                if is_fused && decoder.start == Start::Nothing && stage.stop.unwrap_or(0) == 0 =>
            {
                let [character @ 0..0x80] = *text.as_bytes() else {
                    return refuse(format!(
                        "the decoder Strip of {text:?} is not supported, must be an ASCII character"
                    ));
                };
                decoder.start = Start::Strip { character, most: stage.start.unwrap_or(0) };
            }
            _ => {
                let kinds = kinds(stages);
                return refuse(format!("the decoder {kind} in {kinds} is not supported"));
            }
        }
    }
    Ok(decoder)
}

impl Part {
    /// Returns where a `Metaspace` puts its character.
    fn scheme(&self) -> Result<Scheme> {
        let older = self.more.get("add_prefix_space");
        match self.prepend_scheme.as_deref() {
            _ if older == Some(&json!(false)) => Ok(Scheme::Never),
            None | Some("always") => Ok(Scheme::Always),
            Some("first") => Ok(Scheme::First),
            Some("never") => Ok(Scheme::Never),
            Some(other) => refuse(format!("the prepend_scheme {other:?} is not supported")),
        }
    }

    /// Whether a normalizer's settings leave every text unchanged.
    fn is_identity(&self) -> bool {
        let are_false =
            |names: &[&str]| names.iter().all(|name| self.more.get(*name) == Some(&json!(false)));
        match self.r#type.as_str() {
            "Strip" => are_false(&["strip_left", "strip_right"]),
            "Prepend" => self.prepend.as_deref() == Some(""),
            "Replace" => match &self.pattern {
                Some(Pattern::String(text)) => self.content.as_ref() == Some(text),
                _ => false,
            },
            "BertNormalizer" => {
                let accents = self.more.get("strip_accents");
                are_false(&["clean_text", "handle_chinese_chars", "lowercase"])
                    && accents.is_none_or(|accents| *accents != json!(true))
            }
            _ => false,
        }
    }
}
