//! Pipelines: each kernel is compiled once per device, for any number of plans, and once per machine if the backend has
//! a pipeline cache.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wgpu::{
    BindGroupLayout, BindGroupLayoutEntry, BindingType, BufferBindingType, Device, Features,
    PipelineCache, ShaderModule, ShaderModuleDescriptor,
};

use super::checks::Checks;
use crate::cache;
use crate::error::Result;
use crate::kernel::{Format, Kernel, Variant};
use crate::wait;

/// A compiled kernel and the layout of its buffers.
pub struct Pipeline {
    /// The compiled shader.
    pub pipeline: wgpu::ComputePipeline,
    /// Bind group 0: the sizes, then the signature's buffers.
    pub layout: BindGroupLayout,
}

/// The key of a pipeline: the kernel's name, the variant's name, and the formats of the arguments.
type Key = (&'static str, &'static str, Vec<Format>);

/// The pipelines of one device.
pub struct Pipelines {
    device: Device,
    checks: Checks,
    step_layout: BindGroupLayout,
    made: Mutex<HashMap<Key, Arc<OnceLock<Arc<Pipeline>>>>>,
    disk: Option<Disk>,
}

/// The driver's pipeline cache, and the file that keeps it.
struct Disk {
    cache: PipelineCache,
    path: PathBuf,
    /// The contents of the file.
    kept: Mutex<Vec<u8>>,
}

fn entry(binding: u32, ty: BufferBindingType) -> BindGroupLayoutEntry {
    BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

impl Pipelines {
    /// Creates an empty set; `folder` is where compiled pipelines are kept.
    pub fn new(device: &Device, checks: Checks, folder: Option<&Path>) -> Pipelines {
        let step_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("step"),
            entries: &[entry(0, BufferBindingType::Uniform)],
        });
        let disk = folder.and_then(|folder| Disk::open(device, folder));
        Pipelines { device: device.clone(), checks, step_layout, made: Mutex::default(), disk }
    }

    /// Returns the layout of bind group 1: the step.
    pub fn step_layout(&self) -> &BindGroupLayout {
        &self.step_layout
    }

    /// Returns the pipeline of a kernel's variant for arguments of these formats, compiled at its first use. Threads
    /// may compile different pipelines at the same time.
    pub fn get(
        &self,
        kernel: &'static Kernel,
        variant: &'static Variant,
        formats: &[Format],
    ) -> Arc<Pipeline> {
        let key = (kernel.name, variant.name, formats.to_vec());
        let place = Arc::clone(lock(&self.made).entry(key).or_default());
        Arc::clone(place.get_or_init(|| Arc::new(self.compile(kernel, variant, formats))))
    }

    /// Saves the compiled pipelines for the next process.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), Disk::save)
    }

    fn compile(&self, kernel: &Kernel, variant: &Variant, formats: &[Format]) -> Pipeline {
        let label = Some(kernel.name);
        let device = &self.device;
        let storage = |read_only| BufferBindingType::Storage { read_only };
        let mut entries = vec![entry(0, BufferBindingType::Uniform)];
        let args = kernel.args.iter().zip(1..);
        entries.extend(args.map(|(arg, i)| entry(i, storage(!arg.is_written()))));
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label,
            entries: &entries,
        });
        let groups = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout), Some(&self.step_layout)],
            immediate_size: 0,
        });
        let source = wgpu::ShaderSource::Wgsl(variant.source(kernel.args, formats).into());
        let module = self.module(ShaderModuleDescriptor { label, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&groups),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: self.checks == Checks::On,
                ..Default::default()
            },
            cache: self.disk.as_ref().map(|disk| &disk.cache),
        });
        Pipeline { pipeline, layout }
    }

    fn module(&self, descriptor: ShaderModuleDescriptor<'_>) -> ShaderModule {
        match self.checks {
            Checks::On => self.device.create_shader_module(descriptor),
            // SAFETY: the shaders are this crate's own, and none indexes outside its buffers, loops for ever, or
            // divides by 0. An index follows from `Dims`, which ops take from the views that they bind, or it is
            // compared with one of these sizes before it is used: this holds for ids in buffers and for the position
            // and count of `Step`, for any values that the host writes. tests/integration/bounds.rs runs every variant
            // with each of its accesses compared with the length of the binding, over valid and invalid ids, and
            // every variant is compared with its twin with and without the checks, by tests and by `wgpt verify`.
            #[allow(unsafe_code, reason = "the checks keep drivers from unrolling loops")]
            Checks::Off => unsafe {
                let none = wgpu::ShaderRuntimeChecks::unchecked();
                self.device.create_shader_module_trusted(descriptor, none)
            },
        }
    }
}

impl Disk {
    /// Opens the cache of this adapter and driver with the data kept in `folder`; `None` if the backend has no cache.
    fn open(device: &Device, folder: &Path) -> Option<Disk> {
        if !device.features().contains(Features::PIPELINE_CACHE) {
            return None;
        }
        let path = folder.join(wgpu::util::pipeline_cache_key(&device.adapter_info())?);
        let data = cache::kept(&path).unwrap_or_default();
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        // SAFETY: the data is exactly the output of `get_data` (checked by its SHA-256), and wgpu refuses data of
        // another adapter or driver.
        #[allow(unsafe_code, reason = "wgpu cannot know where the data comes from")]
        let cache = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("wgpt"),
                data: Some(data.as_slice()).filter(|data| !data.is_empty()),
                fallback: true,
            })
        };
        let refused = wait::for_future(scope.pop()).is_some();
        (!refused).then_some(Disk { cache, path, kept: Mutex::new(data) })
    }

    fn save(&self) -> Result<()> {
        let mut kept = lock(&self.kept);
        match self.cache.get_data().filter(|data| *data != *kept) {
            None => Ok(()),
            Some(data) => {
                cache::keep(&self.path, &data)?;
                *kept = data;
                Ok(())
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
