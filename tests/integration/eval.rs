//! Are the measures honest? Perplexity, BLEU, continuations, multiple choice: the reference's numbers, and sums done by hand.

use std::path::PathBuf;

use serde_json::Value;
use wgpt::backend::Device;
use wgpt::checkpoint::EndOfText;
use wgpt::data::{Sources, Tokens};
use wgpt::engine::Engine;
use wgpt::eval::{
    BleuCounts, Perplexity, Prepared, Question, Score, Window, Windows, continue_and_score, cut,
    read_questions,
};
use wgpt::model::Uses;
use wgpt::{GenerateOptions, Gpt, GptConfig, Tokenizer};

use crate::cli;
use crate::common::{assert_relative, gpu, json, oracle};
use crate::families::families;

/// The CPU, and the GPU if there is one, each with its tolerance of a perplexity.
fn devices() -> Vec<(Device, f64)> {
    let gpu = gpu().map(|gpu| (Device::Gpu(gpu.clone()), 1e-4));
    [(Device::Cpu, 1e-5)].into_iter().chain(gpu).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The reference's perplexities: what the model's folder is, and the file.
fn references() -> Vec<(PathBuf, Value)> {
    let files = [(oracle(), "a"), (oracle(), "b"), (families(), "qwen2")];
    let open = |(folder, name): (PathBuf, &str)| {
        let reference = json(&folder.join(format!("perplexity_{name}.json")));
        (folder.join(reference["model"].as_str().expect("a folder")), reference)
    };
    files.map(open).into()
}

/// Scores ids that come in pieces.
fn score(
    gpt: &mut Gpt,
    (batch, seq): (usize, usize),
    windows: Windows,
    ids: &[u32],
    piece: usize,
) -> (Score, Vec<Window>) {
    let mut seen = vec![];
    let engine = gpt.batch_engine(batch, seq).expect("an engine");
    let row = Perplexity::new(engine, None, windows).expect("a stride in range");
    let mut row = row.on_window(|window| seen.push(*window));
    for piece in ids.chunks(piece) {
        row.push(piece).expect("ids of the vocabulary");
    }
    let score = row.finish().expect("enough tokens");
    (score, seen)
}

#[test]
fn perplexity_is_the_references_window_by_window() {
    for (device, tolerance) in devices() {
        for (dir, reference) in references() {
            let mut gpt = Gpt::load(&dir, device.clone()).expect("a sound model");
            let seq = number(&reference, "n_positions") as usize;
            let kinds = [
                ("non_overlapping", Windows::NonOverlapping, &reference["non_overlapping"]),
                (
                    "sliding",
                    Windows::Sliding(number(&reference["sliding"], "stride") as usize),
                    &reference["sliding"]["exact"],
                ),
                (
                    "non_overlapping_hf",
                    Windows::Sliding(number(&reference["non_overlapping_hf"], "stride") as usize),
                    &reference["non_overlapping_hf"],
                ),
            ];
            for (name, windows, want) in kinds {
                let what = format!("{} {name}", dir.display());
                let (score, seen) =
                    score(&mut gpt, (4, seq), windows, &ids(&reference["tokens"]), 700);
                let wanted = reference[name]["windows"].as_array().expect("windows");
                assert_eq!(seen.len(), wanted.len(), "{what}");
                for (got, want) in seen.iter().zip(wanted) {
                    let place = (got.begin, got.end, got.scored).into();
                    let place: [usize; 3] = place;
                    assert_eq!(
                        place.map(|x| x as f64),
                        ["begin", "end", "scored"].map(|name| number(want, name)),
                        "{what}"
                    );
                    assert_relative(&what, got.nll, number(want, "nll_sum"), tolerance);
                }
                assert_eq!(score.tokens as f64, number(want, "tokens_scored"), "{what}");
                assert_relative(&what, score.nll, number(want, "nll_sum"), tolerance);
                assert_relative(&what, score.perplexity(), number(want, "perplexity"), tolerance);
            }
        }
    }
}

#[test]
fn batches_and_pieces_change_nothing() {
    let (dir, reference) = references().remove(0);
    let mut gpt = Gpt::load(&dir, Device::Cpu).expect("a sound model");
    let ids = &ids(&reference["tokens"])[..1000];
    let seq = gpt.config().n_positions;
    for windows in [Windows::NonOverlapping, Windows::Sliding(seq / 3)] {
        let (want, windows_wanted) = score(&mut gpt, (1, seq), windows, ids, ids.len());
        for (batch, piece) in [(3, 1), (8, 65), (1, 7)] {
            let (got, seen) = score(&mut gpt, (batch, seq), windows, ids, piece);
            assert_eq!((got.tokens, seen.len()), (want.tokens, windows_wanted.len()));
            for (got, want) in seen.iter().zip(&windows_wanted) {
                assert_eq!((got.begin, got.end, got.scored), (want.begin, want.end, want.scored));
                assert_relative("a window", got.nll, want.nll, 1e-6);
            }
        }
    }
}

#[test]
fn a_text_that_fits_a_window_has_one_perplexity() {
    let (dir, reference) = references().remove(0);
    let mut gpt = Gpt::load(&dir, Device::Cpu).expect("a sound model");
    let seq = gpt.config().n_positions;
    for len in [2, seq / 2, seq] {
        let ids = &ids(&reference["tokens"])[..len];
        let (plain, _) = score(&mut gpt, (2, seq), Windows::NonOverlapping, ids, len);
        for stride in [1, seq / 2, seq] {
            let (sliding, _) = score(&mut gpt, (2, seq), Windows::Sliding(stride), ids, len);
            assert_eq!((plain.tokens, plain.windows), (len as u64 - 1, 1));
            assert_eq!(sliding, plain, "{len} tokens, stride {stride}");
        }
    }
}

/// A small model at random that reads bytes.
fn small(device: Device) -> Gpt {
    let config = GptConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: 32,
        n_positions: 24,
        vocab_size: 260,
        ..GptConfig::small()
    };
    let mut gpt = Gpt::new(config, device, 5).expect("a small model");
    gpt.set_tokenizer(Tokenizer::bytes()).expect("it fits");
    gpt
}

