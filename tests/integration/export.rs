//! Is a model handed on as it is: to the last bit where nothing is rounded, rounded to the nearest where something is, whole
//! or not at all?

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use predicates::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::arch::GPT_NEOX;
use wgpt::arch::rotary::{Llama3, Scaling};
use wgpt::backend::Device;
use wgpt::backend::gpu::DeviceChoice;
use wgpt::checkpoint::{Float, Layout, Metrics};
use wgpt::config::{Biases, Blocks, GeluForm};
use wgpt::export::{self, gguf};
use wgpt::model::{open as open_model, open_weights, parameters};
use wgpt::train::RunSettings;
use wgpt::{Error, Gpt, GptConfig, Result, TrainConfig};

use crate::checkpoint::{all_bits, json_file};
use crate::common::oracle;
use crate::families::{families, families_of};
use crate::oracle::model_folders;

const FOLDERS: [&str; 7] = [
    "gpt2_tiny_a",
    "gpt2_tiny_a_sharded",
    "gpt2_tiny_a_noprefix",
    "gpt2_tiny_a_f16",
    "gpt2_tiny_a_bf16",
    "gpt2_tiny_b",
    "gpt2_tiny_c",
];

fn load(dir: &Path) -> Gpt {
    Gpt::load(dir, Device::Cpu).unwrap()
}

/// Exports a folder, without a look at the progress.
fn export_as(source: &Path, out: &Path, layout: Layout) -> Result<()> {
    export::folder(&mut load(source), source, out, layout, &mut |_, _| Ok(()))
}

fn in_floats(float: Float) -> Layout {
    Layout { float, ..Layout::default() }
}

/// All that is in a folder, hidden files too.
fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| name(e).into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sizes that are wide enough for blocks of 32.
fn wide() -> GptConfig {
    GptConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: 64,
        vocab_size: 300,
        n_positions: 16,
        n_inner: Some(96),
        ..GptConfig::small()
    }
}

/// A model wide enough for blocks of 32, which begins with the given numbers in one matrix, in a folder.
pub fn model_with(numbers: &[f32], dir: &Path) -> GptConfig {
    let config = GptConfig { layer_norm_epsilon: 1e-5, ..wide() };
    let mut gpt = Gpt::new(config.clone(), Device::Cpu, 7).unwrap();
    let engine = gpt.engine().unwrap();
    let param = engine.program().param("h.1.mlp.c_fc.weight").unwrap().clone();
    let mut data = engine.param_data(&param, wgpt::engine::Tensor::Value).unwrap();
    data[..numbers.len()].copy_from_slice(numbers);
    engine
        .write_param(&param, wgpt::engine::Tensor::Value, |start, out| {
            out.copy_from_slice(&data[start..start + out.len()]);
            Ok(())
        })
        .unwrap();
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    gpt.save(dir).unwrap();
    config
}

/// A model with blocks like those of GPT-NeoX and two heads, in a folder. The numbers of a parameter are all different.
pub fn like_gpt_neox(blocks: Blocks, dir: &Path) {
    let config = GptConfig { blocks, ..wide() };
    let mut gpt = Gpt::new(config, Device::Cpu, 7).unwrap();
    let engine = gpt.engine().unwrap();
    for param in engine.program().params.clone().iter() {
        engine
            .write_param(param, wgpt::engine::Tensor::Value, |start, out| {
                out.iter_mut().zip(start..).for_each(|(x, i)| *x = i as f32);
                Ok(())
            })
            .unwrap();
    }
    gpt.save(dir).unwrap();
}

