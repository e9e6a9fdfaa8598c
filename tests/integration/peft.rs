//! Are adapters that PEFT wrote read as PEFT reads them?
//!
//! The values are those of PEFT 0.21.2 with transformers 5.24.0 and PyTorch 2.15.0: a GPT-2 of [`sizes`], whose parameters
//! are [`values`] of their place among [`parameters`]; a folder that `save_pretrained` wrote, in whose file each tensor
//! holds [`values`] of 50 and its place among the names (the head those of the token table); and what
//! `PeftModel.from_pretrained` then gives as the first three logits after [`TOKENS`].

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::backend::Device;
use wgpt::checkpoint::{
    Layout, ModelFiles, TextFiles, has_adapters, is_adapter, model_at, write_model,
};
use wgpt::kernel::Draw;
use wgpt::model::parameters;
use wgpt::{Error, Gpt, GptConfig};

use crate::common::assert_close_of_max;

const TOKENS: [u32; 4] = [1, 5, 2, 7];
/// The logits of the model without adapters.
const PLAIN: [f64; 3] = [-0.8941496, -0.0927712, -0.2027452];

struct Case {
    name: &'static str,
    /// What adapter_config.json says beside a rank of 2 and an alpha of 8.
    config: &'static str,
    /// The tensors of adapter_model.safetensors, without `base_model.model.`, with their shapes, sorted.
    tensors: &'static str,
    logits: [f64; 3],
}