#[test]
fn bytes_are_those_of_the_scored_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.txt").display().to_string();
    // Two documents, with an end-of-text token between them, which has no bytes; the first byte is not scored.
    std::fs::write(&path, "Zoë saw a bird.<|endoftext|>It flew.").expect("written");
    let text_bytes = "Zoë saw a bird.It flew.".len() as u64;
    let sources = Sources::parse(&[path]).expect("a text");
    let mut gpt = small(Device::Cpu);
    let tokenizer = Tokenizer::bytes();
    let end = EndOfText::of(&tokenizer);
    let mut measure = |most| {
        let engine = gpt.batch_engine(2, 8).expect("an engine");
        let row = Perplexity::new(engine, Some((&tokenizer, &end)), Windows::NonOverlapping);
        row.expect("in range").score(&sources, most).expect("a score")
    };
    let score = measure(usize::MAX);
    assert_eq!((score.tokens, score.bytes), (text_bytes, text_bytes - 1));
    let bits = score.nll / 2_f64.ln() / (text_bytes - 1) as f64;
    assert_relative("bits per byte", score.bits_per_byte().expect("bytes"), bits, 1e-12);
    assert!((7.0..10.0).contains(&bits), "a model that knows nothing: {bits}");
    let few = measure(5);
    assert_eq!((few.tokens, few.bytes), (4, 4));
}

#[test]
fn a_text_without_targets_or_of_other_tokens_is_refused() {
    let mut gpt = small(Device::Cpu);
    let mut refused = |windows, ids: &[u32]| {
        let engine = gpt.batch_engine(1, 8).expect("an engine");
        let mut row = Perplexity::new(engine, None, windows)?;
        row.push(ids)?;
        row.finish()
    };
    let mut message =
        |windows, ids: &[u32]| refused(windows, ids).expect_err("refused").to_string();
    assert!(message(Windows::NonOverlapping, &[]).contains("fewer than two tokens"));
    assert!(message(Windows::Sliding(2), &[7]).contains("fewer than two tokens"));
    assert!(message(Windows::NonOverlapping, &[7, 260]).contains("260 is out of range"));
    assert!(message(Windows::Sliding(0), &[1, 2]).contains("stride is 0"));
    assert!(message(Windows::Sliding(9), &[1, 2]).contains("stride is 9"));
}

