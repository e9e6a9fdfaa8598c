//! Do models of other families than GPT-2 train from scratch, with everything that one of GPT-2 can do? Named sizes, what a
//! family lacks, and runs of tiny models: several ranks, a split state, stages, recomputation, mixed precision, the plan.

use std::sync::Arc;

use wgpt::arch::presets::{self, PRESETS};
use wgpt::arch::rotary::Rotary;
use wgpt::arch::{FAMILIES, Family};
use wgpt::backend::Device;
use wgpt::checkpoint::{read_config, read_metrics};
use wgpt::config::{Blocks, Precision, Recompute, Sum};
use wgpt::model::{Program, Uses, parameters};
use wgpt::plan::{Limits, Role};
use wgpt::train::RunSettings;
use wgpt::{GptConfig, TrainConfig};

use crate::common::{cpu_in_bf16, full_gpu};
use crate::ranks::{assert_alike, begin};
use crate::training::{Place, assert_same, tiny, train};

/// The families that are trained here: grouped heads and rotation, normalised heads, branches side by side.
const TRAINED: [&str; 3] = ["llama", "qwen3", "gpt_neox"];

/// A tiny new model of a family.
fn tiny_of(arch: &str) -> GptConfig {
    let blocks = (Family::find(arch).unwrap().blocks)();
    let n_kv_head = (arch != "gpt_neox").then_some(1);
    let blocks = Blocks { n_kv_head, ..blocks };
    presets::complete(&GptConfig { blocks, ..tiny() }).unwrap()
}

/// A run of six updates of three micro-batches each, with dropout, evaluations and saves.
fn settings(place: &Place, arch: &str) -> RunSettings {
    let settings = place.settings();
    let train = TrainConfig { max_iters: 6, grad_accum: 3, sum: Sum::Exact, ..settings.train };
    RunSettings { model: tiny_of(arch), train, ..settings }
}

