//! What the tests share: where the reference values are, the backends, and comparisons.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wgpt::backend::cpu::{Cpu, Use, allow_loops_for_bf16};
use wgpt::backend::gpu::{Checks, DeviceChoice, Gpu, GpuDevice, Setup, Wanted, adapters, pick};
use wgpt::backend::{Backend, Device};
use wgpt::kernel::{Draw, Feed, Format, Step};
use wgpt::model::{Program, Uses, open as open_model};
use wgpt::plan::{Limits, Phase, Plan, View};
use wgpt::{Error, FineTune, GptConfig};

/// The folder of PyTorch's reference values: `WGPT_ORACLE`, or `tests/oracle`.
pub fn oracle() -> PathBuf {
    std::env::var_os("WGPT_ORACLE").map_or_else(|| PathBuf::from("tests/oracle"), PathBuf::from)
}

/// This process' device with WebGPU's default limits; `None` where there is no adapter.
///
/// # Panics
///
/// If there is no adapter and `WGPT_REQUIRE_GPU` is 1.
pub fn gpu() -> Option<&'static Arc<GpuDevice>> {
    devices().map(|[plain, ..]| plain)
}

/// This process' device with all that its adapter has: half precision, subgroups, matrix units.
///
/// # Panics
///
/// As [`gpu`].
pub fn full_gpu() -> Option<&'static Arc<GpuDevice>> {
    devices().map(|[_, full, _]| full)
}

/// [`full_gpu`] with shaders that check nothing, as in use.
///
/// # Panics
///
/// As [`gpu`].
pub fn unchecked_gpu() -> Option<&'static Arc<GpuDevice>> {
    devices().map(|[.., unchecked]| unchecked)
}

/// A device that nothing else uses, which keeps what it finds out in a folder, if there is one; `None` where there is no adapter.
///
/// # Panics
///
/// As [`gpu`].
pub fn new_gpu(cache: Option<&Path>) -> Option<Arc<GpuDevice>> {
    gpu_with(Setup { cache: cache.map(Path::to_owned), ..Setup::default() })
}

/// A device that nothing else uses; `None` where there is no adapter.
///
/// # Panics
///
/// As [`gpu`].
pub fn gpu_with(setup: Setup) -> Option<Arc<GpuDevice>> {
    // Drivers may hang where devices are made at the same time.
    static ALONE: Mutex<()> = Mutex::new(());
    let index =
        adapters().iter().find(|a| gpu().is_some_and(|g| g.name().starts_with(&a.name)))?.index;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Some(GpuDevice::with(index, setup).expect("it was opened before"))
}

/// The devices of this process, made one after the other; where there are none, the test is reported as skipped.
fn devices() -> Option<&'static [Arc<GpuDevice>; 3]> {
    static DEVICES: OnceLock<Result<[Arc<GpuDevice>; 3], Error>> = OnceLock::new();
    let open = || {
        let index = pick(DeviceChoice::Gpu, &adapters())?.index.unwrap_or(0);
        let device =
            |wanted, checks| GpuDevice::with(index, Setup { wanted, checks, ..Setup::default() });
        Ok([
            device(Wanted::WebGpu, Checks::On)?,
            device(Wanted::All, Checks::On)?,
            device(Wanted::All, Checks::Off)?,
        ])
    };
    match DEVICES.get_or_init(open) {
        Ok(devices) => Some(devices),
        Err(e) if std::env::var("WGPT_REQUIRE_GPU").is_ok_and(|v| v == "1") => {
            panic!("WGPT_REQUIRE_GPU=1, but {e}")
        }
        Err(e) => {
            say_skipped(e);
            None
        }
    }
}

/// Says once per test, on the terminal, that what it does on a GPU is skipped. The test harness captures what the print
/// macros print of a test that passes, but not what is written to stderr itself.
fn say_skipped(why: &Error) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    // The harness gives a test's name to its thread.
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(test.clone()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED on a GPU: {test}: {why}");
    }
}

/// The CPU, which computes in bf16 by loops if it has no instruction for it.
pub fn cpu_in_bf16() -> Device {
    allow_loops_for_bf16();
    Device::Cpu
}

