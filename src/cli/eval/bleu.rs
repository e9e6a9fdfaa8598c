//! `wgpt eval bleu`: scores lines of text against references.

use std::path::{Path, PathBuf};

use wgpt::eval::{Bleu, BleuCounts};
use wgpt::{Error, Result};

use crate::cli::{number, output};

const EXAMPLES: &str = "\
The score is sacrebleu's with its defaults: 13a tokens, exponential smoothing, the closest reference's length.

Examples:
  wgpt eval bleu hypotheses.txt references.txt
  wgpt eval bleu hypotheses.txt first.txt second.txt --json";

/// BLEU of lines of text against one or more references, as sacrebleu scores it
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The text to score, one segment per line
    #[arg(value_name = "HYP")]
    hypotheses: PathBuf,
    /// References, each with as many lines
    #[arg(value_name = "REF", required = true)]
    references: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Scores the lines.
pub fn run(args: &Args) -> Result<()> {
    let texts = args.references.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let references: Vec<Vec<&str>> = texts.iter().map(|text| text.lines().collect()).collect();
    let hypotheses = read(&args.hypotheses)?;
    let hypotheses: Vec<&str> = hypotheses.lines().collect();
    args.check(&hypotheses, &references)?;
    let mut counts = BleuCounts::default();
    for (i, hypothesis) in hypotheses.iter().enumerate() {
        let references: Vec<&str> = references.iter().map(|lines| lines[i]).collect();
        counts.add(hypothesis, &references);
    }
    let bleu = counts.bleu();
    if args.json {
        output::json(&bleu);
    } else {
        output::line(&table(&bleu, &[("segments", hypotheses.len())]));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| {
        Error::io("reading", path, &e).hint("give the paths of texts with one segment per line")
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let byte = error.utf8_error().valid_up_to();
        let name = path.display();
        Error::input(format!("{name} is not UTF-8 text: byte {byte} begins no character"))
            .hint("convert the file to UTF-8, for example with iconv")
    })
}

impl Args {
    /// Checks that each line has a reference in every file.
    fn check(&self, hypotheses: &[&str], references: &[Vec<&str>]) -> Result<()> {
        let name = self.hypotheses.display();
        if hypotheses.is_empty() {
            return Err(Error::input(format!("{name} has no lines: there is nothing to score"))
                .hint("give a text with one segment per line"));
        }
        for (lines, path) in references.iter().zip(&self.references) {
            if lines.len() != hypotheses.len() {
                let (hyp, reference, path) = (hypotheses.len(), lines.len(), path.display());
                return Err(Error::input(format!(
                    "{name} has {hyp} lines, {path} has {reference}"
                ))
                .hint("each line is compared with the same line of every reference"));
            }
        }
        Ok(())
    }
}

/// Returns the table of a score; `counts` has the numbers of segments.
pub fn table(bleu: &Bleu, counts: &[(&str, usize)]) -> String {
    let precisions: Vec<String> =
        bleu.precisions.iter().map(|precision| format!("{precision:.1}")).collect();
    let counts = counts.iter().map(|(name, n)| [(*name).to_owned(), number::thousands(*n as u64)]);
    let rows = [
        ["precisions of 1- to 4-grams, %".to_owned(), precisions.join(" / ")],
        ["brevity penalty".to_owned(), format!("{:.4}", bleu.bp)],
        ["tokens".to_owned(), number::thousands(bleu.sys_len)],
        ["tokens of the references".to_owned(), number::thousands(bleu.ref_len)],
        ["signature".to_owned(), bleu.signature.clone()],
    ];
    let score = format!("{:.2}", bleu.score);
    output::table(["BLEU", &score], &[0], counts.chain(rows).collect())
}
