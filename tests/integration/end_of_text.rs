//! Where does a text end? Where the model's files say it, whatever it is that ends, begins or parts texts.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::backend::Device;
use wgpt::checkpoint::EndOfText;
use wgpt::engine::Tensor;
use wgpt::{GenerateOptions, Gpt, GptConfig, Tokenizer};

use crate::checkpoint::json_file;
use crate::cli;
use crate::export::read_gguf;

/// The special tokens of the model beside `<|endoftext|>`, which is 0.
const S: u32 = 257;
const IM_END: u32 = 258;
const TOKENS: usize = 259;

fn tokenizer() -> Tokenizer {
    Tokenizer::bytes().with_special_tokens(["</s>", "<|im_end|>"]).unwrap()
}

/// A model in a folder of its own, whose next token is always `drawn`; of the files that say where a text ends there are none.
struct Model {
    folder: TempDir,
}

impl Model {
    fn drawing(drawn: u32) -> Model {
        let config = GptConfig {
            n_layer: 1,
            n_head: 2,
            n_embd: 8,
            vocab_size: TOKENS,
            n_positions: 64,
            n_inner: None,
            layer_norm_epsilon: 1e-5,
            ..GptConfig::small()
        };
        let mut gpt = Gpt::new(config, Device::Cpu, 3).unwrap();
        gpt.set_tokenizer(tokenizer()).unwrap();
        // What comes out of the last normalisation is one direction, in which one token lies.
        for (name, at, value) in [
            ("ln_f.weight", None, 0.0),
            ("ln_f.bias", Some(0), 1.0),
            ("wte.weight", Some(8 * drawn as usize), 50.0),
        ] {
            let engine = gpt.engine().unwrap();
            let param = engine.program().param(name).unwrap().clone();
            let mut data = engine.param_data(&param, Tensor::Value).unwrap();
            if name != "wte.weight" {
                data.fill(0.0);
            }
            if let Some(at) = at {
                data[at] = value;
            }
            let write = |start: usize, out: &mut [f32]| {
                out.copy_from_slice(&data[start..start + out.len()]);
                Ok(())
            };
            engine.write_param(&param, Tensor::Value, write).unwrap();
        }
        let folder = TempDir::new().unwrap();
        let model = Model { folder };
        gpt.save(&model.dir()).unwrap();
        fs::remove_file(model.dir().join("generation_config.json")).unwrap();
        fs::remove_file(model.dir().join("tokenizer_config.json")).unwrap();
        model.configured(json!({ "eos_token_id": null, "bos_token_id": null }))
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// Fields of config.json.
    fn configured(self, fields: Value) -> Model {
        let path = self.dir().join("config.json");
        let mut config = json_file(&path);
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        fs::write(path, config.to_string()).unwrap();
        self
    }

    /// Another file; `null`: none.
    fn with(self, name: &str, fields: &Value) -> Model {
        if !fields.is_null() {
            fs::write(self.dir().join(name), fields.to_string()).unwrap();
        }
        self
    }

    fn load(&self) -> wgpt::Result<Gpt> {
        Gpt::load(&self.dir(), Device::Cpu)
    }

    /// The program in the model's own folder.
    fn wgpt(&self, arguments: &[&str]) -> Command {
        let mut command = cli::wgpt(self.folder.path());
        command.args(arguments);
        command
    }
}

fn stderr(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap()
}

#[test]
fn the_first_file_that_says_something_decides() {
    let (none, im_end) = (Value::Null, json!({ "eos_token": "<|im_end|>", "bos_token": null }));
    let object =
        json!({ "eos_token": { "content": "</s>", "lstrip": false }, "bos_token": "<|im_end|>" });
    let both = json!({ "eos_token_id": [IM_END, S], "bos_token_id": 5 });
    // By file: generation_config, config's ends and beginning, tokenizer_config, special_tokens_map. Then what follows: the
    // ends, the beginning, how much is reported: files that contradict the first, and tokens that are none.
    type Case<'a> = ([&'a Value; 4], &'a [u32], Option<u32>, usize);
    let cases: [Case; 14] = [
        ([&none, &none, &none, &none], &[0], Some(0), 0),
        ([&both, &none, &none, &none], &[IM_END, S], Some(5), 0),
        ([&both, &json!(S), &im_end, &none], &[IM_END, S], Some(5), 0),
        ([&both, &json!(0), &none, &none], &[IM_END, S], Some(5), 1),
        ([&json!({ "eos_token_id": S }), &json!([S, 0]), &none, &none], &[S], Some(S), 1),
        ([&json!({ "temperature": 0.5 }), &json!(S), &none, &none], &[S], Some(S), 0),
        (
            [&json!({ "eos_token_id": null }), &json!([]), &im_end, &none],
            &[IM_END],
            Some(IM_END),
            0,
        ),
        ([&none, &json!([S]), &im_end, &none], &[S], Some(S), 1),
        ([&none, &none, &object, &none], &[S], Some(IM_END), 0),
        ([&none, &none, &json!({}), &object], &[S], Some(IM_END), 0),
        ([&none, &none, &im_end, &object], &[IM_END], Some(IM_END), 1),
        // A token that the model has no row for ends nothing; both are reported.
        ([&none, &none, &json!({ "eos_token": "</t>" }), &none], &[0], Some(0), 2),
        // An id that is there twice counts once; GPT-2's default is no id of this model.
        ([&json!({ "eos_token_id": [S, 0, S] }), &none, &none, &none], &[S, 0], Some(S), 0),
        ([&json!({ "eos_token_id": [50256, S] }), &none, &none, &none], &[S], Some(S), 1),
    ];
    for ([generation, config, described, map], ids, opening, reported) in cases {
        let model = Model::drawing(S)
            .configured(json!({ "eos_token_id": config }))
            .with("generation_config.json", generation)
            .with("tokenizer_config.json", described)
            .with("special_tokens_map.json", map);
        let gpt = model.load().unwrap();
        let what = format!("{generation} {config} {described} {map}");
        assert_eq!(gpt.end_of_text().ids(), ids, "{what}");
        assert_eq!(gpt.end_of_text().separator(), Some(ids[0]), "{what}");
        assert_eq!(gpt.end_of_text().opening(), opening, "{what}");
        assert_eq!(gpt.notices().len(), reported, "{what}: {:?}", gpt.notices());
    }
}

