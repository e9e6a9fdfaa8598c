//! Options that several commands share: the model's sizes, the device, batches.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::PossibleValuesParser;
use wgpt::arch::FAMILIES;
use wgpt::arch::presets::{self, PRESETS};
use wgpt::arch::rotary::Rotary;
use wgpt::backend::Device;
use wgpt::backend::gpu::{self, DeviceChoice};
use wgpt::checkpoint::{has_adapters, is_adapter, newest_run};
use wgpt::config::{Blocks, Local, Precision, RankBatch, Recompute, Sum, WeightFormat};
use wgpt::error::Kind;
use wgpt::finetune::Lora;
use wgpt::fit::{first_recompute, largest_batch, least_recompute};
use wgpt::hub;
use wgpt::model::{Uses, check_finetune};
use wgpt::{Error, FineTune, GenerateOptions, Gpt, GptConfig, Result, TrainConfig};

use super::output;
use super::progress::Progress;

/// The sizes of a model.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Make a model of this family [default: the size's, or else gpt2]
    #[arg(long, value_name = "FAMILY", value_parser = PossibleValuesParser::new(FAMILIES.iter().map(|family| family.model_type)))]
    pub arch: Option<String>,
    /// Start from the sizes of this name; the first three are of any family [default: small]
    #[arg(long, value_name = "SIZE", value_parser = PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name)))]
    pub size: Option<String>,
    /// Number of transformer blocks [default: the size's]
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Attention heads per block; must divide --embd unless --head-size is given [default: the size's]
    #[arg(long, value_name = "N")]
    pub heads: Option<usize>,
    /// Heads of keys and values per block; must divide --heads [default: the size's, or as many]
    #[arg(long, value_name = "N")]
    pub kv_heads: Option<usize>,
    /// Channels of each head [default: the size's, or --embd / --heads]
    #[arg(long, value_name = "N")]
    pub head_size: Option<usize>,
    /// Width of the residual stream [default: the size's]
    #[arg(long, value_name = "N")]
    pub embd: Option<usize>,
    /// Width inside the MLP [default: the size's, or 4 times --embd, with SwiGLU 8/3 times]
    #[arg(long, value_name = "N")]
    pub ffn: Option<usize>,
    /// Number of tokens in the vocabulary [default: the size's]
    #[arg(long, value_name = "N")]
    pub vocab: Option<usize>,
    /// Largest number of positions [default: the size's]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Base of the angles of rotary embeddings [default: the size's, or 10000]
    #[arg(long, value_name = "X")]
    pub rope_theta: Option<f64>,
    /// Let each position see at most N positions, its own included [default: all]
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// The term that a normalisation adds to the variance [default: the size's, or 1e-5]
    #[arg(long, value_name = "X")]
    pub norm_eps: Option<f64>,
    /// Let the output head be the token table (tied), or a matrix of its own (own) [default: the size's or the family's]
    #[arg(long, value_name = "HEAD", value_enum, hide_possible_values = true)]
    pub output_head: Option<OutputHead>,
}

/// The values of `--output-head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputHead {
    /// The token table.
    Tied,
    /// A matrix of its own.
    Own,
}

impl ModelArgs {
    /// Returns the name of the size that the other options change.
    pub fn size(&self) -> &str {
        self.size.as_deref().unwrap_or("small")
    }

    /// Returns the name of the family, if it is given, and of the size.
    pub fn name(&self) -> String {
        let arch = self.arch.as_deref().map(|arch| format!("{arch}-"));
        format!("{}{}", arch.unwrap_or_default(), self.size())
    }

    /// Returns the sizes.
    ///
    /// # Errors
    ///
    /// Names the option that is zero or too large, the head count that does not divide the width, or the option that the
    /// family does not have.
    pub fn config(&self) -> Result<GptConfig> {
        let size = presets::named(self.size(), self.arch.as_deref())?;
        let rotary = |theta| Rotary { theta, ..size.blocks.rotary.unwrap_or(Rotary::of(theta)) };
        let blocks = Blocks {
            n_kv_head: self.kv_heads.or(size.blocks.n_kv_head),
            head_size: self.head_size.or(size.blocks.head_size),
            rotary: self.rope_theta.map(rotary).or(size.blocks.rotary),
            window: self.window.or(size.blocks.window),
            is_tied: self.output_head.map_or(size.blocks.is_tied, |head| head == OutputHead::Tied),
            ..size.blocks
        };
        let config = GptConfig {
            n_layer: self.layers.unwrap_or(size.n_layer),
            n_head: self.heads.unwrap_or(size.n_head),
            n_embd: self.embd.unwrap_or(size.n_embd),
            n_inner: self.ffn.or(size.n_inner),
            vocab_size: self.vocab.unwrap_or(size.vocab_size),
            n_positions: self.context.unwrap_or(size.n_positions),
            layer_norm_epsilon: self.norm_eps.unwrap_or(size.layer_norm_epsilon),
            blocks,
        };
        presets::complete(&config).map_err(|error| error.of_kind(Kind::Usage))
    }
}