const CASES: &[Case] = &[
    Case {
        name: "plain",
        config: r#"{"target_modules": ["c_attn"]}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
        ",
        logits: [0.4929191, 0.8623856, -1.1044973],
    },
    Case {
        name: "rslora",
        config: r#"{"use_rslora": true, "rank_pattern": {"c_fc": 5}, "alpha_pattern": {"c_fc": 3}, "target_modules": ["c_attn", "c_fc"]}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.0.mlp.c_fc.lora_A.weight 5x8
            transformer.h.0.mlp.c_fc.lora_B.weight 32x5
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.mlp.c_fc.lora_A.weight 5x8
            transformer.h.1.mlp.c_fc.lora_B.weight 32x5
        ",
        logits: [0.1293402, -0.4504934, -0.8962926],
    },
    Case {
        name: "patterns",
        config: r#"{"rank_pattern": {"0.attn.c_attn": 4, "^transformer.h.1.mlp.c_proj": 3, "c_attn": 1, "c_proj": 2}, "alpha_pattern": {"0.attn.c_proj": 100, "c_proj": 20, "h\\.\\d\\.mlp\\.c_proj": 3}, "target_modules": ["c_attn", "c_proj"]}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 4x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x4
            transformer.h.0.attn.c_proj.lora_A.weight 2x8
            transformer.h.0.attn.c_proj.lora_B.weight 8x2
            transformer.h.0.mlp.c_proj.lora_A.weight 2x32
            transformer.h.0.mlp.c_proj.lora_B.weight 8x2
            transformer.h.1.attn.c_attn.lora_A.weight 1x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x1
            transformer.h.1.attn.c_proj.lora_A.weight 2x8
            transformer.h.1.attn.c_proj.lora_B.weight 8x2
            transformer.h.1.mlp.c_proj.lora_A.weight 3x32
            transformer.h.1.mlp.c_proj.lora_B.weight 8x3
        ",
        logits: [0.555521, 0.5174029, -0.4066726],
    },
    Case {
        name: "regex",
        config: r#"{"target_modules": "(?!.*h\\.0).*(attn\\.c_attn|c_fc)"}"#,
        tensors: "
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.mlp.c_fc.lora_A.weight 2x8
            transformer.h.1.mlp.c_fc.lora_B.weight 32x2
        ",
        logits: [-1.0416527, 0.3813038, 0.231995],
    },
    Case {
        name: "linear",
        config: r#"{"r": 1, "lora_alpha": 1, "target_modules": "all-linear"}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 1x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x1
            transformer.h.0.attn.c_proj.lora_A.weight 1x8
            transformer.h.0.attn.c_proj.lora_B.weight 8x1
            transformer.h.0.mlp.c_fc.lora_A.weight 1x8
            transformer.h.0.mlp.c_fc.lora_B.weight 32x1
            transformer.h.0.mlp.c_proj.lora_A.weight 1x32
            transformer.h.0.mlp.c_proj.lora_B.weight 8x1
            transformer.h.1.attn.c_attn.lora_A.weight 1x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x1
            transformer.h.1.attn.c_proj.lora_A.weight 1x8
            transformer.h.1.attn.c_proj.lora_B.weight 8x1
            transformer.h.1.mlp.c_fc.lora_A.weight 1x8
            transformer.h.1.mlp.c_fc.lora_B.weight 32x1
            transformer.h.1.mlp.c_proj.lora_A.weight 1x32
            transformer.h.1.mlp.c_proj.lora_B.weight 8x1
        ",
        logits: [-0.7510868, -0.342398, -0.8338072],
    },
    Case {
        name: "exclude",
        config: r#"{"target_modules": ["c_proj"], "exclude_modules": ["h.0.attn.c_proj"]}"#,
        tensors: "
            transformer.h.0.mlp.c_proj.lora_A.weight 2x32
            transformer.h.0.mlp.c_proj.lora_B.weight 8x2
            transformer.h.1.attn.c_proj.lora_A.weight 2x8
            transformer.h.1.attn.c_proj.lora_B.weight 8x2
            transformer.h.1.mlp.c_proj.lora_A.weight 2x32
            transformer.h.1.mlp.c_proj.lora_B.weight 8x2
        ",
        logits: [-0.0479662, -0.7665309, 0.2616062],
    },
    Case {
        name: "exclude_re",
        config: r#"{"target_modules": ["c_proj"], "exclude_modules": ".*\\.1\\..*"}"#,
        tensors: "
            transformer.h.0.attn.c_proj.lora_A.weight 2x8
            transformer.h.0.attn.c_proj.lora_B.weight 8x2
            transformer.h.0.mlp.c_proj.lora_A.weight 2x32
            transformer.h.0.mlp.c_proj.lora_B.weight 8x2
        ",
        logits: [-1.0117701, 0.8083403, -0.1797763],
    },
    Case {
        name: "layer",
        config: r#"{"target_modules": ["c_attn"], "layers_to_transform": 1}"#,
        tensors: "
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
        ",
        logits: [-0.7628462, 0.161595, -0.1400947],
    },
    Case {
        name: "layers",
        config: r#"{"target_modules": ["c_attn", "transformer.h.1.mlp.c_fc"], "layers_to_transform": [0], "layers_pattern": "h"}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.mlp.c_fc.lora_A.weight 2x8
            transformer.h.1.mlp.c_fc.lora_B.weight 32x2
        ",
        logits: [-0.9197867, 0.908943, 0.7662179],
    },
    Case {
        name: "saved",
        config: r#"{"target_modules": ["c_attn", "c_fc"], "modules_to_save": ["ln_f", "mlp"]}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.0.mlp.c_fc.bias 32
            transformer.h.0.mlp.c_fc.weight 8x32
            transformer.h.0.mlp.c_proj.bias 8
            transformer.h.0.mlp.c_proj.weight 32x8
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.mlp.c_fc.bias 32
            transformer.h.1.mlp.c_fc.weight 8x32
            transformer.h.1.mlp.c_proj.bias 8
            transformer.h.1.mlp.c_proj.weight 32x8
            transformer.ln_f.bias 8
            transformer.ln_f.weight 8
        ",
        logits: [-1.2883415, -0.3440572, 1.4423113],
    },
    Case {
        name: "wpe",
        config: r#"{"target_modules": ["c_attn", "wpe"]}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.wpe.lora_embedding_A 2x16
            transformer.wpe.lora_embedding_B 8x2
        ",
        logits: [-0.2428673, 0.4238904, -0.9466963],
    },
    Case {
        name: "wpe_saved",
        config: r#"{"target_modules": ["c_attn"], "modules_to_save": ["wpe", "h.1.ln_2"]}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.ln_2.bias 8
            transformer.h.1.ln_2.weight 8
            transformer.wpe.weight 16x8
        ",
        logits: [-0.5411163, -0.4178019, 0.3249218],
    },
    Case {
        name: "tied",
        config: r#"{"target_modules": ["c_attn"], "modules_to_save": ["wte", "transformer.wte"]}"#,
        tensors: "
            lm_head.weight 13x8
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.wte.weight 13x8
        ",
        logits: [1.2424171, 1.2734045, -0.3211448],
    },
    Case {
        name: "tables",
        config: r#"{"target_modules": ["c_attn"]}"#,
        tensors: "
            lm_head.weight 13x8
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.wte.weight 13x8
        ",
        logits: [1.2424171, 1.2734045, -0.3211448],
    },
    Case {
        name: "bias_all",
        config: r#"{"target_modules": ["c_attn"], "bias": "all"}"#,
        tensors: "
            transformer.h.0.attn.c_attn.base_layer.bias 24
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.0.attn.c_proj.bias 8
            transformer.h.0.ln_1.bias 8
            transformer.h.0.ln_2.bias 8
            transformer.h.0.mlp.c_fc.bias 32
            transformer.h.0.mlp.c_proj.bias 8
            transformer.h.1.attn.c_attn.base_layer.bias 24
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_proj.bias 8
            transformer.h.1.ln_1.bias 8
            transformer.h.1.ln_2.bias 8
            transformer.h.1.mlp.c_fc.bias 32
            transformer.h.1.mlp.c_proj.bias 8
            transformer.ln_f.bias 8
        ",
        logits: [0.2807028, -0.1150135, 0.2366533],
    },
    // PEFT stores the biases of the last normalisation three times, and reads the shortest name.
    Case {
        name: "bias_all_saved",
        config: r#"{"target_modules": ["c_attn"], "bias": "all", "modules_to_save": ["ln_f"]}"#,
        tensors: "
            transformer.h.0.attn.c_attn.base_layer.bias 24
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.0.attn.c_proj.bias 8
            transformer.h.0.ln_1.bias 8
            transformer.h.0.ln_2.bias 8
            transformer.h.0.mlp.c_fc.bias 32
            transformer.h.0.mlp.c_proj.bias 8
            transformer.h.1.attn.c_attn.base_layer.bias 24
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_proj.bias 8
            transformer.h.1.ln_1.bias 8
            transformer.h.1.ln_2.bias 8
            transformer.h.1.mlp.c_fc.bias 32
            transformer.h.1.mlp.c_proj.bias 8
            transformer.ln_f.bias 8
            transformer.ln_f.modules_to_save.bias 8
            transformer.ln_f.original_module.bias 8
            transformer.ln_f.weight 8
        ",
        logits: [0.1882761, -0.0834396, 0.2610557],
    },
    Case {
        name: "bias_lora",
        config: r#"{"target_modules": ["c_attn", "q_proj"], "bias": "lora_only"}"#,
        tensors: "
            transformer.h.0.attn.c_attn.base_layer.bias 24
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_attn.base_layer.bias 24
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
        ",
        logits: [-0.6844719, -0.5732719, -0.4427654],
    },
    Case {
        name: "none",
        config: r#"{"target_modules": null}"#,
        tensors: "
            transformer.h.0.attn.c_attn.lora_A.weight 2x8
            transformer.h.0.attn.c_attn.lora_B.weight 24x2
            transformer.h.1.attn.c_attn.lora_A.weight 2x8
            transformer.h.1.attn.c_attn.lora_B.weight 24x2
        ",
        logits: [0.4929191, 0.8623856, -1.1044973],
    },
];

