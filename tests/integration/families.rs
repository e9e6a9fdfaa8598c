//! Are models of Llama's kind what PyTorch and Hugging Face's library compute? Logits, losses, gradients, training, generation,
//! adapters, the spellings of config.json, and broken folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use wgpt::arch::FAMILIES;
use wgpt::backend::Device;
use wgpt::checkpoint::{Adapter, ModelFiles, TextFiles, read_config, write_model};
use wgpt::config::{Optimizer, Recompute};
use wgpt::finetune::Lora;
use wgpt::generate::generate;
use wgpt::kernel::Step;
use wgpt::model::{Uses, open as open_model, schema};
use wgpt::params::ParamRole;
use wgpt::plan::Phase;
use wgpt::{FineTune, GenerateOptions, Gpt, GptConfig};

use crate::common::{Model, On, Tensors, assert_close_of_max, assert_relative, gpu, json, oracle};
use crate::oracle::{Trajectory, compare_model, continue_greedily, follow, ids, model_folders};

/// The folder of the reference's values of these families.
pub fn families() -> PathBuf {
    let inside = oracle().join("families");
    if inside.is_dir() { inside } else { oracle() }
}

/// Where a folder or a file of these values is: those that tests/oracle/make_gpt_neox.py made are always ours.
pub fn families_of(name: &str) -> PathBuf {
    let path = families().join(name);
    if path.exists() { path } else { Path::new("tests/oracle/families").join(name) }
}

/// The folders of models, each with the folder that has its expected values.
fn models() -> Vec<(PathBuf, PathBuf)> {
    let folders = fs::read_dir(families()).expect("the oracle is there");
    let mut folders: Vec<PathBuf> = folders.map(|entry| entry.expect("a folder").path()).collect();
    folders.extend(["gpt_neox", "gpt_neox_sequential", "gpt_neox_v4"].map(families_of));
    folders.retain(|dir| dir.join("config.json").exists());
    folders.sort();
    folders.dedup();
    let with_values = folders.iter().filter(|dir| dir.join("expect.safetensors").exists());
    let with_values: Vec<&PathBuf> = with_values.collect();
    let values = |dir: &PathBuf| {
        let name = dir.to_string_lossy();
        let all = with_values.iter().filter(|with| name.starts_with(&*with.to_string_lossy()));
        let longest = all.max_by_key(|with| with.as_os_str().len());
        (*longest.expect("values of the same weights")).clone()
    };
    folders.iter().map(|dir| (dir.clone(), values(dir))).collect()
}

#[test]
fn logits_loss_and_every_gradient() {
    let all = models();
    assert!(all.len() > model_folders(&families()).len(), "{all:?}");
    for (dir, expected) in all {
        for on in On::all_variants() {
            compare_model(&dir, &expected, on, on.tolerance(3e-7, 5e-5, 2e-4));
        }
    }
}

/// What is computed again in the backward pass is what was there, also where something is changed in place.
#[test]
fn recomputation_changes_no_gradient() {
    for name in ["llama_bias", "mistral_window", "qwen3", "gpt_neox", "gpt_neox_sequential"] {
        let dir = families_of(name);
        let expect = Tensors::open(&dir.join("expect.safetensors"));
        let shape = expect.shape("tokens");
        let (tokens, targets) = (expect.ids("tokens"), expect.ids("targets"));
        for on in [On::Twins64, On::Cpu] {
            let gradients = Recompute::ALL.map(|recompute| {
                let training = Some(Optimizer::Adamw);
                let [batch, seq] = [shape[0], shape[1]];
                let uses = Uses { batch, seq, training, recompute, ..Uses::default() };
                let mut model = Model::open(&dir, uses, on);
                let step = Step { loss_scale: 1.0 / tokens.len() as f64, ..Step::default() };
                model.run_batch(&tokens, &targets, &[Phase::Forward, Phase::Backward], &step);
                let names: Vec<_> = model.program.params.iter().map(|p| p.name.clone()).collect();
                names.iter().map(|name| model.param(name, true)).collect::<Vec<_>>()
            });
            for other in &gradients[1..] {
                assert!(*other == gradients[0], "{name} {on:?}");
            }
        }
    }
}

/// The twins are slow; those in single precision agree with the kernels.
fn trajectory(file: &'static str, halves: bool) {
    for on in On::all_variants() {
        if !matches!(on, On::Twins32 | On::Twins64) {
            follow(&Trajectory { oracle: families(), file, halves }, on);
        }
    }
}

#[test]
fn trajectory_of_llama() {
    trajectory("train_trajectory_llama_tied", false);
}

#[test]
fn trajectory_of_llama_in_halves() {
    trajectory("train_trajectory_llama_tied", true);
}

#[test]
fn trajectory_of_qwen3() {
    trajectory("train_trajectory_qwen3", false);
}