fn count(config: &GptConfig) -> usize {
    parameters(config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[test]
fn published_sizes_have_the_published_numbers_of_parameters() {
    for (name, arch, parameters) in [
        ("gpt2", "gpt2", 124_439_808),
        ("gpt2-medium", "gpt2", 354_823_168),
        ("smollm2-135m", "llama", 134_515_008),
        ("smollm2-360m", "llama", 361_821_120),
        ("qwen3-0.6b", "qwen3", 596_049_920),
    ] {
        let config = presets::named(name, None).unwrap();
        assert_eq!((&*config.blocks.family, count(&config)), (arch, parameters), "{name}");
        assert_eq!(presets::complete(&config).unwrap(), config, "{name} says all that it is");
    }
}

#[test]
fn each_family_has_models_of_the_common_sizes() {
    for family in FAMILIES {
        for size in ["small", "medium", "large"] {
            let config = presets::named(size, Some(family.model_type)).unwrap();
            let config = presets::complete(&config).unwrap();
            assert_eq!(Family::of(&config).model_type, family.model_type);
            // They are about as large as those of GPT-2: no family has another number of layers, or another width.
            let gpt2 = count(&presets::named(size, None).unwrap());
            assert!((gpt2 / 2..gpt2 * 2).contains(&count(&config)), "{size} {}", family.title);
        }
    }
}

#[test]
fn contradictions_are_refused_by_name() {
    let refused = |size, arch| presets::named(size, arch).unwrap_err().to_string();
    assert!(refused("qwen3-0.6b", Some("llama")).contains("qwen3-0.6b is a model of qwen3"));
    assert!(refused("gpt2", Some("qwen3")).contains("arch is qwen3"));
    assert!(refused("huge", None).contains("\"huge\""));
    assert!(refused("small", Some("gpt3")).contains("\"gpt3\""));
    for preset in &PRESETS {
        assert!(presets::named(preset.name, None).is_ok(), "{}", preset.name);
    }
}

/// A change of the sizes of a model.
type Change = fn(&mut GptConfig);

/// What a family's config.json has no word for.
#[test]
fn what_a_family_lacks_is_refused_by_name() {
    let refused = |arch: &str, change: Change| {
        let mut config = presets::named("small", Some(arch)).unwrap();
        change(&mut config);
        presets::complete(&config).unwrap_err().to_string()
    };
    let cases: [(&str, &str, Change); 12] = [
        ("gpt2", "n_kv_head", |c| c.blocks.n_kv_head = Some(2)),
        ("gpt2", "n_kv_head", |c| c.blocks.n_kv_head = Some(c.n_head)),
        ("gpt2", "head_size", |c| c.blocks.head_size = Some(16)),
        ("gpt2", "rotary.theta", |c| c.blocks.rotary = Some(Rotary::of(500.0))),
        ("gpt2", "is_tied", |c| c.blocks.is_tied = false),
        ("gpt2", "window", |c| c.blocks.window = Some(8)),
        ("llama", "window", |c| c.blocks.window = Some(8)),
        ("gpt_neox", "n_kv_head", |c| c.blocks.n_kv_head = Some(2)),
        ("gpt_neox", "head_size", |c| c.blocks.head_size = Some(16)),
        // No model at all.
        ("llama", "n_kv_head 3 does not divide", |c| c.blocks.n_kv_head = Some(3)),
        ("llama", "head_size is 5, must be even", |c| c.blocks.head_size = Some(5)),
        ("qwen3", "window is 0", |c| c.blocks.window = Some(0)),
    ];
    for (arch, named, change) in cases {
        let message = refused(arch, change);
        assert!(message.contains(named), "{arch}: {message}");
    }
    let mut config = presets::named("small", Some("qwen3")).unwrap();
    (config.blocks.window, config.blocks.is_tied, config.n_inner) = (Some(8), false, Some(100));
    let complete = presets::complete(&config).unwrap();
    assert_eq!((complete.window(0), complete.blocks.is_tied), (Some(8), false));
    assert_eq!(complete.n_inner(), 100);
}

#[test]
fn any_number_of_ranks_gives_the_same_bits_also_with_a_split_state() {
    for arch in TRAINED {
        let alone = Place::new();
        let summary = train(&settings(&alone, arch), &Device::Cpu).unwrap();
        assert!(summary.finished && summary.val_loss.is_some());
        assert_eq!(read_config(&alone.run().join("best")).unwrap(), tiny_of(arch));
        for (size, zero) in [(2, false), (3, false), (2, true)] {
            let place = Place::new();
            let mut settings = settings(&place, arch);
            settings.train.zero = zero;
            begin(&settings, size, &Device::Cpu).unwrap();
            assert_same(&place.run(), &alone.run(), &format!("{arch} on {size} ranks, {zero}"));
        }
    }
}

#[test]
fn two_stages_learn_as_one_rank_does() {
    for arch in TRAINED {
        let (alone, stages) = (Place::new(), Place::new());
        train(&settings(&alone, arch), &Device::Cpu).unwrap();
        let mut settings = settings(&stages, arch);
        settings.train.pipeline = 2;
        assert!(begin(&settings, 2, &Device::Cpu).unwrap().finished);
        assert_alike(&stages.run(), &alone.run(), 1e-4, arch);
    }
}

#[test]
fn what_is_recomputed_changes_no_bit() {
    for arch in TRAINED {
        let run = |recompute| {
            let place = Place::new();
            let mut settings = settings(&place, arch);
            settings.train.recompute = recompute;
            train(&settings, &Device::Cpu).unwrap();
            place
        };
        let [none, gelu, block] = Recompute::ALL.map(run);
        assert_same(&gelu.run(), &none.run(), &format!("{arch}, activations"));
        assert_same(&block.run(), &none.run(), &format!("{arch}, blocks"));
    }
}

#[test]
fn training_in_mixed_precision_follows_that_in_f32() {
    let gpu = full_gpu().filter(|gpu| gpu.has().f16).map(|gpu| Device::Gpu(Arc::clone(gpu)));
    for device in [cpu_in_bf16()].into_iter().chain(gpu) {
        assert_follows_f32(&device);
    }
}

fn assert_follows_f32(device: &Device) {
    for arch in TRAINED {
        let losses = |precision| {
            let place = Place::new();
            let mut settings = settings(&place, arch);
            (settings.train.precision, settings.train.dropout) = (precision, 0.0);
            settings.train.log_every = 1;
            train(&settings, device).unwrap();
            let metrics = read_metrics(&place.run()).unwrap();
            metrics.iter().filter_map(|at| at.loss).map(f64::from).collect::<Vec<_>>()
        };
        let (want, got) = (losses(Precision::F32), losses(Precision::Mixed));
        assert_eq!(got.len(), want.len(), "{arch}");
        assert!(want.len() > 3 && got != want, "{arch}: it is another precision");
        assert!(want[want.len() - 1] < want[0], "{arch}: it learns: {want:?}");
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-2 * want, "{arch}: {got}, not {want}");
        }
    }
}

/// That a device takes what the plan says is measured in training/memory.rs.
#[test]
fn the_plan_has_the_bytes_of_every_role() {
    for arch in TRAINED {
        let config = GptConfig { n_layer: 3, ..tiny_of(arch) };
        let plan = |uses| Program::record(&config, uses, Limits::NONE).plan;
        let train = TrainConfig { batch_size: 4, ..TrainConfig::default() };
        let plan_of = |recompute| {
            let training = Uses::training(&train, &config);
            plan(Uses { recompute, generation: None, nodes: 0, ..training })
        };
        let plans = Recompute::ALL.map(plan_of);
        let [params, grads, moments, _, logits, cache, _] =
            Role::ALL.map(|role| plans[0].bytes(role));
        let (count, tensors) = (4 * count(&config) as u64, parameters(&config).len() as u64);
        assert!((count..count + 256 * tensors).contains(&params), "{arch}: {params} of {count}");
        assert_eq!([grads, moments, cache], [params, 2 * params, 0], "{arch}");
        // A row of logits is padded to whole vectors.
        assert_eq!(logits, 4 * 16 * 260 * 4, "{arch}");
        let bytes = plans.map(|plan| plan.total_bytes());
        assert!(bytes[0] > bytes[1] && bytes[1] > bytes[2], "{arch}: {bytes:?}");
        let generation = plan(Uses { generation: Some(1), ..Uses::default() });
        let heads = config.n_kv_head() * config.head_size();
        assert_eq!(generation.bytes(Role::Cache), (2 * 3 * 16 * heads * 4) as u64, "{arch}");
    }
}
