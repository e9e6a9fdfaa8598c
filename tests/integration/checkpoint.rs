//! Are model folders read exactly, written as Hugging Face does, and bad ones refused with a reason?

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use half::{bf16, f16};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::checkpoint::{ModelFiles, TensorFile, TextFiles, Weights, read_config, write_model};
use wgpt::model::{Program, Uses, open as open_model, open_weights, parameters};
use wgpt::params::NamedShape;
use wgpt::plan::Limits;
use wgpt::{GptConfig, Result, Tokenizer};

use crate::common::oracle;

/// The JSON in a file.
pub fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The elements of a tensor of this shape.
pub fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// The bits of every parameter, by name.
pub fn all_bits(weights: &Weights, config: &GptConfig) -> BTreeMap<String, Vec<u32>> {
    let read = |(name, shape): NamedShape| {
        let mut values = vec![f32::NAN; elements(&shape)];
        weights.read(&name, 0, &mut values).unwrap();
        (name, values.iter().map(|x| x.to_bits()).collect())
    };
    parameters(config).into_iter().map(read).collect()
}

fn load(folder: &str) -> (GptConfig, BTreeMap<String, Vec<u32>>) {
    let (config, weights) = open_model(&oracle().join(folder)).unwrap();
    let bits = all_bits(&weights, &config);
    (config, bits)
}

/// What a refusal says, which is not allowed to be empty-handed.
fn refusal(path: &Path) -> String {
    match open_model(path) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(e) => e.to_string(),
    }
}

#[test]
fn bad_folders_are_refused_with_the_reason() {
    let bad = json_file(&oracle().join("bad/bad.json"));
    let mut seen = 0;
    for case in bad["cases"].as_array().unwrap() {
        if !matches!(case["kind"].as_str().unwrap(), "checkpoint" | "config") {
            continue;
        }
        seen += 1;
        let message = refusal(&oracle().join(case["path"].as_str().unwrap()));
        // The folder's own name often holds the words looked for.
        let said = message.replace(oracle().to_str().unwrap(), "").to_lowercase();
        let folder = case["path"].as_str().unwrap().to_lowercase();
        let said = said.replace(&folder, "");
        for words in case["must_mention"].as_array().unwrap() {
            let words: Vec<String> = words
                .as_array()
                .unwrap()
                .iter()
                .map(|w| w.as_str().unwrap().to_lowercase())
                .collect();
            assert!(words.iter().any(|w| said.contains(w)), "{message:?} has none of {words:?}");
        }
    }
    assert!(seen > 0);
    let control = bad["control"]["path"].as_str().unwrap();
    open_model(&oracle().join(control)).unwrap();
}

#[test]
fn unsupported_settings_are_refused_by_name() {
    let bad = json_file(&oracle().join("bad/bad.json"));
    for case in bad["either_or"]["cases"].as_array().unwrap() {
        let message = refusal(&oracle().join(case["path"].as_str().unwrap()));
        let setting = case["setting"].as_str().unwrap().split(' ').next().unwrap();
        assert!(message.contains(setting), "{message:?} does not name {setting}");
    }
}

#[test]
fn the_variants_of_a_model_read_the_same() {
    let (config, plain) = load("gpt2_tiny_a");
    assert_eq!(load("gpt2_tiny_a_sharded"), (config.clone(), plain.clone()));
    assert_eq!(load("gpt2_tiny_a_noprefix"), (config.clone(), plain.clone()));

    let wide = |bits: &u32| f32::from_bits(*bits);
    for (name, bits) in load("gpt2_tiny_a_f16").1 {
        let expected = plain[&name].iter().map(wide).map(|x| half::f16::from_f32(x).to_f32());
        assert!(bits.iter().map(wide).eq(expected), "{name} in F16");
    }
    for (name, bits) in load("gpt2_tiny_a_bf16").1 {
        let expected = plain[&name].iter().map(wide).map(|x| half::bf16::from_f32(x).to_f32());
        assert!(bits.iter().map(wide).eq(expected), "{name} in BF16");
    }
}

