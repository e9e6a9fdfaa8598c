//! The model card: README.md with a header for Hugging Face's hub, and the known facts about the training.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::arch::Family;
use crate::checkpoint::Float;
use crate::checkpoint::{Metrics, read_metrics};
use crate::config::{Optimizer, TrainConfig};
use crate::disk;
use crate::finetune::{FineTune, Lora};
use crate::gpt::Gpt;
use crate::train::settings::RunSettings;

/// The run that a model folder belongs to.
struct Run {
    settings: RunSettings,
    /// The line of metrics.jsonl for the model's last update.
    last: Option<Metrics>,
}

/// Returns the card of a model called `name`, which came from the folder `source` and is written as `float`.
pub fn card(name: &str, gpt: &Gpt, float: Float, source: &Path) -> String {
    let config = gpt.config();
    let family = Family::of(config);
    let parameters = super::parameter_count(gpt);
    let mut text = format!(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- {}\n- wgpt\n---\n\n\
         # {}\n\nA {} language model of {parameters} parameters, written by wgpt {}.\n\n",
        family.model_type,
        cell(name),
        family.title,
        env!("CARGO_PKG_VERSION"),
    );
    let sizes = [
        ("layers", config.n_layer.to_string()),
        ("heads", config.n_head.to_string()),
        ("width", config.n_embd.to_string()),
        ("context", format!("{} tokens", config.n_positions)),
        ("vocabulary", format!("{} tokens", config.vocab_size)),
        ("weights", float.name().to_owned()),
    ];
    text += &table(("model", ""), &sizes);
    if let Some(run) = run_of(source) {
        text += "\n## Training\n\n";
        text += &table(("run", ""), &facts(&run));
    }
    text += &usage(gpt);
    text += "\n## License\n\nNot stated yet: add a line `license: …` to the head of this file.\n";
    text
}

/// Returns the instructions for loading the folder.
fn usage(gpt: &Gpt) -> String {
    let (python, shell) = match gpt.tokenizer() {
        Some(_) => (
            "tokenizer = AutoTokenizer.from_pretrained(\"FOLDER\")\n\
             inputs = tokenizer(\"Once upon a time\", return_tensors=\"pt\")\n\
             print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50, do_sample=True)[0]))",
            "wgpt generate --model FOLDER --prompt \"Once upon a time\"",
        ),
        None => (
            "# The model has no tokenizer: it takes token ids.\n\
             print(model.generate(torch.tensor([[0]]), max_new_tokens=50, do_sample=True)[0])",
            "wgpt generate --model FOLDER --prompt-ids 0",
        ),
    };
    let imports = match gpt.tokenizer() {
        Some(_) => "from transformers import AutoModelForCausalLM, AutoTokenizer",
        None => "import torch\nfrom transformers import AutoModelForCausalLM",
    };
    format!(
        "\n## Use\n\n```python\n{imports}\n\n\
         model = AutoModelForCausalLM.from_pretrained(\"FOLDER\")\n{python}\n```\n\n\
         ```sh\n{shell}\n```\n"
    )
}

/// Returns the run of a model folder: a run folder itself, RUN/best or RUN/checkpoints/step-N. If run.json cannot be
/// read, the export continues, and the card does not mention a run.
fn run_of(source: &Path) -> Option<Run> {
    let source = std::path::absolute(source).ok()?;
    let folder = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let parent = source.parent().map(Path::to_owned);
    let named = folder(&source).unwrap_or_default();
    let step = named.strip_prefix("step-").and_then(|step| step.parse::<usize>().ok());
    let is_step = parent.as_deref().and_then(folder).is_some_and(|name| name == "checkpoints");
    let dir: PathBuf = match parent {
        Some(run) if named == "best" => run,
        Some(checkpoints) if is_step && step.is_some() => checkpoints.parent()?.to_owned(),
        _ => source,
    };
    let settings = serde_json::from_slice(&disk::read(dir.join("run.json")).ok()?).ok()?;
    let metrics = read_metrics(&dir).unwrap_or_default();
    let val_loss = |line: &&Metrics| line.val_loss.unwrap_or(f64::INFINITY);
    let last = match step {
        _ if named == "best" => metrics.iter().min_by(|a, b| val_loss(a).total_cmp(&val_loss(b))),
        Some(step) if is_step => metrics.iter().rfind(|line| line.step <= step),
        _ => metrics.last(),
    };
    Some(Run { settings, last: last.copied() })
}

