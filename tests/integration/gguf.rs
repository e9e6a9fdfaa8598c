//! Are GGUF files models like others: with the same numbers, tokens and ends of text, or else refused by name?

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::Gpt;
use wgpt::arch::rotary::{Rotary, Scaling};
use wgpt::arch::{FAMILIES, GPT_NEOX};
use wgpt::backend::Device;
use wgpt::checkpoint::{Float, gguf_folder, read_config};
use wgpt::config::Blocks;
use wgpt::export::gguf::{self, Kind};
use wgpt::model::{open as open_model, open_weights, parameters};

use crate::checkpoint::json_file;
use crate::cli::wgpt;
use crate::common::oracle;
use crate::export::{like_gpt_neox, model_with, of_characters};
use crate::families::{families, families_of};
use crate::oracle::model_folders;

const KINDS: [Kind; 4] =
    [Kind::Float(Float::F32), Kind::Float(Float::F16), Kind::Float(Float::Bf16), Kind::Q8_0];

fn load(dir: &Path) -> Gpt {
    Gpt::load(dir, Device::Cpu).unwrap()
}

/// Writes a model as a GGUF file.
fn written(source: &Path, place: &TempDir, kind: Kind) -> PathBuf {
    let path = place.path().join("model.gguf");
    let _ = fs::remove_file(&path);
    gguf::write(&mut load(source), &path, kind, &mut |_, _| Ok(())).unwrap();
    path
}

/// Asserts that a model is read back from GGUF files in all formats, with its sizes and its numbers.
fn assert_read_back(source: &Path, place: &TempDir) {
    let (config, weights) = open_model(source).unwrap();
    for kind in KINDS {
        let path = written(source, place, kind);
        let folder = gguf_folder(&path, place.path()).unwrap();
        let (read, stored) = open_model(&folder).unwrap();
        let mut wanted = config.clone();
        // Mistral is a Llama there, and no layer has a window within the context.
        if (0..config.n_layer).any(|layer| config.window(layer).is_some()) {
            let windows = (0..config.n_layer).filter_map(|layer| config.window(layer));
            wanted.n_positions = windows.fold(config.n_positions, usize::min);
        }
        if config.blocks.family == "mistral" {
            wanted.blocks.family = "llama".into();
        }
        wanted.blocks.window = read.blocks.window;
        wanted.blocks.windowed = read.blocks.windowed.clone();
        wanted.n_inner = Some(config.n_inner());
        assert_eq!(read, wanted, "{}", source.display());
        for (name, shape) in parameters(&config) {
            let mut values = vec![0.0; shape.iter().product()];
            let mut got = vec![f32::NAN; values.len()];
            weights.read(&name, 0, &mut values).unwrap();
            // In two parts, the second of which does not begin with a block.
            let (first, second) = got.split_at_mut(values.len() / 2 - 1);
            stored.read(&name, 0, first).unwrap();
            stored.read(&name, first.len(), second).unwrap();
            let most = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            for (got, x) in got.iter().zip(&values) {
                let is_right = match kind {
                    Kind::Float(Float::F32) => got.to_bits() == x.to_bits(),
                    Kind::Float(Float::F16) => [*x, f16::from_f32(*x).to_f32()].contains(got),
                    Kind::Float(Float::Bf16) => [*x, bf16::from_f32(*x).to_f32()].contains(got),
                    // Half a step, and what rounding the scale to 11 bits adds to the largest number.
                    Kind::Q8_0 => (got - x).abs() <= most / 127.0 * (0.5 + 127.0 / 2048.0),
                };
                assert!(is_right, "{}, {name}, {kind:?}: {got}, wanted {x}", source.display());
            }
        }
    }
}

#[test]
fn numbers_and_sizes_are_the_models() {
    let (place, mut seen) = (TempDir::new().unwrap(), BTreeSet::new());
    let folders = model_folders(&oracle()).into_iter().chain(model_folders(&families()));
    let folders: BTreeSet<PathBuf> = folders.chain([families_of("gpt_neox")]).collect();
    // One is refused: llama.cpp has no such model.
    for source in folders.iter().filter(|dir| !dir.ends_with("gpt_neox_sequential")) {
        assert_read_back(source, &place);
        seen.insert(read_config(source).unwrap().blocks.family.into_owned());
    }
    let all: BTreeSet<_> = FAMILIES.iter().map(|family| family.model_type.to_owned()).collect();
    assert_eq!(seen, all);
}

/// Branches side by side and one after the other, and any share of the channels, plain and scaled.
#[test]
fn what_models_like_gpt_neox_differ_in_is_read_back() {
    let place = TempDir::new().unwrap();
    for (number, (is_parallel, share, scaling)) in [
        (true, 0.25, Scaling::None),
        (false, 0.5, Scaling::Linear(2.0)),
        (true, 1.0, Scaling::None),
    ]
    .into_iter()
    .enumerate()
    {
        let source = place.path().join(format!("source-{number}"));
        let rotary = Some(Rotary { scaling, share, ..Rotary::of(500.0) });
        like_gpt_neox(Blocks { is_parallel, rotary, ..(GPT_NEOX.blocks)() }, &source);
        assert_read_back(&source, &place);
    }
}