/// Where a model lives.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// Run on this device: auto (a hardware GPU, else the CPU), cpu, gpu (any GPU, also a software one) or gpu:N as in `wgpt devices`
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

/// Finds the files of the model that `--model` or `--init` names, as [`hub::find_model`] does, with a progress bar
/// during a download; without a name, those of the best model of the newest run in `runs/`.
///
/// # Errors
///
/// If there is no such model, or it cannot be downloaded.
pub fn find_model(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        let mut progress = Progress::new();
        let found = hub::find_model(named, &mut |at| {
            let what = format!("{}: {}", named.display(), at.file);
            progress.bytes(&what, at.done_bytes, at.total_bytes.unwrap_or(0));
        });
        progress.end();
        if let Ok(folder) = &found
            && has_adapters(folder)
            && !is_adapter(folder)
        {
            let folder = folder.display();
            output::log(&format!("model: {folder}, with the adapters of its adapter_config.json"));
        }
        return found;
    }
    let newest = newest_run(Path::new("runs"))?.ok_or_else(|| {
        Error::input("there is no model: no --model was given, and runs/ has none")
            .hint("train one with wgpt train, or name one with --model, such as --model gpt2")
    })?;
    output::log(&format!("model: {}", newest.display()));
    Ok(newest)
}

/// Opens a device. Measurements of a GPU that take long are stored in the user's cache folder.
///
/// # Errors
///
/// If there is no such device, or its driver refuses.
pub fn open(choice: DeviceChoice) -> Result<Device> {
    match wgpt::cache::folder() {
        Ok(folder) => Device::open_cached(choice, folder),
        // Without a home folder only the next start takes longer.
        Err(_) => Device::open(choice),
    }
}

/// Loads a model and reports the oddities of its files.
///
/// # Errors
///
/// As [`Gpt::load`].
pub fn load(dir: &Path, device: Device) -> Result<Gpt> {
    let gpt = Gpt::load(dir, device)?;
    gpt.notices().iter().for_each(|notice| output::log(notice));
    Ok(gpt)
}

/// Which tokens the next one is drawn from.
#[derive(Clone, Debug, clap::Args)]
pub struct ChoiceArgs {
    /// Choose among the N most likely tokens [default: all]
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Choose among the most likely tokens that together have probability X [default: 1]
    #[arg(long, value_name = "X")]
    top_p: Option<f64>,
    /// Choose among the tokens with at least X times the probability of the most likely one [default: 0]
    #[arg(long, value_name = "X")]
    min_p: Option<f64>,
    /// Penalise tokens that already occurred; above 1: more [default: 1]
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f64>,
}

impl ChoiceArgs {
    /// Returns options with these values; the others have their defaults.
    pub fn options(&self) -> GenerateOptions {
        let default = GenerateOptions::default();
        GenerateOptions {
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            ..default
        }
    }
}

/// What numbers are held in.
#[derive(Clone, Debug, clap::Args)]
pub struct PrecisionArgs {
    /// Compute in f32, mixed (half precision, on a CPU bf16, except for weights, sums and the residual stream), or auto: mixed on a GPU that has it
    #[arg(long, value_name = "PRECISION", default_value = "auto", hide_possible_values = true)]
    pub precision: PrecisionChoice,
}

/// The values of `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PrecisionChoice {
    /// Single precision.
    F32,
    /// Half precision where it does no harm.
    Mixed,
    /// What suits the device.
    Auto,
}

impl PrecisionArgs {
    /// Returns the precision when no device is known: mixed only if it was requested.
    pub fn anywhere(&self) -> Precision {
        match self.precision {
            PrecisionChoice::Mixed => Precision::Mixed,
            PrecisionChoice::F32 | PrecisionChoice::Auto => Precision::F32,
        }
    }