#[test]
fn trajectory_of_qwen3_in_halves() {
    trajectory("train_trajectory_qwen3", true);
}

/// The files of generation, with their models.
fn generations() -> Vec<(Value, PathBuf)> {
    let files = ["llama_tied", "mistral_window", "qwen3", "gpt_neox"].map(|name| {
        let reference = json(&families_of(&format!("generation_{name}.json")));
        let dir = families_of(reference["model"].as_str().expect("a name"));
        (reference, dir)
    });
    files.into()
}

/// The cases of some kinds in a file of generation.
fn cases<'a>(reference: &'a Value, kinds: &[&str]) -> Vec<&'a Value> {
    kinds.iter().flat_map(|kind| reference[*kind].as_array().into_iter().flatten()).collect()
}

#[test]
fn greedy_generation() {
    let gpu = gpu().map(|device| Device::Gpu(Arc::clone(device)));
    for device in [Device::Cpu].into_iter().chain(gpu) {
        for (reference, dir) in generations() {
            let mut gpt = Gpt::load(&dir, device.clone()).expect("a sound model");
            let engine = gpt.engine().expect("the device is there");
            // A cache is of no use where the window of the context moves, which takes software drivers long.
            let kinds = match device {
                Device::Cpu => &["greedy", "greedy_to_the_end", "greedy_eos", "greedy_cropped"][..],
                Device::Gpu(_) => &["greedy_to_the_end", "greedy_eos"],
            };
            let cases = cases(&reference, kinds);
            assert!(!cases.is_empty(), "{}", dir.display());
            for case in cases {
                let options = GenerateOptions {
                    max_tokens: case["max_new_tokens"].as_u64().expect("a number") as usize,
                    temperature: 0.0,
                    ..GenerateOptions::default()
                };
                let end = case["eos_token_id"].as_u64().map(|id| id as u32);
                let prompt = ids(&case["prompt"]);
                let got = generate(engine, &prompt, &options, end.as_slice(), |_| Ok(true))
                    .expect("the device is there");
                assert_eq!(got, ids(&case["continuation"]), "{} {prompt:?}", dir.display());
            }
        }
    }
}

#[test]
fn greedy_generation_by_the_twins() {
    for (reference, dir) in generations() {
        let uses = Uses { generation: Some(1), ..Uses::default() };
        let mut model = Model::open(&dir, uses, On::Twins64);
        for case in cases(&reference, &["greedy_to_the_end", "greedy_eos"]) {
            let got = continue_greedily(&mut model, case);
            assert_eq!(got, ids(&case["continuation"]), "{}", dir.display());
        }
    }
}

/// The folders of adapters with expected values.
fn adapters() -> Vec<PathBuf> {
    let entries = fs::read_dir(families().join("lora")).expect("the oracle is there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder").path()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "there are no adapters");
    folders
}

#[test]
fn merged_adapters() {
    for dir in adapters() {
        let expect = Tensors::open(&dir.join("expect.safetensors"));
        let shape = expect.shape("tokens");
        let uses = Uses { batch: shape[0], seq: shape[1], logits: true, ..Uses::default() };
        for on in On::all_variants() {
            let what = |part: &str| format!("{} {on:?} {part}", dir.display());
            let mut model = Model::open(&dir, uses, on);
            let (tokens, targets) = (expect.ids("tokens"), expect.ids("targets"));
            let step = Step { loss_scale: 1.0 / tokens.len() as f64, ..Step::default() };
            let phases = [Phase::Forward, Phase::Evaluate, Phase::Logits];
            model.run_batch(&tokens, &targets, &phases, &step);
            let logits = model.program.batch.and_then(|batch| batch.logits).expect("logits");
            // The weights that the adapters are merged into are singles.
            let tolerance = on.tolerance(2e-6, 5e-5, 2e-4);
            let got = model.on.read(logits);
            assert_close_of_max(&what("logits"), &got, expect.get("logits"), tolerance);
            let tolerance = on.tolerance(1e-6, 2e-6, 1e-5);
            assert_relative(&what("loss"), model.loss(), expect.get("loss")[0], tolerance);
        }
    }
}

