//! What is trained of a model: do frozen parameters stay, and the others' gradients too?

use std::path::PathBuf;
use std::sync::Arc;

use assert_cmd::Command;
use wgpt::backend::Device;
use wgpt::checkpoint::{open_state, read_config};
use wgpt::config::{Optimizer, Precision, Recompute, WeightFormat};
use wgpt::kernel::{Step, state};
use wgpt::model::{Program, Uses, check_finetune, open as open_model, parameters};
use wgpt::pipeline::Stage;
use wgpt::plan::{Limits, Phase, Plan, Role};
use wgpt::train::{RunSettings, start};
use wgpt::{FineTune, GptConfig};

use crate::common::{Model, On, Tensors, assert_close_of_max, assert_relative, full_gpu, oracle};
use crate::training::{Place, assert_same, devices, go_on, run_until, tiny, train};

fn freeze(patterns: &[&str]) -> FineTune {
    FineTune { freeze: strings(patterns), ..FineTune::default() }
}

fn train_only(patterns: &[&str]) -> FineTune {
    FineTune { train_only: strings(patterns), ..FineTune::default() }
}

fn strings(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
}

/// Parts of a model: whole blocks, kinds of parameters, the bottom alone and the top alone.
fn parts() -> Vec<FineTune> {
    vec![
        freeze(&["wte.*"]),
        freeze(&["transformer.w?e.*", "h.0.*"]),
        freeze(&["*.bias"]),
        freeze(&["*ln_?.weight"]),
        train_only(&["*.bias"]),
        train_only(&["wpe.*"]),
        train_only(&["ln_f.*"]),
        train_only(&["h.1.attn.c_proj.weight", "h.0.mlp.c_proj.bias"]),
        FineTune { freeze: strings(&["*.bias"]), ..train_only(&["h.[01].attn.*"]) },
    ]
}

/// A model of the reference with a part of it trained, after the gradients of the reference's batch.
struct Tuned {
    model: Model,
    expect: Tensors,
    /// What gradients are multiplied by.
    scale: f64,
}

impl Tuned {
    fn new(name: &str, finetune: &FineTune, uses: Uses, on: On) -> Tuned {
        let dir = oracle().join(name);
        let expect = Tensors::open(&dir.join("expect.safetensors"));
        let shape = expect.shape("tokens");
        let uses = Uses { batch: shape[0], seq: shape[1], ..uses };
        let (config, weights) = open_model(&dir).expect("a sound model");
        let mut model = Model::record_tuning(&config, uses, finetune, on, on.limits());
        model.fill(|name, out| weights.read(name, 0, out).expect("a sound parameter"));
        if uses.precision == Precision::Mixed {
            model.on.run(Phase::Cast, &Step::default());
        }
        let words = model.program.update.expect("recorded for training").state;
        let first = state::first(model.program.loss_scale);
        model.on.write_u32(words, &first);
        let (tokens, targets) = (expect.ids("tokens"), expect.ids("targets"));
        let step = Step { loss_scale: 1.0 / tokens.len() as f64, ..Step::default() };
        model.run_batch(&tokens, &targets, &[Phase::Forward, Phase::Backward], &step);
        Tuned { model, expect, scale: state::loss_scale(&first) }
    }

    /// Compares the gradients of what is trained with the reference's; returns the norm of those.
    fn assert_gradients(&mut self, what: &str, tolerance: f64) -> f64 {
        let mut squares = 0.0;
        for param in self.model.program.params.clone().iter().filter(|param| param.is_trained()) {
            let name = &param.name;
            let want = self.expect.get(&format!("grad.transformer.{name}"));
            let mut got = self.model.param(name, true);
            got.iter_mut().for_each(|g| *g /= self.scale);
            squares += want.iter().map(|g| g * g).sum::<f64>();
            // What is exactly 0 (the K third of c_attn's bias) is noise beside the other thirds.
            assert_close_of_max(&format!("{what} {name}"), &got, want, tolerance);
        }
        f64::sqrt(squares)
    }

    /// Every parameter, as bits.
    fn bits(&mut self) -> Vec<(String, bool, Vec<u64>)> {
        let params = self.model.program.params.clone();
        let bits = |param: &wgpt::graph::Param| {
            let data = self.model.param(&param.name, false);
            let bits = data.into_iter().map(f64::to_bits).collect();
            (param.name.clone(), param.is_trained(), bits)
        };
        params.iter().map(bits).collect()
    }
}

const TRAINING: Uses = Uses {
    batch: 0,
    seq: 0,
    training: Some(Optimizer::Adamw),
    dropout: false,
    nodes: 0,
    part: None,
    logits: false,
    generation: Some(1),
    serving: false,
    context: None,
    precision: Precision::F32,
    weights: WeightFormat::F32,
    recompute: Recompute::Gelu,
    stage: Stage::WHOLE,
    in_flight: 1,
};

