//! The page of docs/browser.md in Chromium, on SwiftShader: it computes what a computer computes, keeps its runs, and saves
//! models that the program reads.
//!
//! `WGPT_REQUIRE_BROWSER=1` runs these tests, over the page that `WGPT_PAGE` names or that scripts/web.sh builds; without it they
//! are skipped. scripts/browser.sh installs what they need.

mod devtools;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use devtools::{Browser, Site, base64, chromium};
use serde_json::{Value, json};
use wgpt::backend::Device;
use wgpt::kernel::{Format, Kernel, Variant};
use wgpt::train::{self, RunSettings};
use wgpt::{Event, GenerateOptions, Gpt};

/// A run that takes seconds on SwiftShader.
const SHORT: &str = r#"{"steps": 12, "size": {"layers": 1, "width": 16, "heads": 2}, "vocab": 300, "context": 16, "batch": 4,
    "seed": 7, "save_every": 6, "eval_every": 6, "sample_every": 0, "val_tokens": 640, "keep": true"#;

/// The page's site; `None` where the tests are skipped.
fn site() -> Option<&'static Site> {
    static SITE: LazyLock<Option<Site>> = LazyLock::new(|| {
        let is_required = std::env::var("WGPT_REQUIRE_BROWSER").is_ok_and(|value| value == "1");
        if !is_required {
            eprintln!("*** SKIPPED: the page in a browser; WGPT_REQUIRE_BROWSER=1 runs it ***");
            return None;
        }
        assert!(chromium().is_some(), "no Chromium is found: install it, or name it with CHROMIUM");
        let page = std::env::var_os("WGPT_PAGE").map_or_else(build, PathBuf::from);
        Some(Site::serve(&page))
    });
    SITE.as_ref()
}

/// Builds the page.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("target/web");
    let status = Command::new(root.join("scripts/web.sh")).arg(&page).status().unwrap();
    assert!(status.success(), "scripts/web.sh: {status}");
    page
}

/// A page that is ready.
fn page(site: &Site) -> Browser {
    let mut browser = Browser::open(site, "");
    ready(&mut browser);
    browser
}

fn ready(browser: &mut Browser) {
    browser.evaluate("window.wgpt.ready.then(() => { window.heard = []; })");
}