#[test]
fn parts_of_a_tensor_are_parts_of_the_whole() {
    for folder in ["gpt2_tiny_c", "gpt2_tiny_a_bf16"] {
        let dir = oracle().join(folder);
        let (config, weights) = open_model(&dir).unwrap();
        let whole = &all_bits(&weights, &config)["wte.weight"];
        for (offset, n) in [(0, 1), (7, 13), (whole.len() - 3, 3), (whole.len(), 0)] {
            let mut part = vec![f32::NAN; n];
            weights.read("wte.weight", offset, &mut part).unwrap();
            assert!(part.iter().map(|x| x.to_bits()).eq(whole[offset..offset + n].iter().copied()));
        }
        let mut part = vec![0.0; 4];
        weights.read("wte.weight", whole.len() - 3, &mut part).unwrap_err();
        weights.read("wte.weight", usize::MAX, &mut part).unwrap_err();
        weights.read("lm_head.weight", 0, &mut part).unwrap_err();
    }
}

/// A copy of a folder that a test may change.
fn copied(folder: &str) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(oracle().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Changes config.json of the sound little model, and says how it is received.
fn with_setting(name: &str, value: Value) -> Result<GptConfig> {
    let copy = copied("bad/control_ok");
    let path = copy.path().join("config.json");
    let mut config = json_file(&path);
    if value == json!("absent") {
        config.as_object_mut().unwrap().remove(name);
    } else {
        config[name] = value;
    }
    fs::write(&path, config.to_string()).unwrap();
    read_config(copy.path())
}

#[test]
fn settings_are_read_strictly() {
    let sound = read_config(&oracle().join("bad/control_ok")).unwrap();
    let same = [
        ("model_type", json!("absent")),
        ("activation_function", json!("gelu_pytorch_tanh")),
        ("activation_function", json!("absent")),
        ("n_ctx", json!(5)),
        ("n_inner", json!(4 * sound.n_embd)),
        ("attn_pdrop", json!(0.1)),
    ];
    for (name, value) in same {
        let config = with_setting(name, value.clone()).unwrap();
        assert_eq!(config.n_inner(), sound.n_inner(), "{name} {value}");
        assert_eq!(GptConfig { n_inner: None, ..config }, sound, "{name} {value}");
    }
    let refused = [
        ("add_cross_attention", json!(true)),
        ("scale_attn_weights", json!(null)),
        ("pruned_heads", json!({"0": [1]})),
        ("quantization_config", json!({"bits": 4})),
        ("n_positions", json!("absent")),
        ("n_positions", json!(1u64 << 24)),
        ("n_inner", json!(0)),
        ("layer_norm_epsilon", json!("1e-5")),
        ("layer_norm_epsilon", json!(0.0)),
    ];
    for (name, value) in refused {
        let message = with_setting(name, value.clone()).unwrap_err().to_string();
        assert!(message.contains(name), "{name} {value}: {message:?}");
    }
    let error = with_setting("activation_function", json!("relu")).unwrap_err();
    assert!(error.advice().is_some());
}

#[test]
fn early_files_name_the_context_n_ctx() {
    let copy = copied("bad/control_ok");
    let path = copy.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"n_positions\"", "\"n_ctx\"");
    fs::write(&path, text).unwrap();
    let expected = read_config(&oracle().join("bad/control_ok")).unwrap();
    assert_eq!(read_config(copy.path()).unwrap(), expected);
}