/// The ids of texts, with and without their ends and special tokens.
fn ids(gpt: &Gpt) -> Vec<Vec<u32>> {
    let tokenizer = gpt.tokenizer().unwrap();
    let texts =
        ["", "low lower lowest", " a  b\n\nab ab", "Grüße, 世界! 🎉", "x<|endoftext|>y</s>"];
    let mut all: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text)).collect();
    all.extend(texts.iter().map(|text| tokenizer.encode_with_special(text)));
    all.extend(texts.iter().map(|text| gpt.encode_prompt(text).unwrap()));
    all.push(gpt.end_of_text().ids().to_vec());
    all
}

#[test]
fn tokens_and_ends_of_text_are_the_models() {
    let place = TempDir::new().unwrap();
    let source = place.path().join("source");
    model_with(&[], &source);
    let merged = "low lower lowest low lower lowest ab ab";
    let trained = wgpt::Tokenizer::train(merged.as_bytes(), 265).unwrap().to_json();
    let bytes = wgpt::Tokenizer::bytes().to_json();
    let mut beyond: Value = serde_json::from_str(&bytes).unwrap();
    let added = json!({"id": 257, "content": "</s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    beyond["added_tokens"].as_array_mut().unwrap().push(added);
    let chat = "{{ messages[0].content }}{{ eos_token }}";
    fs::write(source.join("chat_template.jinja"), chat).unwrap();
    for json in [trained, bytes, beyond.to_string(), of_characters().to_string()] {
        fs::write(source.join("tokenizer.json"), &json).unwrap();
        let path = written(&source, &place, Kind::Q8_0);
        let folder = gguf_folder(&path, place.path()).unwrap();
        let (own, read) = (load(&source), load(&folder));
        assert_eq!(ids(&read), ids(&own), "{}", &json[..200]);
        let text = |gpt: &Gpt| {
            let tokenizer = gpt.tokenizer().unwrap();
            (0..tokenizer.vocab_size() as u32)
                .map(|id| tokenizer.decode_lossy(&[id, id]).unwrap_or_default())
                .collect::<Vec<_>>()
        };
        assert_eq!(text(&read), text(&own));
        assert_eq!(fs::read_to_string(folder.join("chat_template.jinja")).unwrap(), chat);
        // It is written again as it was.
        let again = place.path().join("again.gguf");
        gguf::write(&mut load(&folder), &again, Kind::Q8_0, &mut |_, _| Ok(())).unwrap();
        let (first, second) = (fs::read(&path).unwrap(), fs::read(&again).unwrap());
        assert_eq!(first.len(), second.len());
        fs::remove_file(&again).unwrap();
    }
}

/// What the command continues from a GGUF file is what it continues from the model's folder, and what is stored in bf16 is named.
#[test]
fn every_command_takes_the_file() {
    let place = TempDir::new().unwrap();
    let source = place.path().join("source");
    model_with(&[], &source);
    fs::write(source.join("tokenizer.json"), wgpt::Tokenizer::bytes().to_json()).unwrap();
    written(&source, &place, Kind::Float(Float::F32));
    let run = |model: &str, more: &[&str]| {
        let mut command = wgpt(place.path());
        command.env("WGPT_CACHE", place.path().join("cache")).args(["generate", "--prompt", "ab"]);
        command.args(["--greedy", "--max-tokens", "8", "--device", "cpu", "--model", model]);
        command.args(more).assert().success().get_output().clone()
    };
    let (own, read) = (run("source", &[]), run("model.gguf", &[]));
    assert_eq!(read.stdout, own.stdout);
    let halves = run("model.gguf", &["--weights", "bf16"]);
    assert_eq!(halves.stdout, run("source", &["--weights", "bf16"]).stdout);
    let mut eval = wgpt(place.path());
    eval.env("WGPT_CACHE", place.path().join("cache"));
    fs::write(place.path().join("text.txt"), "low lower lowest".repeat(9)).unwrap();
    let arguments = ["eval", "text.txt", "--model", "model.gguf"];
    eval.args(arguments).args(["--device", "cpu"]).assert().success();
}

/// Adapters that were trained on such a file are the file's, whatever becomes of the cache.
#[test]
fn adapters_name_the_file() {
    let place = TempDir::new().unwrap();
    let source = place.path().join("source");
    model_with(&[], &source);
    fs::write(source.join("tokenizer.json"), wgpt::Tokenizer::bytes().to_json()).unwrap();
    written(&source, &place, Kind::Float(Float::F32));
    fs::write(place.path().join("text.txt"), "low lower lowest ".repeat(99)).unwrap();
    let cache = place.path().join("cache");
    let run = |arguments: &[&str]| {
        let mut command = wgpt(place.path());
        command.env("WGPT_CACHE", &cache).args(arguments).args(["--device", "cpu"]);
        command.assert().success().get_output().stdout.clone()
    };
    let init = ["train", "--init", "model.gguf", "--data", "text.txt", "--lora-rank", "2"];
    let short = ["--max-iters", "3", "--batch-size", "2", "--seq-len", "8", "--out", "tuned"];
    run(&[&init[..], &short].concat());
    let adapters: Value = json_file(&place.path().join("tuned/best/adapter_config.json"));
    let base = adapters["base_model_name_or_path"].as_str().unwrap();
    assert!(base.ends_with("model.gguf"), "{base}");
    let continued = ["generate", "--model", "tuned", "--prompt", "lo", "--greedy"];
    let before = run(&continued);
    fs::remove_dir_all(&cache).unwrap();
    assert_eq!(run(&continued), before);
}

/// A folder that names a file is believed only if it was made for that file as it is.
#[test]
fn folders_of_other_files_are_refused() {
    let place = TempDir::new().unwrap();
    let source = place.path().join("source");
    model_with(&[], &source);
    let path = written(&source, &place, Kind::Float(Float::F32));
    let folder = gguf_folder(&path, place.path()).unwrap();
    let opened = |folder: &Path| open_model(folder).map(drop).map_err(|error| error.to_string());
    assert_eq!(opened(&folder), Ok(()));
    // Downloaded, say.
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    for name in ["config.json", "weights.gguf.json"] {
        fs::copy(folder.join(name), other.join(name)).unwrap();
    }
    let refused = |folder: &Path| {
        let error = opened(folder).unwrap_err();
        assert!(error.contains("model.gguf, which was changed or is gone"), "{error}");
    };
    refused(&other);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 64]).unwrap();
    refused(&folder);
    fs::remove_file(&path).unwrap();
    refused(&folder);
}

