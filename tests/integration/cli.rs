//! Does the command line have manners? Help, exit codes, streams, JSON, settings from a file.

use std::path::Path;
use std::sync::OnceLock;

use assert_cmd::Command;
use predicates::prelude::*;
use serde_json::Value;
use tempfile::TempDir;
use wgpt::backend::Device;
use wgpt::data::Tokens;
use wgpt::{GenerateOptions, Gpt};

/// The program, in a folder of its own, so that `runs/` is the test's.
pub fn wgpt(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("wgpt").expect("the program is built");
    command.current_dir(folder).env_remove("NO_COLOR");
    command.env("WGPT_CACHE", env!("CARGO_TARGET_TMPDIR"));
    // No name is looked for on the hub.
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

const TINY: &[&str] = &[
    "--tokenizer=bytes",
    "--layers=1",
    "--heads=2",
    "--embd=16",
    "--context=32",
    "--batch-size=4",
    "--max-iters=12",
    "--eval-every=6",
    "--eval-iters=2",
    "--log-every=4",
    "--device=cpu",
];

/// A folder with a text, data.txt.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let text: String = (0..60).map(|i| format!("The cat saw {i} birds.\n")).collect();
    std::fs::write(folder.path().join("data.txt"), text).expect("the text is written");
    folder
}

/// A folder with a finished tiny run in runs/tiny, made once; tests only read it.
pub fn trained() -> &'static Path {
    static TRAINED: OnceLock<TempDir> = OnceLock::new();
    let folder = TRAINED.get_or_init(|| {
        let folder = folder();
        let data = ["train", "--data=data.txt", "--out=runs/tiny"];
        wgpt(folder.path()).args(data).args(TINY).assert().success();
        folder
    });
    folder.path()
}

/// stdout as the one JSON object that it must be.
pub fn json(command: &mut Command) -> Value {
    let output = command.assert().success().get_output().stdout.clone();
    let value: Value = serde_json::from_slice(&output).expect("stdout is one JSON value");
    assert!(value.is_object(), "{value}");
    value
}

#[track_caller]
fn positive(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value[name].as_f64().is_some_and(|x| x > 0.0), "{name} in {value}");
    }
}

#[test]
fn help_lists_options_and_examples() {
    let folder = folder();
    let commands: &[(&[&str], &[&str])] = &[
        (
            &[],
            &[
                "train",
                "generate",
                "eval",
                "plan",
                "bench",
                "tokenizer",
                "grad-check",
                "verify",
                "tune",
                "devices",
                "--threads",
            ],
        ),
        (&["grad-check"], &["--device", "--json"]),
        (&["verify"], &["--device", "--step", "--size", "--seq-len", "--limits", "--json"]),
        (&["devices"], &["--json"]),
        (&["launch"], &["--ranks", "--host", "--hostfile", "--restarts", "--starter"]),
        (&["tune"], &["--size", "--batch-size", "--device", "--json"]),
        (&["bench", "train"], &["--profile", "--trace"]),
        (
            &["train"],
            &[
                "--data",
                "--size",
                "--layers",
                "--heads",
                "--embd",
                "--vocab",
                "--context",
                "--max-iters",
                "--batch-size",
                "--seq-len",
                "--grad-accum",
                "--lr",
                "--min-lr",
                "--warmup",
                "--weight-decay",
                "--beta1",
                "--beta2",
                "--grad-clip",
                "--dropout",
                "--seed",
                "--eval-every",
                "--eval-iters",
                "--save-every",
                "--log-every",
                "--tokenizer",
                "--optimizer",
                "--device",
                "--threads",
                "--out",
                "--resume",
                "--init",
                "--config",
                "--json",
                "[default: 8]",
            ],
        ),
        (
            &["generate"],
            &[
                "--model",
                "--prompt",
                "--prompt-file",
                "--prompt-ids",
                "--max-tokens",
                "--temperature",
                "--top-k",
                "--top-p",
                "--min-p",
                "--repetition-penalty",
                "--greedy",
                "--seed",
                "--num-samples",
                "--stop",
                "--device",
                "--json",
            ],
        ),
        (
            &["eval"],
            &[
                "--model",
                "--stride",
                "--seq-len",
                "--batch-size",
                "--precision",
                "--json",
                "bits per byte",
            ],
        ),
        (&["eval", "bleu"], &["HYP", "REF", "sacrebleu"]),
        (&["eval", "continuations"], &["--prompt-tokens", "--max-tokens", "--samples", "--top-k"]),
        (&["eval", "choices"], &["--delimiter", "--limit", "acc_norm", "endings"]),
        (&["plan"], &["--size", "--batch-size", "--seq-len", "--limits", "--dispatches", "--json"]),
        (&["bench"], &["train", "generate", "kernels"]),
        (&["bench", "train"], &["--size", "--batch-size", "--steps", "--precision", "--json"]),
        (&["bench", "generate"], &["--prompt-tokens", "--max-tokens", "--device"]),
        (&["bench", "kernels"], &["--size", "--seq-len", "--json"]),
        (&["tokenizer"], &["train", "encode", "decode", "info", "convert"]),
        (&["tokenizer", "train"], &["--vocab", "--out"]),
        (&["tokenizer", "encode"], &["--tokenizer", "--out"]),
        (&["tokenizer", "decode"], &["--tokenizer"]),
        (&["tokenizer", "info"], &["--tokenizer", "--json"]),
    ];
    for (command, words) in commands {
        let mut help = wgpt(folder.path());
        let output = help.args(*command).arg("--help").assert().success().get_output().clone();
        let text = String::from_utf8(output.stdout).expect("help is text");
        assert!(text.contains("Example") && text.contains("wgpt "), "{command:?}: {text}");
        for word in *words {
            assert!(text.contains(word), "{command:?} has no {word}");
        }
    }
}

