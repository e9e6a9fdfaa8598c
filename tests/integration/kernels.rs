//! Do the WGSL kernels do what the twins say? Signatures and translations by naga, results in lockstep.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::time::Duration;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, ScalarKind, StorageAccess, TypeInner};
use wgpt::backend::cpu::{Cpu, Use};
use wgpt::backend::gpu::{Choice, Gpu, GpuDevice, Setup, candidates};
use wgpt::backend::{Backend, Device};
use wgpt::check::verify::{self, Row};
use wgpt::check::verify_cases::{self, Case};
use wgpt::check::{Comparison, lockstep};
use wgpt::kernel::{Dims, Format, Kernel, Matrices, Step, StepWords, Twin, Variant, WEIGHTS, grid};
use wgpt::ops::{ALL, cast};
use wgpt::plan::{Plan, Role, View};

use crate::common::{full_gpu, gpu, gpu_with, unchecked_gpu};

/// Every kernel with each of its variants, under the name of its file.
fn variants() -> impl Iterator<Item = (String, &'static Kernel, &'static Variant)> {
    ALL.iter().flat_map(|kernel| {
        kernel.variants.iter().map(|variant| {
            let is_file = variant.wgsl != kernel.variants[0].wgsl;
            let file = match variant.name.split('_').next() {
                Some(word) if is_file => format!("{}_{word}", kernel.name),
                _ => kernel.name.to_owned(),
            };
            (file, *kernel, variant)
        })
    })
}

/// Every variant with what its arguments may hold.
fn sources() -> impl Iterator<Item = (String, &'static Kernel, &'static Variant, Vec<Format>)> {
    variants().flat_map(|(file, kernel, variant)| {
        let precisions = precisions(kernel, variant).into_iter();
        precisions.map(move |formats| (file.clone(), kernel, variant, formats))
    })
}

/// The formats that the arguments of a kernel may have: each format of numbers wherever it is taken.
fn precisions(kernel: &Kernel, variant: &Variant) -> Vec<Vec<Format>> {
    let is_taken = |format: &&Format| kernel.args.iter().any(|arg| arg.is_in_shaders(**format));
    let mut all: Vec<_> =
        WEIGHTS.iter().filter(is_taken).map(|format| kernel.formats(*format)).collect();
    all.dedup();
    let sizes = |rows: u32| Dims {
        B: 1,
        T: rows,
        C: 512,
        OC: 512,
        NH: 8,
        HS: 64,
        M: rows,
        K: 512,
        N: 512,
        LD: 512,
        V: 512,
        ..Dims::default()
    };
    let heads = |nh, hs| Dims { NH: nh, HS: hs, ..sizes(512) };
    let any = [Dims { C: 8, NH: 1, HS: 8, ..sizes(8) }, heads(8, 64), heads(4, 128)];
    all.retain(|formats| any.iter().any(|dims| (variant.fits)(dims, formats)));
    assert!(!all.is_empty(), "{} {}: it fits nothing", kernel.name, variant.name);
    all
}

fn parse(
    file: &str,
    kernel: &Kernel,
    variant: &Variant,
    formats: &[Format],
) -> (naga::Module, ModuleInfo) {
    let source = variant.source(kernel.args, formats);
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{file}: {}", e.emit_to_string(&source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{file}: {}", e.emit_to_string(&source)));
    (module, info)
}

/// What the elements of a storage variable are.
fn element(module: &naga::Module, variable: &naga::GlobalVariable) -> Option<Format> {
    let TypeInner::Array { base, .. } = module.types[variable.ty].inner else { return None };
    let scalar = module.types[base].inner.scalar()?;
    match (scalar.kind, scalar.width) {
        (ScalarKind::Float, 4) => Some(Format::F32),
        (ScalarKind::Float, 2) => Some(Format::F16),
        (ScalarKind::Uint, 4) => Some(Format::U32),
        _ => None,
    }
}