/// Returns why a file of these bytes is refused.
fn refused(bytes: &[u8], path: &Path, place: &TempDir) -> Option<String> {
    fs::write(path, bytes).unwrap();
    let opened = gguf_folder(path, place.path()).and_then(|folder| {
        // No number is read yet.
        let config = read_config(&folder)?;
        open_weights(&folder, &config).map(drop)
    });
    opened.err().map(|error| error.to_string())
}

/// Whatever a byte of a file's header says instead, nothing panics or is allocated for it.
fn change_bytes(whole: &[u8], path: &Path, place: &TempDir) {
    let mut changed = whole.to_vec();
    for at in (4..1_500).step_by(3) {
        for byte in [0, 0xff] {
            changed[at] = byte;
            let _ = refused(&changed, path, place);
            changed[at] = whole[at];
        }
    }
}

#[test]
fn files_of_models_like_gpt_neox_may_say_anything() {
    let place = TempDir::new().unwrap();
    let path = written(&families_of("gpt_neox"), &place, Kind::Q8_0);
    let whole = fs::read(&path).unwrap();
    assert_eq!(refused(&whole, &path, &place), None);
    change_bytes(&whole, &path, &place);
    let at = whole.windows(13).position(|part| part == b"attn_qkv.bias").unwrap();
    let mut changed = whole.clone();
    changed[at] = b'x';
    let error = refused(&changed, &path, &place).unwrap();
    assert!(error.contains("blk.0.xttn_qkv.bias is no part of a GPT-NeoX"), "{error}");
}

#[test]
fn damaged_and_foreign_files_are_refused() {
    let place = TempDir::new().unwrap();
    let source = model_folders(&families()).into_iter().find(|dir| {
        let config = open_model(dir).unwrap().0;
        config.blocks.family == "llama"
            && config.blocks.rotary.is_some_and(|rotary| rotary.scaling == Scaling::None)
    });
    let path = written(&source.unwrap(), &place, Kind::Q8_0);
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| refused(bytes, &path, &place);
    for length in (0..whole.len().min(3_000)).step_by(7).chain([whole.len() - 40]) {
        let error = refused(&whole[..length]).expect("it is cut");
        assert!(error.contains("model.gguf"), "{error}");
    }
    change_bytes(&whole, &path, &place);
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut changed = whole.clone();
        changed[at..at + from.len()].copy_from_slice(to.as_bytes());
        refused(&changed).unwrap()
    };
    for (from, to, mention) in [
        ("GGUF", "GGML", "does not begin with GGUF"),
        ("blk.0.attn_q.weight", "blk.0.attn_z.weight", "blk.0.attn_z.weight is no part of"),
        ("llama.block_count", "llama.block_cxunt", "num_hidden_layers"),
    ] {
        if !mention.is_empty() {
            let error = replaced(from, to);
            assert!(error.contains(mention), "{from}: {error}");
        }
    }
}