#[test]
fn f32_keeps_every_bit_and_setting() {
    let folder = TempDir::new().unwrap();
    for name in FOLDERS {
        let (source, out) = (oracle().join(name), folder.path().join(name));
        export_as(&source, &out, Layout::default()).unwrap();
        let (config, weights) = open_model(&source).unwrap();
        let (again, written) = open_model(&out).unwrap();
        assert_eq!(config, again, "{name}");
        assert!(all_bits(&weights, &config) == all_bits(&written, &config), "{name}");
        let (before, after) =
            (json_file(&source.join("config.json")), json_file(&out.join("config.json")));
        for (key, value) in before.as_object().unwrap() {
            if !["dtype", "torch_dtype", "architectures", "transformers_version"]
                .contains(&key.as_str())
            {
                assert_eq!(&after[key], value, "{name}: {key}");
            }
        }
        assert_eq!(after["dtype"], "float32");
        assert_eq!(after["architectures"], json!(["GPT2LMHeadModel"]));
        let bytes = fs::read(out.join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert!(file.names().iter().all(|name| name.starts_with("transformer.")), "{name}");
    }
}

#[test]
fn what_config_json_says_of_its_own_files_is_new() {
    let folder = TempDir::new().unwrap();
    let (source, out) = (folder.path().join("source"), folder.path().join("out"));
    model_with(&[], &source);
    let mut config = json_file(&source.join("config.json"));
    let old = json!({
        "_name_or_path": "/home/somebody/model",
        "architectures": ["GPT2Model"],
        "torch_dtype": "float32",
        "resid_pdrop": 0.25,
        "task_specific_params": {"text-generation": {"max_length": 50}},
    });
    config.as_object_mut().unwrap().extend(old.as_object().unwrap().clone());
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    fs::write(source.join("special_tokens_map.json"), "{}").unwrap();
    export_as(&source, &out, in_floats(Float::F16)).unwrap();
    let new = json_file(&out.join("config.json"));
    assert_eq!((&new["_name_or_path"], &new["torch_dtype"]), (&Value::Null, &Value::Null));
    assert_eq!(new["architectures"], json!(["GPT2LMHeadModel"]));
    assert_eq!(new["dtype"], "float16");
    assert_eq!(new["task_specific_params"], old["task_specific_params"]);
    assert_eq!(new["resid_pdrop"], 0.25);
    assert_eq!(fs::read(out.join("special_tokens_map.json")).unwrap(), b"{}");
}

#[test]
fn halves_are_rounded_to_the_nearest() {
    let folder = TempDir::new().unwrap();
    // Ties on both sides of an even number in f16 and in bf16, around the least subnormal, negative zero, the largest.
    let steps = [1.0 / 2048.0, 3.0 / 2048.0, 1.0 / 256.0, 3.0 / 256.0].map(|step| 1.0 + step);
    let least = [2f32.powi(-24), 2f32.powi(-25), 2.9e-8, -0.0, 65504.0];
    let edges = [&steps[..], &least].concat();
    let source = folder.path().join("source");
    let config = model_with(&edges, &source);
    let (_, weights) = open_model(&source).unwrap();
    let before = all_bits(&weights, &config);
    for (float, name) in [(Float::F16, "float16"), (Float::Bf16, "bfloat16")] {
        let round = |x: f32| match float {
            Float::F16 => half::f16::from_f32(x).to_f32(),
            _ => half::bf16::from_f32(x).to_f32(),
        };
        let out = folder.path().join(name);
        export_as(&source, &out, in_floats(float)).unwrap();
        assert_eq!(json_file(&out.join("config.json"))["dtype"], name);
        let (_, weights) = open_model(&out).unwrap();
        for (tensor, bits) in all_bits(&weights, &config) {
            let wanted = before[&tensor].iter().map(|b| round(f32::from_bits(*b)).to_bits());
            assert!(bits.into_iter().eq(wanted), "{tensor} in {name}");
        }
        // Once rounded, nothing is lost any more.
        let again = folder.path().join(format!("{name} again"));
        export_as(&out, &again, in_floats(float)).unwrap();
        let file = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert!(file(&out) == file(&again), "{name}");
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    model_with(&[1.0, -65520.0], &source);
    for (float, words, remedy) in
        [(Float::F16, "h.1.mlp.c_fc.weight is -6.552e4 at [0, 1]", "bf16"), (Float::Bf16, "", "")]
    {
        let out = folder.path().join("out");
        match export_as(&source, &out, in_floats(float)) {
            Ok(()) => assert!(words.is_empty()),
            Err(error) => {
                assert!(!words.is_empty() && error.to_string().contains(words), "{error}");
                assert!(error.advice().unwrap().contains(remedy));
                assert_eq!(names(folder.path()), ["source"], "nothing is left");
            }
        }
    }
    model_with(&[1.0, f32::MAX], &source);
    let error = export_as(&source, &folder.path().join("b"), in_floats(Float::Bf16)).unwrap_err();
    assert!(error.advice().unwrap().contains("f32"), "{error}");
    let kind = gguf::Kind::Float(Float::F16);
    let path = folder.path().join("b.gguf");
    let error = gguf::write(&mut load(&source), &path, kind, &mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("h.1.mlp.c_fc.weight is 3.4028235e38 at [0, 1]"), "{error}");
    let error = gguf::write(&mut load(&source), &path, gguf::Kind::Q8_0, &mut |_, _| Ok(()));
    assert!(error.unwrap_err().to_string().contains("q8_0 holds"));
    assert_eq!(names(folder.path()), ["out", "source"]);
}

#[test]
fn shards_add_up_to_the_model() {
    let folder = TempDir::new().unwrap();
    for (name, float) in [("gpt2_tiny_a", Float::F32), ("gpt2_tiny_b", Float::F16)] {
        let source = oracle().join(name);
        let (config, weights) = open_model(&source).unwrap();
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let total = parameters(&config).iter().map(|(_, s)| elements(s)).sum::<usize>();
        let max = (total * float.bytes() / 5) as u64;
        let out = folder.path().join(name);
        export_as(&source, &out, Layout { float, max_shard_bytes: max }).unwrap();

        let index = json_file(&out.join("model.safetensors.index.json"));
        assert_eq!(index["metadata"]["total_size"], total * float.bytes());
        assert_eq!(index["metadata"]["total_parameters"], total);
        let map = index["weight_map"].as_object().unwrap();
        assert!(map.keys().is_sorted() && map.len() == parameters(&config).len());
        let shards: Vec<String> =
            names(&out).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
        assert!(shards.len() >= 2 && !out.join("model.safetensors").exists());
        for (i, shard) in shards.iter().enumerate() {
            assert_eq!(*shard, format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()));
            let bytes = fs::read(out.join(shard)).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let held: usize = file.iter().map(|(_, tensor)| tensor.data().len()).sum();
            assert!(held as u64 <= max || file.len() == 1, "{shard} holds {held} bytes");
            assert!(file.names().iter().all(|name| map[*name] == *shard.as_str()));
        }
        // A shard may be exactly full.
        let first_two = parameters(&config).iter().take(2).map(|(_, s)| elements(s)).sum::<usize>();
        let full = Layout { float, max_shard_bytes: (first_two * float.bytes()) as u64 };
        let exact = folder.path().join(format!("{name}_exact"));
        export_as(&source, &exact, full).unwrap();
        let first = names(&exact).into_iter().find(|name| name.starts_with("model-00001")).unwrap();
        let bytes = fs::read(exact.join(first)).unwrap();
        assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), 2, "{name}");

        let written = all_bits(&open_weights(&out, &config).unwrap(), &config);
        let wanted = match float {
            Float::F32 => all_bits(&weights, &config),
            _ => {
                let whole = folder.path().join("whole");
                export_as(&source, &whole, in_floats(float)).unwrap();
                all_bits(&open_weights(&whole, &config).unwrap(), &config)
            }
        };
        assert!(written == wanted, "{name}");
    }
}

