//! Do shaders stay within what is bound to them?
//!
//! Optimised builds compile them without checks, and a value that was read outside of a buffer may be thrown away at
//! once, as that of a masked row is: then no comparison of results sees it. So every variant runs here from its own text
//! with each index of a buffer replaced by `watch(index, length, number)`, which notes what is outside of what is
//! bound. Bindings end at whole vectors of 16 bytes, and so does what is let through.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wgpt::GptConfig;
use wgpt::backend::Backend;
use wgpt::backend::gpu::{Choice, Gpu, GpuDevice, candidates, choose};
use wgpt::check::stored_cases;
use wgpt::check::verify_cases::{self, Run};
use wgpt::config::Optimizer;
use wgpt::kernel::{Arg, Draw, Feed, Format, Kernel, Step, Variant, WEIGHTS, changes_u32};
use wgpt::model::{EXTENDS, Program, Uses};
use wgpt::ops::cross_entropy::IGNORE;
use wgpt::plan::{Dispatch, Limits, Phase, Plan, Role, View};

use crate::common::new_gpu;

/// The buffers that every device can bind to a shader at once; one of them holds what is noted.
const MOST_BUFFERS: usize = 8;

/// Dispatches of a plan, each range with its step and its tables.
type Runs = Vec<Run>;

/// Whether a character is of a name.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The names that a text declares other than as buffers: variables and parameters.
fn declared(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.contains("@binding"));
    let code = lines.map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|code| {
        let before_colon = code.match_indices(':').map(|(at, _)| &code[..at]);
        let last_word = |text| str::rsplit(text, |c| !is_word(c)).next();
        let parameters = before_colon.filter_map(last_word);
        let words: Vec<&str> =
            code.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
        let variables = words.windows(2).filter(|pair| ["let", "var", "const"].contains(&pair[0]));
        let variables: Vec<&str> = variables.map(|pair| pair[1]).collect();
        parameters.chain(variables).collect::<Vec<_>>()
    })
    .collect()
}

/// Where the bracket that opens at the beginning of `text` is closed.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    let close = text.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '[') - i32::from(*c == ']');
        depth == 0
    });
    close.expect("brackets are in pairs").0
}

/// A text with every index of these buffers watched.
fn watched_text(text: &str, names: &[(&str, usize)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            let (comment, after) = rest.split_at(rest.find('\n').unwrap_or(rest.len()));
            (out, rest) = (out + comment, after);
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len()).max(first.len_utf8());
        let (word, after) = rest.split_at(end);
        (out, rest) = (out + word, after);
        let buffer = names.iter().find(|(name, _)| *name == word);
        if let Some((name, number)) = buffer.filter(|_| rest.starts_with('[')) {
            let (index, after) = rest.split_at(closing(rest));
            let index = watched_text(&index[1..], names);
            out += &format!("[watch({index}, arrayLength(&{name}), {number}u)");
            rest = after;
        }
    }
    out
}

/// What notes an access: how many were outside, the largest index, and the arguments, a bit each.
fn note(binding: usize) -> String {
    format!(
        "@group(0) @binding({binding}) var<storage, read_write> outside: array<atomic<u32>, 3>;
        fn watch(index: u32, length: u32, number: u32) -> u32 {{
            if index >= length {{
                atomicAdd(&outside[0], 1u);
                atomicMax(&outside[1], index);
                atomicOr(&outside[2], 1u << number);
            }}
            return min(index, length - 1u);
        }}\n"
    )
}

/// The kernel, the variant, and the format of a matrix that is read through integers.
type Shader = (&'static str, &'static str, Option<Format>);