#[test]
fn what_is_no_token_is_refused_by_name() {
    let wrong = [
        json!(-1),
        json!(1.5),
        json!("</s>"),
        json!(true),
        json!(TOKENS),
        json!(50257),
        json!([S, -1]),
        json!([null]),
        json!({}),
        json!(1e20),
    ];
    for value in wrong {
        for name in ["generation_config.json", "config.json"] {
            let model = Model::drawing(S);
            let fields = json!({ "eos_token_id": value });
            let model = match name {
                "config.json" => model.configured(fields),
                other => model.with(other, &fields),
            };
            let error = model.load().err().expect("refused");
            let says = format!(
                "{name}: eos_token_id is {value}, must be an id of the vocabulary, from 0 to 258"
            );
            assert!(error.to_string().contains(&says), "{error}");
            assert!(error.advice().is_some());
        }
    }
    for (name, fields, says) in [
        ("generation_config.json", json!({ "bos_token_id": [1, 2] }), "bos_token_id is [1,2]"),
        ("tokenizer_config.json", json!({ "eos_token": 5 }), "eos_token is 5"),
        ("tokenizer_config.json", json!([]), "tokenizer_config.json is not a JSON object"),
    ] {
        let error = Model::drawing(S).with(name, &fields).load().err().expect("refused");
        assert!(error.to_string().contains(says), "{error}");
    }
    // The default of GPT-2's configuration, in the files of many a small model, is nobody's choice.
    let model =
        Model::drawing(S).configured(json!({ "eos_token_id": 50256, "bos_token_id": 50256 }));
    let gpt = model.load().unwrap();
    assert_eq!(gpt.end_of_text().ids(), [0]);
    assert_eq!(gpt.notices().len(), 2, "{:?}", gpt.notices());
    assert!(gpt.notices()[0].contains("eos_token_id is 50256"), "{:?}", gpt.notices());
}

