//! Pipelines: each kernel is compiled once a device, however many plans use it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{BindGroupLayout, BindGroupLayoutEntry, BindingType, BufferBindingType, Device};

use crate::kernel::{Elem, Kernel, Variant};

/// A compiled kernel and the layout of its buffers.
pub struct Pipeline {
    /// The compiled shader.
    pub pipeline: wgpu::ComputePipeline,
    /// Bind group 0: the sizes, then the signature's buffers.
    pub layout: BindGroupLayout,
}

/// What tells pipelines apart: the kernel's name, the variant's, what the arguments hold.
type Key = (&'static str, &'static str, Vec<Elem>);

/// The pipelines of one device.
pub struct Pipelines {
    step_layout: BindGroupLayout,
    made: Mutex<HashMap<Key, Arc<Pipeline>>>,
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

    /// The pipeline of a kernel's variant for arguments that hold `elems`, compiled at its first use.
    pub fn get(
        &self,
        device: &Device,
        kernel: &'static Kernel,
        variant: &'static Variant,
        elems: &[Elem],
    ) -> Arc<Pipeline> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(compile(device, kernel, variant, elems, &self.step_layout));
        let key = (kernel.name, variant.name, elems.to_vec());
        Arc::clone(made.entry(key).or_insert_with(make))
    }
}

fn compile(
    device: &Device,
    kernel: &Kernel,
    variant: &Variant,
    elems: &[Elem],
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
    let source = wgpu::ShaderSource::Wgsl(variant.source(kernel, elems).into());
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