/// A kernel of one variant alone, which notes in a last argument what it accesses outside of the others.
fn watched(
    kernel: &'static Kernel,
    variant: &'static Variant,
    coded: Option<Format>,
) -> &'static Kernel {
    static MADE: OnceLock<Mutex<HashMap<Shader, &'static Kernel>>> = OnceLock::new();
    let mut made = MADE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((kernel.name, variant.name, coded)).or_insert_with(|| {
        let names: Vec<(&str, usize)> =
            kernel.args.iter().enumerate().map(|(i, arg)| (arg.name, i)).collect();
        let own = declared(variant.wgsl);
        assert!(names.iter().all(|(name, _)| !own.contains(name)), "{}: {own:?}", kernel.name);
        let text = |text: &'static str| -> &'static str {
            let local = declared(text);
            let seen: Vec<_> = names.iter().copied().filter(|(n, _)| !local.contains(n)).collect();
            Box::leak(watched_text(text, &seen).into_boxed_str())
        };
        let note: &'static str = Box::leak(note(kernel.args.len() + 1).into_boxed_str());
        // A matrix is read by a text that its format has; here the watched one comes instead.
        let stored = kernel.args.iter().filter(|arg| arg.is_stored).map(|arg| -> &'static str {
            let wgsl = coded.unwrap_or(Format::F32).stored_wgsl();
            text(wgsl.replace("MATRIX", arg.name).leak())
        });
        let shared = variant.shared.iter().map(|shared| text(shared));
        let shared: Vec<&'static str> = shared.chain(stored).chain([note]).collect();
        let variant = Variant { wgsl: text(variant.wgsl), shared: shared.leak(), ..*variant };
        let args = kernel.args.iter().map(|arg| Arg { is_stored: false, ..*arg });
        let args: Vec<Arg> = args.chain([changes_u32("outside")]).collect();
        Box::leak(Box::new(Kernel {
            name: Box::leak(format!("watched {}", kernel.name).into_boxed_str()),
            args: args.leak(),
            twin: kernel.twin,
            cpu: None,
            flops: kernel.flops,
            tolerance: kernel.tolerance,
            variants: vec![variant].leak(),
        }))
    })
}

/// Runs the dispatches of `runs` that the variant `name` is for and that are `wanted`, and tells what they access outside of
/// their buffers.
fn outside(
    device: &Arc<GpuDevice>,
    plan: &Plan,
    runs: &Runs,
    name: &str,
    wanted: &mut dyn FnMut(&Dispatch, &Variant) -> bool,
    fill: &dyn Fn(&mut Gpu),
) -> Vec<String> {
    let (buffers, constants) = (plan.buffers.clone(), plan.constants.clone());
    let mut watching = Plan { buffers, constants, ..Plan::default() };
    let noted = watching.buffer(Role::Staging, "outside", 3, Format::U32);
    let mut steps = vec![];
    for run in runs {
        for dispatch in &plan.dispatches[run.range.clone()] {
            let variant = choose(Choice::Named(name), device.has(), dispatch);
            let is_watched = variant.name == name && dispatch.args.len() < MOST_BUFFERS;
            if is_watched && wanted(dispatch, variant) {
                let args = [&dispatch.args[..], &[noted]].concat();
                let kernel = watched(dispatch.kernel, variant, dispatch.coded());
                watching.push(kernel, dispatch.dims, &args);
                steps.push(run);
            }
        }
    }
    if steps.is_empty() {
        return vec![];
    }
    let watching = Arc::new(watching);
    let mut gpu = Gpu::new(device, Arc::clone(&watching)).expect("the device holds it");
    fill(&mut gpu);
    let mut found = vec![];
    for (i, run) in steps.into_iter().enumerate() {
        run.prepare(&mut gpu);
        gpu.run(i..i + 1, &run.step);
        let mut words = [0; 3];
        gpu.read_u32(noted, &mut words).expect("the device is there");
        let [count, largest, args] = words;
        if count > 0 {
            let dispatch = &watching.dispatches[i];
            let all = dispatch.kernel.args.iter().enumerate();
            let args: Vec<&str> =
                all.filter(|(i, _)| args >> i & 1 == 1).map(|(_, a)| a.name).collect();
            found.push(format!(
                "{} {name}: {count} times in {args:?}, at {largest}; tables {:?};{}",
                dispatch.kernel.name, run.tables, dispatch.dims
            ));
            gpu.write_u32(noted, &[0; 3]);
        }
    }
    found
}

/// The same for all variants that a plan can run.
fn all_outside(
    device: &Arc<GpuDevice>,
    plan: &Plan,
    runs: &Runs,
    wanted: &mut dyn FnMut(&Dispatch, &Variant) -> bool,
    fill: &dyn Fn(&mut Gpu),
) -> Vec<String> {
    let dispatches = runs.iter().flat_map(|run| &plan.dispatches[run.range.clone()]);
    let names: BTreeSet<&str> = dispatches
        .flat_map(|dispatch| candidates(device.has(), dispatch))
        .map(|v| v.name)
        .collect();
    names.into_iter().flat_map(|name| outside(device, plan, runs, name, wanted, fill)).collect()
}