#[test]
fn what_is_there_is_never_replaced() {
    let folder = TempDir::new().unwrap();
    let source = oracle().join("gpt2_tiny_c");
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("notes.txt"), "mine").unwrap();
    for out in [taken.clone(), taken.join("notes.txt")] {
        let error = export_as(&source, &out, Layout::default()).unwrap_err();
        assert!(error.advice().unwrap().contains("give out a new folder"), "{error}");
    }
    let file = taken.join("notes.txt");
    let kind = gguf::Kind::Float(Float::F32);
    let error = gguf::write(&mut load(&source), &file, kind, &mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("there already"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert_eq!(names(&taken), ["notes.txt"]);

    let (empty, deep) = (folder.path().join("empty"), folder.path().join("a/b/c"));
    fs::create_dir(&empty).unwrap();
    for out in [&empty, &deep] {
        export_as(&source, out, Layout::default()).unwrap();
        open_model(out).unwrap();
    }
}

#[test]
fn an_interrupted_export_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let source = oracle().join("gpt2_tiny_b");
    let mut stop = |done: u64, total: u64| match 2 * done > total {
        true => Err(Error::input("stopped")),
        false => Ok(()),
    };
    let layout = Layout { float: Float::F32, max_shard_bytes: 100_000 };
    let out = folder.path().join("out");
    let error = export::folder(&mut load(&source), &source, &out, layout, &mut stop);
    assert_eq!(error.unwrap_err().to_string(), "stopped");
    let path = folder.path().join("out.gguf");
    let error = gguf::write(&mut load(&source), &path, gguf::Kind::Q8_0, &mut stop);
    assert_eq!(error.unwrap_err().to_string(), "stopped");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[test]
fn the_card_tells_of_the_run() {
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    let model = model_with(&[], &run.join("best"));
    let settings = RunSettings {
        data: vec!["/home/somebody/secret|place/my|book.txt".into(), "stories".into()],
        val_data: vec![],
        long: wgpt::chat::Long::Cut,
        tokenizer: "bytes".into(),
        model: model.clone(),
        train: TrainConfig { batch_size: 5, seed: 4242, ..TrainConfig::default() },
        device: DeviceChoice::Cpu,
        threads: None,
        init: None,
        cache: None,
    };
    fs::write(run.join("run.json"), serde_json::to_vec(&settings).unwrap()).unwrap();
    let line = |step: usize, val_loss: Option<f64>| Metrics {
        step,
        tokens: 100 * step as u64,
        loss: Some(1.5),
        lr: 0.1,
        grad_norm: None,
        tokens_per_s: 1.0,
        mfu: None,
        exchange: None,
        broken_rank: None,
        skipped: 0,
        val_loss,
    };
    let lines = [line(10, Some(2.5)), line(20, Some(2.0)), line(25, None), line(30, Some(3.0))];
    let text: Vec<String> = lines.iter().map(|l| serde_json::to_string(l).unwrap()).collect();
    fs::write(run.join("metrics.jsonl"), text.join("\n")).unwrap();

    let out = folder.path().join("my-model");
    export_as(&run.join("best"), &out, in_floats(Float::F16)).unwrap();
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    let head = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- gpt2\n";
    assert!(card.starts_with(head) && card.contains("\n---\n\n# my-model\n"), "{card}");
    for words in [
        "| data | my\\|book.txt, stories |",
        "| updates | 20 of ",
        "| tokens seen | 2000 |",
        "2.0000 nats a token (perplexity 7.39)",
        "| weights | float16 |",
        "5 sequences of 16 tokens",
        "AdamW",
        "4242",
        "prompt-ids",
    ] {
        assert!(card.contains(words), "{words} in {card}");
    }
    assert!(!card.contains("somebody"), "paths are nobody's concern: {card}");
    // A step's and the last model tell of their own update; a card that is there already is kept.
    for (place, words) in [("checkpoints/step-25", "| updates | 25 of"), ("", "| updates | 30 of")]
    {
        model_with(&[], &run.join("checkpoints/step-25"));
        fs::copy(run.join("best/config.json"), run.join("config.json")).unwrap();
        fs::copy(run.join("best/model.safetensors"), run.join("model.safetensors")).unwrap();
        let out = folder.path().join(format!("of{}", place.len()));
        export_as(&run.join(place), &out, Layout::default()).unwrap();
        let card = fs::read_to_string(out.join("README.md")).unwrap();
        assert!(card.contains(words), "{words} in {card}");
    }
    fs::write(out.join("README.md"), "# Mine\n").unwrap();
    let again = folder.path().join("again");
    export_as(&out, &again, Layout::default()).unwrap();
    assert_eq!(fs::read_to_string(again.join("README.md")).unwrap(), "# Mine\n");
}

/// What a GGUF file holds.
pub struct Gguf {
    /// By key, as JSON.
    pub entries: BTreeMap<String, Value>,
    /// By name: dimensions, innermost first, ggml's type, and the bytes.
    tensors: HashMap<String, (Vec<usize>, u32, Vec<u8>)>,
}

/// A cursor over a GGUF file.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (first, rest) = self.0.split_first_chunk().unwrap();
        self.0 = rest;
        *first
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn text(&mut self) -> String {
        let len = self.u64();
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        String::from_utf8(text.to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => self.u32().into(),
            5 => i32::from_le_bytes(self.take()).into(),
            6 => f32::from_le_bytes(self.take()).into(),
            7 => (self.take::<1>()[0] == 1).into(),
            8 => self.text().into(),
            9 => {
                let (kind, len) = (self.u32(), self.u64());
                (0..len).map(|_| self.value(kind)).collect()
            }
            _ => panic!("a value of type {kind}"),
        }
    }
}