#[test]
fn signatures_match_the_shaders() {
    for (file, kernel, variant, formats) in sources() {
        let (module, info) = parse(&file, kernel, variant, &formats);
        let entry = info.get_entry_point(0);
        let mut found: Vec<_> = module
            .global_variables
            .iter()
            .filter(|(handle, _)| !entry[*handle].is_empty())
            .filter_map(|(_, v)| {
                let AddressSpace::Storage { access } = v.space else { return None };
                let (place, name) = (v.binding?, v.name.clone()?);
                let written = access.contains(StorageAccess::STORE);
                Some(((place.group, place.binding), name, written, element(&module, v)))
            })
            .collect();
        found.sort_by_key(|(place, ..)| *place);
        let declared: Vec<_> = (kernel.args.iter().zip(&formats).zip(1..))
            .map(|((a, format), i)| {
                let words = if format.is_coded() { Format::U32 } else { *format };
                ((0, i), a.name.to_owned(), a.is_written(), Some(words))
            })
            .collect();
        assert_eq!(found, declared, "{file}");
        assert_eq!(module.entry_points.len(), 1, "{file}");
        assert_eq!(module.entry_points[0].name, "main", "{file}");
    }
}

#[test]
fn what_is_read_comes_before_what_is_written() {
    for kernel in ALL {
        assert!(kernel.args.is_sorted_by_key(|a| a.is_written()), "{}", kernel.name);
        assert!(kernel.args.iter().any(|a| a.is_written()), "{}", kernel.name);
    }
}

/// The places of a uniform's members: the name, the offset, and whether it is a float.
fn members(name: &str) -> (Vec<(String, usize, bool)>, usize) {
    let gelu = &wgpt::ops::gelu::FORWARD;
    let (module, _) = parse(gelu.name, gelu, &gelu.variants[0], &[Format::F32; 2]);
    let (_, found) = module.types.iter().find(|(_, t)| t.name.as_deref() == Some(name)).unwrap();
    let TypeInner::Struct { members, span } = &found.inner else { panic!("{name}: a struct") };
    let is_float = |ty| module.types[ty].inner.scalar_kind() == Some(ScalarKind::Float);
    let member =
        |m: &naga::StructMember| (m.name.clone().unwrap(), m.offset as usize, is_float(m.ty));
    (members.iter().map(member).collect(), *span as usize)
}

/// The same of a struct in Rust; its debug output tells floats from integers.
macro_rules! fields {
    ($type:ident, $value:expr, [$($field:ident),* $(,)?]) => {{
        let value = $value;
        vec![$((
            stringify!($field).to_owned(),
            offset_of!($type, $field),
            format!("{:?}", value.$field).contains('.'),
        )),*]
    }};
}

#[test]
fn uniforms_have_one_layout() {
    let (found, span) = members("Dims");
    let rust = fields!(
        Dims,
        Dims::default(),
        [
            B, T, C, OC, NH, V, S, M, K, N, LD, START, ACC, ID, EPS, SCALE, HS, KVH, Q_START,
            K_START, V_START, Q_ROW, K_ROW, Q_HEAD, K_HEAD, RC, WINDOW, SLOTS, FIRST
        ]
    );
    assert_eq!((found, span), (rust, size_of::<Dims>()));

    let (found, span) = members("Step");
    let rust = fields!(
        StepWords,
        wgpt::kernel::Step { eps: 0.5, ..Default::default() }.words(),
        [
            accumulate,
            seed_0,
            seed_1,
            dropout,
            loss_scale,
            learning_rate,
            beta1,
            beta2,
            ln_beta1,
            ln_beta2,
            eps,
            weight_decay,
            grad_clip
        ]
    );
    assert_eq!((found, span), (rust, size_of::<StepWords>()));
}

