//! llama.cpp's name for a tokenizer: it identifies patterns by the names of models and cannot read an expression from a
//! file. The name (`tokenizer.ggml.pre`) also decides whether merges are ignored for a piece that equals a token.

use serde_json::Value;

use super::bpe::Tokenizer;
use super::merge::Merger;
use super::pretokenizer::{Pattern, PreTokenizer};
use crate::error::{Error, Result, field};

/// How texts are cut, whether merges are ignored, and llama.cpp's name for the two. If models differ only in other
/// aspects, one of them represents all.
const NAMES: [(PreTokenizer, bool, &str); 6] = [
    (PreTokenizer::GPT2, false, "gpt-2"),
    (cl100k(3), false, "dbrx"),
    (cl100k(3), true, "llama-bpe"),
    (cl100k(1), false, "qwen2"),
    (PreTokenizer { pattern: Pattern::O200k, ..PreTokenizer::GPT2 }, false, "gpt-4o"),
    (PreTokenizer { numbers: Some(1), ..PreTokenizer::GPT2 }, false, "smollm"),
];

const fn cl100k(numbers: usize) -> PreTokenizer {
    PreTokenizer { pattern: Pattern::Cl100k { numbers }, ..PreTokenizer::GPT2 }
}

impl Tokenizer {
    /// Returns llama.cpp's name for this tokenizer's way of encoding a text.
    ///
    /// # Errors
    ///
    /// If llama.cpp would encode some text differently: names the setting that it does not support.
    pub(crate) fn llama_cpp_name(&self) -> Result<&'static str> {
        let refused = |what: &str| {
            Err(Error::input(format!("a GGUF file cannot hold this tokenizer: {what}"))
                .hint(format!("hand the model on as a folder: {} DIR", field("out"))))
        };
        if let Some((content, way)) = self.stripping_token() {
            return refused(&format!(
                "its added token {content:?} has {way}, which llama.cpp does not heed"
            ));
        }
        let names: Vec<_> = NAMES.iter().filter(|(cuts, ..)| *cuts == self.pre_tokenizer).collect();
        let exact = names.iter().find(|(_, ignores, _)| *ignores == self.ignore_merges);
        match (exact.or(names.first()), exact.is_some()) {
            (Some((.., name)), true) => Ok(name),
            (Some((.., name)), false) if !self.merges_fall_short() => Ok(name),
            (Some(_), false) => refused(
                "it takes a piece that is a token whatever its merges (ignore_merges), which llama.cpp does with other patterns alone",
            ),
            (None, _) => refused(
                "llama.cpp has no pre-tokenizer (tokenizer.ggml.pre) that cuts texts by its pattern and add_prefix_space",
            ),
        }
    }

    /// Whether llama.cpp only approximates the pattern. Its version of GPT-4o's pattern supports only ASCII capitals,
    /// and no marks; it is used for GPT-4o itself, too.
    pub(crate) fn llama_cpp_approximates(&self) -> bool {
        self.pre_tokenizer.pattern == Pattern::O200k
    }

    /// Returns an added token that includes or depends on the text around it, and the setting that causes this.
    fn stripping_token(&self) -> Option<(String, &'static str)> {
        let file: Value = serde_json::from_str(&self.to_json()).ok()?;
        file["added_tokens"].as_array()?.iter().find_map(|added| {
            let ways = ["lstrip", "rstrip", "single_word"];
            let way = ways.into_iter().find(|way| added[*way] == true)?;
            Some((added["content"].as_str()?.to_owned(), way))
        })
    }

    /// Whether some token is a whole piece of text but is not the result of its merges.
    fn merges_fall_short(&self) -> bool {
        let merged = Tokenizer { ignore_merges: false, whole: Default::default(), ..self.clone() };
        let (mut merger, mut ids) = (Merger::default(), vec![]);
        self.whole.iter().any(|(bytes, id)| {
            let Ok(text) = std::str::from_utf8(bytes) else { return false };
            let mut pieces = 0;
            self.pre_tokenizer.for_each_piece(text, |_| pieces += 1);
            ids.clear();
            merger.merge(&merged, bytes, &mut ids);
            pieces == 1 && ids != [*id]
        })
    }
}