fn sizes() -> GptConfig {
    GptConfig {
        vocab_size: 13,
        n_positions: 16,
        n_embd: 8,
        n_layer: 2,
        n_head: 2,
        ..GptConfig::small()
    }
}

/// The numbers of the k-th tensor: without a pattern, from -0.4 to 0.4; around 1 for the weights of a normalisation.
fn values(k: usize, name: &str, n: usize) -> Vec<f32> {
    let middle = f64::from(u8::from(name.contains("ln_") && name.ends_with("weight")));
    let value = |i: usize| ((i * 37 + k * 11) % 101) as f64 / 101.0 - 0.5;
    (0..n).map(|i| (middle + 0.8 * value(i)) as f32).collect()
}

/// A folder with the model, as `base`.
fn place() -> (TempDir, PathBuf) {
    let place = TempDir::new().unwrap();
    let base = place.path().join("base");
    write_base(&base);
    (place, base)
}

fn write_base(dir: &Path) {
    let config = sizes();
    let names: Vec<String> = parameters(&config).into_iter().map(|(name, _)| name).collect();
    let model = ModelFiles {
        schema: wgpt::model::schema(&config, &wgpt::FineTune::default()),
        config: &config,
        dropout: 0.0,
        tokenizer: None,
        text_files: &TextFiles::default(),
        adapter: None,
    };
    let mut fill = |name: &str, start: usize, out: &mut [f32]| {
        let k = names.iter().position(|known| known == name).unwrap();
        let all = values(k, name, start + out.len());
        out.copy_from_slice(&all[start..]);
        Ok(())
    };
    write_model(dir, &model, &mut fill).unwrap();
}