#[test]
fn gradients_of_adapters() {
    for dir in adapters() {
        let expect = Tensors::open(&dir.join("expect.safetensors"));
        let settings = json(&dir.join("adapter_config.json"));
        let targets = settings["target_modules"].as_array().expect("a list");
        let lora = Lora {
            rank: settings["r"].as_u64().expect("a number") as usize,
            alpha: settings["lora_alpha"].as_f64().expect("a number"),
            targets: targets.iter().map(|name| name.as_str().expect("a name").to_owned()).collect(),
        };
        let finetune = FineTune { lora: Some(lora), ..FineTune::default() };
        let base = dir.join(settings["base_model_name_or_path"].as_str().expect("a path"));
        let (config, weights) = open_model(&base).expect("a sound model");
        let schema = schema(&config, &finetune);
        let adapter = Adapter::open(&dir, &schema).expect("sound adapters");
        let shape = expect.shape("tokens");
        let training = Some(Optimizer::Adamw);
        let uses = Uses { batch: shape[0], seq: shape[1], training, ..Uses::default() };
        for on in On::all_variants() {
            let mut model = Model::record_tuning(&config, uses, &finetune, on, on.limits());
            model.fill(|name, out| match schema.adapters().find(|part| part.name == name) {
                Some(part) => adapter.read(part, 0, out).expect("a part of an adapter"),
                None => weights.read(name, 0, out).expect("a sound parameter"),
            });
            let (tokens, targets) = (expect.ids("tokens"), expect.ids("targets"));
            let step = Step { loss_scale: 1.0 / tokens.len() as f64, ..Step::default() };
            model.run_batch(&tokens, &targets, &[Phase::Forward, Phase::Backward], &step);
            let tolerance = on.tolerance(1e-6, 2e-6, 1e-5);
            assert_relative(&format!("{on:?}"), model.loss(), expect.get("loss")[0], tolerance);
            let mut compared = 0;
            for part in schema.adapters() {
                let family = schema.family;
                let name = format!("grad.base_model.model.{}", family.file_name(&part.name));
                let mut want = expect.get(&name).to_vec();
                if part.role == ParamRole::LoraB {
                    // In the file it is (out, rank).
                    let rank = part.shape[0];
                    want = (0..rank)
                        .flat_map(|r| want.iter().skip(r).step_by(rank))
                        .copied()
                        .collect();
                }
                let what = format!("{} {on:?} {name}", dir.display());
                let got = model.param(&part.name, true);
                assert_close_of_max(&what, &got, &want, on.tolerance(3e-7, 1e-4, 4e-4));
                compared += 1;
            }
            let all = expect.names().filter(|name| name.starts_with("grad.")).count();
            assert_eq!(compared, all, "{}", dir.display());
        }
    }
}

/// The sizes in a config.json.
fn config_of(config: &Value) -> GptConfig {
    let dir = TempDir::new().expect("a folder");
    fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
    read_config(dir.path()).unwrap_or_else(|e| panic!("{config}: {e}"))
}

#[test]
fn every_spelling_of_config_json_is_read_alike() {
    let spellings = json(&families().join("configs.json"));
    let spellings = spellings["configs"].as_array().expect("a list");
    assert!(spellings.len() >= 20);
    for spelling in spellings {
        let same = families().join(spelling["same_as"].as_str().expect("a name"));
        let want = read_config(&same).expect("a sound config.json");
        assert_eq!(config_of(&spelling["config"]), want, "{}", spelling["what"]);
    }
}

/// A window of some layers, for which the reference has no folder.
#[test]
fn windows_of_some_layers_are_read_and_written() {
    let mut config = json(&families().join("qwen3/config.json"));
    let layers = config["num_hidden_layers"].as_u64().expect("a number") as usize;
    config["use_sliding_window"] = true.into();
    config["sliding_window"] = 5.into();
    config["layer_types"] = Value::Null;
    config["max_window_layers"] = 1.into();
    let from_first = config_of(&config);
    let windows = |config: &GptConfig| (0..layers).map(|l| config.window(l)).collect::<Vec<_>>();
    assert_eq!(windows(&from_first)[..2], [None, Some(5)]);
    let family = FAMILIES.iter().find(|family| family.model_type == "qwen3").expect("the family");
    let written = config_of(&(family.write_config)(&from_first, 0.0));
    assert_eq!(windows(&written), windows(&from_first));
    let mut types = vec!["full_attention"; layers];
    types[0] = "sliding_attention";
    config["layer_types"] = types.into();
    assert_eq!(windows(&config_of(&config))[..2], [Some(5), None]);
}

/// Whether two values of JSON are the same; 10000 is 10000.0.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|b| is_same(v, b)))
        }
        _ => a == b,
    }
}