/// Reads a GGUF file by the format's description, and checks its alignment.
pub fn read_gguf(path: &Path) -> Gguf {
    let bytes = fs::read(path).unwrap();
    let mut at = Cursor(&bytes);
    assert_eq!((&at.take(), at.u32()), (b"GGUF", 3));
    let (tensors, entries) = (at.u64(), at.u64());
    let entries: BTreeMap<String, Value> = (0..entries)
        .map(|_| {
            let (key, kind) = (at.text(), at.u32());
            (key, at.value(kind))
        })
        .collect();
    let infos: Vec<_> = (0..tensors)
        .map(|_| {
            let (name, rank) = (at.text(), at.u32());
            let dims: Vec<usize> = (0..rank).map(|_| at.u64()).collect();
            (name, dims, at.u32(), at.u64())
        })
        .collect();
    let start = (bytes.len() - at.0.len()).next_multiple_of(32);
    let mut end = start;
    let mut found = HashMap::new();
    for (name, dims, kind, offset) in infos {
        let elements: usize = dims.iter().product();
        let size = match kind {
            0 => 4 * elements,
            1 | 30 => 2 * elements,
            8 => elements / 32 * 34,
            _ => panic!("{name} of type {kind}"),
        };
        assert_eq!(start + offset, end, "{name} begins where the one before ends");
        end = (end + size).next_multiple_of(32);
        let data = bytes[start + offset..][..size].to_vec();
        assert!(found.insert(name, (dims, kind, data)).is_none());
    }
    assert_eq!(end, bytes.len());
    Gguf { entries, tensors: found }
}

/// The numbers of a tensor, and the largest error that its type may have made of each.
fn numbers(kind: u32, bytes: &[u8]) -> (Vec<f32>, Vec<f32>) {
    let halves = || bytes.as_chunks().0.iter().map(|b: &[u8; 2]| u16::from_le_bytes(*b));
    match kind {
        0 => {
            let all = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            all.map(|x| (x, 0.0)).unzip()
        }
        1 => halves().map(|h| (half::f16::from_bits(h).to_f32(), 0.0)).unzip(),
        30 => halves().map(|h| (half::bf16::from_bits(h).to_f32(), 0.0)).unzip(),
        _ => {
            let block = |block: &[u8; 34]| {
                let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
                // Half a step, and what rounding the scale to 11 bits adds to the largest number.
                let error = scale * (0.5 + 127.0 / 2048.0);
                let block = *block;
                (2..34).map(move |i| (scale * f32::from(block[i] as i8), error))
            };
            bytes.as_chunks().0.iter().flat_map(block).unzip()
        }
    }
}

#[test]
fn a_gguf_file_holds_the_model() {
    let folder = TempDir::new().unwrap();
    let wide = folder.path().join("wide");
    model_with(&[3.0, -7.5, 0.0], &wide);
    let sources = [wide, oracle().join("gpt2_tiny_a"), oracle().join("gpt2_tiny_c")];
    let kinds = [
        (gguf::Kind::Float(Float::F32), 0, 0),
        (gguf::Kind::Float(Float::F16), 1, 1),
        (gguf::Kind::Float(Float::Bf16), 30, 32),
        (gguf::Kind::Q8_0, 8, 7),
    ];
    let mut blocks = 0;
    for (i, source) in sources.iter().enumerate() {
        let (config, weights) = open_model(source).unwrap();
        for (kind, number, file_type) in kinds {
            let path = folder.path().join(format!("model-{i}-{number}.gguf"));
            gguf::write(&mut load(source), &path, kind, &mut |_, _| Ok(())).unwrap();
            let file = read_gguf(&path);
            // Where no row divides into blocks, all matrices are in f16.
            let in_blocks = file.tensors.values().any(|(_, found, _)| *found == 8);
            let file_type = if number == 8 && !in_blocks { 1 } else { file_type };
            let wanted = [
                ("general.architecture", json!("gpt2")),
                ("general.name", json!(format!("model-{i}-{number}"))),
                ("general.file_type", json!(file_type)),
                ("gpt2.context_length", json!(config.n_positions)),
                ("gpt2.embedding_length", json!(config.n_embd)),
                ("gpt2.feed_forward_length", json!(config.n_inner())),
                ("gpt2.block_count", json!(config.n_layer)),
                ("gpt2.attention.head_count", json!(config.n_head)),
                ("tokenizer.ggml.model", json!("no_vocab")),
                ("gpt2.vocab_size", json!(config.vocab_size)),
                ("gpt2.attention.layer_norm_epsilon", json!(config.layer_norm_epsilon as f32)),
            ];
            for (key, value) in wanted {
                assert_eq!(file.entries[key], value, "{key}");
            }
            assert_eq!(file.tensors.len(), parameters(&config).len());
            for (name, shape) in parameters(&config) {
                let (dims, kind, bytes) = &file.tensors[&llama_name(&name)];
                let mut values = vec![0.0; shape.iter().product()];
                weights.read(&name, 0, &mut values).unwrap();
                let linear = name.starts_with("h.") && shape.len() == 2;
                if linear {
                    assert_eq!(*dims, shape, "{name}: [out, in], innermost first");
                    values = transposed(&values, shape[1]);
                } else {
                    assert!(dims.iter().eq(shape.iter().rev()), "{name}");
                }
                let wanted_kind = match () {
                    () if shape.len() == 1 || name == "wpe.weight" => 0,
                    () if number == 8 && dims[0] % 32 != 0 => 1,
                    () => number,
                };
                assert_eq!(*kind, wanted_kind, "{name}");
                blocks += usize::from(*kind == 8);
                let round = |x: f32| match kind {
                    1 => half::f16::from_f32(x).to_f32(),
                    30 => half::bf16::from_f32(x).to_f32(),
                    _ => x,
                };
                let (got, errors) = numbers(*kind, bytes);
                assert_eq!(got.len(), values.len());
                for ((got, error), x) in got.iter().zip(errors).zip(&values) {
                    assert!((got - round(*x)).abs() <= error, "{name}: {got} for {x}");
                }
            }
        }
    }
    assert!(blocks > 0);
}