/// A tensor's name, shape and numbers.
type Stored = (String, Vec<usize>, Vec<f32>);

impl Case {
    fn of(name: &str) -> &'static Case {
        CASES.iter().find(|case| case.name == name).unwrap()
    }

    /// adapter_config.json.
    fn config(&self, base: &str) -> Value {
        let mut config = json!({
            "base_model_name_or_path": base, "bias": "none", "fan_in_fan_out": true, "lora_alpha": 8,
            "init_lora_weights": true, "peft_type": "LORA", "r": 2, "task_type": "CAUSAL_LM",
        });
        let more: Value = serde_json::from_str(self.config).unwrap();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    fn tensors(&self) -> Vec<Stored> {
        let lines = self.tensors.split_whitespace().collect::<Vec<_>>();
        let mut tensors: Vec<Stored> = Vec::new();
        for (k, line) in lines.chunks_exact(2).enumerate() {
            let shape: Vec<usize> = line[1].split('x').map(|n| n.parse().unwrap()).collect();
            let data = values(k + 50, line[0], shape.iter().product());
            tensors.push((format!("base_model.model.{}", line[0]), shape, data));
        }
        let of = |end: &str| tensors.iter().position(|(name, ..)| name.ends_with(end));
        if let (Some(table), Some(head)) = (of("wte.weight"), of("lm_head.weight")) {
            tensors[head].2 = tensors[table].2.clone();
        }
        tensors
    }

    /// Writes the folder of adapters.
    fn write(&self, dir: &Path, base: &str) {
        write_adapters(dir, &self.config(base), &self.tensors());
    }
}