    /// Returns the precision on a device; if a GPU lacks the requested one, that is reported.
    ///
    /// # Errors
    ///
    /// If it is mixed, and the CPU does not compute in bf16.
    pub fn on(&self, device: &Device) -> Result<Precision> {
        Ok(match self.precision {
            PrecisionChoice::F32 => Precision::F32,
            PrecisionChoice::Auto => device.best_precision(),
            PrecisionChoice::Mixed if device.has_half() => Precision::Mixed,
            PrecisionChoice::Mixed => {
                device.check_precision(Precision::Mixed)?;
                output::log(&format!(
                    "{} does not compute in half precision: f32 instead of mixed",
                    device_name(device)
                ));
                Precision::F32
            }
        })
    }
}

/// What matrices are stored in, to generate and to evaluate.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct WeightsArgs {
    /// Store matrices in f32, f16, bf16 or q8_0 (bytes in blocks of 32 with a scale)
    #[arg(long, value_name = "FORMAT", default_value = "f32", hide_possible_values = true)]
    weights: WeightFormat,
}

impl WeightsArgs {
    /// Refuses a format in a pipeline, whose ranks send and keep matrices in f32.
    pub fn check_stages(self, stages: Option<usize>) -> Result<()> {
        match (stages, self.weights) {
            (None, _) | (_, WeightFormat::F32) => Ok(()),
            (Some(_), format) => Err(Error::usage(format!(
                "--weights {} is for one rank, and --pipeline asks for several",
                format.name()
            ))
            .hint("leave one of the two out")),
        }
    }

    /// Sets precision and format of a model on its device.
    ///
    /// # Errors
    ///
    /// If the device has no kernels for the format.
    pub fn set(self, gpt: &mut Gpt, precision: Precision) -> Result<()> {
        check_weights(self.weights, precision, Some(gpt.device()))?;
        gpt.set_precision(precision);
        gpt.set_weights(self.weights);
        let others = gpt.without_blocks();
        if let [first, ..] = &others[..] {
            let more = match others.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            output::log(&format!(
                "stored in bf16, as their sums are no multiple of 32 long: {first}{more}"
            ));
        }
        Ok(())
    }
}

/// Refuses a format of matrices for which a device has no kernels; no device stands for WebGPU's default limits.
///
/// # Errors
///
/// Names the format and the device.
pub fn check_weights(
    format: WeightFormat,
    precision: Precision,
    device: Option<&Device>,
) -> Result<()> {
    let has_half = || match device {
        Some(Device::Cpu) => true,
        Some(device) => device.has_half(),
        None => precision == Precision::Mixed,
    };
    if format != WeightFormat::F16 || has_half() {
        return Ok(());
    }
    let on = device.map_or("WebGPU's default limits".to_owned(), device_name);
    Err(Error::usage(format!("--weights f16 needs half precision, which {on} has not"))
        .hint("take --weights bf16, which every device reads, or --device cpu"))
}

/// Which part of a model is trained.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Fine-tuning")]
pub struct FineTuneArgs {
    /// Do not train the parameters whose names match: wte.*, 'h.[0-5].*', '*.bias'
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    freeze: Vec<String>,
    /// Train only the parameters whose names match
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    train_only: Vec<String>,
    /// Train low-rank adapters of rank N (LoRA); the model itself stays as it is
    #[arg(long, value_name = "N", conflicts_with_all = ["freeze", "train_only"])]
    lora_rank: Option<usize>,
    /// Scale the adapters by X / rank [default: twice the rank]
    #[arg(long, value_name = "X", requires = "lora_rank")]
    lora_alpha: Option<f64>,
    /// Adapt these layers: of a GPT-2 c_attn, attn.c_proj, c_fc, mlp.c_proj, c_proj for both; of any model all-linear [default: c_attn; of a Llama q_proj,v_proj]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', requires = "lora_rank")]
    lora_targets: Vec<String>,
}

impl FineTuneArgs {
    /// Returns the settings of fine-tuning a model.
    pub fn config(&self, model: &GptConfig) -> FineTune {
        let lora = self.lora_rank.map(|rank| {
            let default = Lora::for_model(model, rank);
            let targets = Some(self.lora_targets.clone()).filter(|targets| !targets.is_empty());
            Lora {
                alpha: self.lora_alpha.unwrap_or(default.alpha),
                targets: targets.unwrap_or(default.targets),
                ..default
            }
        });
        FineTune { freeze: self.freeze.clone(), train_only: self.train_only.clone(), lora }
    }
}