#[test]
fn generation_ends_at_any_of_the_ends() {
    for drawn in [S, IM_END] {
        let ends = json!({ "eos_token_id": [0, S, IM_END] });
        let model = Model::drawing(drawn).with("generation_config.json", &ends);
        let mut gpt = model.load().unwrap();
        let options =
            GenerateOptions { temperature: 0.0, max_tokens: 6, ..GenerateOptions::default() };
        assert_eq!(gpt.generate_ids(&[5, 6], &options).unwrap(), [drawn]);
        assert_eq!(gpt.generate("The red fox", &options).unwrap(), "");
        // An empty prompt begins a text.
        assert_eq!(gpt.generate("", &options).unwrap(), "");

        let generate =
            ["generate", "--model=model", "--device=cpu", "--greedy", "--json", "--num-samples=2"];
        let said = cli::json(model.wgpt(&generate).arg("--prompt=The"));
        let said = said["samples"].as_array().unwrap();
        assert!(said.len() == 2 && said.iter().all(|one| one["text"] == "" && one["tokens"] == 1));
        let said = cli::json(model.wgpt(&generate).arg("--prompt-ids=5,6"));
        assert_eq!(said["samples"][1]["ids"], json!([drawn]));
    }
    // One that no file names is text like any other.
    let model = Model::drawing(S).configured(json!({ "eos_token_id": IM_END }));
    let mut gpt = model.load().unwrap();
    let options = GenerateOptions { temperature: 0.0, max_tokens: 2, ..GenerateOptions::default() };
    assert_eq!(gpt.generate("The", &options).unwrap(), "</s></s>");
}

#[test]
fn a_contradiction_is_reported_once() {
    let model = Model::drawing(S)
        .configured(json!({ "eos_token_id": 0 }))
        .with("generation_config.json", &json!({ "eos_token_id": S }));
    fs::write(model.folder.path().join("data.jsonl"), documents()).unwrap();
    let train = [&["train", "--init=model", "--out=run"][..], TRAIN].concat();
    for arguments in [
        &[
            "generate",
            "--model=model",
            "--device=cpu",
            "--prompt=x",
            "--num-samples=2",
            "--max-tokens=2",
        ][..],
        &["eval", "data.jsonl", "--model=model", "--device=cpu"],
        &["export", "--model=model", "--out=other"],
        &train,
    ] {
        let said = stderr(&mut model.wgpt(arguments));
        assert_eq!(said.matches("contradict").count(), 1, "{arguments:?}: {said}");
        assert!(
            said.contains("generation_config.json 257 is taken, not "),
            "{arguments:?}: {said}"
        );
    }
}

const TRAIN: &[&str] =
    &["--data=data.jsonl", "--device=cpu", "--max-iters=2", "--batch-size=2", "--seq-len=16"];

fn documents() -> String {
    (0..60)
        .map(|i| json!({ "text": format!("The cat saw {i} birds.") }).to_string() + "\n")
        .collect()
}

fn count(path: &Path, id: u32) -> usize {
    let tokens = wgpt::data::Tokens::open(path).unwrap();
    let mut ids = vec![0; tokens.len()];
    tokens.copy_to(0..tokens.len(), &mut ids);
    ids.into_iter().filter(|other| *other == id).count()
}