/// The models and ops that `verify` compares: every kernel and variant in the first two cases that run it, which are one of
/// sizes 1 and one of primes, where they fit. In half precision the lengths of the buffers differ and no index does, so that
/// the portable variants are enough there, and those that have no other precision; so they are for matrices that are read
/// through integers, where the indices within a vector of four numbers differ.
#[test]
fn every_kernel_stays_within_its_buffers() {
    // Shaders with this many checks compile slowly, and a software driver compiles one at a time for each device.
    let Some(device) = &new_gpu(None) else { return };
    let mut cases_by_shader: HashMap<_, BTreeSet<String>> = HashMap::new();
    let coded = WEIGHTS.iter().filter(|format| format.is_coded());
    let coded = coded.flat_map(|format| stored_cases::all(*format));
    for case in verify_cases::all().into_iter().chain(coded) {
        let halved = device.has().f16.then(|| verify_cases::halved(&case, Format::F16));
        for case in [case].into_iter().chain(halved) {
            let mut wanted = |dispatch: &Dispatch, variant: &Variant| {
                let (has_half, coded) = (dispatch.has_half(), dispatch.coded());
                let shader = (dispatch.kernel.name, variant.name, has_half, coded);
                let is_other = has_half || coded.is_some();
                if is_other && !variant.name.is_empty() && !variant.needs.f16 {
                    return false;
                }
                let cases = cases_by_shader.entry(shader).or_default();
                cases.contains(&case.name) || (cases.len() < 2 && cases.insert(case.name.clone()))
            };
            let fill = |gpu: &mut Gpu| verify_cases::fill_random(&case, gpu, 1);
            let found = all_outside(device, &case.plan, &case.runs, &mut wanted, &fill);
            assert!(found.is_empty(), "{}:\n{}", case.name, found.join("\n"));
        }
    }
    for kernel in wgpt::ops::ALL.iter().filter(|kernel| kernel.args.len() < MOST_BUFFERS) {
        for variant in kernel.variants.iter().filter(|v| v.needs.within(device.has())) {
            let seen = |half, coded| {
                cases_by_shader.contains_key(&(kernel.name, variant.name, half, coded))
            };
            let is_seen = seen(false, None) || seen(true, None);
            assert!(is_seen, "{} {} is watched", kernel.name, variant.name);
            if variant.name.is_empty() && kernel.args.iter().any(|arg| arg.is_stored) {
                let mut coded = WEIGHTS.iter().filter(|format| format.is_coded());
                assert!(coded.all(|format| seen(false, Some(*format))), "{}", kernel.name);
            }
        }
    }
}

/// One kernel is not watched, since it has as many buffers as every device can bind; all its indices are of `Dims`.
#[test]
fn all_kernels_but_one_are_watched() {
    let whole = wgpt::ops::ALL.iter().filter(|kernel| kernel.args.len() >= MOST_BUFFERS);
    let names: Vec<&str> = whole.map(|kernel| kernel.name).collect();
    assert_eq!(names, ["residual_layernorm_forward"]);
}

/// Whether indices of a kernel follow from what the host writes between replays: ids, rows, slots.
fn follows_the_host(kernel: &Kernel) -> bool {
    kernel.args.iter().any(|arg| arg.accepts(Format::U32))
}

/// A replay of `n` rows that feeds the slots so, and the draws after it.
fn replay(program: &Program, n: u32, feeds: &[Feed]) -> Runs {
    let tables = program.generation.expect("recorded for generation").tables(n, feeds);
    let run = |phase| Run {
        range: program.plan.phase(phase),
        step: Step::default(),
        tables: tables.clone(),
    };
    vec![run(Phase::Extend(n)), run(Phase::Sample)]
}