/// How the batches of an update are shared out and added.
#[derive(Clone, Debug, clap::Args)]
pub struct SumArgs {
    /// Batches per update, of all ranks together [default: as many as ranks]
    #[arg(long, value_name = "N")]
    grad_accum: Option<usize>,
    /// Add the gradients of an update's batches in this order: fast (each rank adds its own in place), or exact (along a tree,
    /// for the same bits on any number of ranks) [default: exact where several ranks add the same gradients, else fast]
    #[arg(long, value_name = "ORDER", value_enum, hide_possible_values = true)]
    sum: Option<Sum>,
    /// Share an update's batches out to the ranks: even, or auto (by a measurement of each rank at the run's start, where devices
    /// differ; the run keeps it)
    #[arg(long, value_name = "HOW", value_enum, default_value_t = RankBatch::Even, hide_possible_values = true)]
    rank_batch: RankBatch,
    /// Split the optimiser's state, and in mixed precision the f32 weights, among the ranks (ZeRO, stage 1): less memory for each, the same bits
    #[arg(long)]
    zero: bool,
    /// Give each rank a part of the layers: P stages, through which the batches of an update go; P must divide the number of
    /// ranks [default: 1]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..))]
    pipeline: Option<u32>,
    /// Let each rank make H updates on its own before all take an outer step together (DiLoCo), where the links between
    /// them are slow; --eval-every and --save-every must be multiples of H [default: the gradients are added in every update]
    #[arg(long, value_name = "H")]
    sync_every: Option<usize>,
}

impl SumArgs {
    /// The number of stages, if it is given.
    pub fn pipeline(&self) -> Option<usize> {
        self.pipeline.map(|stages| stages as usize)
    }

    /// Returns the settings for this many ranks.
    pub fn of(&self, ranks: usize, train: TrainConfig) -> TrainConfig {
        let pipeline = self.pipeline().unwrap_or(1);
        let replicas = (ranks / pipeline).max(1);
        let local = self.sync_every.map(|updates| Local::every(updates, ranks));
        let adds = replicas > 1 && local.is_none();
        TrainConfig {
            // Each stage works while there are as many batches as stages on the way.
            grad_accum: self.grad_accum.unwrap_or(replicas * pipeline),
            sum: self.sum.unwrap_or(if adds { Sum::Exact } else { Sum::Fast }),
            rank_batch: self.rank_batch,
            zero: self.zero,
            pipeline,
            ranks,
            local,
            ..train
        }
    }
}

/// How many ranks have the layers of a model that generates or is evaluated.
#[derive(Clone, Debug, clap::Args)]
pub struct PipelineArgs {
    /// Give each of the P ranks that mpirun starts a part of the layers, where the model does not fit on one; only the first needs its
    /// files [default: 1]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..))]
    pipeline: Option<u32>,
}

impl PipelineArgs {
    /// The number of stages, if it is given.
    pub fn stages(&self) -> Option<usize> {
        self.pipeline.map(|stages| stages as usize)
    }
}

/// What is recomputed instead of being kept.
#[derive(Clone, Debug, clap::Args)]
pub struct RecomputeArgs {
    /// Recompute this in the backward pass to save memory: none, gelu, block, or auto: the least with which the plan fits, of adapters from gelu on
    #[arg(long, value_name = "WHAT", default_value = "auto", hide_possible_values = true)]
    pub recompute: RecomputeChoice,
}

/// The values of `--recompute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RecomputeChoice {
    /// Nothing.
    None,
    /// The outputs of GELUs.
    Gelu,
    /// Whole blocks.
    Block,
    /// The least with which the plan fits.
    Auto,
}

/// The values of `--batch-size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// This number of sequences.
    Of(usize),
    /// As many as fit.
    Auto,
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<BatchSize, String> {
        match text {
            "auto" => Ok(BatchSize::Auto),
            _ => text.parse().map(BatchSize::Of).map_err(|_| "neither a number nor auto".into()),
        }
    }
}

impl Display for BatchSize {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            BatchSize::Of(n) => n.fmt(f),
            BatchSize::Auto => f.write_str("auto"),
        }
    }
}

impl BatchSize {
    /// Returns the number; `default` if as many as fit are requested.
    pub fn or(self, default: usize) -> usize {
        match self {
            BatchSize::Of(n) => n,
            BatchSize::Auto => default,
        }
    }
}

/// The values of `--val-tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValTokens {
    /// At most this number.
    Of(usize),
    /// A tenth of the data, however much that is.
    All,
}

impl FromStr for ValTokens {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<ValTokens, String> {
        match text {
            "all" => Ok(ValTokens::All),
            _ => text.parse().map(ValTokens::Of).map_err(|_| "neither a number nor all".into()),
        }
    }
}