/// What a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The twins in double precision.
    Twins64,
    /// The twins in single precision.
    Twins32,
    /// The CPU kernels.
    Cpu,
    /// The twins in single precision, in mixed precision with bf16, as a CPU has it.
    Bf16Twins,
    /// The CPU kernels, as a CPU has them.
    Bf16,
    /// The GPU with WebGPU's default limits.
    Gpu,
    /// The GPU with all that its adapter has.
    FullGpu,
}

impl On {
    /// All of them; without the GPU where there is none.
    pub fn all() -> Vec<On> {
        let gpu = gpu().map(|_| On::Gpu);
        [On::Twins64, On::Twins32, On::Cpu].into_iter().chain(gpu).collect()
    }

    /// All of them, and the GPU's faster variants.
    pub fn all_variants() -> Vec<On> {
        let full = full_gpu().map(|_| On::FullGpu);
        On::all().into_iter().chain(full).collect()
    }

    /// What computes in bf16.
    pub fn in_bf16() -> [On; 2] {
        [On::Bf16Twins, On::Bf16]
    }

    /// What computes in f16 or in bf16.
    pub fn in_either_half() -> Vec<On> {
        On::in_half().into_iter().chain(On::in_bf16()).collect()
    }

    /// How coarse the numbers of mixed precision are here, beside those of f16.
    pub fn coarseness(self) -> f64 {
        if self.limits().half == Format::BF16 { 8.0 } else { 1.0 }
    }

    /// What computes in half precision, and the CPU, which rounds to it.
    pub fn in_half() -> Vec<On> {
        let gpu = full_gpu().filter(|gpu| gpu.has().f16).map(|_| On::FullGpu);
        [On::Twins32, On::Cpu].into_iter().chain(gpu).collect()
    }

    /// What it allows.
    pub fn limits(self) -> Limits {
        match self {
            On::Gpu | On::FullGpu => self.device().limits(),
            On::Twins64 | On::Twins32 | On::Cpu => Limits::NONE,
            On::Bf16Twins | On::Bf16 => Limits::CPU,
        }
    }

    /// The tolerance that holds here, of those for double precision, a CPU and a GPU.
    pub fn tolerance(self, exact: f64, cpu: f64, gpu: f64) -> f64 {
        match self {
            On::Twins64 => exact,
            On::Twins32 | On::Cpu | On::Bf16Twins | On::Bf16 => cpu,
            On::Gpu | On::FullGpu => gpu,
        }
    }

    /// The device of a test on the GPU.
    fn device(self) -> &'static Arc<GpuDevice> {
        let device = if self == On::FullGpu { full_gpu() } else { gpu() };
        device.expect("a test on the GPU has one")
    }

    /// A backend for a plan.
    pub fn backend(self, plan: &Plan) -> Subject {
        let plan = Arc::new(plan.clone());
        match self {
            On::Twins64 => Subject::Double(Cpu::new(plan, Use::Twins)),
            On::Twins32 | On::Bf16Twins => {
                Subject::Single(Box::new(Cpu::<f32>::new(plan, Use::Twins)))
            }
            On::Cpu | On::Bf16 => Subject::Single(Box::new(Cpu::<f32>::new(plan, Use::Kernels))),
            On::Gpu | On::FullGpu => {
                let gpu = Gpu::new(self.device(), plan).expect("the plan fits the device");
                Subject::Single(Box::new(gpu))
            }
        }
    }
}

/// A backend whose numbers are read as they are, in double precision too.
pub enum Subject {
    /// In double precision.
    Double(Cpu<f64>),
    /// In single precision.
    Single(Box<dyn Backend>),
}

impl Subject {
    /// Any backend.
    pub fn backend(&mut self) -> &mut dyn Backend {
        match self {
            Subject::Double(cpu) => cpu,
            Subject::Single(backend) => &mut **backend,
        }
    }

    /// Overwrites a view.
    pub fn write(&mut self, view: View, data: &[f32]) {
        self.backend().write(view, data);
    }