/// A matrix with `columns` columns, turned.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

fn llama_name(name: &str) -> String {
    let parts = [
        ("h.", "blk."),
        ("wte", "token_embd"),
        ("wpe", "position_embd"),
        ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"),
        ("ln_f", "output_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ];
    parts.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}

/// llama.cpp's name of a parameter of a model like Llama.
fn llama_name_of_llama(name: &str) -> String {
    let parts = [
        ("lm_head", "output"),
        ("embed_tokens", "token_embd"),
        ("layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    let name = parts.iter().fold(name.to_owned(), |name, (hf, gguf)| name.replace(hf, gguf));
    if name == "norm.weight" { "output_norm.weight".to_owned() } else { name }
}

/// Rows of queries or keys as llama.cpp wants them where it rotates neighbours: row 2i is row i of a head's first half, row
/// 2i + 1 that of its second half.
fn in_turn(values: &[f32], rows: usize, head: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(values.len() / rows).collect();
    let heads = rows.chunks(head);
    let pairs = heads.flat_map(|head| head[..head.len() / 2].iter().zip(&head[head.len() / 2..]));
    pairs.flat_map(|(first, second)| [*first, *second]).flatten().copied().collect()
}

#[test]
fn a_gguf_file_holds_the_models_of_other_families() {
    let folder = TempDir::new().unwrap();
    let kind = gguf::Kind::Float(Float::F32);
    let mut seen = BTreeSet::new();
    for (i, source) in model_folders(&families()).iter().enumerate() {
        let (config, weights) = open_model(source).unwrap();
        let file = folder.path().join(format!("{i}.gguf"));
        // That family has other names and settings.
        if config.blocks.family == GPT_NEOX.model_type {
            continue;
        }
        gguf::write(&mut load(source), &file, kind, &mut |_, _| Ok(())).unwrap();
        let Gguf { entries, mut tensors } = read_gguf(&file);
        let architecture = entries["general.architecture"].as_str().unwrap().to_owned();
        let is_llama = architecture == "llama";
        assert!(is_llama || config.blocks.family == architecture);
        let window = (0..config.n_layer).filter_map(|layer| config.window(layer)).min();
        let rotary = config.blocks.rotary.unwrap();
        let wanted = [
            ("context_length", json!(window.unwrap_or(usize::MAX).min(config.n_positions))),
            ("attention.head_count_kv", json!(config.n_kv_head())),
            ("attention.key_length", json!(config.head_size())),
            ("attention.layer_norm_rms_epsilon", json!(config.layer_norm_epsilon as f32)),
            ("rope.dimension_count", json!(config.head_size())),
            ("rope.freq_base", json!(rotary.theta as f32)),
        ];
        for (key, value) in wanted {
            assert_eq!(entries[&format!("{architecture}.{key}")], value, "{key}");
        }
        let notes = gguf::notes(&load(source));
        assert_eq!(notes.iter().any(|note| note.contains("windows")), window.is_some());
        if matches!(rotary.scaling, Scaling::Llama3(_)) {
            let (_, _, divisors) = tensors.remove("rope_freqs.weight").unwrap();
            let plain = |i: usize| rotary.theta.powf(-2.0 * i as f64 / config.head_size() as f64);
            let frequencies = rotary.frequencies(config.head_size());
            for (i, (x, frequency)) in numbers(0, &divisors).0.iter().zip(frequencies).enumerate() {
                let got = plain(i) / f64::from(*x);
                assert!((got - frequency).abs() <= 1e-6 * frequency, "{i}: {got} for {frequency}");
            }
        }
        for (name, shape) in parameters(&config) {
            let (_, _, bytes) = tensors.remove(&llama_name_of_llama(&name)).expect(&name);
            let mut values = vec![0.0; shape.iter().product()];
            weights.read(&name, 0, &mut values).unwrap();
            if is_llama && (name.contains("q_proj") || name.contains("k_proj")) {
                values = in_turn(&values, shape[0], config.head_size());
            }
            assert!(numbers(0, &bytes).0 == values, "{name} of {}", source.display());
        }
        assert!(tensors.is_empty(), "{:?}", tensors.keys());
        seen.insert(architecture);
    }
    assert!(seen.contains("llama") && seen.len() > 1, "{seen:?}");
}

/// llama.cpp's name of a parameter of a model like GPT-NeoX.
fn llama_name_of_gpt_neox(name: &str) -> String {
    let parts = [
        ("embed_out", "output"),
        ("embed_in", "token_embd"),
        ("layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("final_layer_norm", "output_norm"),
        ("attention.query_key_value", "attn_qkv"),
        ("attention.dense", "attn_output"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
    ];
    parts.iter().fold(name.to_owned(), |name, (hf, gguf)| name.replace(hf, gguf))
}

/// Rows with the queries, keys and values of each head side by side as llama.cpp wants them: the queries of all heads, then
/// their keys, then their values.
fn part_by_part(values: &[f32], heads: usize) -> Vec<f32> {
    let part = values.len() / heads / 3;
    let of_heads = |first: usize| values.chunks(part).skip(first).step_by(3).flatten().copied();
    (0..3).flat_map(of_heads).collect()
}

/// The order of rows shows with two heads: with three, as the reference has them, the way back is the same.
#[test]
fn a_gguf_file_holds_models_like_gpt_neox() {
    let folder = TempDir::new().unwrap();
    let (parallel, sequential) = (folder.path().join("parallel"), folder.path().join("sequential"));
    like_gpt_neox((GPT_NEOX.blocks)(), &parallel);
    like_gpt_neox(Blocks { is_parallel: false, ..(GPT_NEOX.blocks)() }, &sequential);
    for (i, source) in [parallel, sequential, families_of("gpt_neox")].iter().enumerate() {
        let (config, weights) = open_model(source).unwrap();
        let file = folder.path().join(format!("{i}.gguf"));
        let kind = gguf::Kind::Float(Float::F32);
        gguf::write(&mut load(source), &file, kind, &mut |_, _| Ok(())).unwrap();
        let Gguf { entries, mut tensors } = read_gguf(&file);
        assert_eq!(entries["general.architecture"], "gptneox");
        let wanted = [
            ("context_length", json!(config.n_positions)),
            ("embedding_length", json!(config.n_embd)),
            ("feed_forward_length", json!(config.n_inner())),
            ("block_count", json!(config.n_layer)),
            ("attention.head_count", json!(config.n_head)),
            ("attention.layer_norm_epsilon", json!(config.layer_norm_epsilon as f32)),
            ("rope.dimension_count", json!(config.head_size() / 4)),
            ("rope.freq_base", json!(1e4_f32)),
            ("use_parallel_residual", json!(config.blocks.is_parallel)),
            ("vocab_size", json!(config.vocab_size)),
        ];
        for (key, value) in wanted {
            assert_eq!(entries[&format!("gptneox.{key}")], value, "{key}");
        }
        for (name, shape) in parameters(&config) {
            let (_, _, bytes) = tensors.remove(&llama_name_of_gpt_neox(&name)).expect(&name);
            let mut values = vec![0.0; shape.iter().product()];
            weights.read(&name, 0, &mut values).unwrap();
            if name.contains("query_key_value") {
                values = part_by_part(&values, config.n_head);
            }
            assert!(numbers(0, &bytes).0 == values, "{name} of {}", source.display());
        }
        assert!(tensors.is_empty(), "{:?}", tensors.keys());
    }
}

/// A change of the blocks of a model.
type Change = fn(&mut Blocks);

#[test]
fn what_llama_cpp_has_not_for_a_family_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let cases: [(&str, Change); 4] = [
        ("tie_word_embeddings", |blocks| blocks.is_tied = true),
        ("attention_bias", |blocks| blocks.biases = Biases { mlp: true, ..Biases::NONE }),
        ("hidden_act", |blocks| blocks.gelu = GeluForm::Tanh),
        ("rope_type", |blocks| {
            let llama3 = Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
            let rotary = blocks.rotary.as_mut().unwrap();
            rotary.scaling = Scaling::Llama3(llama3);
        }),
    ];
    for (named, change) in cases {
        let mut blocks = (GPT_NEOX.blocks)();
        change(&mut blocks);
        let (source, file) = (folder.path().join(named), folder.path().join("refused.gguf"));
        like_gpt_neox(blocks, &source);
        let kind = gguf::Kind::Float(Float::F32);
        let error = gguf::write(&mut load(&source), &file, kind, &mut |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
        assert!(error.advice().unwrap().contains("as a folder"), "{named}");
        assert!(!file.exists(), "{named}");
    }
}

#[test]
fn a_gguf_file_holds_the_tokenizer() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    model_with(&[], &source);
    let text = "low lower lowest low lower lowest";
    let tokenizer = wgpt::Tokenizer::train(text.as_bytes(), 262).unwrap();
    fs::write(source.join("tokenizer.json"), tokenizer.to_json()).unwrap();
    let path = folder.path().join("model.gguf");
    gguf::write(&mut load(&source), &path, gguf::Kind::Q8_0, &mut |_, _| Ok(())).unwrap();
    let entries = read_gguf(&path).entries;
    let get = |key: &str| &entries[&format!("tokenizer.ggml.{key}")];
    assert_eq!((get("model"), get("pre")), (&json!("gpt2"), &json!("gpt-2")));
    let json: Value = serde_json::from_str(&tokenizer.to_json()).unwrap();
    let tokens = get("tokens").as_array().unwrap();
    assert_eq!(tokens.len(), 300);
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        assert_eq!(tokens[id.as_u64().unwrap() as usize], *token);
    }
    let merges: Vec<Value> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| json!(format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())))
        .collect();
    assert_eq!(get("merges"), &json!(merges));
    let end = tokenizer.end_of_text().unwrap();
    assert_eq!((get("eos_token_id"), get("bos_token_id")), (&json!(end), &json!(end)));
    let unused = tokenizer.vocab_size();
    for (id, kind) in get("token_type").as_array().unwrap().iter().enumerate() {
        let wanted = match id {
            _ if id == end as usize => 3,
            _ if id >= unused => 5,
            _ => 1,
        };
        assert_eq!(*kind, json!(wanted), "{id}");
    }
    assert_eq!(tokens[unused], format!("[PAD{unused}]"));
}

/// A tokenizer.json of Llama 2's kind with a few merges, in the order that llama.cpp's scores can say.
pub fn of_characters() -> Value {
    let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let own = ["\u{2581}", "a", "b", "\u{2581}a", "ab", "\u{2581}ab"].map(str::to_owned);
    let vocab = special.into_iter().chain(bytes).chain(own).zip(0_u32..);
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let added = |(id, content): (u32, &str)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokens = [(0, "<unk>"), (1, "<s>"), (2, "</s>")].map(added);
    let vocab: serde_json::Map<String, Value> =
        vocab.map(|(token, id)| (token, json!(id))).collect();
    let merges = [["\u{2581}", "a"], ["a", "b"], ["\u{2581}", "ab"], ["\u{2581}a", "b"]];
    json!({
        "added_tokens": tokens,
        "normalizer": {"type": "Sequence", "normalizers":
            [{"type": "Prepend", "prepend": "\u{2581}"}, replace(" ", "\u{2581}")]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [replace("\u{2581}", " "), {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": merges},
    })
}

#[test]
fn a_gguf_file_holds_a_tokenizer_of_characters_or_says_why_not() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    model_with(&[], &source);
    let sound = of_characters();
    let write = |file: &Value, name: &str| {
        fs::write(source.join("tokenizer.json"), file.to_string()).unwrap();
        let path = folder.path().join(name);
        gguf::write(&mut load(&source), &path, gguf::Kind::Q8_0, &mut |_, _| Ok(())).map(|_| path)
    };
    let entries = read_gguf(&write(&sound, "sound.gguf").unwrap()).entries;
    let get = |key: &str| &entries[&format!("tokenizer.ggml.{key}")];
    assert_eq!((get("model"), get("pre")), (&json!("llama"), &json!("default")));
    assert_eq!((get("add_bos_token"), get("add_eos_token")), (&json!(true), &json!(false)));
    assert_eq!((get("bos_token_id"), get("unknown_token_id")), (&json!(1), &json!(0)));
    assert_eq!(get("add_space_prefix"), &json!(true));
    let first = 3 + 256;
    assert_eq!(get("tokens")[first], "\u{2581}");
    let scores: Vec<f64> = (3..6).map(|i| get("scores")[first + i].as_f64().unwrap()).collect();
    assert_eq!(scores, [0.0, -1.0, -2.0]);
    let types: Vec<i64> =
        [0, 1, 3, first, 299].map(|id| get("token_type")[id].as_i64().unwrap()).into();
    assert_eq!(types, [2, 3, 6, 1, 5]);
    assert!(gguf::notes(&load(&source)).is_empty());

    let merges = |merges: Value| ("/model/merges", merges);
    let cases = [
        (merges(json!([["\u{2581}", "a"], ["a", "b"], ["\u{2581}", "ab"]])), "no merge"),
        (
            merges(json!([["\u{2581}", "a"], ["\u{2581}a", "b"], ["a", "b"], ["\u{2581}", "ab"]])),
            "follow",
        ),
        (("/model/byte_fallback", json!(false)), "byte_fallback"),
        (("/normalizer", json!({"type": "Prepend", "prepend": "\u{2581}"})), "blanks"),
        (("/normalizer", Value::Null), "blanks"),
    ];
    for (number, ((place, value), mention)) in cases.into_iter().enumerate() {
        let mut file = sound.clone();
        *file.pointer_mut(place).unwrap() = value;
        let error = write(&file, &format!("{number}.gguf")).unwrap_err().to_string();
        assert!(error.contains(mention), "{place}: {error}");
    }
}

/// Puts a tokenizer of bytes, with changes to its file, into a model's folder.
fn model_with_tokenizer(source: &Path, change: impl FnOnce(&mut Value)) {
    if !source.exists() {
        model_with(&[], source);
    }
    let mut tokenizer = serde_json::from_str(&wgpt::Tokenizer::bytes().to_json()).unwrap();
    change(&mut tokenizer);
    fs::write(source.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `Split` by a pattern, or another first stage, then bytes.
fn stages(first: Value, use_regex: bool) -> Value {
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    json!({ "type": "Sequence", "pretokenizers": [first, bytes] })
}

fn split(regex: &str) -> Value {
    stages(
        json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false }),
        false,
    )
}

/// llama.cpp (src/llama-vocab.cpp of 2026-11) has these names for these cuts, of which `llama-bpe` alone ignores merges; that
/// the ids are the same was seen with llama.cpp itself, in the package xllamacpp 2026.10.
#[test]
fn a_gguf_file_names_the_pattern_or_is_refused() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    let gpt2 = || json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let digits =
        |alone: bool| stages(json!({ "type": "Digits", "individual_digits": alone }), true);
    let single = CL100K.replace("{1,3}", "");
    let many = CL100K.replace("{1,3}", "+");
    // By pre-tokenizer: the name, then that where merges are ignored; both would be right where each token is merged.
    let cases = [
        (gpt2(), Some("gpt-2"), None),
        (split(CL100K), Some("dbrx"), Some("llama-bpe")),
        (split(&single), Some("qwen2"), None),
        (split(&many), None, None),
        (split(O200K), Some("gpt-4o"), None),
        (digits(true), Some("smollm"), None),
        (digits(false), None, None),
    ];
    for (number, (pre_tokenizer, plain, ignoring)) in cases.into_iter().enumerate() {
        // "xyz" is a token that no merge makes.
        for (ignore_merges, token, wanted) in
            [(false, "xyz", plain), (true, "xyz", ignoring), (true, "<|xyz", plain.or(ignoring))]
        {
            // A token that is no piece of a text cannot be met.
            if ignoring.is_some() && token != "xyz" {
                continue;
            }
            model_with_tokenizer(&source, |tokenizer| {
                tokenizer["pre_tokenizer"] = pre_tokenizer.clone();
                tokenizer["model"]["ignore_merges"] = json!(ignore_merges);
                tokenizer["model"]["vocab"][token] = json!(257);
            });
            let path = folder.path().join(format!("{number}-{ignore_merges}-{}.gguf", token.len()));
            let kind = gguf::Kind::Float(Float::F32);
            let written = gguf::write(&mut load(&source), &path, kind, &mut |_, _| Ok(()));
            let what = format!("{pre_tokenizer}, ignore_merges {ignore_merges}, {token}");
            if let Some(name) = wanted {
                written.expect(&what);
                assert_eq!(read_gguf(&path).entries["tokenizer.ggml.pre"], name, "{what}");
                // Of this one llama.cpp has an approximation, which is said.
                let notes = gguf::notes(&load(&source));
                assert_eq!(notes.len(), usize::from(name == "gpt-4o"), "{what}: {notes:?}");
                continue;
            }
            let error = written.expect_err(&what);
            assert!(error.to_string().contains("pattern"), "{what}: {error}");
            assert!(error.advice().is_some_and(|hint| hint.contains("out DIR")), "{error:?}");
            assert!(!path.exists(), "{what}");
        }
    }
}

#[test]
fn no_two_tokens_of_a_gguf_file_have_one_text() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    // Two ids without a token have the names of fillers taken already, one of them twice.
    model_with_tokenizer(&source, |tokenizer| {
        let added = [(257, "[PAD260]"), (258, "[PAD261]"), (259, "[PAD261_1]")];
        let entries = tokenizer["added_tokens"].as_array_mut().unwrap();
        entries.extend(added.map(|(id, content)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true })
        }));
    });
    let path = folder.path().join("model.gguf");
    gguf::write(&mut load(&source), &path, gguf::Kind::Q8_0, &mut |_, _| Ok(())).unwrap();
    let entries = read_gguf(&path).entries;
    let tokens = entries["tokenizer.ggml.tokens"].as_array().unwrap();
    let texts: std::collections::BTreeSet<&str> =
        tokens.iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(texts.len(), 300);
    assert_eq!(
        tokens[257..263],
        ["[PAD260]", "[PAD261]", "[PAD261_1]", "[PAD260_1]", "[PAD261_2]", "[PAD262]"]
    );
}