#[test]
fn bleu_is_sacrebleus() {
    let reference = json(&oracle().join("bleu.json"));
    let cases = reference["cases"].as_array().expect("cases");
    assert!(cases.len() >= 10);
    let text = |value: &Value| value.as_str().expect("a line").to_owned();
    for case in cases {
        let label = text(&case["label"]);
        let streams = case["references"].as_array().expect("streams");
        let mut counts = BleuCounts::default();
        for (i, hypothesis) in case["hypotheses"].as_array().expect("lines").iter().enumerate() {
            let references: Vec<String> = streams.iter().map(|lines| text(&lines[i])).collect();
            counts.add(&text(hypothesis), &references);
        }
        let bleu = serde_json::to_value(counts.bleu()).expect("plain data");
        for name in ["counts", "totals", "sys_len", "ref_len", "signature"] {
            assert_eq!(bleu[name], case[name], "{label}: {name}");
        }
        for name in ["score", "bp"] {
            let (got, want) = (number(&bleu, name), number(case, name));
            assert!((got - want).abs() <= 1e-9, "{label}: {name} is {got}, want {want}");
        }
        for n in 0..4 {
            let (got, want) = (&bleu["precisions"][n], &case["precisions"][n]);
            let difference = got.as_f64().expect("a number") - want.as_f64().expect("a number");
            assert!(difference.abs() <= 1e-9, "{label}: precision {n} is {got}, want {want}");
        }
    }
}

fn question(context: &str, choices: &[&str], answer: usize) -> Question {
    let choices = choices.iter().map(|choice| (*choice).to_owned()).collect();
    Question { line: 1, context: context.to_owned(), choices, answer }
}

/// The log-probability of the last `scored` bytes of a text, from the logits of its tokens.
fn by_hand(gpt: &Gpt, tokens: &[u32], scored: usize) -> f64 {
    let config = gpt.config().clone();
    let uses = Uses { batch: 1, seq: tokens.len() - 1, logits: true, ..Uses::default() };
    let mut engine = Engine::new(&config, uses, &Device::Cpu).expect("an engine");
    engine.initialize(5);
    let logits = engine.logits(&tokens[..tokens.len() - 1]).expect("logits");
    let rows = logits.chunks(config.vocab_size).zip(&tokens[1..]);
    let lls = rows.map(|(row, &target)| {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        f64::from(row[target as usize]) - sum.ln()
    });
    lls.skip(tokens.len() - 1 - scored).sum()
}

#[test]
fn choices_are_scored_by_their_tokens_alone() {
    let long = "a context that is longer than all of the positions";
    let questions = [
        question("two and two", &["is four", "é", "are many, many"], 0),
        // The blank at the context's end is the choice's.
        question("one ", &["x", "yes"], 1),
        question(long, &["ends", "goes on"], 1),
        question("", &["begins", "or not"], 0),
        // By character the first is the likelier one, by byte the second.
        question("a", &["cd", "ñandú"], 0),
    ];
    let tokenizer = Tokenizer::bytes();
    // What begins a text is not what ends it.
    let (opening, end) = (7, EndOfText::new(vec![0], Some(7)));
    for (device, _) in devices() {
        let mut gpt = small(device);
        let context = gpt.config().n_positions;
        let prepared =
            Prepared::new(&questions, &tokenizer, &end, context, " ").expect("sound questions");
        assert_eq!((prepared.len(), prepared.longest()), (11, context));
        let mut done = 0;
        let engine = gpt.batch_engine(4, prepared.longest()).expect("an engine");
        let report = prepared.choose(engine, &mut |n| done = n).expect("a report");
        assert_eq!((done, report.n, report.cut), (11, 5, 3));

        let (mut right, mut right_norm) = (0, 0);
        for (question, lls) in questions.iter().zip(&report.log_likelihoods) {
            let mut all = vec![];
            for (choice, &got) in question.choices.iter().zip(lls) {
                let given = question.context.trim_end();
                let choice_len = question.context.len() - given.len() + 1 + choice.len();
                let mut tokens = tokenizer.encode(&format!("{} {choice}", question.context));
                if given.is_empty() {
                    tokens.insert(0, opening);
                }
                let tokens = &tokens[tokens.len().saturating_sub(context + 1)..];
                let want = by_hand(&gpt, tokens, choice_len);
                assert_relative(&format!("{choice:?}"), got, want, 1e-5);
                all.push((want, want / choice.chars().count() as f64));
            }
            let best = |of: &dyn Fn(&(f64, f64)) -> f64| {
                (0..all.len()).max_by(|&a, &b| of(&all[a]).total_cmp(&of(&all[b])))
            };
            right += usize::from(best(&|ll| ll.0) == Some(question.answer));
            right_norm += usize::from(best(&|ll| ll.1) == Some(question.answer));
        }
        assert_eq!((report.acc, report.acc_norm), (right as f64 / 5.0, right_norm as f64 / 5.0));
        let stderr = (report.acc * (1.0 - report.acc) / 4.0).sqrt();
        assert_relative("stderr", report.acc_stderr, stderr, 1e-12);
    }
}