/// What is written says the same as what was read, under the same names.
#[test]
fn models_are_written_as_they_were_read() {
    for dir in model_folders(&families()) {
        let (config, weights) = open_model(&dir).expect("a sound model");
        let copy = TempDir::new().expect("a folder");
        let text_files = TextFiles::read(&dir, config.vocab_size).expect("sound settings");
        let files = ModelFiles {
            config: &config,
            schema: schema(&config, &FineTune::default()),
            dropout: 0.0,
            tokenizer: None,
            text_files: &text_files,
            adapter: None,
        };
        let mut fill = |name: &str, start: usize, out: &mut [f32]| weights.read(name, start, out);
        write_model(copy.path(), &files, &mut fill).expect("a folder that can be written");
        assert_eq!(read_config(copy.path()).expect("a sound config.json"), config);
        let [old, new] = [&*dir, copy.path()].map(|dir| json(&dir.join("config.json")));
        for (field, value) in old.as_object().expect("an object") {
            if !["bos_token_id", "eos_token_id", "dtype", "max_window_layers"].contains(&&**field) {
                let same = is_same(&new[field], value);
                assert!(same, "{} {field}: {} {value}", dir.display(), new[field]);
            }
        }
        // Other formats than f32 are written as f32.
        if !dir.to_string_lossy().ends_with("16") {
            let [old, new] =
                [&*dir, copy.path()].map(|dir| Tensors::bytes(&dir.join("model.safetensors")));
            assert!(old == new, "{}", dir.display());
        }
    }
}

/// The mean loss of the control's tokens.
fn control_loss(dir: &Path, control: &Value) -> Result<f64, String> {
    let (config, weights) = open_model(dir).map_err(|e| e.to_string())?;
    let rows = |name: &str| -> Vec<u32> {
        control[name].as_array().expect("rows").iter().flat_map(ids).collect()
    };
    let (tokens, targets) = (rows("tokens"), rows("targets"));
    let batch = control["tokens"].as_array().expect("rows").len();
    let uses = Uses { batch, seq: tokens.len() / batch, ..Uses::default() };
    let mut model = Model::record(&config, uses, On::Cpu, On::Cpu.limits());
    model.fill(|name, out| weights.read(name, 0, out).expect("a sound parameter"));
    let step = Step { loss_scale: 1.0 / tokens.len() as f64, ..Step::default() };
    model.run_batch(&tokens, &targets, &[Phase::Forward, Phase::Evaluate], &step);
    Ok(model.loss())
}

#[test]
fn broken_folders_are_refused_by_name() {
    let bad = json(&families().join("bad/bad.json"));
    let cases = bad["cases"].as_array().expect("cases");
    assert!(cases.len() >= 40);
    let mut faults = vec![];
    for case in cases {
        let path = case["path"].as_str().expect("a path");
        let Err(error) = open_model(&families().join(path)).map(|_| ()) else {
            faults.push(format!("{path} was accepted"));
            continue;
        };
        let message = error.to_string().to_lowercase();
        for any in case["must_mention"].as_array().expect("lists") {
            let words = any.as_array().expect("a list").iter();
            let mut words = words.map(|word| word.as_str().expect("a word").to_lowercase());
            if !words.any(|word| message.contains(&word)) {
                faults.push(format!("{path}: {message:?} mentions none of {any}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn sound_folders_load() {
    let bad = json(&families().join("bad/bad.json"));
    let control = &bad["control"];
    let more = bad["more_controls"].as_array().expect("a list");
    for case in [control].into_iter().chain(more) {
        let path = case["path"].as_str().expect("a path");
        let loss = control_loss(&families().join(path), control).expect(path);
        assert_relative(path, loss, case["loss"].as_f64().expect("a number"), 5e-6);
    }
}

#[test]
fn what_is_unusual_is_refused_by_name_or_computed_rightly() {
    let bad = json(&families().join("bad/bad.json"));
    for case in bad["either_or"]["cases"].as_array().expect("cases") {
        let path = case["path"].as_str().expect("a path");
        match control_loss(&families().join(path), &bad["control"]) {
            Ok(loss) => {
                assert_relative(path, loss, case["or_loss"].as_f64().expect("a number"), 5e-6);
            }
            Err(message) => {
                let either = case["either"].as_str().expect("a text");
                let names = either.strip_prefix("refused with an error that names ");
                let mut names = names.expect("how it is said").split(" or ");
                assert!(names.any(|name| message.contains(name)), "{path}: {message}");
            }
        }
    }
}

/// docs/models.md has a row for each family, with what the family says.
#[test]
fn the_documented_families_are_those_of_the_list() {
    let text = include_str!("../../docs/models.md");
    let table = text.split("\n## ").find(|part| part.starts_with("Families")).expect("a section");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    assert_eq!(rows.clone().count(), FAMILIES.len());
    for (family, row) in FAMILIES.iter().map(|family| {
        let begin = format!("| `{}` | `{}` | ", family.model_type, family.class);
        (family, rows.clone().find(|row| row.starts_with(&begin)))
    }) {
        let row = row.unwrap_or_else(|| panic!("no row for {}", family.model_type));
        let gguf = family.gguf.map_or("not yet".into(), |gguf| format!("`{}`", gguf.architecture));
        let adapted: Vec<_> = family.adapted.iter().map(|name| format!("`{name}`")).collect();
        let end = format!(" | {gguf} | {} |", adapted.join(", "));
        assert!(row.ends_with(&end), "{row} does not end with {end}");
    }
}