#[test]
fn a_pickled_model_is_refused_with_the_remedy() {
    for name in [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "flax_model.msgpack",
        "model.pt",
        "model.ckpt.index",
    ] {
        let copy = copied("bad/control_ok");
        let file = copy.path().join(name);
        fs::rename(copy.path().join("model.safetensors"), &file).unwrap();
        // A trainer's files and data are no weights.
        for other in ["training_args.bin", "optimizer.pt", "data.bin"] {
            fs::write(copy.path().join(other), "").unwrap();
        }
        let named =
            if name.ends_with("json") || name.ends_with("index") { None } else { Some(file) };
        for place in [Some(copy.path().to_owned()), named].into_iter().flatten() {
            let error = open_model(&place).err().unwrap();
            assert!(
                error.to_string().contains(&format!("{name} cannot be read safely")),
                "{error}"
            );
            assert!(error.advice().unwrap().contains("AutoModelForCausalLM.from_pretrained"));
        }
        fs::remove_file(copy.path().join(name)).unwrap();
        let error = open_model(copy.path()).err().unwrap();
        assert!(error.to_string().contains("holds no model.safetensors"), "{error}");
    }
}

#[test]
fn a_configuration_of_millions_of_layers_costs_nothing() {
    let mut config = read_config(&oracle().join("bad/control_ok")).unwrap();
    let first_missing = format!("h.{}.ln_1.weight", config.n_layer);
    config.n_layer = (1 << 24) - 1;
    let error = open_weights(&oracle().join("bad/control_ok"), &config).err().unwrap();
    assert!(error.to_string().contains(&first_missing), "{error}");
}

#[test]
fn weights_of_another_model_are_refused_by_name() {
    let dir = oracle().join("gpt2_tiny_a");
    let mut config = read_config(&dir).unwrap();
    config.n_layer -= 1;
    let error = open_weights(&dir, &config).err().unwrap();
    let unexpected = format!("h.{}.", config.n_layer);
    assert!(error.to_string().contains(&unexpected), "{error}");
}

