//! The cases of [`super::verify`] in which matrices are stored in a format that shaders read through integers.

use std::sync::Arc;

use super::verify_cases::{Case, Run, bare, generation};
use crate::arch::{Family, GPT2, LLAMA, presets};
use crate::config::{Blocks, GptConfig, WeightFormat};
use crate::graph::Graph;
use crate::kernel::{Format, Step};
use crate::model::{Program, Uses};
use crate::ops::linear::{Form, WeightLayout};
use crate::plan::{Limits, Phase};

/// Returns the cases that together run every kernel that takes a stored matrix, with its variants.
///
/// # Panics
///
/// If no matrix is stored in this format.
pub fn all(format: Format) -> Vec<Case> {
    let small = Limits { binding_bytes: 32 << 10, buffer_bytes: 64 << 10, ..Limits::NONE };
    vec![
        model("primes", &GPT2, format, small),
        model("primes", &LLAMA, format, Limits::NONE),
        layers("few rows", [3, 96, 70], format),
        layers("layers of large tiles", [257, 64, 260], format),
    ]
}

fn weights(format: Format) -> WeightFormat {
    match format {
        Format::F16 => WeightFormat::F16,
        Format::BF16 => WeightFormat::Bf16,
        Format::Q8_0 => WeightFormat::Q8_0,
        other => panic!("no matrix is stored in {other}"),
    }
}

/// Makes a case of a tiny model of a family, evaluated and continued in two slots.
fn model(name: &str, family: &Family, format: Format, limits: Limits) -> Case {
    let blocks = Blocks { n_kv_head: Some(1), ..(family.blocks)() };
    let blocks = if family.model_type == GPT2.model_type { (family.blocks)() } else { blocks };
    let sizes = GptConfig {
        n_layer: 2,
        n_head: 2,
        n_embd: 64,
        vocab_size: 157,
        n_positions: 71,
        n_inner: Some(96),
        blocks,
        ..GptConfig::small()
    };
    let config = presets::complete(&sizes).expect("the sizes fit each other");
    let (batch, seq, generated) = (3, 37, Some(2));
    let weights = weights(format);
    let uses = Uses { batch, seq, logits: true, generation: generated, weights, ..Uses::default() };
    let program = Program::record(&config, uses, limits);
    let phases = [Phase::Forward, Phase::Evaluate, Phase::Logits];
    let whole = phases.map(|phase| Run::new(program.plan.phase(phase), Step::default()));
    let (batch, views) = (program.batch, program.generation);
    let (batch, views) = (batch.expect("it was recorded"), views.expect("it was recorded"));
    Case {
        runs: whole.into_iter().chain(generation(&program, views)).collect(),
        vocab: config.vocab_size as u32,
        tokens: vec![batch.tokens, views.sequence],
        targets: vec![batch.targets],
        plan: Arc::clone(&program.plan),
        ..bare(&format!("{name}, {} with {format}", family.model_type), Default::default())
    }
}

/// Makes a case of linear layers of `rows` rows from `c` into `oc` channels, with and without bias.
fn layers(name: &str, [rows, c, oc]: [usize; 3], format: Format) -> Case {
    let mut g = Graph::new(Limits::NONE, false, 1e-5).storing(weights(format));
    g.begin_inference(1, rows);
    let x = g.input("x", rows * c);
    for bias in [true, false] {
        let form = Form { channels: oc, layout: WeightLayout::OutIn, bias };
        g.linear(&format!("bias {bias}"), x, form);
    }
    g.record_forward(Phase::Forward);
    let all = 0..g.plan.dispatches.len();
    let runs = vec![Run::new(all, Step::default())];
    Case { runs, ..bare(&format!("{name} with {format}"), g.plan) }
}