#[test]
fn wrong_command_lines_exit_2_and_name_the_option() {
    let folder = folder();
    let cases: &[(&[&str], &str)] = &[
        (&["train", "--layers", "x"], "--layers"),
        (&["train", "--layers", "0"], "--layers"),
        (&["train", "--heads", "3"], "--heads"),
        (&["train", "--colour"], "--colour"),
        (&["train", "--weights", "q8_0"], "--weights <FORMAT>': training updates matrices in f32"),
        (&["train", "--size", "huge"], "--size"),
        (&["train", "--arch", "gpt3"], "--arch"),
        (&["train", "--arch", "llama", "--size", "qwen3-0.6b"], "--size qwen3-0.6b"),
        (&["train", "--kv-heads", "2"], "--kv-heads"),
        (&["plan", "--size", "gpt2", "--rope-theta", "500"], "--rope-theta"),
        (&["plan", "--arch", "llama", "--kv-heads", "3"], "--kv-heads 3"),
        (&["plan", "--arch", "llama", "--window", "8"], "--window"),
        (&["bench", "train", "--arch", "qwen3", "--head-size", "7"], "--head-size"),
        (&["plan", "--ffn", "0"], "--ffn"),
        (&["plan", "--norm-eps", "1"], "--norm-eps"),
        (&["plan", "--output-head", "own"], "--output-head"),
        (&["train", "--init", "x", "--arch", "llama"], "--arch"),
        (&["train", "--max-iters", "0"], "--max-iters"),
        (&["train", "--lr=nan"], "--lr"),
        (&["train", "--dropout", "1"], "--dropout"),
        (&["train", "--seq-len", "129"], "--seq-len"),
        (&["train", "--device", "tpu"], "device"),
        (&["train", "--threads", "0"], "--threads"),
        (&["train", "--resume", "runs/x", "--lr", "1"], "--lr"),
        (&["train", "--init", "x", "--layers", "2"], "--layers"),
        (&["generate"], "--prompt"),
        (&["generate", "--prompt", "a", "--prompt-ids", "1"], "--prompt-ids"),
        (&["generate", "--prompt", "a", "--greedy", "--temperature", "1"], "--temperature"),
        (&["generate", "--prompt", "a", "--top-p", "2"], "--top-p"),
        (&["generate", "--prompt", "a", "--stop", ""], "--stop"),
        (&["eval"], "FILE"),
        (&["eval", "bleu", "a"], "REF"),
        (&["plan", "--batch-size", "0"], "--batch-size"),
        (&["bench", "train", "--precision", "f8"], "--precision"),
        (&["tokenizer", "train", "a.txt", "--out", "x"], "--vocab"),
        (&["tune", "--device", "cpu"], "--device gpu"),
        (&["train", "--trace", "x"], "--profile"),
        (&["launch", "--", "train"], "-n N"),
        (&["launch", "-n", "2", "--", "eval"], "only train"),
        (&["launch", "--host", "a,b:0", "--", "train"], "--host: `b:0`"),
        (&["launch", "--host", "a,,b", "--", "train"], "--host: ``"),
        (&["launch", "--host", "a", "--hostfile", "b", "--", "train"], "--hostfile"),
        (&["launch", "-n", "4", "--host", "a:2,b", "--", "train"], "room for 3"),
        (&["plan", "--ranks-here", "2"], "--link"),
        (&["nothing"], "nothing"),
    ];
    for (arguments, named) in cases {
        let output = wgpt(folder.path()).args(*arguments).assert().code(2).get_output().clone();
        let errors = String::from_utf8(output.stderr).expect("errors are text");
        let first = errors.lines().take(3).collect::<Vec<_>>().join("\n");
        assert!(first.starts_with("error: ") && first.contains(named), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}: an error is no result");
    }
    assert!(!folder.path().join("runs").exists(), "a wrong command line leaves nothing behind");
}

#[test]
fn hosts_come_from_a_file() {
    let folder = folder();
    let launch = |text: &str| {
        std::fs::write(folder.path().join("hosts"), text).expect("a file");
        let mut command = wgpt(folder.path());
        let output = command.args(["launch", "-n99", "--hostfile=hosts", "--", "train"]).assert();
        let output = output.get_output().clone();
        (output.status.code().expect("a code"), self::text(&output.stderr))
    };
    let (code, errors) = launch("# laptops\na slots=2\n\n  b:3  # at home\nc\na\n");
    assert!(code == 2 && errors.contains("-n is 99, but the hosts have room for 7"), "{errors}");
    for (text, named) in [
        ("a\nb slots=0\n", "hosts:2: `b slots=0`"),
        ("a max_slots=4\n", "hosts:1"),
        ("a slots=2 b\n", "hosts:1"),
        ("-n:2\n", "hosts:1"),
        ("# none\n", "hosts names no host"),
    ] {
        let (code, errors) = launch(text);
        assert!(code == 1 && errors.contains(named) && errors.contains("hint: "), "{errors}");
    }
}

#[test]
fn wrong_input_exits_1_with_a_hint() {
    let folder = folder();
    std::fs::write(folder.path().join("broken.toml"), "lr = \n").expect("written");
    std::fs::create_dir(folder.path().join("empty")).expect("made");
    let cases: &[&[&str]] = &[
        &["train", "--data", "nowhere.txt"],
        &["train", "--config", "broken.toml"],
        &["generate", "--prompt", "a"],
        &["generate", "--prompt", "a", "--model", "nowhere"],
        &["tokenizer", "info", "--tokenizer", "empty"],
    ];
    for arguments in cases {
        let assert = wgpt(folder.path()).args(*arguments).assert().code(1).stdout("");
        let output = assert.get_output().clone();
        let errors = String::from_utf8(output.stderr).expect("errors are text");
        let starts = |word: &str| errors.lines().any(|line| line.starts_with(word));
        assert!(starts("error: ") && starts("hint: "), "{arguments:?}: {errors}");
    }
}

#[test]
fn training_ends_with_a_sample_and_what_to_do_next() {
    let folder = folder();
    let out = ["train", "--data=data.txt", "--out=runs/one"];
    let assert = wgpt(folder.path()).args(out).args(TINY).assert().success();
    let output = assert.get_output();
    let (text, logs) = (text(&output.stdout), text(&output.stderr));
    assert!(text.contains("A sample:") && text.contains("validation loss"), "{text}");
    assert!(text.contains("wgpt generate --model runs/one/best --prompt"), "{text}");
    let line = logs.lines().find(|line| line.starts_with("step 4/12  loss ")).expect("a line");
    assert!(["tokens/s", "MFU ", "ETA "].iter().all(|word| line.contains(word)), "{line}");
    assert!(logs.contains("step 6: validation loss"), "{logs}");
    assert!(!text.contains('\u{1b}') && !logs.contains('\u{1b}'), "no escape codes in a pipe");
}

#[test]
fn options_that_make_no_sense_are_named() {
    let folder = folder();
    let fails = |arguments: &[&str], named: &[&str]| {
        let mut command = wgpt(folder.path());
        let assert = command.args(arguments).assert().code(2).stdout("");
        let errors = text(&assert.get_output().stderr);
        for word in named {
            assert!(errors.contains(word), "{word} in {errors}");
        }
    };
    let train = |more: &[&str], named: &[&str]| {
        fails(&[&["train", "--data=data.txt", "--device=cpu"], more].concat(), named);
    };
    train(&["--lr", "-1"], &["--lr is -1"]);
    train(&["--max-iters", "-3"], &["--max-iters", "-3"]);
    train(&["--min-lr=1", "--lr=0.1"], &["--min-lr is 1", "0.1"]);
    train(&["--warmup=100", "--max-iters=10"], &["--warmup is 100", "--max-iters"]);
    train(&["--warmup=18446744073709551615"], &["--warmup"]);
    train(&["--keep=0"], &["--keep"]);
    train(&["--vocab=10"], &["10 tokens is too small", "257"]);
    train(&["--tokenizer=bytes", "--vocab=400"], &["--vocab is 400", "bytes has 257", "hint: "]);
    fails(&["generate", "--prompt=a", "--temperature", "-1"], &["--temperature is -1"]);
    let tokenizer = ["tokenizer", "train", "data.txt", "--out=tok", "--vocab"];
    fails(&[&tokenizer[..], &["256"]].concat(), &["256 tokens is too small"]);
    fails(&[&tokenizer[..], &["-1"]].concat(), &["--vocab", "-1"]);
    let encode = ["tokenizer", "encode", "data.txt", "--tokenizer=bytes", "--out=ids.txt"];
    fails(&encode, &["ids.txt", ".bin"]);
    fails(&["verify", "--device=cpu", "--layers=3"], &["--step"]);
    fails(&["verify", "--device=cpu", "--seq-len=0"], &["--step"]);
    let mut command = wgpt(folder.path());
    let absent = command.args(["tokenizer", "encode", "x", "--tokenizer=bytes"]).assert().code(1);
    let errors = text(&absent.get_output().stderr);
    assert!(errors.contains("hint: ") && !errors.contains("--data"), "{errors}");
}