#[test]
fn every_shader_has_a_kernel() {
    let stem = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let is_shader = path.extension().is_some_and(|e| e == "wgsl");
        is_shader.then(|| path.file_stem().unwrap().to_string_lossy().into_owned())
    };
    let files: BTreeSet<String> = std::fs::read_dir("shaders").unwrap().filter_map(stem).collect();
    let kernels: BTreeSet<String> = variants().map(|(file, ..)| file).collect();
    assert_eq!(files, kernels);
    for (file, _, variant) in variants() {
        let text = std::fs::read_to_string(format!("shaders/{file}.wgsl")).unwrap();
        assert_eq!(text, variant.wgsl, "{file} includes another file");
    }
}

/// The first line of a shader, `// uses: NAME, NAME`, names what all variants of its file take from `shaders/shared/`;
/// where that is nothing, there is no such line. What differs between the variants of a file, their engine, is not in it.
#[test]
fn shaders_say_in_their_first_line_what_they_use() {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for entry in std::fs::read_dir("shaders/shared").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        texts.insert(std::fs::read_to_string(&path).unwrap(), name);
    }
    let mut used: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (file, _, variant) in variants() {
        let of = variant.shared.iter().filter_map(|text| texts.get(*text).map(String::as_str));
        let of: BTreeSet<&str> = of.collect();
        used.entry(file).and_modify(|all| all.retain(|name| of.contains(name))).or_insert(of);
    }
    for (file, used) in used {
        let text = std::fs::read_to_string(format!("shaders/{file}.wgsl")).unwrap();
        let first = text.lines().next().and_then(|line| line.strip_prefix("// uses: "));
        let said: BTreeSet<&str> =
            first.map_or(BTreeSet::new(), |names| names.split(", ").collect());
        assert_eq!(said, used, "{file}");
    }
}

#[test]
fn every_shader_translates_to_metal_and_direct3d() {
    for (file, kernel, variant, formats) in sources() {
        let (module, info) = parse(&file, kernel, variant, &formats);
        let (module, info) = naga::back::pipeline_constants::process_overrides(
            &module,
            &info,
            None,
            &Default::default(),
        )
        .unwrap_or_else(|e| panic!("{file}: {e}"));
        let options = naga::back::msl::Options {
            lang_version: (2, 4),
            fake_missing_bindings: true,
            ..Default::default()
        };
        naga::back::msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|e| panic!("{file} to MSL: {e}"));
        if variant.needs.matrices == Matrices::OF_8X8 && variant.needs.subgroups == Some([32, 32]) {
            assert!(!has_tiles_of_vectors(&module), "{file}: Metal loads no matrix from vectors");
        }
        if variant.uses_matrix_units() {
            continue; // Direct3D has no cooperative matrices.
        }
        let options =
            naga::back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = Default::default();
        let mut text = String::new();
        naga::back::hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{file} to HLSL: {e}"));
        assert!(text.contains("numthreads"), "{file}");
    }
}

/// Whether workgroup memory holds vectors of half precision.
fn has_tiles_of_vectors(module: &naga::Module) -> bool {
    module.global_variables.iter().any(|(_, variable)| {
        let TypeInner::Array { base, .. } = module.types[variable.ty].inner else { return false };
        let base = &module.types[base].inner;
        variable.space == AddressSpace::WorkGroup
            && matches!(base, TypeInner::Vector { scalar, .. } if scalar.width == 2)
    })
}

/// Whether this run is for matrix units.
fn wants_matrix_units() -> bool {
    std::env::var("WGPT_REQUIRE_COOP").is_ok_and(|v| v == "1")
}

