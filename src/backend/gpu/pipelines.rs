//! Pipelines: each kernel is compiled once a device, however many plans use it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{BindGroupLayout, BindGroupLayoutEntry, BindingType, BufferBindingType, Device};

use crate::kernel::{Kernel, Variant};

/// A compiled kernel and the layout of its buffers.
pub struct Pipeline {
    /// The compiled shader.
    pub pipeline: wgpu::ComputePipeline,
    /// Bind group 0: the sizes, then the signature's buffers.
    pub layout: BindGroupLayout,
}

/// The pipelines of one device, by the kernel's name and text.
pub struct Pipelines {
    step_layout: BindGroupLayout,
    made: Mutex<HashMap<(&'static str, &'static str), Arc<Pipeline>>>,
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
    /// None so far.
    pub fn new(device: &Device) -> Pipelines {
        let step_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("step"),
            entries: &[entry(0, BufferBindingType::Uniform)],
        });
        Pipelines { step_layout, made: Mutex::default() }
    }

    /// Bind group 1: the step.
    pub fn step_layout(&self) -> &BindGroupLayout {
        &self.step_layout
    }

    /// The pipeline of a kernel's portable variant, compiled at its first use.
    pub fn get(&self, device: &Device, kernel: &'static Kernel) -> Arc<Pipeline> {
        let variant = &kernel.variants[0];
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(compile(device, kernel, variant, &self.step_layout));
        Arc::clone(made.entry((kernel.name, variant.wgsl)).or_insert_with(make))
    }
}

fn compile(
    device: &Device,
    kernel: &Kernel,
    variant: &Variant,
    step_layout: &BindGroupLayout,
) -> Pipeline {
    let label = Some(kernel.name);
    let storage = |read_only| BufferBindingType::Storage { read_only };
    let mut entries = vec![entry(0, BufferBindingType::Uniform)];
    entries.extend(kernel.args.iter().zip(1..).map(|(a, i)| entry(i, storage(!a.is_written()))));
    let layout = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
    let groups = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&layout), Some(step_layout)],
        immediate_size: 0,
    });
    let source = wgpu::ShaderSource::Wgsl(variant.source().into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&groups),
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    Pipeline { pipeline, layout }
}