#[test]
fn a_run_that_diverges_is_no_success() {
    let folder = folder();
    let astray = ["train", "--data=data.txt", "--out=nf", "--json", "--optimizer=sgd", "--lr=1000"];
    let mut command = wgpt(folder.path());
    command.args(astray).args(TINY).args(["--grad-clip=0", "--weight-decay=1000", "--warmup=0"]);
    let says = predicate::str::contains("not finite").and(predicate::str::contains("--lr"));
    command.assert().code(1).stdout("").stderr(says);
}

/// Starts the program, presses Ctrl-C once its stderr says `word`, and returns its exit code, stdout and stderr.
#[cfg(unix)]
fn interrupted(
    folder: &Path,
    arguments: &[&str],
    word: &str,
    signal: &str,
) -> (Option<i32>, String, String) {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("wgpt"))
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut logs = String::new();
    for line in BufReader::new(child.stderr.take().expect("a pipe")).lines() {
        let line = line.expect("it is text");
        if line.contains(word) && !logs.contains(word) {
            let signal = Command::new("kill").args([signal, &child.id().to_string()]).status();
            assert!(signal.expect("there is kill").success());
        }
        logs += &(line + "\n");
    }
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), text(&output.stdout), logs)
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let folder = folder();
    let train = ["train", "--data=data.txt", "--out=run"];
    let endless = ["--max-iters=1000000000", "--eval-every=0", "--save-every=0"];
    let tiny: Vec<&str> =
        TINY.iter().copied().filter(|o| !o.contains("iters") && !o.contains("every")).collect();
    let arguments = [&train[..], &tiny, &endless].concat();
    let (code, printed, logs) = interrupted(folder.path(), &arguments, "step 10/", "-INT");
    assert_eq!(code, Some(0), "{logs}");
    assert!(logs.contains("stopping after this step"), "{logs}");
    assert!(printed.contains("wgpt train --resume run"), "{printed}");
    assert!(folder.path().join("run/model.safetensors").is_file());
    let resume = ["train", "--resume=run"];
    for signal in ["-INT", "-TERM", "-USR1"] {
        let (code, printed, logs) =
            interrupted(folder.path(), &resume, "going on after update", signal);
        assert!(code == Some(0) && printed.contains("everything is saved"), "{printed}{logs}");
    }

    // A run goes on where it was: on the device of run.json.
    let settings = folder.path().join("run/run.json");
    let elsewhere = std::fs::read_to_string(&settings).expect("settings");
    let elsewhere = elsewhere.replace("\"device\": \"cpu\"", "\"device\": \"gpu:99\"");
    std::fs::write(&settings, elsewhere).expect("written");
    let fails = wgpt(folder.path()).args(resume).assert().code(1);
    fails.stderr(predicate::str::contains("adapter"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_before_the_first_update_says_how_to_go_on() {
    let folder = folder();
    let arguments = ["train", "--device=cpu", "--out=run"];
    let (code, _, logs) = interrupted(folder.path(), &arguments, "training a tokenizer", "-INT");
    assert_eq!(code, Some(130), "{logs}");
    assert!(logs.contains("wgpt train --resume run"), "{logs}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("what is printed is text")
}

#[test]
fn train_gives_json_and_its_threads_hold() {
    let folder = folder();
    let mut command = wgpt(folder.path());
    command.args(["train", "--data=data.txt", "--json", "--threads=1"]).args(TINY);
    let summary = json(&mut command);
    let fields = ["steps", "train_loss", "val_loss", "best_val_loss", "tokens_per_s", "seconds"];
    positive(&summary, &fields);
    assert_eq!(summary["steps"], 12);
    let dir = Path::new(summary["run_dir"].as_str().expect("a folder"));
    let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(name.starts_with("data-small-2"), "{name}");
    assert!(dir.join("best/model.safetensors").is_file());
    let settings = std::fs::read(dir.join("run.json")).expect("settings");
    let settings: Value = serde_json::from_slice(&settings).expect("settings are JSON");
    assert_eq!(settings["threads"], 1);
    command.assert().stderr(predicate::str::contains("CPU, 1 threads"));
}

#[test]
fn a_model_of_another_family_is_trained_and_writes() {
    let folder = folder();
    let sizes = ["--arch=llama", "--kv-heads=1", "--ffn=24", "--rope-theta=500", "--norm-eps=1e-6"];
    let mut command = wgpt(folder.path());
    command.args(["train", "--data=data.txt", "--json"]).args(TINY).args(sizes);
    let dir =
        json(command.arg("--output-head=own"))["run_dir"].as_str().expect("a folder").to_owned();
    assert!(dir.contains("data-llama-small-2"), "{dir}");
    let best = Path::new(&dir).join("best");
    let config = std::fs::read(best.join("config.json")).expect("a configuration");
    let config: Value = serde_json::from_slice(&config).expect("it is JSON");
    for (field, value) in [
        ("model_type", Value::from("llama")),
        ("num_key_value_heads", 1.into()),
        ("head_dim", 8.into()),
        ("intermediate_size", 24.into()),
        ("rms_norm_eps", 1e-6.into()),
        ("tie_word_embeddings", false.into()),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
    assert_eq!(config["rope_parameters"]["rope_theta"], 500.0);
    let generate = ["generate", "--prompt=The cat", "--max-tokens=4", "--device=cpu", "--model"];
    wgpt(folder.path()).args(generate).arg(&best).assert().success();

    let plan = ["plan", "--size=qwen3-0.6b", "--context=64", "--batch-size=1", "--limits=webgpu"];
    let report = json(wgpt(folder.path()).args(plan).arg("--json"));
    assert_eq!(report["parameters"], 596_049_920);
    assert_eq!(report["model"]["blocks"]["family"], "qwen3");
}

#[test]
fn settings_come_from_a_file_and_the_command_line_goes_before_it() {
    let folder = folder();
    let file = |text: &str| std::fs::write(folder.path().join("run.toml"), text).expect("written");
    file(
        "data = [\"data.txt\", \"data.txt\"]\ntokenizer = \"bytes\"\nlayers = 1\nheads = 2\nembd = 16\n\
         context = 32\nbatch-size = 3\nmax-iters = 9\nlr = 0.01\ndevice = \"cpu\"\nthreads = 1\n",
    );
    let mut command = wgpt(folder.path());
    command.args(["train", "--config=run.toml", "--max-iters=2", "--out=out", "--json"]);
    assert_eq!(json(&mut command)["steps"], 2);
    let settings = std::fs::read(folder.path().join("out/run.json")).expect("settings");
    let settings: Value = serde_json::from_slice(&settings).expect("settings are JSON");
    assert_eq!(settings["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(settings["train"]["batch_size"], 3);
    assert_eq!(settings["train"]["max_iters"], 2);
    assert_eq!(settings["train"]["learning_rate"], 0.01);
    assert_eq!(settings["threads"], 1);

    let fails = |text: &str, code: i32, named: &str| {
        file(text);
        let mut command = wgpt(folder.path());
        command
            .args(["train", "--config=run.toml"])
            .assert()
            .code(code)
            .stdout("")
            .stderr(predicate::str::contains(named).and(predicate::str::contains("run.toml")));
    };
    fails("batch-sise = 3", 2, "batch-sise");
    fails("resume = \"x\"", 2, "resume");
    fails("lr = \"fast\"", 2, "--lr");
    fails("lr = true", 2, "lr");
    fails("zero = 2", 2, "--zero");
    fails("data = []", 2, "data is an empty list");
    fails("[train]\nlr = 1", 2, "train");
    fails("lr = ", 1, "line 1");
    fails("size = \"huge\"", 2, "possible values: small, medium");
}

#[test]
fn every_option_of_training_can_come_from_a_file() {
    let folder = folder();
    let help = wgpt(folder.path()).args(["train", "--help"]).assert().success();
    let help = text(&help.get_output().stdout);
    let words = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let mut options: Vec<&str> =
        words.filter(|w| w.chars().all(|c| c.is_alphanumeric() || c == '-')).collect();
    options.sort_unstable();
    options.dedup();
    let mut file = String::new();
    for option in options {
        let value = match option {
            "config" | "resume" | "init" | "json" | "help" | "version" => continue,
            // What is shown of a run is no setting of it.
            "profile" | "trace" => continue,
            // Adapters want a model that is there and nothing frozen: tests/integration/lora.rs.
            "lora-rank" | "lora-alpha" | "lora-targets" => continue,
            "freeze" => "[\"embed_tokens.*\", \"layers.0.*\"]",
            "train-only" => "[\"*_proj.weight\"]",
            "data" | "val-data" => "[\"data.txt\"]",
            "long" => "\"drop\"",
            "tokenizer" => "\"bytes\"",
            "out" => "\"out\"",
            "device" => "\"cpu\"",
            "size" => "\"medium\"",
            "arch" => "\"qwen3\"",
            "norm-eps" => "0.001",
            "output-head" => "\"own\"",
            "optimizer" => "\"adam\"",
            "precision" => "\"f32\"",
            "recompute" => "\"none\"",
            "sum" => "\"exact\"",
            "rank-batch" => "\"auto\"",
            // It does not go together with local training: below.
            "zero" => continue,
            "pipeline" => "1",
            "vocab" => "257",
            "embd" => "16",
            "context" => "32",
            "seq-len" => "16",
            "max-iters" => "4",
            "lr" => "0.02",
            "min-lr" => "0.01",
            "outer-rate" | "outer-momentum" => "0.25",
            "beta1" | "beta2" | "dropout" | "weight-decay" => "0.5",
            _ => "2",
        };
        file += &format!("{option} = {value}\n");
    }
    std::fs::write(folder.path().join("run.toml"), &file).expect("written");
    wgpt(folder.path()).args(["train", "--config=run.toml"]).assert().success();
    let settings = std::fs::read(folder.path().join("out/run.json")).expect("settings");
    let settings: Value = serde_json::from_slice(&settings).expect("settings are JSON");
    let (model, train) = (&settings["model"], &settings["train"]);
    let sizes = ["n_layer", "n_head", "n_embd", "n_positions"].map(|key| model[key].as_u64());
    assert_eq!(sizes, [2, 2, 16, 32].map(Some));
    let counts = ["batch_size", "grad_accum", "warmup", "seed", "eval_every", "eval_iters"];
    for key in counts.iter().chain(&["save_every", "log_every", "keep"]) {
        assert_eq!(train[key], 2, "{key} of {file}");
    }
    assert_eq!(train["finetune"]["freeze"], serde_json::json!(["embed_tokens.*", "layers.0.*"]));
    assert_eq!(train["finetune"]["train_only"], serde_json::json!(["*_proj.weight"]));
    for key in ["beta1", "beta2", "dropout", "weight_decay"] {
        assert_eq!(train[key], 0.5, "{key} of {file}");
    }
    let rates = ["learning_rate", "min_learning_rate", "grad_clip"].map(|key| train[key].as_f64());
    assert_eq!(rates, [0.02, 0.01, 2.0].map(Some));
    assert_eq!((&train["seq_len"], &train["max_iters"]), (&16.into(), &4.into()));
    assert_eq!((&train["optimizer"], &settings["threads"]), (&"adam".into(), &2.into()));
    assert_eq!((&train["sum"], &train["rank_batch"]), (&"exact".into(), &"auto".into()));
    let local = serde_json::json!({"sync_every": 2, "outer_rate": 0.25, "outer_momentum": 0.25, "ranks": 1});
    assert_eq!(train["local"], local);
    assert_eq!((&train["precision"], &train["recompute"]), (&"f32".into(), &"none".into()));

    let is_local = |line: &&str| line.starts_with("sync-every") || line.starts_with("outer-");
    let others: Vec<&str> = file.lines().filter(|line| !is_local(line)).collect();
    let file = others.join("\n").replace("\"out\"", "\"split\"") + "\nzero = true\n";
    std::fs::write(folder.path().join("run.toml"), &file).expect("written");
    wgpt(folder.path()).args(["train", "--config=run.toml"]).assert().success();
    let settings = std::fs::read(folder.path().join("split/run.json")).expect("settings");
    let settings: Value = serde_json::from_slice(&settings).expect("settings are JSON");
    assert_eq!(
        (&settings["train"]["zero"], &settings["train"]["local"]),
        (&true.into(), &Value::Null)
    );
}

#[test]
fn generate_continues_a_text() {
    let run = trained();
    let sampling = ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.9"];
    let mut command = wgpt(run);
    command.args(["generate", "--prompt", "The cat", "--max-tokens", "100"]).args(sampling);
    command.assert().success().stdout(predicate::str::starts_with("The cat"));

    std::fs::write(run.join("prompt.txt"), "The cat\n").expect("written");
    let best =
        ["generate", "--model=runs/tiny/best", "--json", "--max-tokens=20", "--num-samples=2"];
    let from_file = json(wgpt(run).args(best).arg("--prompt-file=prompt.txt"));
    let from_text = json(wgpt(run).args(best).arg("--prompt=The cat"));
    assert_eq!(from_file["prompt"], "The cat");
    let samples = |value: &Value| {
        let samples = value["samples"].as_array().expect("samples").clone();
        samples.iter().map(|sample| sample["text"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(samples(&from_file), samples(&from_text));
    assert_ne!(samples(&from_text)[0], samples(&from_text)[1]);

    let separated = predicate::str::contains("--- sample 1 of 2 ---")
        .and(predicate::str::contains("--- sample 2 of 2 ---"));
    let two = ["generate", "--prompt=a", "--num-samples=2", "--max-tokens=5"];
    wgpt(run).args(two).assert().success().stdout(separated);
}

/// More samples than are generated at once, which end early and late.
#[test]
fn samples_are_those_of_one_after_the_other_in_their_order() {
    let run = trained();
    let mut gpt = Gpt::load(&run.join("runs/tiny/best"), Device::Cpu).expect("a model");
    let stop = vec!["e".to_owned(), "an".to_owned()];
    let all = |sample| GenerateOptions {
        max_tokens: 25,
        sample,
        stop: stop.clone(),
        ..GenerateOptions::default()
    };
    let (mut texts, mut ids) = (String::new(), String::new());
    for sample in 0..11 {
        let gap = if sample > 0 { "\n" } else { "" };
        let head = format!("{gap}--- sample {} of 11 ---\n", sample + 1);
        let text = gpt.generate("The", &all(sample)).expect("a text");
        texts += &format!("{head}The{text}\n");
        let new = gpt.generate_ids(&[5, 6], &all(sample)).expect("some ids");
        let new: Vec<String> = new.iter().map(u32::to_string).collect();
        ids += &format!("{head}{}\n", new.join(","));
    }
    let generate = [
        "generate",
        "--model=runs/tiny/best",
        "--device=cpu",
        "--max-tokens=25",
        "--num-samples=11",
    ];
    let printed = |prompt: &str| {
        let mut command = wgpt(run);
        command.args(generate).args([prompt, "--stop=e", "--stop=an"]);
        text(&command.assert().success().get_output().stdout)
    };
    assert_eq!(printed("--prompt=The"), texts);
    assert_eq!(printed("--prompt-ids=5,6"), ids);
}

#[test]
fn a_stop_text_ends_the_continuation() {
    let run = trained();
    let greedy = ["generate", "--prompt=The", "--greedy", "--max-tokens=30", "--json"];
    let whole = json(wgpt(run).args(greedy));
    let whole = whole["samples"][0]["text"].as_str().expect("text").to_owned();
    let mut middle = whole.chars().skip(whole.chars().count() / 2);
    let stop = middle.next().expect("some text").to_string();
    let stopped = json(wgpt(run).args(greedy).args(["--stop", "never seen", "--stop", &stop]));
    let stopped = stopped["samples"][0]["text"].as_str().expect("text");
    assert_eq!(stopped, &whole[..whole.find(&stop).expect("it is there")]);
}

#[test]
fn ids_go_in_and_come_out_without_a_tokenizer() {
    let run = trained();
    let bare = folder();
    for file in ["config.json", "model.safetensors"] {
        let (from, to) = (run.join("runs/tiny").join(file), bare.path().join(file));
        std::fs::copy(from, to).expect("copied");
    }
    let ids = ["generate", "--model=.", "--prompt-ids=1,2,3", "--max-tokens=4", "--greedy"];
    let printed = wgpt(bare.path()).args(ids).assert().success().get_output().stdout.clone();
    let printed: Vec<u32> =
        text(&printed).trim().split(',').map(|id| id.parse().expect("an id")).collect();
    assert_eq!(printed.len(), 4);
    let spaced = ["generate", "--model=.", "--prompt-ids=1, 2 ,3", "--max-tokens=4", "--greedy"];
    let again = wgpt(bare.path()).args(spaced).assert().success().get_output().stdout.clone();
    assert_eq!(text(&again).trim().split(',').count(), 4);
    let value = json(wgpt(bare.path()).args(ids).arg("--json"));
    assert_eq!(value["samples"][0]["ids"], serde_json::json!(printed));

    let text = ["generate", "--model=.", "--prompt=The cat"];
    let named = predicate::str::contains("--prompt-ids");
    wgpt(bare.path()).args(text).assert().code(1).stdout("").stderr(named);
    let beyond = ["generate", "--model=.", "--prompt-ids=1,99999"];
    let named = predicate::str::contains("99999");
    wgpt(bare.path()).args(beyond).assert().code(2).stderr(named);
}

#[test]
fn a_finished_run_is_not_resumed() {
    let run = trained();
    let resume = ["train", "--resume=runs/tiny"];
    let says = predicate::str::contains("finished");
    wgpt(run).args(resume).assert().success().stderr(says);
    let summary = json(wgpt(run).args(resume).arg("--json"));
    assert_eq!(summary["steps"], 12);
    positive(&summary, &["val_loss", "best_val_loss"]);
}

#[test]
fn plan_forecasts_an_update_over_a_link() {
    let folder = folder();
    let sizes = [
        "plan",
        "--layers=1",
        "--embd=32",
        "--heads=2",
        "--vocab=64",
        "--context=16",
        "--device=cpu",
        "--threads=1",
    ];
    let plan = |more: &[&str]| {
        let both = ["--ranks=2", "--json"];
        json(wgpt(folder.path()).args(sizes).args(both).args(more))["forecast"].clone()
    };
    let here = plan(&["--link=1Mbit"]);
    positive(&here, &["sent_bytes", "compute_ms", "copy_ms", "exchange_ms", "step_ms"]);
    assert_eq!((here["ranks_here"].as_u64(), here["threads"].as_u64()), (Some(2), Some(1)));
    // The link alone takes this long.
    let link_ms = here["sent_bytes"].as_f64().unwrap() * 8.0 / 1e6 * 1e3;
    let number = |name: &str| here[name].as_f64().unwrap();
    assert!(
        number("exchange_ms") >= link_ms && number("step_ms") >= number("exchange_ms"),
        "{here}"
    );
    assert_eq!(plan(&["--link=1Mbit", "--ranks-here=1"])["ranks_here"], 1);
    // One rank sends nothing, and takes as long as it computes.
    let alone = json(wgpt(folder.path()).args(sizes).args(["--link=1Mbit", "--json"]));
    let [step, compute] =
        ["step_ms", "compute_ms"].map(|name| alone["forecast"][name].as_f64().unwrap());
    assert!((step - compute).abs() < 1e-6 * compute, "{alone}");
    let more = ["--ranks=2", "--link=1Mbit", "--ranks-here=3"];
    let assert = wgpt(folder.path()).args(sizes).args(more).assert().code(2);
    let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(errors.contains("--ranks-here is 3, must be at most --ranks, 2"), "{errors}");
}

#[test]
fn plan_counts_bytes() {
    let folder = folder();
    let sizes = ["plan", "--layers=1", "--heads=2", "--embd=16", "--vocab=300", "--context=32"];
    let batch = ["--batch-size=3", "--seq-len=8", "--device=cpu"];
    let plan = json(wgpt(folder.path()).args(sizes).args(batch).arg("--json"));
    assert_eq!(plan["parameters"], 300 * 16 + 32 * 16 + 12 * 16 * 16 + 13 * 16 + 2 * 16);
    let bytes = plan["bytes"].as_object().expect("bytes by role");
    let sum: u64 = bytes.values().map(|bytes| bytes.as_u64().expect("a number")).sum();
    assert_eq!(plan["total_bytes"], sum);
    for role in ["parameters", "gradients", "moments", "activations", "logits", "staging"] {
        assert!(bytes[role].as_u64().is_some_and(|bytes| bytes > 0), "{role} in {plan}");
    }
    assert_eq!(plan["fits"], true);
    assert_eq!(bytes["moments"].as_u64(), bytes["parameters"].as_u64().map(|bytes| 2 * bytes));

    let list = wgpt(folder.path()).args(sizes).args(batch).arg("--dispatches").assert().success();
    list.stdout(
        predicate::str::contains("  linear_forward B=3 T=8 ")
            .and(predicate::str::contains("Backward\n")),
    );

    let webgpu =
        ["plan", "--size=gpt2", "--batch-size=1", "--seq-len=64", "--limits=webgpu", "--json"];
    let plan = json(wgpt(folder.path()).args(webgpu));
    assert_eq!(
        (plan["parameters"].as_u64(), &plan["fits"]),
        (Some(124_439_808), &Value::Bool(true))
    );
}

#[test]
fn plan_counts_the_bytes_of_stored_matrices() {
    let folder = folder();
    let sizes = ["plan", "--layers=1", "--heads=2", "--embd=32", "--vocab=320", "--context=32"];
    let plan = |more: &[&str]| json(wgpt(folder.path()).args(sizes).args(more).arg("--json"));
    let (matrices, others) = (320 * 32 + 12 * 32 * 32, 32 * 32 + 15 * 32);
    // Each of the 16 parameters begins at a multiple of 256 bytes, in blocks of 4352.
    for (format, bytes, room) in [
        ("f32", 4 * matrices, 256),
        ("f16", 2 * matrices, 256),
        ("bf16", 2 * matrices, 256),
        ("q8_0", matrices / 32 * 34, 4352),
    ] {
        let plan = plan(&["--generation", "--device=cpu", "--weights", format]);
        let (got, least) = (plan["bytes"]["parameters"].as_u64().unwrap(), bytes + 4 * others);
        assert!((least..least + 8 * 256 + 8 * room).contains(&got), "{format}: {got}, {least}");
    }
    for (arguments, mention) in [
        (&["--weights=q8_0"][..], "--generation"),
        (
            &["--generation", "--weights=f16", "--limits=webgpu"],
            "--weights f16 needs half precision",
        ),
    ] {
        let refused = wgpt(folder.path()).args(sizes).args(arguments).assert().code(2);
        refused.stderr(predicate::str::contains(mention));
    }
}

/// Adapters are trained to save memory: those of SmolLM2-135M take less than 1.5 GB for 4 x 512 tokens.
#[test]
fn plan_of_adapters_recomputes_what_is_cheap() {
    let folder = folder();
    let adapters = ["--size=smollm2-135m", "--lora-rank=8", "--lora-targets=all-linear"];
    let plan = |more: &[&str]| {
        let sizes = ["plan", "--seq-len=512", "--batch-size=4", "--limits=webgpu", "--json"];
        json(wgpt(folder.path()).args(sizes).args(adapters).arg("--precision=mixed").args(more))
    };
    let [auto, kept] = [plan(&[]), plan(&["--recompute=none"])];
    assert_eq!((&auto["recompute"], &kept["recompute"]), (&"gelu".into(), &"none".into()));
    let bytes = |plan: &Value| plan["total_bytes"].as_u64().expect("a number");
    assert!(bytes(&auto) < 1_500_000_000 && bytes(&kept) > bytes(&auto), "{auto}");
}

#[test]
fn precision_is_what_the_device_has() {
    let folder = folder();
    let plan = |more: &[&str]| {
        let sizes = ["plan", "--size=small", "--limits=webgpu", "--json"];
        json(wgpt(folder.path()).args(sizes).args(more))
    };
    let [f32, mixed] = [plan(&[]), plan(&["--precision=mixed"])];
    assert_eq!((&f32["precision"], &mixed["precision"]), (&"f32".into(), &"mixed".into()));
    let activations = |plan: &Value| plan["bytes"]["activations"].as_f64().expect("a number");
    assert!(activations(&mixed) < 0.7 * activations(&f32), "{f32} {mixed}");
}

#[test]
fn what_fits_is_found() {
    let folder = folder();
    let plan = |more: &[&str]| {
        let sizes = ["plan", "--size=medium", "--limits=webgpu", "--json"];
        let mut command = wgpt(folder.path());
        let output = command.args(sizes).args(more).assert().success().get_output().clone();
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (plan, text(&output.stderr))
    };
    // 64 sequences of 64 tokens fit well, and nothing need be computed again.
    let (auto, says) = plan(&["--batch-size=auto", "--seq-len=64"]);
    assert_eq!((&auto["batch_size"], &auto["recompute"]), (&64.into(), &"none".into()));
    assert!(says.contains("--batch-size 64 --recompute none"), "{says}");
    let (block, says) = plan(&["--recompute=block"]);
    assert_eq!((&block["recompute"], says.as_str()), (&"block".into(), ""));
    let (none, _) = plan(&["--recompute=none"]);
    assert!(block["total_bytes"].as_u64() < none["total_bytes"].as_u64());
    // Of 1024 tokens and 4 · 1536 channels, five sequences are more than one binding.
    let wide = ["--batch-size=auto", "--embd=1536", "--layers=1", "--context=1024"];
    let (auto, _) = plan(&[&wide[..], &["--recompute=gelu", "--seq-len=1024"]].concat());
    assert_eq!((&auto["batch_size"], &auto["fits"]), (&4.into(), &true.into()), "{auto}");
}

#[test]
fn benchmarks_give_json() {
    let folder = folder();
    let sizes =
        ["--layers=1", "--heads=2", "--embd=16", "--vocab=300", "--context=32", "--device=cpu"];
    let short = ["--steps=3", "--warmup=1", "--json"];
    let bench =
        |what: &[&str]| json(wgpt(folder.path()).arg("bench").args(what).args(sizes).args(short));
    let several = [
        bench(&["train", "--batch-size=2", "--threads=1"]),
        bench(&["generate", "--prompt-tokens=4", "--max-tokens=8", "--threads=1"]),
    ];
    for result in several {
        positive(&result, &["tokens_per_s", "device_bytes"]);
        assert_eq!((&result["steps"], &result["precision"]), (&3.into(), &"f32".into()));
        assert_eq!(result["device"], "CPU, 1 threads");
        let step_ms = &result["step_ms"];
        positive(step_ms, &["median", "min", "max"]);
        assert!(step_ms["min"].as_f64() <= step_ms["median"].as_f64());
        assert!(step_ms["median"].as_f64() <= step_ms["max"].as_f64());
        if cfg!(target_os = "linux") {
            positive(&result, &["peak_host_bytes"]);
        }
    }
    let trace = folder.path().join("trace.json");
    let profiled = ["--profile", "--trace=trace.json", "--threads=1"];
    let result = bench(&[&["train", "--batch-size=2"][..], &profiled].concat());
    let profile = &result["profile"];
    positive(profile, &["step_ms", "kernels_ms"]);
    positive(&profile["peak"], &["gflops", "gb_per_s"]);
    let rows = profile["rows"].as_array().expect("rows");
    let linear = rows.iter().find(|row| row["kernel"] == "linear_forward").expect("a layer");
    positive(linear, &["calls", "ms", "share", "gflops", "gb_per_s", "of_peak"]);
    let events: Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let events = events["traceEvents"].as_array().expect("events");
    let calls: f64 = rows.iter().filter_map(|row| row["calls"].as_f64()).sum();
    assert_eq!(events.len() as f64, 3.0 * calls, "three steps");
    let kernels = bench(&["kernels", "--batch-size=2"]);
    let kernels = kernels["kernels"].as_array().expect("kernels").clone();
    let named = |name: &str| kernels.iter().any(|kernel| kernel["name"] == name);
    assert!(named("linear_forward") && named("attention_backward") && named("adam_update"));
    for kernel in &kernels {
        positive(kernel, &["ms", "gb_per_s"]);
        assert!(kernel["gflops"].is_f64() && kernel["shape"].is_string(), "{kernel}");
    }
}

#[test]
fn tokenizers_are_trained_and_applied() {
    let folder = folder();
    let run = |arguments: &[&str]| wgpt(folder.path()).args(arguments).assert().success();
    run(&["tokenizer", "train", "data.txt", "--vocab=270", "--out=tok"]);
    let info = json(wgpt(folder.path()).args(["tokenizer", "info", "--tokenizer=tok", "--json"]));
    assert_eq!((&info["vocab_size"], &info["merges"]), (&270.into(), &13.into()));
    assert_eq!(info["special_tokens"][0]["text"], "<|endoftext|>");

    let original = std::fs::read_to_string(folder.path().join("data.txt")).expect("read");
    let ids = run(&["tokenizer", "encode", "data.txt", "--tokenizer=tok"]);
    let ids = text(&ids.get_output().stdout);
    assert!(ids.split_whitespace().all(|id| id.parse::<u32>().is_ok_and(|id| id < 270)), "{ids}");
    let decode = ["tokenizer", "decode", "--tokenizer=tok"];
    wgpt(folder.path()).args(decode).write_stdin(ids).assert().success().stdout(original.clone());
    run(&["tokenizer", "encode", "data.txt", "--tokenizer=tok", "--out=data.bin"]);
    run(&["tokenizer", "decode", "--tokenizer=tok", "data.bin"]).stdout(original);
    let parted = "a\n<|endoftext|>\nb";
    std::fs::write(folder.path().join("parted.txt"), parted).expect("written");
    for (special, want) in [("token", "a<|endoftext|>b"), ("text", parted)] {
        let ids = ["tokenizer", "encode", "parted.txt", "--tokenizer=tok", "--special", special];
        let ids = text(&run(&ids).get_output().stdout);
        wgpt(folder.path()).args(decode).write_stdin(ids).assert().success().stdout(want);
    }
    let encode = ["tokenizer", "encode", "--tokenizer=bytes"];
    wgpt(folder.path())
        .args(encode)
        .write_stdin("!<|endoftext|>!")
        .assert()
        .success()
        .stdout("1 0 1\n");
    wgpt(folder.path()).args(encode).write_stdin(vec![255]).assert().code(1);
    let wrong = wgpt(folder.path()).args(decode).write_stdin("1 two").assert().code(1);
    wrong.stderr(predicate::str::contains("\"two\"").and(predicate::str::contains("hint: ")));
}

#[test]
fn tokenizers_are_described_and_converted() {
    let folder = folder();
    let run = |arguments: &[&str]| wgpt(folder.path()).args(arguments).assert().success();
    let train =
        ["tokenizer", "train", "data.txt", "--vocab=280", "--out=tok", "--max-memory=300MB"];
    run(&[&train[..], &["--special=<|user|>"]].concat());
    let show = ["tokenizer", "info", "data.txt", "--tokenizer=tok", "--show=!\u{e9}<|user|>!"];
    run(&show).stdout(
        predicate::str::contains("bytes per token")
            .and(predicate::str::ends_with("!|\u{e9}|<|user|>|!\n")),
    );
    let info = json(wgpt(folder.path()).args(show).arg("--json"));
    let ratio = info["bytes"].as_f64().expect("bytes") / info["tokens"].as_f64().expect("tokens");
    assert!(
        ratio > 1.0 && (info["bytes_per_token"].as_f64().expect("a ratio") - ratio).abs() < 1e-9,
        "{info}"
    );
    assert_eq!(info["special_tokens"][1], serde_json::json!({"text": "<|user|>", "id": 1}));
    assert_eq!(info["longest_tokens"].as_array().map(Vec::len), Some(10));

    // What is written out in training data is the token, as it is for `encode`.
    let marked = "<|user|>".to_owned()
        + &std::fs::read_to_string(folder.path().join("data.txt")).expect("read");
    std::fs::write(folder.path().join("marked.txt"), marked).expect("written");
    let train = ["train", "--data=marked.txt", "--tokenizer=tok", "--out=runs/marked"];
    run(&[&train[..], &TINY[1..]].concat());
    let tokens = Tokens::open(&folder.path().join("runs/marked/tokens.bin")).expect("tokens");
    run(&["tokenizer", "encode", "marked.txt", "--tokenizer=tok", "--out=marked.bin"]);
    let encoded = Tokens::open(&folder.path().join("marked.bin")).expect("tokens");
    let ids = |tokens: Tokens| {
        let mut ids = vec![0; tokens.len()];
        tokens.copy_to(0..tokens.len(), &mut ids);
        ids
    };
    let ids = [tokens, encoded].map(ids);
    assert!(ids[0][0] == 1 && ids[0] == ids[1]);

    run(&["tokenizer", "train", "data.txt", "--vocab=270", "--out=plain"]);
    run(&["tokenizer", "convert", "--tokenizer=plain", "--out=gpt2", "--format=gpt2"]);
    assert!(folder.path().join("gpt2/merges.txt").is_file());
    run(&["tokenizer", "convert", "--tokenizer=gpt2", "--out=again", "--special=<|tool|>"]);
    let again =
        json(wgpt(folder.path()).args(["tokenizer", "info", "--tokenizer=again", "--json"]));
    assert_eq!((&again["vocab_size"], &again["merges"]), (&271.into(), &13.into()));

    let convert = ["tokenizer", "convert", "--tokenizer=tok", "--out=x", "--format=gpt2"];
    let refused = [
        (&convert[..], 1, "<|user|>"),
        (
            &["tokenizer", "train", "data.txt", "--vocab=257", "--out=x", "--special=<|a|>"],
            2,
            "258",
        ),
        (
            &["tokenizer", "train", "data.txt", "--vocab=300", "--out=x", "--max-memory=1MB"],
            2,
            "--max-memory",
        ),
        (
            &["tokenizer", "train", "data.txt", "--vocab=300", "--out=x", "--max-memory=much"],
            2,
            "--max-memory",
        ),
    ];
    for (arguments, code, mention) in refused {
        let refused = wgpt(folder.path()).args(arguments).assert().code(code);
        refused.stderr(predicate::str::contains(mention));
        assert!(!folder.path().join("x").exists(), "{arguments:?}");
    }
}

#[test]
fn long_token_files_are_decoded_in_parts() {
    // Every byte a token, and characters of two bytes across each place where a part may end.
    let folder = folder();
    let long = format!("x{}", "\u{e9}".repeat(100_000));
    std::fs::write(folder.path().join("long.txt"), &long).expect("written");
    let run = |arguments: &[&str]| wgpt(folder.path()).args(arguments).assert().success();
    run(&["tokenizer", "encode", "long.txt", "--tokenizer=bytes", "--out=long.bin"]);
    run(&["tokenizer", "decode", "--tokenizer=bytes", "long.bin"]).stdout(long);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::{Command, Stdio};
    let program = assert_cmd::cargo::cargo_bin("wgpt");
    let mut child = Command::new(program)
        .args([
            "plan",
            "--size=gpt2-xl",
            "--batch-size=1",
            "--seq-len=8",
            "--dispatches",
            "--device=cpu",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success(), "{:?}", output.status);
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let folder = folder();
    for no_color in [None, Some("1")] {
        let mut command = wgpt(folder.path());
        command.args(["train", "--data", "nowhere"]);
        no_color.map(|value| command.env("NO_COLOR", value));
        let output = command.assert().code(1).get_output().clone();
        assert!(!text(&output.stderr).contains('\u{1b}'), "{output:?}");
    }
}

#[test]
fn gradients_are_checked_and_a_wrong_kernel_is_found() {
    let folder = folder();
    let result = json(wgpt(folder.path()).args(["grad-check", "--json"]));
    assert_eq!(result["passed"], true);
    let rows = result["rows"].as_array().expect("rows").clone();
    assert!(rows.iter().all(|row| row["worst"].as_f64() <= row["bound"].as_f64()), "{rows:?}");
    let mut spoiled = wgpt(folder.path());
    spoiled
        .arg("grad-check")
        .env("WGPT_SABOTAGE", "layernorm_forward")
        .assert()
        .code(1)
        .stdout(predicate::str::contains("FAILED").and(predicate::str::contains("layernorm")));
}

#[test]
fn kernels_are_verified_and_a_wrong_one_is_found() {
    let folder = folder();
    let verify = ["verify", "--device=cpu"];
    let result = json(wgpt(folder.path()).args(verify).arg("--json"));
    assert_eq!(result["passed"], true);
    let rows = result["rows"].as_array().expect("rows").clone();
    assert_eq!(rows.len(), wgpt::ops::ALL.len());
    positive(&rows[0], &["dispatches", "tolerance"]);
    let mut spoiled = wgpt(folder.path());
    let output = spoiled.args(verify).env("WGPT_SABOTAGE", "gelu_backward").assert().code(1);
    let printed = text(&output.get_output().stdout);
    let failed: Vec<&str> = printed.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(matches!(failed[..], [line] if line.contains("gelu_backward")), "{printed}");
    assert!(printed.contains("wgpt devices"), "it says what to report: {printed}");
}

#[test]
fn commands_run_on_a_gpu_and_a_wrong_kernel_is_found_there() {
    if crate::common::gpu().is_none() {
        return;
    }
    let run = trained();
    let on_gpu =
        |arguments: &[&str]| json(wgpt(run).args(arguments).args(["--device=gpu", "--json"]));
    let sizes = ["--layers=1", "--heads=2", "--embd=16", "--vocab=300", "--context=32"];
    let best =
        ["generate", "--model=runs/tiny/best", "--prompt=The", "--max-tokens=12", "--greedy"];
    let text_of = |value: Value| value["samples"][0]["text"].clone();
    let on_cpu = json(wgpt(run).args(best).args(["--device=cpu", "--json"]));
    assert_eq!(text_of(on_gpu(&best)), text_of(on_cpu));
    let plan = on_gpu(&[&["plan", "--batch-size=1"], &sizes[..]].concat());
    assert!(plan["fits"] == true && plan["limits"].is_object(), "{plan}");
    let short = ["bench", "train", "--steps=2", "--warmup=1", "--batch-size=1"];
    positive(&on_gpu(&[&short[..], &sizes].concat()), &["tokens_per_s", "device_bytes"]);
    let step = ["verify", "--step", "--limits=webgpu"];
    assert_eq!(on_gpu(&[&step[..], &sizes].concat())["passed"], true);

    let spoiled = |command: &str, more: &[&str], kernel: &str| {
        let mut spoiled = wgpt(run);
        spoiled.arg(command).args(more).arg("--device=gpu").env("WGPT_SABOTAGE", kernel);
        text(&spoiled.assert().code(1).get_output().stdout)
    };
    let printed = spoiled("verify", &["--limits=webgpu"], "residual_forward");
    let failed: Vec<&str> = printed.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(!failed.is_empty(), "{printed}");
    assert!(failed.iter().all(|line| line.contains("residual_forward")), "{printed}");
    // Some variants need more than WebGPU's defaults: they are not counted among those that agree.
    let not_run = printed.lines().filter(|line| line.contains("not on this device")).count();
    assert!(not_run > 0 && printed.contains(&format!("{not_run} need what this device has not")));
    let rows = printed.lines().filter(|line| line.ends_with(" ok")).count() + failed.len();
    assert!(printed.contains(&format!("{} of {rows} differ", failed.len())), "{printed}");
    assert!(spoiled("grad-check", &[], "layernorm_forward").contains("FAILED"));
}

#[test]
fn threads_hold_for_every_command() {
    let folder = folder();
    for command in [&["plan", "--layers=1"][..], &["bench", "kernels", "--layers=1"]] {
        let device = ["--device=cpu", "--threads=3", "--json"];
        let result = json(wgpt(folder.path()).args(command).args(device));
        assert_eq!(result["device"], "CPU, 3 threads", "{command:?}");
    }
}

#[test]
fn devices_are_listed() {
    let folder = folder();
    let devices = json(wgpt(folder.path()).args(["devices", "--json"]));
    assert!(devices["adapters"].is_array(), "{devices}");
    let auto = devices["auto"]["device"].as_str().expect("auto takes one");
    assert!(auto == "cpu" || auto.starts_with("gpu:"), "{auto}");
    let cpu = &devices["cpu"];
    assert!(cpu["has"].is_array() && cpu["products"]["q8_0"].is_string(), "{cpu}");
    let says =
        predicate::str::contains("auto takes").and(predicate::str::contains("q8_0 matrices"));
    wgpt(folder.path()).arg("devices").assert().success().stdout(says);
}
