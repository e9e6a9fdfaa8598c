//! Every kernel for the compilers of GPUs: `scripts/offline-gpu.sh` runs it.
//!
//! `pipelines compile FILE [WORDS]` compiles each variant of each kernel on the first adapter, without run-time checks
//! as an optimised build does, and appends a line to FILE before each, so that a Vulkan layer which appends what the
//! compiler says of a pipeline has it under its name. `pipelines hlsl FOLDER [WORDS]` writes each as HLSL, as wgpu
//! gives it to Direct3D's compiler, with run-time checks and without. WORDS, separated by commas, pick those whose
//! `KERNEL VARIANT FORMATS` holds one of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use naga::back::hlsl;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use wgpt::backend::gpu::{Checks, GpuDevice, Setup, adapters};
use wgpt::kernel::{FLOATS, Format, Kernel, Needs, Variant};
use wgpt::{Error, Result};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["compile", file] => compile(file, ""),
        ["compile", file, words] => compile(file, words),
        ["hlsl", folder] => write_hlsl(Path::new(folder), ""),
        ["hlsl", folder, words] => write_hlsl(Path::new(folder), words),
        _ => Err(Error::usage("got no task").hint("give compile FILE or hlsl FOLDER")),
    }
}

/// A variant of a kernel for arguments of some formats.
struct Subject {
    kernel: &'static Kernel,
    variant: &'static Variant,
    formats: Vec<Format>,
}

impl Subject {
    /// Its name in lists and files: kernel, variant (`-`: the portable one), and a letter for each argument's format.
    fn name(&self, separator: &str) -> String {
        let variant = if self.variant.name.is_empty() { "-" } else { self.variant.name };
        let letters: String = self.formats.iter().map(|format| letter(*format)).collect();
        [self.kernel.name, variant, &letters].join(separator)
    }

    fn source(&self) -> String {
        self.variant.source(self.kernel.args, &self.formats)
    }
}

fn letter(format: Format) -> char {
    match format {
        Format::F16 => 'h',
        Format::U32 => 'u',
        _ => 'f',
    }
}

/// Returns what `words` pick, in the order of the list of kernels.
fn subjects(words: &str) -> impl Iterator<Item = Subject> {
    let variants = wgpt::ops::ALL
        .iter()
        .flat_map(|kernel| kernel.variants.iter().map(|variant| (*kernel, variant)));
    let all = variants.flat_map(|(kernel, variant)| {
        let subject = move |formats| Subject { kernel, variant, formats };
        precisions(kernel, variant).into_iter().map(subject)
    });
    all.filter(move |subject| words.split(',').any(|word| subject.name(" ").contains(word)))
}

/// Returns the formats that a plan gives the arguments: all floats single, and half wherever that is taken.
fn precisions(kernel: &Kernel, variant: &Variant) -> Vec<Vec<Format>> {
    let mut all: Vec<_> = FLOATS.iter().map(|format| kernel.formats(*format)).collect();
    all.dedup();
    // Matrix units take nothing but halves.
    all.retain(|formats| !variant.needs.f16 || formats.contains(&Format::F16));
    all
}

/// What a device lacks to run a variant, if it lacks something. Whether all its subgroups have a size that the variant counts
/// on is not asked, since its compiler may be told to make them so; but subgroups of 8 alone are found in software alone
/// (lavapipe), where one is a vector of the processor. GPUs' compilers take ten seconds for each such variant.
fn lacking(subject: &Subject, has: &Needs) -> Option<&'static str> {
    let Subject { variant: Variant { needs, .. }, formats, .. } = subject;
    let half = needs.f16 || formats.contains(&Format::F16);
    let of_8 = Needs::SUBGROUPS_OF_8.subgroups;
    let subgroups = match needs.subgroups == of_8 {
        false if has.subgroups.is_some() => needs.subgroups,
        _ => has.subgroups,
    };
    Needs { f16: half, ..*needs }.lacking(&Needs { subgroups, ..*has })
}

/// Compiles what `words` pick, and appends to `file` what was done, a line of words with tabs between them for each.
fn compile(file: &str, words: &str) -> Result<()> {
    let unwritten = |e| Error::input(format!("{file}: {e}"));
    let mut out = OpenOptions::new().create(true).append(true).open(file).map_err(unwritten)?;
    let mut say = |line: &str| writeln!(out, "{line}").map_err(unwritten);
    let device = GpuDevice::with(0, Setup { checks: Checks::Off, ..Setup::default() })?;
    let driver = adapters().swap_remove(0).driver;
    say(&format!("adapter\t{}\t{driver}", device.name()))?;
    for subject in subjects(words) {
        let name = subject.name("\t");
        if let Some(what) = lacking(&subject, device.has()) {
            say(&format!("skip\t{name}\t{what}"))?;
            continue;
        }
        say(&format!("kernel\t{name}"))?;
        if let Err(e) = device.compile(subject.kernel, subject.variant, &subject.formats) {
            say(&format!("error\t{name}\t{}", e.to_string().replace('\n', " ")))?;
        }
    }
    Ok(())
}

/// Writes what `words` pick to files `NAME.checked.hlsl` and `NAME.unchecked.hlsl`; Direct3D has no matrix units.
fn write_hlsl(folder: &Path, words: &str) -> Result<()> {
    for subject in subjects(words).filter(|subject| !subject.variant.uses_matrix_units()) {
        let name = subject.name(".");
        for (mode, checks) in [("checked", Checks::On), ("unchecked", Checks::Off)] {
            let text = translated(&subject.source(), checks)
                .map_err(|e| Error::input(format!("{name} as HLSL: {e}")))?;
            let path = folder.join(format!("{name}.{mode}.hlsl"));
            std::fs::write(&path, text)
                .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        }
    }
    Ok(())
}

/// Translates WGSL with the options of wgpu's DX12 backend.
fn translated(source: &str, checks: Checks) -> std::result::Result<String, String> {
    let (module, info) = parsed(source)?;
    let (module, info) = naga::back::pipeline_constants::process_overrides(
        &module,
        &info,
        None,
        &Default::default(),
    )
    .map_err(|e| e.to_string())?;
    let checked = checks == Checks::On;
    let options = hlsl::Options {
        // The least one that has f16.
        shader_model: hlsl::ShaderModel::V6_2,
        fake_missing_bindings: true,
        restrict_indexing: checked,
        zero_initialize_workgroup_memory: checked,
        force_loop_bounding: checked,
        ..Default::default()
    };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &Default::default())
        .write(&module, &info, None)
        .map_err(|e| e.to_string())?;
    Ok(text)
}

fn parsed(source: &str) -> std::result::Result<(naga::Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| e.emit_to_string(source))?;
    Ok((module, info))
}