    /// Overwrites a view of integers.
    pub fn write_u32(&mut self, view: View, data: &[u32]) {
        self.backend().write_u32(view, data);
    }

    /// Runs a phase of the plan.
    pub fn run(&mut self, phase: Phase, step: &Step) {
        let backend = self.backend();
        let range = backend.plan().phase(phase);
        backend.run(range, step);
    }

    /// The numbers of a view.
    pub fn read(&mut self, view: View) -> Vec<f64> {
        match self {
            Subject::Double(cpu) => cpu.reals(view).to_vec(),
            Subject::Single(backend) => {
                let mut data = vec![0.0; view.len];
                backend.read(view, &mut data).expect("the device is there");
                data.into_iter().map(f64::from).collect()
            }
        }
    }

    /// The integers of a view.
    pub fn read_u32(&mut self, view: View) -> Vec<u32> {
        let mut data = vec![0; view.len];
        self.backend().read_u32(view, &mut data).expect("the device is there");
        data
    }
}

/// A model on a backend.
pub struct Model {
    /// What was recorded.
    pub program: Program,
    /// What runs it.
    pub on: Subject,
}

impl Model {
    /// The model of a folder.
    pub fn open(dir: &Path, uses: Uses, on: On) -> Model {
        let (config, weights) = open_model(dir).expect("a sound model");
        let mut model = Model::record(&config, uses, on, on.limits());
        model.fill(|name, out| weights.read(name, 0, out).expect("a sound parameter"));
        model
    }

    /// A model whose parameters are zero.
    pub fn record(config: &GptConfig, uses: Uses, on: On, limits: Limits) -> Model {
        Model::record_tuning(config, uses, &FineTune::default(), on, limits)
    }

    /// The same, of which a part alone is trained.
    pub fn record_tuning(
        config: &GptConfig,
        uses: Uses,
        finetune: &FineTune,
        on: On,
        limits: Limits,
    ) -> Model {
        let program = Program::record_tuning(config, uses, finetune, limits);
        let on = on.backend(&program.plan);
        Model { program, on }
    }

    /// Fills each parameter, by its name.
    pub fn fill(&mut self, mut fill: impl FnMut(&str, &mut [f32])) {
        for param in self.program.params.iter() {
            let mut data = vec![0.0; param.len()];
            fill(&param.name, &mut data);
            let width = param.len() / param.shape[0];
            for slice in &param.slices {
                let rows = &data[slice.start * width..][..slice.rows * width];
                self.on.write(slice.var.value, rows);
            }
        }
    }

    /// A parameter, or its gradient, as a whole.
    pub fn param(&mut self, name: &str, gradient: bool) -> Vec<f64> {
        let param = self.program.param(name).expect("a parameter's name").clone();
        let views = param.slices.iter().map(|s| if gradient { s.var.grad } else { s.var.value });
        views.flat_map(|view| self.on.read(view)).collect()
    }

    /// Writes tokens and targets, and runs these phases.
    pub fn run_batch(&mut self, tokens: &[u32], targets: &[u32], phases: &[Phase], step: &Step) {
        let batch = self.program.batch.expect("recorded with batches");
        self.on.write_u32(batch.tokens, tokens);
        self.on.write_u32(batch.targets, targets);
        phases.iter().for_each(|&phase| self.on.run(phase, step));
    }

    /// The loss of the last batch, or the sum over an update.
    pub fn loss(&mut self) -> f64 {
        let view = self.program.batch.expect("recorded with batches").loss;
        self.on.read(view)[0]
    }

    /// Puts tokens into the sequence of the first slot and extends over all of them, in replays of these lengths.
    pub fn extend(&mut self, start: usize, tokens: &[u32], lengths: &[u32]) {
        let sequence = self.program.generation.expect("recorded for generation").sequence;
        self.on.write_u32(sequence.slice(start, tokens.len()), tokens);
        let (mut at, end) = (start, start + tokens.len());
        while at < end {
            let left = end - at;
            let fits = lengths.iter().find(|n| **n as usize <= left);
            let n = *fits.unwrap_or_else(|| lengths.last().expect("some length"));
            let count = left.min(n as usize);
            let draw = Some(Draw::default());
            self.write_tables(n, &[Feed { slot: 0, position: at, count, draw }]);
            self.on.run(Phase::Extend(n), &Step::default());
            at += count;
        }
    }