/// What an engine replays for prompts of every length in a context, and for the token after them, in either slot.
fn sound_runs(program: &Program, context: u32) -> Runs {
    let mut runs: Runs = [Phase::Forward, Phase::Evaluate, Phase::Backward]
        .map(|phase| program.plan.phase(phase))
        .map(|range| Run::new(range, Step { dropout: 1 << 30, ..Step::default() }))
        .into();
    let context = context as usize;
    for length in [1, 2, 8, 9, 16, 63, 64, 65].into_iter().filter(|length| *length <= context) {
        let mut position = 0;
        while position < length {
            let left = length - position;
            let n = EXTENDS.into_iter().rev().find(|n| *n as usize >= left).unwrap_or(EXTENDS[0]);
            let count = left.min(n as usize);
            let draw = (count == left).then(Draw::default);
            runs.extend(replay(program, n, &[Feed { slot: length % 2, position, count, draw }]));
            position += count;
        }
    }
    // The last places of the context, each in the largest replay.
    for count in [1, 7] {
        let draw = Some(Draw::default());
        let feeds = [0, 1].map(|slot| Feed { slot, position: context - count, count, draw });
        for n in EXTENDS.into_iter().filter(|n| *n as usize >= 2 * count) {
            runs.extend(replay(program, n, &feeds));
        }
        runs.extend(EXTENDS[..2].iter().flat_map(|n| replay(program, *n, &feeds[1..])));
    }
    runs
}

/// The same with slots, positions and rows that are none.
fn unsound_runs(program: &Program, context: u32) -> Runs {
    let mut runs = sound_runs(program, context);
    let views = program.generation.expect("recorded for generation");
    let positions = [context - 1, context, context + 5, 1 << 20, 1 << 31, u32::MAX - 3];
    let places = positions.into_iter().flat_map(|p| [0, 1, 2, 1 << 30, u32::MAX].map(|s| [s, p]));
    let rows: Vec<u32> = places.flatten().collect();
    for (n, at) in [(64, 0), (8, 0), (8, 18), (8, 34), (1, 2), (1, 22)] {
        for drawn in [0, 1, n - 1, n, 64, u32::MAX] {
            let mut rows = rows[at..].to_vec();
            rows.resize(2 * n as usize, 7);
            let slots = [drawn, drawn / 2].map(|row| Draw::default().words(row)).concat();
            let tables = vec![(views.rows.slice(0, rows.len()), rows), (views.slots, slots)];
            let run = |phase| Run {
                range: program.plan.phase(phase),
                step: Step::default(),
                tables: tables.clone(),
            };
            runs.extend([Phase::Extend(n), Phase::Sample].map(run));
        }
    }
    runs
}

fn program(context: u32, vocab_size: usize) -> Program {
    let config = GptConfig {
        n_layer: 1,
        n_head: 2,
        n_embd: 8,
        vocab_size,
        n_positions: context as usize,
        ..GptConfig::small()
    };
    let (training, seq) = (Some(Optimizer::Adamw), context as usize);
    let uses = Uses { batch: 2, seq, training, generation: Some(2), ..Uses::default() };
    // Slices of the token table, the last of them smaller.
    let limits = Limits { binding_bytes: 16 * 8 * 4, buffer_bytes: 64 << 10, ..Limits::NONE };
    let limits = if context == 17 { limits } else { Limits::NONE };
    Program::record(&config, uses, limits)
}

/// What the programs above access outside where their buffers of tokens and targets hold these ids in turn.
fn outside_with(
    device: &Arc<GpuDevice>,
    program: &Program,
    runs: &Runs,
    ids: &[u32],
) -> Vec<String> {
    let (batch, generation) = (program.batch.unwrap(), program.generation.unwrap());
    let fill = |gpu: &mut Gpu| {
        let mut write = |view: View, skip: usize| {
            let ids: Vec<u32> = ids.iter().copied().cycle().skip(skip).take(view.len).collect();
            gpu.write_u32(view, &ids);
        };
        write(batch.tokens, 0);
        write(batch.targets, 1);
        write(generation.sequence, 2);
    };
    // The others are the first test's.
    let runs = kept(program, runs, follows_the_host);
    all_outside(device, &program.plan, &runs, &mut |_, _| true, &fill)
}

/// The runs of those dispatches alone whose kernel is to be kept.
fn kept(program: &Program, runs: &Runs, keep: impl Fn(&Kernel) -> bool) -> Runs {
    let dispatches = &program.plan.dispatches;
    let mut kept = vec![];
    for run in runs {
        let indices = run.range.clone().filter(|index| keep(dispatches[*index].kernel));
        kept.extend(indices.map(|index| Run { range: index..index + 1, ..run.clone() }));
    }
    kept
}