/// Writes a safetensors file of tensors given as F32 numbers.
fn write_raw(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let views = tensors.iter().map(|(name, shape, data)| {
        let bytes = bytemuck::cast_slice(data);
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name, view.unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_head_is_accepted_only_if_it_is_the_token_table() {
    let dir = oracle().join("bad/control_ok");
    let (config, weights) = open_model(&dir).unwrap();
    let tensors = parameters(&config).into_iter().map(|(name, shape)| {
        let mut data = vec![0.0; elements(&shape)];
        weights.read(&name, 0, &mut data).unwrap();
        (name, shape, data)
    });
    let mut tensors: Vec<_> = tensors.collect();
    let (_, shape, data) = tensors[0].clone();
    tensors.push(("lm_head.weight".to_string(), shape, data));
    let copy = copied("bad/control_ok");
    let path = copy.path().join("model.safetensors");

    write_raw(&path, &tensors);
    open_model(copy.path()).unwrap();

    *tensors.last_mut().unwrap().2.last_mut().unwrap() += 1.0;
    write_raw(&path, &tensors);
    assert!(refusal(copy.path()).contains("lm_head.weight"));

    let mut transposed = tensors.pop().unwrap();
    transposed.1.reverse();
    tensors.push(transposed);
    write_raw(&path, &tensors);
    assert!(refusal(copy.path()).contains("lm_head.weight"));
}

#[test]
fn a_tied_table_may_be_there_as_the_head_alone() {
    for folder in ["gpt2_tiny_a", "gpt2_tiny_a_noprefix", "gpt2_tiny_a_f16", "gpt2_tiny_a_bf16"] {
        let copy = copied(folder);
        let path = copy.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let inner = |name: &str| name.trim_start_matches("transformer.").to_owned();
        let renamed = file.tensors().into_iter().map(|(name, view)| match inner(&name).as_str() {
            "wte.weight" => ("lm_head.weight".to_owned(), view),
            _ => (name, view),
        });
        fs::write(&path, safetensors::serialize(renamed, None).unwrap()).unwrap();
        let (config, weights) = open_model(copy.path()).unwrap();
        assert!((config.clone(), all_bits(&weights, &config)) == load(folder), "{folder}");
    }
    // In several files: the index and the file that holds it name it so.
    let copy = copied("gpt2_tiny_a_sharded");
    let path = copy.path().join("model.safetensors.index.json");
    let mut index = json_file(&path);
    let map = index["weight_map"].as_object_mut().unwrap();
    let table = map.keys().find(|name| name.ends_with("wte.weight")).unwrap().clone();
    let shard = map.remove(&table).unwrap();
    map.insert("lm_head.weight".into(), shard.clone());
    fs::write(&path, index.to_string()).unwrap();
    let path = copy.path().join(shard.as_str().unwrap());
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let renamed = file.tensors().into_iter().map(|(name, view)| {
        if name == table { ("lm_head.weight".into(), view) } else { (name, view) }
    });
    fs::write(&path, safetensors::serialize(renamed, None).unwrap()).unwrap();
    let (config, weights) = open_model(copy.path()).unwrap();
    assert!((config.clone(), all_bits(&weights, &config)) == load("gpt2_tiny_a"));
}

#[test]
fn a_tensor_may_not_be_there_under_both_names() {
    let copy = copied("bad/control_ok");
    let config = read_config(copy.path()).unwrap();
    let mut tensors: Vec<_> = parameters(&config)
        .into_iter()
        .map(|(name, shape)| (name, shape.clone(), vec![0.5; elements(&shape)]))
        .collect();
    let (name, shape, data) = tensors[0].clone();
    tensors.push((format!("transformer.{name}"), shape, data));
    write_raw(&copy.path().join("model.safetensors"), &tensors);
    assert!(refusal(copy.path()).contains("twice"));
}

#[test]
fn the_first_fault_is_the_error() {
    let copy = copied("bad/nan_weights");
    let bad = json_file(&oracle().join("bad/bad.json"));
    let case = bad["cases"].as_array().unwrap().iter().find(|c| c["path"] == "bad/nan_weights");
    let problem = case.unwrap()["problem"].as_str().unwrap();
    let place = &problem[problem.find('[').unwrap()..=problem.find(']').unwrap()];
    assert!(refusal(copy.path()).contains(place), "{problem}");
    let other = oracle().join("bad/wrong_shape/model.safetensors");
    fs::copy(other, copy.path().join("model.safetensors")).unwrap();
    assert!(refusal(copy.path()).contains("shape"));
    fs::write(copy.path().join("config.json"), "{").unwrap();
    assert!(refusal(copy.path()).contains("config.json"));
}

/// Numbers of every kind, NaN among them, made from a name and an index.
pub fn awkward(name: &str, index: usize) -> f32 {
    let seed = name.bytes().fold(index as u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    f32::from_bits(seed.wrapping_mul(2_654_435_769))
}

pub fn fill_awkward(name: &str, offset: usize, out: &mut [f32]) -> Result<()> {
    out.iter_mut().enumerate().for_each(|(i, x)| *x = awkward(name, offset + i));
    Ok(())
}

pub fn assert_awkward(name: &str, values: &[f32]) {
    for (i, x) in values.iter().enumerate() {
        assert_eq!(x.to_bits(), awkward(name, i).to_bits(), "{name} at {i}");
    }
}

/// Wider than one slice of the writer and of the finiteness check.
pub fn wide_config() -> GptConfig {
    GptConfig { vocab_size: 40_000, n_embd: 32, n_layer: 1, n_inner: Some(7), ..GptConfig::small() }
}

pub fn model_files(config: &GptConfig) -> ModelFiles<'_> {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::bytes);
    static NO_FILES: LazyLock<TextFiles> = LazyLock::new(TextFiles::default);
    ModelFiles {
        schema: wgpt::model::schema(config, &wgpt::FineTune::default()),
        config,
        dropout: 0.1,
        tokenizer: Some(&TOKENIZER),
        text_files: &NO_FILES,
        adapter: None,
    }
}

/// Tensors are read in pieces of a million numbers.
#[test]
fn halves_beyond_a_piece_are_themselves() {
    let count = (1 << 20) + 3;
    let value = |i: usize| (i % 2039) as f32;
    let folder = TempDir::new().unwrap();
    for dtype in ["F16", "BF16", "F32"] {
        let bytes: Vec<u8> = match dtype {
            "F16" => (0..count).flat_map(|i| f16::from_f32(value(i)).to_le_bytes()).collect(),
            "BF16" => (0..count).flat_map(|i| bf16::from_f32(value(i)).to_le_bytes()).collect(),
            _ => (0..count).flat_map(|i| value(i).to_le_bytes()).collect(),
        };
        let header =
            json!({"x": {"dtype": dtype, "shape": [count], "data_offsets": [0, bytes.len()]}});
        let header = header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        let path = folder.path().join(dtype);
        fs::write(&path, [&length[..], header.as_bytes(), &bytes].concat()).unwrap();
        let mut read = vec![f32::NAN; count - 1];
        TensorFile::open(&path).unwrap().read("x", 1, &mut read).unwrap();
        let want = |i: usize| match dtype {
            "BF16" => bf16::from_f32(value(i)).to_f32(),
            _ => value(i),
        };
        let wrong = (1..count).find(|i| read[i - 1] != want(*i));
        assert_eq!(wrong, None, "{dtype}");
    }
}

#[test]
fn a_written_model_reads_back_bit_for_bit() {
    let dir = TempDir::new().unwrap();
    let config = wide_config();
    write_model(dir.path(), &model_files(&config), &mut fill_awkward).unwrap();
    assert_eq!(read_config(dir.path()).unwrap(), config);
    let weights = open_weights(dir.path(), &config).unwrap();
    for (name, shape) in parameters(&config) {
        let mut values = vec![0.0; elements(&shape)];
        weights.read(&name, 0, &mut values).unwrap();
        assert_awkward(&name, &values);
    }
    // These numbers are not all finite, and the first that is not is named.
    let first = (0..config.vocab_size * config.n_embd)
        .find(|&i| !awkward("wte.weight", i).is_finite())
        .unwrap();
    let place =
        format!("wte.weight is NaN at [{}, {}]", first / config.n_embd, first % config.n_embd);
    let message = weights.check_finite().unwrap_err().to_string();
    assert!(message.contains(&place), "{message} should say {place}");
}

#[test]
fn a_written_folder_is_as_save_pretrained_writes_it() {
    for folder in ["gpt2_tiny_a", "gpt2_tiny_b", "gpt2_tiny_c"] {
        let from = oracle().join(folder);
        let to = TempDir::new().unwrap();
        let (config, weights) = open_model(&from).unwrap();
        let theirs = json_file(&from.join("config.json"));
        // Of their files the configuration alone is known, so that the other one is not just a copy.
        let known = TempDir::new().unwrap();
        fs::copy(from.join("config.json"), known.path().join("config.json")).unwrap();
        let model = ModelFiles {
            adapter: None,
            config: &config,
            schema: wgpt::model::schema(&config, &wgpt::FineTune::default()),
            dropout: theirs["resid_pdrop"].as_f64().unwrap(),
            tokenizer: None,
            text_files: &TextFiles::read(known.path(), config.vocab_size).unwrap(),
        };
        let mut fill = |name: &str, offset: usize, out: &mut [f32]| weights.read(name, offset, out);
        write_model(to.path(), &model, &mut fill).unwrap();
        let mut ours = json_file(&to.path().join("config.json"));
        assert_eq!(ours["attn_pdrop"], json!(0.0));
        ours["attn_pdrop"] = theirs["attn_pdrop"].clone();
        assert_eq!(ours, theirs);
        for name in ["generation_config.json", "model.safetensors"] {
            let (ours, theirs) = (fs::read(to.path().join(name)), fs::read(from.join(name)));
            if name.ends_with(".json") {
                let parse = |text: Vec<u8>| serde_json::from_slice::<Value>(&text).unwrap();
                assert_eq!(parse(ours.unwrap()), parse(theirs.unwrap()), "{folder}/{name}");
            } else {
                assert!(ours.unwrap() == theirs.unwrap(), "{folder}/{name}");
            }
        }
        assert!(!to.path().join("tokenizer.json").exists());
    }
}

#[test]
fn the_tokenizer_is_described_for_hugging_face() {
    let dir = TempDir::new().unwrap();
    let config = GptConfig { n_layer: 1, n_embd: 8, ..GptConfig::small() };
    write_model(dir.path(), &model_files(&config), &mut fill_awkward).unwrap();
    let described = json_file(&dir.path().join("tokenizer_config.json"));
    assert_eq!(described["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(described["model_max_length"], config.n_positions);
    assert_eq!(described["eos_token"], "<|endoftext|>");
    assert_eq!(described.get("add_prefix_space"), None);
    let tokenizer = fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer, Tokenizer::bytes().to_json());

    // Without the setting in both files transformers before 5 puts no blank in front of texts.
    let json = tokenizer.replacen("\"add_prefix_space\": false", "\"add_prefix_space\": true", 1);
    let prefixed = Tokenizer::from_json(&json, "prefixed").unwrap();
    assert_eq!(prefixed.encode("!"), [221, 1]);
    let files = ModelFiles { tokenizer: Some(&prefixed), ..model_files(&config) };
    write_model(dir.path(), &files, &mut fill_awkward).unwrap();
    assert_eq!(json_file(&dir.path().join("tokenizer_config.json"))["add_prefix_space"], true);
    assert!(Tokenizer::load(dir.path()).unwrap() == prefixed);
}

/// What the reader of the format's authors finds, where it accepts a file.
fn check_against_the_reference_reader(dir: &Path, config: &GptConfig, weights: &Weights) {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).expect("accepted here only");
    for (name, bits) in all_bits(weights, config) {
        let tensor = reference
            .tensor(&name)
            .or_else(|_| reference.tensor(&format!("transformer.{name}")))
            .unwrap();
        if tensor.dtype() == safetensors::Dtype::F32 {
            let theirs = tensor.data().chunks_exact(4);
            let theirs = theirs.map(|b| u32::from_le_bytes(b.try_into().unwrap()));
            assert!(theirs.eq(bits), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_never_panic(
        damage in prop::collection::vec((0usize..1600, any::<u8>()), 1..4),
        cut in prop::option::weighted(0.2, 0usize..6000),
    ) {
        let copy = copied("bad/control_ok");
        let path = copy.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        fs::write(&path, &bytes).unwrap();
        let config = read_config(copy.path()).unwrap();
        if let Ok(weights) = open_weights(copy.path(), &config) {
            let _ = weights.check_finite();
            check_against_the_reference_reader(copy.path(), &config, &weights);
        }
    }

    #[test]
    fn random_headers_never_panic(
        header in prop::collection::vec(any::<u8>(), 0..300),
        length in prop::option::of(any::<u64>()),
    ) {
        let copy = copied("bad/control_ok");
        let length = length.unwrap_or(header.len() as u64);
        let bytes = [&length.to_le_bytes()[..], &header].concat();
        fs::write(copy.path().join("model.safetensors"), bytes).unwrap();
        let config = read_config(copy.path()).unwrap();
        prop_assert!(open_weights(copy.path(), &config).is_err());
    }

    #[test]
    fn random_configurations_never_panic(text in "\\PC{0,200}", name in "[a-z_]{1,12}", n in any::<f64>()) {
        let copy = copied("bad/control_ok");
        fs::write(copy.path().join("config.json"), &text).unwrap();
        prop_assert!(read_config(copy.path()).is_err());
        let path = oracle().join("bad/control_ok/config.json");
        let mut config = json_file(&path);
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        config[&keys[name.len() % keys.len()]] = json!(n);
        fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        let _ = read_config(copy.path());
    }
}

#[test]
fn the_files_parameters_are_the_models() {
    for folder in ["gpt2_tiny_a", "gpt2_tiny_c"] {
        let config = read_config(&oracle().join(folder)).unwrap();
        let uses = Uses { batch: 1, seq: 2, ..Uses::default() };
        let program = Program::record(&config, uses, Limits::WEBGPU);
        let model: BTreeMap<_, _> = program.params.iter().map(|p| p.info.named_shape()).collect();
        assert_eq!(parameters(&config).into_iter().collect::<BTreeMap<_, _>>(), model);
    }
}