#[test]
fn training_on_keeps_what_the_files_say() {
    let generation =
        json!({ "eos_token_id": [S, IM_END], "bos_token_id": 5, "temperature": 0.6, "top_k": 20 });
    let described = json!({ "eos_token": "</s>", "tokenizer_class": "GPT2Tokenizer", "chat_template": "{{ x }}",
        "model_max_length": 1_000_000 });
    let model = Model::drawing(S)
        .configured(json!({ "eos_token_id": [S], "bos_token_id": 5, "pad_token_id": IM_END }))
        .with("generation_config.json", &generation)
        .with("tokenizer_config.json", &described);
    let wanted = EndOfText::new(vec![S, IM_END], Some(5));
    let folder = model.folder.path();
    fs::write(folder.join("data.jsonl"), documents()).unwrap();

    model.wgpt(&[&["train", "--init=model", "--out=run"][..], TRAIN].concat()).assert().success();
    assert_eq!(count(&folder.join("run/tokens.bin"), S), 59);
    model.wgpt(&["export", "--model=run", "--out=run/handed/on"]).assert().success();
    let mut again = Gpt::load(&folder.join("run/best"), Device::Cpu).unwrap();
    again.save(&folder.join("run/saved")).unwrap();
    for name in ["run", "run/best", "run/checkpoints/step-2", "run/handed/on", "run/saved"] {
        let dir = folder.join(name);
        assert_eq!(json_file(&dir.join("generation_config.json")), generation, "{name}");
        assert_eq!(json_file(&dir.join("tokenizer_config.json")), described, "{name}");
        let config = json_file(&dir.join("config.json"));
        for (key, value) in [
            ("eos_token_id", json!([S])),
            ("bos_token_id", json!(5)),
            ("pad_token_id", json!(IM_END)),
        ] {
            assert_eq!(config[key], value, "{name}: {key}");
        }
        let gpt = Gpt::load(&dir, Device::Cpu).unwrap();
        assert_eq!((gpt.end_of_text(), gpt.notices().len()), (&wanted, 0), "{name}");
    }

    let adapted = ["train", "--init=model", "--out=adapted", "--lora-rank=2"];
    model.wgpt(&[&adapted[..], TRAIN].concat()).assert().success();
    let best = folder.join("adapted/best");
    assert_eq!(json_file(&best.join("tokenizer_config.json")), described);
    assert_eq!(Gpt::load(&best, Device::Cpu).unwrap().end_of_text(), &wanted);
    assert_eq!(count(&folder.join("adapted/tokens.bin"), S), 59);
}

#[test]
fn a_new_model_takes_the_end_of_its_tokenizers_folder() {
    let model = Model::drawing(S)
        .configured(json!({ "eos_token_id": [IM_END, S] }))
        .with("generation_config.json", &json!({ "temperature": 0.6 }));
    let folder = model.folder.path();
    fs::write(folder.join("data.jsonl"), documents()).unwrap();
    let new = [
        "train",
        "--tokenizer=model",
        "--out=run",
        "--layers=1",
        "--heads=2",
        "--embd=8",
        "--context=16",
    ];
    model.wgpt(&[&new[..], TRAIN].concat()).assert().success();
    assert_eq!(count(&folder.join("run/tokens.bin"), IM_END), 59);
    let best = folder.join("run/best");
    for name in ["config.json", "generation_config.json"] {
        let fields = json_file(&best.join(name));
        assert_eq!(fields["eos_token_id"], json!([IM_END, S]), "{name}");
        assert_eq!(
            (&fields["bos_token_id"], &fields["temperature"]),
            (&json!(IM_END), &Value::Null)
        );
    }
    let described = json_file(&best.join("tokenizer_config.json"));
    assert_eq!(
        (&described["eos_token"], &described["model_max_length"]),
        (&json!("<|im_end|>"), &json!(16))
    );

    let encode = ["tokenizer", "encode", "data.jsonl", "--tokenizer=model", "--out=data.bin"];
    model.wgpt(&encode).assert().success();
    assert_eq!(count(&folder.join("data.bin"), IM_END), 59);
    let info = cli::json(&mut model.wgpt(&["tokenizer", "info", "--tokenizer=model", "--json"]));
    assert_eq!(info["end_of_text"], IM_END);
}