/// How every kernel and variant on a device compares with its twin. A run for matrix units compares those variants that use
/// them; `WGPT_KERNELS`, names with blanks between them, picks some of the kernels, for whoever works on them.
fn compared(device: &Device) -> Vec<Row> {
    let names = std::env::var("WGPT_KERNELS").ok();
    if names.is_none() && !wants_matrix_units() {
        return verify::verify(device, None).unwrap();
    }
    let kernel = |name: &str| -> &'static Kernel {
        ALL.iter().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no kernel {name}"))
    };
    let kernels: Vec<&'static Kernel> = match &names {
        Some(names) => names.split_whitespace().map(kernel).collect(),
        None => ALL.to_vec(),
    };
    let is_wanted = |variant: &&Variant| !wants_matrix_units() || variant.uses_matrix_units();
    let cases = verify::all_cases(device);
    let rows = kernels.into_iter().flat_map(|kernel| {
        let variants = kernel.variants.iter().filter(is_wanted);
        let row = |v: &Variant| verify::verify_variant(device, v.name, kernel, &cases).unwrap();
        variants.filter_map(row).collect::<Vec<Row>>()
    });
    let rows: Vec<Row> = rows.collect();
    assert!(!rows.is_empty(), "WGPT_KERNELS={names:?} names no kernel");
    rows
}