fn assert_part(name: &str, finetune: &FineTune, uses: Uses, on: On, tolerances: [f64; 2]) {
    let what = format!("{name} {on:?} {:?} {finetune:?}", uses.recompute);
    let mut tuned = Tuned::new(name, finetune, uses, on);
    let config = tuned.model.program.config.clone();
    for param in tuned.model.program.params.iter() {
        assert_eq!(
            param.is_trained(),
            finetune.trains(&param.name, param.role),
            "{what}: {}",
            param.name
        );
    }
    let norm = tuned.assert_gradients(&what, tolerances[0]);
    let before = tuned.bits();
    assert_eq!(before.len(), parameters(&config).len());
    let step = Step { learning_rate: 1e-2, weight_decay: 0.1, ..Step::default() };
    tuned.model.on.run(Phase::Update, &step);
    let view = tuned.model.program.update.expect("recorded for training").norm;
    assert_relative(&format!("{what}: norm"), tuned.model.on.read(view)[0], norm, tolerances[1]);
    for ((name, trained, before), (_, _, after)) in before.iter().zip(tuned.bits()) {
        assert_eq!(*before != after, *trained, "{what}: {name} changes if it is trained");
    }
}

#[test]
fn what_is_trained_has_the_gradients_that_it_has_in_the_whole_model() {
    for on in On::all() {
        let tolerances = [on.tolerance(1e-7, 2e-5, 1e-4), on.tolerance(1e-6, 5e-5, 5e-4)];
        for name in ["gpt2_tiny_a", "gpt2_tiny_b", "gpt2_tiny_c"] {
            for finetune in parts() {
                assert_part(name, &finetune, TRAINING, on, tolerances);
            }
        }
        for recompute in [Recompute::None, Recompute::Block] {
            for finetune in parts() {
                let uses = Uses { recompute, ..TRAINING };
                assert_part("gpt2_tiny_b", &finetune, uses, on, tolerances);
            }
        }
    }
}

#[test]
fn the_same_in_mixed_precision() {
    for on in On::in_either_half() {
        for finetune in parts() {
            let uses = Uses { precision: Precision::Mixed, ..TRAINING };
            let tolerances = [5e-3, 3e-3].map(|tolerance| tolerance * on.coarseness());
            assert_part("gpt2_tiny_a", &finetune, uses, on, tolerances);
        }
    }
}

/// The kernels of a phase, in order.
fn kernels(plan: &Plan, phase: Phase) -> Vec<&'static str> {
    plan.dispatches[plan.phase(phase)].iter().map(|dispatch| dispatch.kernel.name).collect()
}

#[test]
fn the_backward_pass_ends_above_what_is_frozen() {
    let backward = |finetune: &FineTune, recompute| {
        let uses = Uses { batch: 2, seq: 8, recompute, ..TRAINING };
        let plan = Program::record_tuning(&tiny(), uses, finetune, Limits::NONE).plan;
        kernels(&plan, Phase::Backward)
    };
    let head = ["matmul_nt", "cross_entropy_backward", "matmul_nn"];
    let got = backward(&train_only(&["ln_f.*"]), Recompute::Block);
    assert_eq!(got, [&head[..], &["cross_entropy_sum", "layernorm_backward_params"]].concat());
    let block = [
        "cross_entropy_sum",
        "layernorm_backward_input",
        "linear_backward_input",
        "gelu_backward",
        "matmul_tn",
    ];
    let got = backward(&train_only(&["h.1.mlp.c_fc.weight"]), Recompute::Block);
    assert_eq!(got, [&head[..], &block].concat());
    // A block that is computed again is one whose gradients are wanted.
    for (finetune, again) in
        [(train_only(&["h.0.ln_1.*"]), true), (freeze(&["h.0.*", "w?e.*"]), false)]
    {
        let got = backward(&finetune, Recompute::Block);
        assert_eq!(got.contains(&"attention_forward"), again, "{got:?}");
    }
}

#[test]
fn what_is_frozen_takes_no_memory_but_its_own() {
    let bytes = |finetune: &FineTune| {
        let uses = Uses { batch: 2, seq: 64, ..TRAINING };
        let program = Program::record_tuning(&GptConfig::small(), uses, finetune, Limits::NONE);
        let len: usize = program.params.iter().filter(|p| p.is_trained()).map(|p| p.len()).sum();
        assert_eq!(program.trained_count(), len);
        let roles = [Role::Parameters, Role::Gradients, Role::Moments, Role::Activations];
        (len as u64 * 4, roles.map(|role| program.plan.bytes(role)))
    };
    let (all, whole) = bytes(&FineTune::default());
    assert!(whole[1] >= all && whole[2] == 2 * whole[1]);
    for finetune in parts() {
        let (trained, part) = bytes(&finetune);
        let padding = 256 * parameters(&GptConfig::small()).len() as u64;
        assert!((trained..trained + padding).contains(&part[1]), "{finetune:?}: {part:?}");
        assert_eq!(part[2], 2 * part[1], "{finetune:?}");
        assert!(part[0] < whole[0] + padding && part[3] <= whole[3] + 4096, "{finetune:?}");
    }
}