/// Returns a run's settings and results.
fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let train = &run.settings.train;
    let seq = train.seq_len.unwrap_or(run.settings.model.n_positions);
    // Only names are shown: the paths on a user's disk are private.
    let names = |name: &String| {
        Path::new(name).file_name().map_or(name.clone(), |name| name.to_string_lossy().into_owned())
    };
    let mut facts =
        vec![("data", run.settings.data.iter().map(names).collect::<Vec<_>>().join(", "))];
    if let Some(init) = &run.settings.init {
        facts.push(("begun from", names(&init.to_string_lossy().into_owned())));
    }
    if let Some(last) = &run.last {
        facts.push(("updates", format!("{} of {}", last.step, train.max_iters)));
        facts.push(("tokens seen", last.tokens.to_string()));
        let loss = |loss: f64| format!("{loss:.4} nats a token (perplexity {:.2})", loss.exp());
        facts.extend(last.loss.map(|x| ("training loss", loss(f64::from(x)))));
        facts.extend(last.val_loss.map(|x| ("validation loss", loss(x))));
    }
    facts.extend(trained_parts(&train.finetune));
    let mut batch = format!("{} sequences of {seq} tokens", train.batch_size);
    if train.grad_accum > 1 {
        batch += &format!(", {} of them an update", train.grad_accum);
    }
    facts.extend([
        ("batch", batch),
        ("optimizer", optimizer(train)),
        (
            "learning rate",
            format!(
                "{} to {}, cosine after {} updates of warm-up",
                train.learning_rate,
                train.min_lr(),
                train.warmup_iters()
            ),
        ),
        ("dropout", train.dropout.to_string()),
        ("precision", train.precision.name().to_owned()),
        ("seed", train.seed.to_string()),
    ]);
    facts
}

/// Returns the trained parts of the model, unless all of it was trained.
fn trained_parts(finetune: &FineTune) -> Vec<(&'static str, String)> {
    let FineTune { freeze, train_only, lora } = finetune;
    let lora = lora.as_ref().map(|Lora { rank, alpha, targets }| {
        let targets = targets.join(", ");
        ("low-rank adapters", format!("rank {rank}, alpha {alpha}, of {targets}; merged"))
    });
    let patterns = [("frozen", freeze), ("trained alone", train_only)];
    let patterns = patterns.into_iter().filter(|(_, all)| !all.is_empty());
    lora.into_iter().chain(patterns.map(|(what, all)| (what, all.join(", ")))).collect()
}

fn optimizer(train: &TrainConfig) -> String {
    let clip = match train.grad_clip {
        0.0 => "gradient not clipped".to_owned(),
        norm => format!("gradient clipped to a norm of {norm}"),
    };
    match train.optimizer {
        Optimizer::Sgd => format!("SGD, {clip}"),
        adam => format!(
            "{}, betas {} and {}, epsilon {:e}, weight decay {}, {clip}",
            if adam == Optimizer::Adamw { "AdamW" } else { "Adam" },
            train.beta1,
            train.beta2,
            train.eps,
            train.weight_decay
        ),
    }
}

fn table(head: (&str, &str), rows: &[(&str, String)]) -> String {
    let mut text = format!("| {} | {} |\n|---|---|\n", head.0, head.1);
    for (name, value) in rows {
        writeln!(text, "| {name} | {} |", cell(value)).expect("a String takes any text");
    }
    text
}

/// Escapes text so that it stays within its cell or its line.
fn cell(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ").replace('|', "\\|")
}