#[test]
fn a_learned_token_that_ends_texts_stays_a_learned_one() {
    // A line's end, whose spelling is another text, and the letter s, which is in most words.
    let newline = tokenizer().encode("\n")[0];
    let letter = tokenizer().encode("s")[0];
    for end in [newline, letter] {
        let model = Model::drawing(S).configured(json!({ "eos_token_id": [end, S] }));
        let folder = model.folder.path();
        fs::write(folder.join("data.jsonl"), documents()).unwrap();
        let train = ["train", "--init=model", "--out=run"];
        model.wgpt(&[&train[..], TRAIN].concat()).assert().success();
        let gpt = Gpt::load(&folder.join("run/best"), Device::Cpu).unwrap();
        assert_eq!(gpt.end_of_text().ids(), [end, S]);
        let read = gpt.tokenizer().unwrap();
        assert_eq!(read.vocab_size(), TOKENS);
        let text = "glass\nis</s>";
        assert_eq!(read.encode_with_special(text), tokenizer().encode_with_special(text));
        assert_eq!(read.special_tokens().count(), tokenizer().special_tokens().count());
    }
}

#[test]
fn a_token_that_is_only_named_and_beyond_the_model_is_left_out() {
    let described =
        json!({ "eos_token": "</s>", "pad_token": "[PAD]", "tokenizer_class": "GPT2Tokenizer" });
    let model = Model::drawing(S).with("tokenizer_config.json", &described);
    let folder = model.folder.path();
    fs::write(folder.join("data.jsonl"), documents()).unwrap();
    let train = ["train", "--init=model", "--out=run"];
    let said = stderr(&mut model.wgpt(&[&train[..], TRAIN].concat()));
    assert_eq!(said.matches("no row for the added tokens [\"[PAD]\"]").count(), 1, "{said}");
    for name in ["model", "run/best"] {
        let gpt = Gpt::load(&folder.join(name), Device::Cpu).unwrap();
        assert_eq!((gpt.end_of_text().ids(), gpt.notices().len()), (&[S][..], 1), "{name}");
        assert_eq!(gpt.tokenizer().unwrap().vocab_size(), TOKENS, "{name}");
    }
    // A tokenizer by itself has it.
    assert_eq!(Tokenizer::load(&folder.join("model")).unwrap().vocab_size(), TOKENS + 1);
}

#[test]
fn a_run_without_any_end_of_text_ends_well() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("data.jsonl"), documents()).unwrap();
    // The bytes alone, in both forms of a tokenizer's files.
    let bytes: Value = serde_json::from_str(&Tokenizer::bytes().to_json()).unwrap();
    let vocab = bytes["model"]["vocab"].as_object().unwrap().iter();
    let vocab: serde_json::Map<String, Value> = vocab
        .filter(|(token, _)| *token != "<|endoftext|>")
        .map(|(token, id)| (token.clone(), json!(id.as_u64().unwrap() - 1)))
        .collect();
    for name in ["pair", "single"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("pair/vocab.json"), json!(vocab).to_string()).unwrap();
    fs::write(folder.path().join("pair/merges.txt"), "#version: 0.2\n").unwrap();
    let mut single = bytes.clone();
    (single["model"]["vocab"], single["added_tokens"]) = (json!(vocab), json!([]));
    fs::write(folder.path().join("single/tokenizer.json"), single.to_string()).unwrap();
    for name in ["pair", "single"] {
        let (tokenizer, out) = (format!("--tokenizer={name}"), format!("--out=run-{name}"));
        let new =
            ["train", &tokenizer, &out, "--layers=1", "--heads=2", "--embd=8", "--context=16"];
        let mut command = cli::wgpt(folder.path());
        let output =
            command.args([&new[..], TRAIN].concat()).assert().success().get_output().clone();
        let (said, told) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(said.contains("A sample:\n\nT") && said.contains("validation loss"), "{said}");
        assert_eq!(told.matches("the documents run together").count(), 1, "{told}");
        let best = folder.path().join(format!("run-{name}/best"));
        assert_eq!(json_file(&best.join("config.json"))["eos_token_id"], Value::Null);
    }
    // A single document has nothing to run into.
    fs::write(folder.path().join("data.jsonl"), documents().replace("\"}\n{\"text\":\"", " "))
        .unwrap();
    let new = [
        "train",
        "--tokenizer=pair",
        "--out=one",
        "--layers=1",
        "--heads=2",
        "--embd=8",
        "--context=16",
    ];
    let told = stderr(cli::wgpt(folder.path()).args([&new[..], TRAIN].concat()));
    assert!(!told.contains("run together"), "{told}");
}