fn wgpt(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("wgpt").expect("the program is built");
    command.current_dir(folder);
    command
}

#[test]
fn the_command_says_what_it_wrote() {
    let folder = TempDir::new().unwrap();
    let source = std::path::absolute(oracle().join("gpt2_tiny_a")).unwrap();
    let model = ["export", "--model", source.to_str().unwrap()];
    let run = |args: &[&str]| wgpt(folder.path()).args(model).args(args).assert();
    let output = run(&["--out=a", "--max-shard-size=10KB", "--json"]).success();
    let said: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(said["parameters"], export::parameter_count(&load(&source)));
    let files = said["files"].as_object().unwrap();
    for name in ["config.json", "README.md", "model.safetensors.index.json"] {
        assert!(
            files[name].as_u64()
                == Some(fs::metadata(folder.path().join("a").join(name)).unwrap().len())
        );
    }
    run(&["--out=b", "--dtype=bf16"]).success().stdout(predicate::str::contains("README.md"));
    run(&["--gguf=b.gguf", "--dtype=q8_0"]).success().stdout(predicate::str::contains("b.gguf"));
    run(&["--out=b"]).code(2).stderr(predicate::str::contains("b is not empty"));
    run(&["--out=c", "--dtype=q8_0"]).code(2).stderr(predicate::str::contains("--gguf"));
    run(&["--out=c", "--max-shard-size=5TB"])
        .code(2)
        .stderr(predicate::str::contains("--max-shard-size"));
    run(&[]).code(2).stderr(predicate::str::contains("--out"));
    wgpt(folder.path()).args(["export", "--model=nowhere", "--out=c"]).assert().code(1);
    assert_eq!(names(folder.path()), ["a", "b", "b.gguf"]);
    let help = wgpt(folder.path()).args(["export", "--help"]).assert().success();
    help.stdout(
        predicate::str::contains("Examples:").and(predicate::str::contains("--max-shard-size")),
    );
}