/// A kernel whose shaders have another text in the place of a guard.
fn unguarded(kernel: &'static Kernel, guard: &str, other: &str) -> &'static Kernel {
    let without = |variant: &Variant| {
        assert!(variant.wgsl.contains(guard), "{} {} has a guard", kernel.name, variant.name);
        Variant { wgsl: variant.wgsl.replace(guard, other).leak(), ..*variant }
    };
    let variants: Vec<Variant> = kernel.variants.iter().map(without).collect();
    Box::leak(Box::new(Kernel {
        name: format!("{} without {guard}", kernel.name).leak(),
        args: kernel.args,
        twin: kernel.twin,
        cpu: None,
        flops: kernel.flops,
        tolerance: kernel.tolerance,
        variants: variants.leak(),
    }))
}

/// The same runs as below find what each guard is for, where it is missing.
#[test]
fn a_missing_guard_is_seen() {
    let Some(device) = &new_gpu(None) else { return };
    let guards = [
        ("embedding_forward", "id >= dims.V", "id == 0xffffffffu", false),
        ("embedding_extend_forward", "!place.inside", "row == 0xffffffffu", true),
        ("embedding_extend_forward", "id >= dims.V", "id == 0xffffffffu", false),
        ("cross_entropy_forward", "target_id >= dims.V", "target_id == 0xffffffffu", false),
        ("attention_extend_store", "!place.inside", "t == 0xffffffffu", true),
        (
            "attention_extend_forward",
            "place.inside)",
            "place.slot < 2u && place.position < 64u)",
            false,
        ),
        ("head_forward", "!draws(slot)", "slot == 0xffffffffu", true),
        ("sample_draw", "!draws(slot)", "slot == 0xffffffffu", true),
        ("sample_draw", "!place.inside", "slot == 0xffffffffu", false),
    ];
    for (name, guard, other, sound) in guards {
        let mut program = program(16, 21);
        let mut variants = BTreeSet::new();
        for dispatch in
            Arc::make_mut(&mut program.plan).dispatches.iter_mut().filter(|d| d.kernel.name == name)
        {
            variants.extend(candidates(device.has(), dispatch).map(|variant| variant.name));
            dispatch.kernel = unguarded(dispatch.kernel, guard, other);
        }
        let (ids, runs) = match sound {
            true => ((0..21).collect(), sound_runs(&program, 16)),
            false => (vec![1 << 20, 21, 0], unsound_runs(&program, 16)),
        };
        // What is drawn from is filtered before.
        let runs = kept(&program, &runs, |kernel| {
            kernel.name.contains(" without ") || kernel.name == "sample_filter"
        });
        let found = outside_with(device, &program, &runs, &ids);
        for variant in variants {
            let line = format!("watched {name} without {guard} {variant}:");
            assert!(found.iter().any(|found| found.starts_with(&line)), "{line} {found:?}");
        }
    }
}

/// Contexts that are no multiple of a replay's length: past their end masked rows have neither a token nor a position.
#[test]
fn generation_stays_within_any_context() {
    let Some(device) = &new_gpu(None) else { return };
    for context in [16, 17, 63, 65] {
        let program = program(context, 21);
        let ids: Vec<u32> = (0..21).collect();
        let found = outside_with(device, &program, &sound_runs(&program, context), &ids);
        assert!(found.is_empty(), "a context of {context}:\n{}", found.join("\n"));
    }
}

/// Ids, positions and counts that no caller should give: [`wgpt::engine::Engine`] refuses them, and no shader follows them.
#[test]
fn what_is_no_token_leads_nowhere() {
    let Some(device) = &new_gpu(None) else { return };
    for (context, vocab) in [(16, 21), (17, 40), (65, 24)] {
        let program = program(context, vocab as usize);
        // Past the vocabulary: what pads a row of logits, the next row, and far away.
        let ids = [vocab, vocab + 1, vocab + 3, vocab + 4, 1 << 20, 1 << 31, IGNORE - 1, IGNORE, 0];
        let found = outside_with(device, &program, &unsound_runs(&program, context), &ids);
        assert!(found.is_empty(), "a context of {context}:\n{}", found.join("\n"));
    }
}