#[test]
fn measures_take_the_same_end() {
    let model =
        Model::drawing(S).configured(json!({ "eos_token_id": [S, IM_END], "bos_token_id": 5 }));
    fs::write(model.folder.path().join("data.jsonl"), documents()).unwrap();
    let report = cli::json(&mut model.wgpt(&[
        "eval",
        "data.jsonl",
        "--model=model",
        "--device=cpu",
        "--json",
    ]));
    let text_bytes: usize = (0..60).map(|i| format!("The cat saw {i} birds.").len()).sum();
    // The first token is not scored; the 59 ends are, and are no text.
    assert_eq!(report["total"]["tokens"], text_bytes + 59 - 1);
    assert_eq!(report["total"]["bytes"], text_bytes - 1);
    // The model draws the end at once, so that each continuation is empty, and no document is continued into the next.
    let continuations = [
        "eval",
        "continuations",
        "data.jsonl",
        "--model=model",
        "--device=cpu",
        "--json",
        "--prompt-tokens=8",
        "--max-tokens=8",
        "--samples=4",
    ];
    let report = cli::json(&mut model.wgpt(&continuations));
    for example in report["examples"].as_array().unwrap() {
        assert_eq!((&example["hypothesis"], &example["prompt"]), (&json!(""), &json!("The cat ")));
    }
}

#[test]
fn a_gguf_file_ends_texts_where_the_model_does() {
    let cases: [(Value, &[(&str, u32)]); 4] = [
        (json!(IM_END), &[("eos", IM_END), ("bos", 5)]),
        (json!([S, IM_END]), &[("eos", S), ("eot", IM_END), ("bos", 5)]),
        (json!([IM_END, S, 0]), &[("eos", IM_END), ("eot", S), ("eom", 0), ("bos", 5)]),
        // There is room for three.
        (json!([IM_END, S, 0, 9]), &[("eos", IM_END), ("eot", S), ("eom", 0), ("bos", 5)]),
    ];
    for (ends, wanted) in cases {
        let model =
            Model::drawing(S).configured(json!({ "eos_token_id": ends, "bos_token_id": 5 }));
        let path = model.folder.path().join("model.gguf");
        let told = stderr(&mut model.wgpt(&["export", "--model=model", "--gguf=model.gguf"]));
        assert_eq!(told.contains("[9] are left out"), ends[3] == 9, "{told}");
        let entries = read_gguf(&path).entries;
        for role in ["bos", "eos", "eot", "eom"] {
            let id = wanted.iter().find(|(of, _)| *of == role).map(|(_, id)| json!(id));
            let key = format!("tokenizer.ggml.{role}_token_id");
            assert_eq!(entries.get(&key), id.as_ref(), "{ends}: {key}");
        }
    }
}

/// Of several stop texts in one piece the one that comes first in the text ends it, wherever it is in the list.
#[test]
fn the_first_stop_in_the_text_ends_it() {
    let mut text = wgpt::generate::StopText::new(vec!["late".into(), "early".into()]);
    assert_eq!(text.push("some early, some late"), "some ");
    assert!(text.stopped());
}