#[test]
fn lines_that_are_no_questions_are_named() {
    let good = r#"{"context": "a", "choices": ["b", "c"], "answer": 1}"#;
    let other = r#"{"ctx": "a", "endings": ["b", "c"], "label": "1"}"#;
    let both = read_questions(format!("{good}\n\n{other}\n").as_bytes(), "x").expect("questions");
    let wanted = question("a", &["b", "c"], 1);
    assert_eq!(both, [wanted.clone(), Question { line: 3, ..wanted }]);
    let cases = [
        ("{", "it is not JSON: EOF"),
        ("[1]", "[1] is not a JSON object"),
        (r#"{"choices": ["b", "c"], "answer": 1}"#, "no context"),
        (r#"{"context": "a", "answer": 1}"#, "no choices"),
        (r#"{"context": 5, "choices": ["b", "c"], "answer": 0}"#, "context is 5, must be a text"),
        (r#"{"context": "a", "choices": "bc", "answer": 0}"#, "choices is \"bc\", must be a list"),
        (r#"{"context": "a", "choices": ["b", null], "answer": 0}"#, "must be a list of texts"),
    ];
    for (line, says) in cases {
        let error = read_questions(format!("{good}\n{line}\n").as_bytes(), "x.jsonl");
        let error = error.expect_err(line);
        assert!(error.to_string().starts_with("x.jsonl, line 2: "), "{error}");
        assert!(error.to_string().contains(says), "{line}: {error}");
        assert!(error.advice().is_some_and(|hint| hint.contains("\"context\"")), "{line}");
    }
    let unanswered = r#"{"context": "a", "choices": ["b", "c"]}"#;
    let unanswered = read_questions(unanswered.as_bytes(), "x.jsonl").expect_err("no answer");
    assert_eq!(unanswered.to_string(), "x.jsonl, line 1: it has no answer");
    assert!(unanswered.advice().is_some_and(|hint| hint.contains("not public")), "{unanswered:?}");
    let nothing = read_questions("\n".as_bytes(), "x.jsonl").expect_err("no questions");
    assert!(nothing.to_string().contains("x.jsonl has no questions"));
}

#[test]
fn an_answer_that_is_no_index_is_named_with_what_to_do() {
    let (public, count, write) = ("not public", "count from 0", "0 for the first (A)");
    let cases = [
        ("-1", public),
        ("null", public),
        ("\"\"", public),
        ("\"-1\"", public),
        ("3", count),
        ("\"3\"", count),
        ("100000000000000000000", count),
        ("1.5", write),
        ("true", write),
        ("[]", write),
        ("\"B\"", write),
    ];
    for (answer, hint) in cases {
        for (fields, name) in [(["context", "choices"], "answer"), (["ctx", "endings"], "label")] {
            let [context, choices] = fields;
            let line = format!(
                r#"{{"{context}": "a", "{choices}": ["b", "c", "d"], "{name}": {answer}}}"#
            );
            let error = read_questions(line.as_bytes(), "x.jsonl").expect_err("refused");
            let value: Value = serde_json::from_str(answer).expect("JSON");
            let says = format!(
                "x.jsonl, line 1: {name} is {value}, must be the index of the right choice, from 0 to 2"
            );
            assert_eq!(error.to_string(), says);
            assert!(error.advice().is_some_and(|advice| advice.contains(hint)), "{error:?}");
        }
    }
    // Tables write whole numbers as 1.0, and some files write them as text.
    for answer in ["1", "1.0", "\"1\"", "\" 1.0 \""] {
        let line = format!(r#"{{"context": "a", "choices": ["b", "c"], "answer": {answer}}}"#);
        assert_eq!(read_questions(line.as_bytes(), "x.jsonl").expect("taken")[0].answer, 1);
    }
    // A question without choices is left out, whatever its answer.
    let line = r#"{"context": "a", "choices": [], "answer": -1}"#;
    assert!(read_questions(line.as_bytes(), "x.jsonl").expect("taken")[0].choices.is_empty());
}

#[test]
fn questions_that_cannot_be_scored_are_left_out() {
    let tokenizer = Tokenizer::bytes();
    let long = "c".repeat(30);
    let cases: [(&str, &[&str], &str); 5] = [
        ("a", &["b", &long], "a choice has 31 tokens"),
        ("a", &["b"], "a single choice"),
        ("a", &[], "no choices"),
        ("a", &["b", ""], "a choice is empty"),
        ("", &["b", "c"], "no end-of-text token"),
    ];
    let mut questions: Vec<Question> =
        cases.iter().map(|(context, choices, _)| question(context, choices, 0)).collect();
    questions.insert(2, question("a", &["d", "e"], 1));
    questions.iter_mut().zip(1..).for_each(|(question, line)| question.line = line);
    let none = EndOfText::default();
    let prepared = Prepared::new(&questions, &tokenizer, &none, 24, " ").expect("one is sound");
    assert_eq!(prepared.len(), 2);
    let lines: Vec<usize> = prepared.left_out().iter().map(|left| left.line).collect();
    assert_eq!(lines, [1, 2, 4, 5, 6]);
    for (left, (.., says)) in prepared.left_out().iter().zip(cases) {
        assert!(left.reason.contains(says), "{left:?}");
    }
    let mut gpt = small(Device::Cpu);
    let engine = gpt.batch_engine(2, prepared.longest()).expect("an engine");
    let report = prepared.choose(engine, &mut |_| ()).expect("a report");
    assert_eq!((report.n, report.log_likelihoods.len()), (1, 1));
    let refused = Prepared::new(&questions[..2], &tokenizer, &none, 24, " ").err();
    let refused = refused.expect("nothing is left").to_string();
    assert!(
        refused.contains("none of the 2 questions") && refused.contains("line 1: "),
        "{refused}"
    );
}

#[test]
fn a_choice_that_melts_into_its_context_is_scored_by_itself() {
    // "ab" is one token, so that after "a" nothing of "b" is left; of "bc" there is "c".
    let tokenizer = Tokenizer::train(b"ab ab ab ab ab", 258).expect("one merge");
    let [a, ab, b, c] = ["a", "ab", "b", "c"].map(|text| match tokenizer.encode(text)[..] {
        [id] => id,
        _ => panic!("{text} is one token"),
    });
    let questions = [question("a", &["b", "bc"], 0)];
    let mut gpt = Gpt::new(
        GptConfig { vocab_size: 258, ..small(Device::Cpu).config().clone() },
        Device::Cpu,
        5,
    )
    .expect("a small model");
    let end = EndOfText::of(&tokenizer);
    let prepared = Prepared::new(&questions, &tokenizer, &end, 24, "").expect("sound");
    let engine = gpt.batch_engine(2, prepared.longest()).expect("an engine");
    let report = prepared.choose(engine, &mut |_| ()).expect("a report");
    let [got_b, got_bc] = report.log_likelihoods[0][..] else { panic!("two choices") };
    assert_relative("b", got_b, by_hand(&gpt, &[a, b], 1), 1e-5);
    assert_relative("bc", got_bc, by_hand(&gpt, &[ab, c], 1), 1e-5);
}

#[test]
fn text_is_cut_within_documents_and_evenly() {
    let ids: Vec<u32> = [vec![9; 3], (10..40).collect()].concat();
    let tokens = Tokens::from_ids(ids);
    let cuts = cut(&tokens, (3, 2), 3, &[8, 9]).expect("pieces");
    let firsts: Vec<u32> = cuts.iter().map(|cut| cut.prompt[0]).collect();
    assert_eq!(firsts, [10, 20, 30]);
    assert_eq!(
        (cuts[1].prompt.as_slice(), cuts[1].reference.as_slice()),
        (&[20, 21, 22][..], &[23, 24][..])
    );
    assert!(cut(&tokens, (3, 28), 3, &[8, 9]).is_err());
}

#[test]
fn continuations_are_compared_with_the_text() {
    let mut gpt = small(Device::Cpu);
    let options = GenerateOptions { temperature: 0.0, ..GenerateOptions::default() };
    let prompt = gpt.tokenizer().expect("bytes").encode("The cat sat on");
    // A text that goes on as the model does has a BLEU of 100, if it has four words.
    let four = GenerateOptions { max_tokens: 8, ..options.clone() };
    let reference = gpt.generate_ids(&prompt, &four).expect("ids");
    let cuts = [wgpt::eval::Cut { prompt, reference }];
    let (bleu, written) =
        continue_and_score(&mut gpt, &cuts, &options, &mut |_| {}).expect("a score");
    assert_eq!(written[0].hypothesis, written[0].reference);
    assert_eq!(written[0].prompt, "The cat sat on");
    assert_eq!(bleu.counts, bleu.totals);
}

/// The name of a folder of the reference, from any folder.
fn absolute(path: &std::path::Path) -> String {
    path.canonicalize().expect("it is there").display().to_string()
}

#[test]
fn the_command_measures_token_files_and_texts() {
    let (dir, reference) = references().remove(0);
    let folder = cli::folder();
    let bytes: Vec<u8> =
        ids(&reference["tokens"]).iter().flat_map(|&id| (id as u16).to_le_bytes()).collect();
    std::fs::write(folder.path().join("t.bin"), bytes).expect("written");
    let model = format!("--model={}", absolute(&dir));
    let eval = |arguments: &[&str]| {
        let mut command = cli::wgpt(folder.path());
        command.arg("eval").args(arguments).args(["--device=cpu", "--json"]);
        cli::json(&mut command)
    };
    let stride = format!("--stride={}", number(&reference["sliding"], "stride"));
    for (more, want) in [
        ("--batch-size=5", &reference["non_overlapping"]),
        (&stride, &reference["sliding"]["exact"]),
    ] {
        let report = eval(&["t.bin", &model, more]);
        let total = &report["total"];
        assert_relative(more, number(total, "perplexity"), number(want, "perplexity"), 1e-5);
        assert_eq!(number(total, "tokens"), number(want, "tokens_scored"));
        assert_eq!(total["bits_per_byte"], Value::Null, "there is no tokenizer");
    }

    let tiny = format!("--model={}", cli::trained().join("runs/tiny/best").display());
    let text = folder.path().join("data.txt");
    let len = std::fs::metadata(&text).expect("the text").len() as f64;
    let report = eval(&["data.txt", "data.txt", &tiny, "--seq-len=16"]);
    assert_eq!(report["files"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["files"][0]["name"], "data.txt");
    assert_eq!(number(&report["files"][0], "bytes"), len - 1.0);
    assert_eq!(number(&report["total"], "tokens"), 2.0 * (len - 1.0));
    let first = &report["files"][0];
    let bits = number(first, "nll_sum") / 2_f64.ln() / (len - 1.0);
    assert_relative("bits per byte", number(&report["total"], "bits_per_byte"), bits, 1e-9);

    let mut table = cli::wgpt(folder.path());
    let table =
        table.args(["eval", "data.txt", "data.txt", &tiny, "--device=cpu", "--max-tokens=99"]);
    let output = table.assert().success().get_output().stdout.clone();
    let output = String::from_utf8(output).expect("text");
    for word in ["perplexity", "bits per byte", "data.txt", "total", "98", "196"] {
        assert!(output.contains(word), "{word} in {output}");
    }
}

#[test]
fn the_command_scores_lines_choices_and_continuations() {
    let folder = cli::folder();
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("hyp.txt", "the cat sat on a mat\n\nso it is\n");
    write("ref.txt", "the cat sat on the mat\nno\nso it is\n");
    write("short.txt", "the cat\n");
    write(
        "q.jsonl",
        "{\"context\": \"The cat\", \"choices\": [\"saw 1 birds.\", \"xzq\"], \"answer\": 0}\n",
    );
    let tiny = format!("--model={}", cli::trained().join("runs/tiny/best").display());
    let eval = |arguments: &[&str]| {
        let mut command = cli::wgpt(folder.path());
        command.arg("eval").args(arguments);
        command
    };
    let bleu = cli::json(&mut eval(&["bleu", "hyp.txt", "ref.txt", "ref.txt", "--json"]));
    assert_eq!(bleu["counts"], serde_json::json!([8, 5, 3, 1]));
    assert!(bleu["signature"].as_str().is_some_and(|text| text.starts_with("nrefs:2|")), "{bleu}");

    let choices = ["choices", "q.jsonl", &tiny, "--device=cpu", "--json"];
    let report = cli::json(&mut eval(&choices));
    assert_eq!((number(&report, "n"), number(&report, "acc_stderr")), (1.0, 0.0));
    assert_eq!(
        (&report["left_out"], &report["left_out_lines"]),
        (&0.into(), &serde_json::json!([]))
    );
    // Of eight lines that cannot be scored five are named, the rest is counted; what can be scored is.
    let odd = "{\"context\": \"The cat\", \"choices\": [\"saw\"], \"answer\": 0}\n".repeat(8);
    let good = std::fs::read_to_string(folder.path().join("q.jsonl")).expect("just written");
    write("some.jsonl", &format!("{odd}{good}"));
    write("none.jsonl", &odd);
    let some = ["choices", "some.jsonl", &tiny, "--device=cpu", "--json"];
    let report = cli::json(&mut eval(&some));
    assert_eq!((number(&report, "n"), number(&report, "left_out")), (1.0, 8.0));
    assert_eq!(report["left_out_lines"], serde_json::json!([1, 2, 3, 4, 5, 6, 7, 8]));
    let told = eval(&some).assert().success().get_output().stderr.clone();
    let told = String::from_utf8(told).expect("text");
    assert_eq!(told.matches("some.jsonl, line ").count(), 5, "{told}");
    assert!(told.contains("and 3 more: 8 questions"), "{told}");

    let continuations = [
        "continuations",
        "data.txt",
        &tiny,
        "--device=cpu",
        "--samples=3",
        "--prompt-tokens=20",
        "--max-tokens=12",
        "--json",
    ];
    let once = cli::json(&mut eval(&continuations));
    let again = cli::json(&mut eval(&continuations));
    assert_eq!(once["examples"].as_array().map(Vec::len), Some(3));
    assert_eq!((&once["examples"], &once["bleu"]), (&again["examples"], &again["bleu"]));

    let model = format!("--model={}", absolute(&references().remove(0).0));
    write("one.txt", "x");
    write("far.bin", "zzzz");
    for (arguments, says) in [
        (&["bleu", "hyp.txt", "short.txt"][..], "hyp.txt has 3 lines, short.txt has 1"),
        (&["bleu", "hyp.txt", "nowhere.txt"], "nowhere.txt"),
        (&["data.txt", &model], "no tokenizer to read data.txt"),
        (&["one.txt", &tiny], "one.txt: the text has fewer than two tokens"),
        (&["far.bin", &tiny], "far.bin: token 31354 is out of range"),
        (&["nowhere.txt", &tiny], "nowhere.txt"),
        (&["choices", "data.txt", &tiny], "data.txt, line 1: "),
        (&["choices", "q.jsonl", &model], "no tokenizer"),
        (&["choices", "none.jsonl", &tiny], "none.jsonl: none of the 8 questions can be scored"),
        (&["continuations", "one.txt", &tiny], "one.txt is too short"),
    ] {
        let mut command = eval(arguments);
        let error = command.assert().code(1).get_output().stderr.clone();
        let error = String::from_utf8(error).expect("text");
        assert!(error.contains(says) && error.contains("hint: "), "{arguments:?}: {error}");
    }
    for (arguments, says) in [
        (&["data.txt", &tiny, "--stride=33"][..], "--stride is 33"),
        (&["data.txt", &tiny, "--seq-len=33"], "--seq-len"),
        (&["data.txt", &tiny, "--batch-size=0"], "--batch-size"),
        (&["continuations", "data.txt", &tiny, "--max-tokens=30"], "--max-tokens"),
    ] {
        let mut command = eval(arguments);
        let error = command.assert().code(2).get_output().stderr.clone();
        let error = String::from_utf8(error).expect("text");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}