impl From<Option<usize>> for ValTokens {
    fn from(most: Option<usize>) -> ValTokens {
        most.map_or(ValTokens::All, ValTokens::Of)
    }
}

impl Display for ValTokens {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ValTokens::Of(n) => n.fmt(f),
            ValTokens::All => f.write_str("all"),
        }
    }
}

impl ValTokens {
    /// Returns the number; `None` for all.
    pub fn most(self) -> Option<usize> {
        match self {
            ValTokens::Of(n) => Some(n),
            ValTokens::All => None,
        }
    }
}

impl RecomputeArgs {
    /// Resolves `auto` in recomputation and batch; the choice is reported on stderr if the plan fits.
    ///
    /// Recomputation is chosen first, for the batch in `uses`: it costs more time than a larger batch saves.
    pub fn fit(
        &self,
        uses: Uses,
        finetune: &FineTune,
        batch: Option<BatchSize>,
        mut fits: impl FnMut(Uses) -> bool,
    ) -> Uses {
        let recompute = match self.recompute {
            RecomputeChoice::None => Recompute::None,
            RecomputeChoice::Gelu => Recompute::Gelu,
            RecomputeChoice::Block => Recompute::Block,
            RecomputeChoice::Auto => least_recompute(uses, finetune, &mut fits),
        };
        let mut uses = Uses { recompute, ..uses };
        if batch == Some(BatchSize::Auto) {
            uses.batch = largest_batch(uses, &mut fits);
        }
        let chosen =
            self.recompute == RecomputeChoice::Auto && recompute != first_recompute(finetune);
        if (chosen || batch == Some(BatchSize::Auto)) && fits(uses) {
            let (n, what) = (uses.batch, recompute.name());
            output::log(&format!("to fit the memory: --batch-size {n} --recompute {what}"));
        }
        uses
    }
}

/// Returns the device that a choice stands for on this machine: the CPU, or an adapter by its number.
///
/// # Errors
///
/// If there is no such device.
pub fn resolve(choice: DeviceChoice) -> Result<DeviceChoice> {
    if choice == DeviceChoice::Cpu {
        return Ok(choice);
    }
    let index = gpu::pick(choice, &gpu::adapters())?.index;
    Ok(index.map_or(DeviceChoice::Cpu, DeviceChoice::GpuIndex))
}

/// Describes a device in words.
pub fn device_name(device: &Device) -> String {
    match device {
        Device::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
        Device::Gpu(device) => device.name().to_owned(),
    }
}

/// Limits that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NamedLimits {
    /// What every WebGPU device allows: bindings of 128 MiB, buffers of 256 MiB.
    Webgpu,
}

/// Returns a help text with the default added.
pub fn with_default(text: &str, value: impl Display) -> String {
    format!("{text} [default: {value}]")
}

/// Checks sequences per batch and tokens per sequence, and returns them.
///
/// # Errors
///
/// Names the option that is out of range.
pub fn check_shape(batch: usize, seq: usize, config: &GptConfig) -> Result<(usize, usize)> {
    let train = TrainConfig { batch_size: batch, seq_len: Some(seq), ..TrainConfig::default() };
    train.validate(config)?;
    check_finetune(config, &train.finetune)?;
    Ok((batch, seq))
}

/// Batch and sequence of a benchmark: by default those of the size's published comparisons.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Batch")]
pub struct BatchArgs {
    /// Sequences per batch, or auto: as many as fit [default: 8 for small, 4 medium, 2 large, 1 gpt2]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<BatchSize>,
    /// Tokens per sequence [default: 128 for small, 256 medium, 512 large, 256 gpt2]
    #[arg(long, value_name = "N")]
    pub seq_len: Option<usize>,
    #[command(flatten)]
    pub recompute: RecomputeArgs,
}

impl BatchArgs {
    /// Returns sequences per batch and tokens per sequence.
    ///
    /// # Errors
    ///
    /// Names the option that is out of range.
    pub fn shape(&self, model: &ModelArgs, config: &GptConfig) -> Result<(usize, usize)> {
        let (batch, seq) = match model.size() {
            "small" => (8, 128),
            "medium" => (4, 256),
            "large" => (2, 512),
            _ => (1, 256),
        };
        let seq = self.seq_len.unwrap_or(seq.min(config.n_positions));
        check_shape(self.batch_size.map_or(batch, |size| size.or(batch)), seq, config)
    }
}