    /// Draws the token after `position` of the first slot, from the last logits.
    pub fn sample(&mut self, position: usize, draw: Draw) {
        self.write_tables(1, &[Feed { slot: 0, position, count: 1, draw: Some(draw) }]);
        self.on.run(Phase::Sample, &Step::default());
    }

    fn write_tables(&mut self, n: u32, feeds: &[Feed]) {
        let views = self.program.generation.expect("recorded for generation");
        for (view, words) in views.tables(n, feeds) {
            self.on.write_u32(view, &words);
        }
    }
}

/// Tensors of a safetensors file of the reference values.
pub struct Tensors {
    floats: HashMap<String, (Vec<usize>, Vec<f64>)>,
    ids: HashMap<String, (Vec<usize>, Vec<i64>)>,
}

impl Tensors {
    /// Reads all of a file.
    pub fn open(path: &Path) -> Tensors {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a sound file");
        let mut tensors = Tensors { floats: HashMap::new(), ids: HashMap::new() };
        for (name, tensor) in file.tensors() {
            let (shape, data) = (tensor.shape().to_vec(), tensor.data());
            let four = || data.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            let eight = || data.chunks_exact(8).map(|b| b.try_into().expect("eight bytes"));
            match tensor.dtype() {
                safetensors::Dtype::F32 => {
                    let data = four().map(|b| f64::from(f32::from_le_bytes(b))).collect();
                    tensors.floats.insert(name.clone(), (shape, data));
                }
                safetensors::Dtype::F64 => {
                    let data = eight().map(f64::from_le_bytes).collect();
                    tensors.floats.insert(name.clone(), (shape, data));
                }
                safetensors::Dtype::I64 => {
                    let data = eight().map(i64::from_le_bytes).collect();
                    tensors.ids.insert(name.clone(), (shape, data));
                }
                other => panic!("{name} is of type {other:?}"),
            }
        }
        tensors
    }

    /// The bytes of all tensors of a file, by name.
    pub fn bytes(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a sound file");
        let tensors = file.tensors().into_iter();
        tensors.map(|(name, tensor)| (name, tensor.data().to_vec())).collect()
    }

    /// A tensor of numbers.
    pub fn get(&self, name: &str) -> &[f64] {
        &self.floats.get(name).unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    /// A tensor of numbers, as a device takes it.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.get(name).iter().map(|&x| x as f32).collect()
    }

    /// The names of all tensors of numbers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.floats.keys().map(String::as_str)
    }

    /// A tensor of ids; -100 becomes [`wgpt::ops::cross_entropy::IGNORE`].
    pub fn ids(&self, name: &str) -> Vec<u32> {
        let ids = &self.ids.get(name).unwrap_or_else(|| panic!("no ids {name}")).1;
        ids.iter().map(|&id| if id == -100 { u32::MAX } else { id as u32 }).collect()
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        let floats = self.floats.get(name).map(|(shape, _)| shape);
        let shape = floats.or_else(|| self.ids.get(name).map(|(shape, _)| shape));
        shape.unwrap_or_else(|| panic!("no tensor {name}")).clone()
    }
}

/// Reads a JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The largest magnitude.
pub fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// Panics unless every element is within `tolerance` of the reference; a NaN on either side is not.
pub fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    assert!(!want.is_empty(), "{what}: nothing is compared");
    assert!(tolerance.is_finite(), "{what}: {tolerance} allows everything");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs();
        assert!(error <= tolerance, "{what}[{i}]: got {g:e}, want {w:e} within {tolerance:e}");
    }
}

/// Panics unless every element is within `tolerance` of the reference's largest magnitude.
pub fn assert_close_of_max(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_close(what, got, want, tolerance * largest(want));
}

/// Panics unless a number is within a share of the reference.
pub fn assert_relative(what: &str, got: f64, want: f64, tolerance: f64) {
    assert_close(what, &[got], &[want], tolerance * want.abs());
}