/// A run's settings with a part of the model trained.
fn settings(place: &Place, finetune: FineTune, precision: Precision) -> RunSettings {
    let mut settings = place.settings();
    (settings.train.finetune, settings.train.precision) = (finetune, precision);
    settings
}

#[test]
fn a_run_with_frozen_parameters_goes_on_bit_for_bit() {
    let half = full_gpu().filter(|gpu| gpu.has().f16).map(|gpu| Device::Gpu(Arc::clone(gpu)));
    let mixed = half.map(|device| ("mixed", device, Precision::Mixed));
    let all = devices().into_iter().map(|(name, device)| (name, device, Precision::F32));
    for (name, device, precision) in all.chain(mixed) {
        let (whole, parts) = (Place::new(), Place::new());
        let with = |place| settings(place, freeze(&["wte.*", "h.0.*", "*.c_fc.bias"]), precision);
        train(&with(&whole), &device).unwrap();
        let mut trainer = start(&with(&parts), device.clone(), &mut |_| {}).unwrap();
        run_until(&mut trainer, 8).unwrap();
        drop(trainer);
        go_on(&parts.run(), &device).unwrap();
        assert_same(&parts.run(), &whole.run(), name);

        // What is frozen is what it was, and its moments are nowhere.
        let dir = whole.run().join("checkpoints/step-12");
        let (config, weights) = open_model(&dir).unwrap();
        let finetune = with(&whole).train.finetune;
        let moments = wgpt::model::moments(&config, &finetune);
        assert!(moments.len() < 2 * parameters(&config).len());
        open_state(&dir, &moments).unwrap();
        let mut first = wgpt::Gpt::new(config.clone(), device, 1337).unwrap();
        let engine = first.engine().unwrap();
        for param in engine.program().params.clone().iter() {
            let want = engine.param_data(param, wgpt::engine::Tensor::Value).unwrap();
            let mut got = vec![0.0; want.len()];
            weights.read(&param.name, 0, &mut got).unwrap();
            assert_eq!(
                got != want,
                finetune.trains(&param.name, param.role),
                "{name}: {}",
                param.name
            );
        }
    }
}

#[test]
fn a_pattern_for_nothing_or_for_all_is_named() {
    let refused = |finetune: FineTune| {
        let error = check_finetune(&tiny(), &finetune).unwrap_err();
        assert_eq!(error.kind(), wgpt::error::Kind::Usage);
        error.to_string()
    };
    assert!(refused(freeze(&["wte.*", "h.7.*"])).contains("freeze h.7.*: no parameter"));
    assert!(refused(freeze(&["*"])).contains("freeze *: every parameter"));
    assert!(refused(train_only(&["lm_head.*"])).contains("train_only lm_head.*: no parameter"));
    assert!(refused(train_only(&["*"])).contains("train_only *: every parameter"));
    assert!(refused(freeze(&["h.[0"])).contains("freeze h.[0: "));
    let none = refused(FineTune { freeze: strings(&["h.*"]), ..train_only(&["h.1.*"]) });
    assert!(none.contains("freeze h.*: nothing is left"), "{none}");
    let none = refused(freeze(&["w*", "h.*", "ln_f.*"]));
    assert!(none.contains("freeze w* h.* ln_f.*: nothing is left"), "{none}");
}

fn wgpt(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("wgpt").unwrap();
    command.args(arguments);
    command
}

#[test]
fn the_command_line_freezes() {
    let plan = |more: &[&str]| -> serde_json::Value {
        let fixed = ["plan", "--device", "cpu", "--json", "--size", "small"];
        let output = wgpt(&[&fixed[..], more].concat()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (all, part) = (plan(&[]), plan(&["--freeze", "w?e.*", "h.[0-2].*"]));
    assert_eq!(all["parameters"], all["trained"]);
    assert_eq!(all["parameters"], part["parameters"]);
    let number = |plan: &serde_json::Value, name: &str| plan["bytes"][name].as_u64().unwrap();
    assert!(number(&part, "gradients") < number(&all, "gradients"));
    assert!(number(&part, "moments") < number(&all, "moments"));
    let output = wgpt(&["plan", "--device", "cpu", "--freeze", "h.9.*"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--freeze h.9.*"));

    let place = Place::new();
    let run = place.run();
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let (data, out) = (text(&place.path("text.txt")), text(&run));
    let arguments = [
        "train",
        "--device",
        "cpu",
        "--data",
        &data,
        "--tokenizer",
        "bytes",
        "--layers",
        "2",
        "--embd",
        "16",
        "--heads",
        "2",
        "--context",
        "16",
        "--max-iters",
        "2",
        "--out",
        &out,
        "--train-only",
        "*.bias",
        "ln_f.*",
        "--json",
    ];
    let output = wgpt(&arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    let model = read_config(&run).unwrap();
    let finetune = train_only(&["*.bias", "ln_f.*"]);
    let state =
        open_state(&run.join("checkpoints/step-2"), &wgpt::model::moments(&model, &finetune));
    assert_eq!(state.unwrap().0.step, 2);
}