fn write_adapters(dir: &Path, config: &Value, tensors: &[Stored]) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, shape, data)| {
        let bytes = bytemuck::cast_slice(data);
        let kind = safetensors::Dtype::F32;
        (name, safetensors::tensor::TensorView::new(kind, shape.clone(), bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(dir.join("adapter_model.safetensors"), bytes).unwrap();
}

/// The first logits after the tokens.
fn logits(model: &Path) -> Result<Vec<f64>, Error> {
    let mut gpt = Gpt::load(&model_at(model)?, Device::Cpu)?;
    let engine = gpt.engine()?;
    engine.begin_sequence(0);
    engine.prefill(0, &TOKENS, Draw::default());
    let all = engine.read_logits(0)?;
    Ok(all.into_iter().take(3).map(f64::from).collect())
}

fn assert_logits(what: &str, model: &Path, wanted: &[f64]) {
    let got = logits(model).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_close_of_max(what, &got, wanted, 1e-5);
}

fn refusal(model: &Path) -> Error {
    logits(model).map(|_| ()).expect_err("these adapters are not for this model")
}

#[test]
fn adapters_compute_what_peft_computes() {
    let (place, base) = place();
    assert_logits("the model", &base, &PLAIN);
    for case in CASES {
        let dir = place.path().join(case.name);
        case.write(&dir, "../base");
        assert_logits(case.name, &dir, &case.logits);
        // The names of other writers: without PEFT's prefix, or with the adapters' own name.
        let mut tensors = case.tensors();
        for (name, ..) in &mut tensors {
            *name = name.replace("base_model.model.", "").replace("lora_A.", "lora_A.default.");
        }
        write_adapters(&dir, &case.config("../base"), &tensors);
        assert_logits(case.name, &dir, &case.logits);
    }
}

#[test]
fn what_is_exported_of_adapters_is_one_model() {
    let (place, _) = place();
    for name in ["patterns", "saved", "tied", "bias_all"] {
        let (dir, out) = (place.path().join(name), place.path().join(format!("{name}_out")));
        Case::of(name).write(&dir, "../base");
        let mut gpt = Gpt::load(&dir, Device::Cpu).unwrap();
        wgpt::export::folder(&mut gpt, &dir, &out, Layout::default(), &mut |_, _| Ok(())).unwrap();
        assert!(!has_adapters(&out));
        assert_logits(name, &out, &Case::of(name).logits);
    }
}

#[test]
fn adapters_beside_a_model_are_of_that_model() {
    let (place, _) = place();
    let dir = place.path().join("both");
    write_base(&dir);
    fs::write(dir.join("README.md"), "the card of the model without adapters").unwrap();
    let case = Case::of("rslora");
    for base in ["../base", "/a/folder/of/another/machine", "."] {
        case.write(&dir, base);
        assert!(has_adapters(&dir) && !is_adapter(&dir));
        assert_logits(base, &dir, &case.logits);
        assert_logits(base, &dir.join("model.safetensors"), &case.logits);
        assert_logits(base, &dir.join("adapter_model.safetensors"), &case.logits);
    }
    let mut config = case.config("x");
    config["base_model_name_or_path"] = Value::Null;
    write_adapters(&dir, &config, &case.tensors());
    assert_logits("no base", &dir, &case.logits);
    assert!(
        refusal(&{
            let alone = place.path().join("alone");
            write_adapters(&alone, &config, &case.tensors());
            alone
        })
        .to_string()
        .contains("base_model_name_or_path is null")
    );

    // The program says it, and an exported model is whole, with a card of its own.
    let out = place.path().join("out");
    let mut command = Command::cargo_bin("wgpt").unwrap();
    command.args(["export", "--model"]).arg(&dir).arg("--out").arg(&out);
    let output = command.assert().success().get_output().clone();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("with the adapters of its adapter_config.json"), "{stderr}");
    assert!(!has_adapters(&out));
    assert_logits("exported", &out, &case.logits);
    assert!(!fs::read_to_string(out.join("README.md")).unwrap().contains("without adapters"));

    // Its weights may lie in several files.
    let sharded = place.path().join("sharded");
    let layout = Layout { max_shard_bytes: 1500, ..Layout::default() };
    let mut gpt = Gpt::load(&place.path().join("base"), Device::Cpu).unwrap();
    let base = place.path().join("base");
    wgpt::export::folder(&mut gpt, &base, &sharded, layout, &mut |_, _| Ok(())).unwrap();
    assert!(sharded.join("model.safetensors.index.json").is_file());
    case.write(&sharded, "../base");
    assert_logits("sharded", &sharded, &case.logits);

    // Which of the two models would be meant?
    let nested = place.path().join("nested");
    case.write(&nested, "../both");
    assert!(refusal(&nested).to_string().contains("which holds adapters, too"));
}

#[test]
fn adapters_without_their_weights_are_refused_with_the_way_out() {
    let (place, _) = place();
    let (alone, both) = (place.path().join("alone"), place.path().join("both"));
    write_base(&both);
    for dir in [&alone, &both] {
        Case::of("plain").write(dir, "../base");
        let mut weights = dir.join("adapter_model.safetensors");
        for other in ["adapter_model.bin", "adapter_model.pt", "adapter_model.pth"] {
            fs::rename(&weights, dir.join(other)).unwrap();
            weights = dir.join(other);
            for named in [dir.clone(), dir.join(other)] {
                let error = refusal(&named);
                let words =
                    format!("{other} cannot be read safely, only adapter_model.safetensors is");
                assert!(error.to_string().contains(&words), "{error}");
                assert!(error.advice().unwrap().contains("PeftModel.from_pretrained("));
                assert!(error.advice().unwrap().contains(".save_pretrained("));
            }
        }
        fs::remove_file(weights).unwrap();
        let error = refusal(dir);
        let words = "holds adapter_config.json and no adapter_model.safetensors";
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(refusal(&both).advice().unwrap().contains("or remove adapter_config.json"));
}

#[test]
fn the_configuration_and_the_file_must_agree() {
    let (place, _) = place();
    let dir = place.path().join("adapters");
    let refused = |config: &Value, tensors: &[Stored], words: &str| {
        write_adapters(&dir, config, tensors);
        let error = refusal(&dir);
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(error.advice().is_some(), "{error}");
    };
    let with = |case: &Case, name: &str, value: Value| {
        let mut config = case.config("../base");
        config[name] = value;
        config
    };
    let plain = Case::of("plain");
    let wte = |name: &str, k: usize| -> Stored {
        (format!("base_model.model.{name}.weight"), vec![13, 8], values(k, name, 13 * 8))
    };
    let more = |tensors: &[Stored]| [&plain.tensors()[..], tensors].concat();

    // One of two tables that are one.
    let table = with(plain, "modules_to_save", json!(["wte"]));
    refused(&table, &more(&[wte("transformer.wte", 1)]), "one table for both");
    let head = with(plain, "modules_to_save", json!(["lm_head"]));
    refused(&head, &more(&[wte("lm_head", 1)]), "one table for both");
    let two = with(plain, "modules_to_save", json!(["wte", "lm_head"]));
    let differ = [wte("transformer.wte", 1), wte("lm_head", 2)];
    refused(&two, &more(&differ), "lm_head.weight differ");
    refused(&two, &more(&differ[..1]), "lm_head.weight is missing, which modules_to_save names");

    // A parameter that nothing names, and one of another shape.
    let norm = |n: usize| {
        let name = "base_model.model.transformer.ln_f";
        ["weight", "bias"].map(|part| (format!("{name}.{part}"), vec![n], vec![1.0; n]))
    };
    let words = "unexpected tensors base_model.model.transformer.ln_f.bias";
    refused(&plain.config("../base"), &more(&norm(8)), words);
    let saved = with(plain, "modules_to_save", json!(["ln_f"]));
    refused(&saved, &more(&norm(7)), "ln_f.weight has shape [7], should be [8]");
    let mut infinite = norm(8);
    infinite[1].2[3] = f32::INFINITY;
    refused(&saved, &more(&infinite), "ln_f.bias is infinite at [3]");

    // Layers: one too many, one too few, of another rank.
    let layer = with(plain, "layers_to_transform", json!(0));
    refused(
        &layer,
        &plain.tensors(),
        "unexpected tensors base_model.model.transformer.h.1.attn.c_attn",
    );
    let none = with(plain, "layers_to_transform", json!([9]));
    refused(&none, &plain.tensors(), "no layer of a GPT-2 is adapted");
    let wide = with(plain, "target_modules", json!(["c_attn", "c_fc"]));
    refused(&wide, &plain.tensors(), "h.0.mlp.c_fc.lora_A.weight is missing");
    let rank = with(plain, "rank_pattern", json!({ "h.1.attn.c_attn": 3 }));
    refused(
        &rank,
        &plain.tensors(),
        "h.1.attn.c_attn.lora_A.weight has shape [2, 8], should be [3, 8]",
    );
    let text = with(Case::of("regex"), "layers_to_transform", json!(0));
    refused(
        &text,
        &Case::of("regex").tensors(),
        "layers_to_transform is set, and target_modules is one",
    );
    let slow = with(plain, "target_modules", json!("(?:(?=.)(.+)+)+!"));
    refused(&slow, &plain.tensors(), "target_modules: matching");
}