/// Asserts that every kernel and variant on a device does what its twin does.
fn agrees(device: Option<&'static Arc<GpuDevice>>) {
    let Some(device) = device else { return };
    let rows = compared(&Device::Gpu(Arc::clone(device)));
    for row in &rows {
        println!("{:32} {:4} {:9.2e} {}", row.name(), row.dispatches, row.error, row.place);
    }
    let wrong: Vec<_> = rows.iter().filter(|row| !row.passes()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn gpu_agrees_with_the_twins() {
    agrees(gpu());
}

#[test]
fn gpu_with_all_it_has_agrees_with_the_twins() {
    agrees(full_gpu());
}

#[test]
fn gpu_without_checks_agrees_with_the_twins() {
    agrees(unchecked_gpu());
}

#[test]
fn gpu_with_all_it_has_has_matrix_units_where_they_are_asked_for() {
    if wants_matrix_units() {
        let device = full_gpu().expect("WGPT_REQUIRE_COOP=1 wants a GPU");
        assert!(
            device.has().matrices != Matrices::NONE,
            "WGPT_REQUIRE_COOP=1, but {device:?} has none"
        );
    }
}

#[test]
fn a_wrong_twin_is_found_and_blamed() {
    let Some(device) = gpu() else { return };
    for kernel in ["softmax_backward", "matmul_tn", "linear_backward_params"] {
        let device = Device::Gpu(Arc::clone(device));
        let mut rows = verify::rows(&device);
        for case in verify_cases::all().into_iter().filter(|case| case.name.ends_with("primes")) {
            verify::run(&case, &device, Some(kernel), &mut rows).unwrap();
        }
        for row in rows.iter().filter(|row| row.dispatches > 0) {
            assert_eq!(row.passes(), row.kernel != kernel, "{kernel} is spoiled: {row:?}");
        }
        assert!(rows.iter().any(|row| row.kernel == kernel && row.dispatches > 0), "{kernel}");
    }
}

/// Also where what it should write stands there already, from an earlier run.
#[test]
fn a_kernel_that_leaves_out_what_it_writes_does_not_pass() {
    static LAZY: Kernel =
        Kernel { twin: Twin { f32: |_, _, _| (), f64: |_, _, _| () }, cpu: None, ..cast::FORWARD };
    let plan_with = |kernel: &'static Kernel| {
        let mut plan = Plan::default();
        let [x, out] = ["x", "out"].map(|n| plan.buffer(Role::Activations, n, 5, Format::F32));
        plan.push(kernel, Dims { N: 5, ..Dims::default() }, &[x, out]);
        (Arc::new(plan), x)
    };
    let (plan, x) = plan_with(&cast::FORWARD);
    let mut reference = Cpu::<f32>::new(Arc::clone(&plan), Use::Twins);
    reference.write(x, &[1.0, -2.0, 3.0, 0.5, 0.0]);
    let mut errors = vec![];
    for kernel in [&cast::FORWARD, &LAZY] {
        let mut subject = Cpu::<f32>::new(plan_with(kernel).0, Use::Twins);
        let step = Step::default();
        let seen = |found: Comparison| errors.push(found.error);
        lockstep(&plan, 0..1, &step, &mut reference, &mut subject, seen).unwrap();
    }
    assert_eq!(errors, [0.0, f32::INFINITY]);
}

/// A grid is folded into rows of 65,535 workgroups.
#[test]
fn more_workgroups_than_one_row_of_a_grid_do_all_their_work() {
    let Some(device) = gpu() else { return };
    let len = 256 * (grid::LARGEST as usize + 3) - 5;
    let mut plan = Plan::default();
    let [x, out] = ["x", "out"].map(|n| plan.buffer(Role::Activations, n, len, Format::F32));
    plan.push(&cast::FORWARD, Dims { N: len as u32, ..Dims::default() }, &[x, out]);
    let mut gpu = Gpu::new(device, Arc::new(plan)).unwrap();
    let numbers: Vec<f32> = (1..=len).map(|i| i as f32).collect();
    gpu.write(x, &numbers);
    gpu.run(0..1, &Step::default());
    let mut copied = vec![0.0; len];
    gpu.read(out, &mut copied).unwrap();
    assert_eq!(copied.iter().zip(&numbers).position(|(got, want)| got != want), None);
}

#[test]
fn a_kernel_that_was_not_run_does_not_pass() {
    assert!(verify::rows(&Device::Cpu).iter().all(|row| !row.passes()));
}

/// What a case leaves in its buffers where it runs the variant `name`, bit by bit.
fn bits(device: &Arc<GpuDevice>, case: &Case, name: &str) -> Vec<u32> {
    let mut gpu = Gpu::with(device, Arc::clone(&case.plan), Choice::Named(name)).unwrap();
    verify_cases::fill_random(case, &mut gpu, 7);
    case.runs.iter().for_each(|run| run.on(&mut gpu));
    let mut bits = vec![];
    for (buffer, spec) in case.plan.buffers.iter().enumerate() {
        let view = View { buffer, start: 0, len: spec.len, format: spec.format };
        let start = bits.len();
        bits.resize(start + spec.len, 0);
        if spec.format == Format::U32 {
            gpu.read_u32(view, &mut bits[start..]).unwrap();
        } else {
            gpu.read(view, bytemuck::cast_slice_mut(&mut bits[start..])).unwrap();
        }
    }
    bits
}

#[test]
fn the_same_run_gives_the_same_bits() {
    let Some(device) = gpu() else { return };
    let case = verify_cases::all().into_iter().find(|case| case.name == "primes").unwrap();
    assert!(bits(device, &case, "") == bits(device, &case, ""));
}

/// What takes too long for one submission is cut; here that is every workgroup.
#[test]
fn dispatches_in_parts_give_the_same_bits() {
    let Some(whole) = full_gpu() else { return };
    let setup = Setup { submission: Duration::from_nanos(1), ..Setup::default() };
    let parts = gpu_with(setup).unwrap();
    let wanted = ["fours", "attention, heads of 64", "products of large tiles"];
    for case in verify_cases::all().into_iter().filter(|case| wanted.contains(&case.name.as_str()))
    {
        let dispatches = case.plan.dispatches.iter();
        let names: BTreeSet<&str> =
            dispatches.flat_map(|d| candidates(whole.has(), d)).map(|v| v.name).collect();
        for name in names {
            let same = bits(&parts, &case, name) == bits(whole, &case, name);
            assert!(same, "{}, variant {name:?}", case.name);
        }
    }
}

/// What a shader reads of its place in the grid, it reads through what knows of parts.
#[test]
fn shaders_know_of_parts() {
    for (file, kernel, variant) in variants() {
        let text = variant.source(kernel.args, &precisions(kernel, variant)[0]);
        // `group.xy` is where it is found out.
        let text = text.replace("group.xy", "");
        for direct in ["group.x", "group.y", "num_workgroups", "global_invocation_id"] {
            assert!(!text.contains(direct), "{file}: {direct}");
        }
    }
}