/// Trains in the page; returns the summary, and puts the events into `heard`.
fn train_in(browser: &mut Browser, run: &str, more: &str) -> Value {
    let options = format!(r#"{SHORT}, "run": "/runs/{run}"{more}}}"#);
    browser
        .evaluate(&format!("heard.length = 0, wgpt.train({options}, event => heard.push(event))"))
}

/// The losses of the updates that were heard.
fn losses(browser: &mut Browser) -> Vec<f64> {
    let heard = browser.evaluate("heard.filter(one => one.event === 'step').map(one => one.loss)");
    heard.as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect()
}

/// The contents of a file of the page.
fn file(browser: &mut Browser, path: &str) -> Vec<u8> {
    bytes(browser, &format!("wgpt.blob('{path}')"))
}

/// The contents of a blob of the page.
fn bytes(browser: &mut Browser, blob: &str) -> Vec<u8> {
    let read = "const reader = new FileReader(); reader.onload = () => give(reader.result.split(',')[1]); reader.readAsDataURL(blob);";
    let text = browser.evaluate(&format!("{blob}.then(blob => new Promise(give => {{ {read} }}))"));
    base64(text.as_str().unwrap())
}

/// What a computer makes of the settings of a run of the page: the losses, and the model's folder.
fn native(settings: &[u8], folder: &Path) -> Vec<f64> {
    let mut settings: RunSettings = serde_json::from_slice(settings).unwrap();
    settings.train.out = Some(folder.to_owned());
    let mut losses = vec![];
    let mut trainer = train::start(&settings, Device::Cpu, &mut |_| ()).unwrap();
    trainer
        .run(&mut |event| {
            if let Event::Step(step) = event {
                losses.push(f64::from(step.loss.unwrap()));
            }
        })
        .unwrap();
    losses
}

#[test]
fn losses_and_texts_are_those_of_a_computer() {
    let Some(site) = site() else { return };
    let mut browser = page(site);
    let dir = tempfile::tempdir().unwrap();
    for device in ["cpu", "gpu"] {
        let summary = train_in(&mut browser, device, &format!(r#", "device": "{device}""#));
        assert_eq!(summary["finished"], true);
        let losses = losses(&mut browser);
        let folder = dir.path().join(device);
        let wanted = native(&file(&mut browser, &format!("/runs/{device}/run.json")), &folder);
        assert_eq!(losses.len(), 12);
        for (i, (got, wanted)) in losses.iter().zip(&wanted).enumerate() {
            assert!((got - wanted).abs() < 1e-4, "{device}, update {i}: {got}, wanted {wanted}");
        }
        let asked = format!(
            r#"{{model: "/runs/{device}", prompt: "Once upon a", max_tokens: 9, temperature: 0, device: "{device}", alternatives: 3}}"#
        );
        let written = browser.evaluate(&format!(
            "heard.length = 0, wgpt.generate({asked}, event => heard.push(event))"
        ));
        let mut gpt = Gpt::load(&folder.join("best"), Device::Cpu).unwrap();
        let options =
            GenerateOptions { max_tokens: 9, temperature: 0.0, ..GenerateOptions::default() };
        let ids = gpt.encode_prompt("Once upon a").unwrap();
        let drawn = gpt.generate_ids(&ids, &options).unwrap();
        let text = gpt.tokenizer().unwrap().decode_lossy(&drawn).unwrap();
        assert_eq!(written["text"], text, "on {device}");
        // The greedy token is the most probable one, to the bit.
        let same = browser.evaluate("heard.filter(one => !one.prompt).every(one => one.logprob === one.top[0].logprob && one.id === one.top[0].id)");
        assert_eq!(same, true);
        let given = browser.evaluate("heard.filter(one => one.prompt).length");
        assert_eq!(given, ids.len());
    }
    browser.end();
}

#[test]
fn kernels_agree_and_a_spoiled_one_is_seen() {
    let Some(site) = site() else { return };
    let mut browser = page(site);
    let listen = "event => heard.push(event)";
    let spoiled = browser.evaluate(&format!(
        r#"wgpt.verify({{device: "gpu", spoil: "softmax_forward", only: "softmax_forward"}}, {listen})"#
    ));
    assert_eq!(spoiled["failed"], 1);
    let whole =
        browser.evaluate(&format!(r#"heard.length = 0, wgpt.verify({{device: "gpu"}}, {listen})"#));
    let failed = browser.evaluate("heard.filter(one => one.event === 'row' && !one.passes)");
    assert_eq!(failed, json!([]));
    assert!(whole["compared"].as_u64().unwrap() > 80, "{whole}");
    eprintln!("verify in Chromium: {whole}");
    browser.end();
}

/// What a run's files are compared by: those that tell the time are left out.
const COMPARED: [&str; 3] =
    ["model.safetensors", "checkpoints/step-40/train_state.safetensors", "best/model.safetensors"];

fn assert_same_run(browser: &mut Browser, run: &str, other: &str) {
    for name in COMPARED {
        let [run, other] = [run, other].map(|run| file(browser, &format!("/runs/{run}/{name}")));
        assert!(run == other, "{name} differs");
    }
}

#[test]
fn a_stopped_run_goes_on_after_a_reload_bit_for_bit() {
    let Some(site) = site() else { return };
    let mut browser = page(site);
    let more = r#", "device": "cpu", "steps": 40, "save_every": 20, "eval_every": 20"#;
    train_in(&mut browser, "whole", more);
    let options = format!(r#"{SHORT}, "run": "/runs/parts"{more}}}"#);
    let stopped = browser.evaluate(&format!(
        "wgpt.train({options}, event => {{ if (event.event === 'step' && event.step === 8) wgpt.stop(); }})"
    ));
    assert_eq!(stopped["finished"], false);
    let made = stopped["steps"].as_u64().unwrap();
    assert!((8..40).contains(&made), "{stopped}");
    browser.evaluate("wgpt.persist()");
    browser.load();
    ready(&mut browser);
    let kept = browser.evaluate("wgpt.runs().then(runs => runs.map(run => run.name))");
    assert!(kept.as_array().unwrap().contains(&json!("parts")), "{kept}");
    let resumed = browser.evaluate(
        r#"wgpt.train({run: "/runs/parts", resume: true, sample_every: 0}, event => heard.push(event))"#,
    );
    assert_eq!((&resumed["finished"], &resumed["steps"]), (&json!(true), &json!(40)));
    assert_eq!(losses(&mut browser).len() as u64, 40 - made);
    assert_same_run(&mut browser, "whole", "parts");
    browser.end();
}

/// On a GPU two runs may take different variants of kernels; so what goes on is a copy of the run as it was when a tab was killed
/// after its first save.
#[test]
fn a_killed_run_on_a_gpu_goes_on_bit_for_bit() {
    let Some(site) = site() else { return };
    let mut browser = page(site);
    let more = r#", "device": "gpu", "steps": 40, "save_every": 20, "eval_every": 20"#;
    let options = format!(r#"{SHORT}, "run": "/runs/whole"{more}}}"#);
    let copy = "async () => { for (const {path} of await wgpt.list('/runs/whole')) await wgpt.put(path.replace('whole', 'parts'), await wgpt.blob(path)); }";
    browser.evaluate(&format!(
        "wgpt.train({options}, event => {{ if (event.event === 'saved' && event.step === 20) window.copied = ({copy})(); }})"
    ));
    browser.evaluate("copied.then(() => wgpt.persist())");
    browser.load();
    ready(&mut browser);
    let resumed = browser.evaluate(
        r#"wgpt.train({run: "/runs/parts", resume: true, sample_every: 0}, event => heard.push(event))"#,
    );
    assert_eq!((&resumed["finished"], &resumed["steps"]), (&json!(true), &json!(40)));
    assert_eq!(losses(&mut browser).len(), 20);
    assert_same_run(&mut browser, "whole", "parts");
    browser.end();
}

#[test]
fn a_saved_model_is_read_by_the_program_and_by_the_page() {
    let Some(site) = site() else { return };
    let mut browser = page(site);
    train_in(&mut browser, "saved", r#", "device": "cpu", "arch": "llama""#);
    let zip = bytes(&mut browser, "wgpt.pack('/runs/saved')");
    let dir = tempfile::tempdir().unwrap();
    zip::ZipArchive::new(Cursor::new(zip)).unwrap().extract(dir.path()).unwrap();
    let model = dir.path().join("saved");
    let mut names: Vec<String> = std::fs::read_dir(&model)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let wanted = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, wanted);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.args([
        "generate",
        "--device",
        "cpu",
        "--temperature",
        "0",
        "--max-tokens",
        "9",
        "--prompt",
        "Once",
    ]);
    let output = command.arg("--model").arg(&model).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    browser.evaluate("wgpt.pack('/runs/saved').then(zip => wgpt.unpack(zip, '/models/opened'))");
    let about = browser.evaluate("wgpt.model('/models/opened')");
    assert_eq!((&about["family"], &about["context"]), (&json!("llama"), &json!(16)));
    for path in ["/runs/saved", "/models/opened"] {
        let asked = format!(
            r#"{{model: "{path}", prompt: "Once", max_tokens: 9, temperature: 0, device: "cpu"}}"#
        );
        let written = browser.evaluate(&format!("wgpt.generate({asked}, () => {{}})"));
        let written = format!("Once{}", written["text"].as_str().unwrap());
        assert!(text.contains(&written), "{written:?} of the page is not in {text:?}");
    }
    browser.end();
}

#[test]
fn one_thing_is_computed_at_a_time_and_bad_input_is_named() {
    let Some(site) = site() else { return };
    let mut browser = page(site);
    let second = browser.evaluate(&format!(
        r#"(async () => {{
            const first = wgpt.train({SHORT}, "run": "/runs/first", "device": "cpu", "steps": 200}}, () => {{}});
            const second = await wgpt.generate({{model: "/runs/first", prompt: ""}}, () => {{}}).then(() => "", error => error.message);
            await wgpt.stop();
            return [second, (await first).finished];
        }})()"#
    ));
    assert!(
        second[0].as_str().unwrap().starts_with("Something else is being computed"),
        "{second}"
    );
    assert_eq!(second[1], false);
    for (call, wanted) in [
        ("wgpt.generate({model: '/models/none', prompt: 'x'}, () => {})", "/models/none"),
        ("wgpt.train({run: '/runs/x', data: ['/texts/none.txt']}, () => {})", "/texts/none.txt"),
        ("wgpt.train({run: '/runs/x', size: {layers: 1, width: 15, heads: 2}}, () => {})", "15"),
        ("wgpt.train({run: '/runs/x', stesp: 3}, () => {})", "stesp"),
        ("wgpt.unpack(new Blob(['no zip']), '/models/bad')", "ZIP"),
        ("wgpt.sizes({context: 0})", "n_positions"),
    ] {
        let error = browser.try_evaluate(call).expect_err(call);
        assert!(error.contains(wanted), "{call}: {error}");
    }
    // Nothing of what failed is left.
    assert_eq!(browser.evaluate("wgpt.list('/runs/x')"), json!([]));
    browser.end();
}

/// Returns the formats that a plan of single or of half precision gives the arguments.
fn texts(kernel: &Kernel, variant: &Variant) -> Vec<String> {
    let precisions = [Format::F32, Format::F16].map(|float| kernel.formats(float));
    precisions.iter().map(|formats| variant.source(kernel.args, formats)).collect()
}

/// Chromium's compiler of shaders (Tint) is stricter than naga: it wants barriers in uniform control flow, and brackets around
/// shifts. Half precision, which SwiftShader does not have, is compiled as if it were single.
#[test]
fn chromium_compiles_every_shader_that_a_browser_may_get() {
    let Some(site) = site() else { return };
    let mut browser = page(site);
    browser.evaluate("navigator.gpu.requestAdapter().then(adapter => adapter.requestDevice()).then(device => { window.device = device; })");
    let mut seen = 0;
    for kernel in wgpt::ops::ALL {
        // wgpu gives browsers no subgroups.
        let variants = kernel
            .variants
            .iter()
            .filter(|v| v.needs.subgroups.is_none() && !v.uses_matrix_units());
        for variant in variants {
            for text in texts(kernel, variant) {
                let text = text.replace("enable f16;", "alias f16 = f32;");
                let compile = format!(
                    r#"(async text => {{
                        device.pushErrorScope("validation");
                        const module = device.createShaderModule({{code: text}});
                        const said = (await module.getCompilationInfo()).messages.map(one => `${{one.lineNum}}: ${{one.message}}`);
                        await device.popErrorScope();
                        return said.join("\n");
                    }})({})"#,
                    json!(text)
                );
                let said = browser.evaluate(&compile);
                assert_eq!(said, "", "{} {}", kernel.name, variant.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 150, "{seen} shaders");
    browser.end();
}

#[test]
fn a_browser_that_lacks_something_is_told_what() {
    let Some(site) = site() else { return };
    let mut browser =
        Browser::open(site, "delete WebAssembly.Suspending; delete WebAssembly.promising;");
    browser.wait_for("document.getElementById('lacks')?.textContent");
    let said = browser.evaluate("document.getElementById('lacks').innerText");
    for version in ["137", "153", "27"] {
        assert!(said.as_str().unwrap().contains(version), "{said}");
    }
    browser.end();
}

/// What the other tests check at their end is noticed when it is there.
#[test]
fn faults_of_the_page_are_seen() {
    let Some(site) = site() else { return };
    for fault in
        ["console.warn('odd')", "fetch('http://127.0.0.1:9/x').catch(() => {})", "fetch('none.js')"]
    {
        let mut browser = page(site);
        browser.evaluate(fault);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| browser.end()));
        assert!(ended.is_err(), "{fault} was not seen");
    }
}

/// A person's way through the page, with pictures of it in target/browser.
#[test]
fn a_person_trains_pauses_and_writes() {
    let Some(site) = site() else { return };
    let mut browser = page(site);
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/browser");
    browser.wait_for("!document.getElementById('main').hidden");
    browser.picture(&pictures.join("begin.png"), [1280, 1000], false);
    browser.evaluate(
        "document.getElementById('steps').value = '400', document.getElementById('train').click()",
    );
    browser.wait_for("/[1-9]\\d\\d of/.test(document.getElementById('step').textContent) || document.querySelector('#samples')?.textContent");
    browser.picture(&pictures.join("train.png"), [1280, 1600], false);
    browser.evaluate("document.getElementById('pause').click()");
    browser.wait_for("!document.body.dataset.busy");
    browser.evaluate("document.getElementById('max_tokens').value = '40', document.getElementById('write').click()");
    browser.wait_for(
        "document.querySelectorAll('#written .token').length > 20 && !document.body.dataset.busy",
    );
    browser.picture(&pictures.join("write.png"), [1280, 2600], true);
    browser.picture(&pictures.join("phone.png"), [390, 2600], false);
    let width = browser.evaluate("document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 390, "{width} pixels on a phone");
    browser.end();
}
