//! A model whose layers lie on several ranks: does it write what the whole model writes, and measure what that measures? Ranks
//! are threads here.

use std::sync::Arc;
use std::thread;

use wgpt::backend::Device;
use wgpt::eval::{
    Cut, Perplexity, Prepared, Question, Score, Windows, continue_and_score, continue_on,
};
use wgpt::gpt::SampleEvent;
use wgpt::model::Uses;
use wgpt::plan::Role;
use wgpt::staged::{Staged, Wanted, follow, give_up};
use wgpt::{Error, GenerateOptions, Gpt, Result};

use crate::cli;
use crate::common::gpu;
use crate::ranks::ranks;
use crate::training::{Place, train};

/// A trained model of 3 layers, in its folder.
fn trained() -> Place {
    let place = Place::new();
    let mut settings = place.settings();
    (settings.model.n_layer, settings.train.max_iters) = (3, 60);
    train(&settings, &Device::Cpu).unwrap();
    place
}

fn open(place: &Place, device: &Device) -> Gpt {
    Gpt::load(&place.run(), device.clone()).unwrap()
}

/// Lets rank 0 lead as many ranks as are wanted, or another number; returns what comes out there, and the errors of the others.
fn on_ranks<T>(
    size: usize,
    device: &Device,
    gpt: &mut Gpt,
    wanted: Wanted,
    lead: impl FnOnce(&Gpt, &mut Staged) -> Result<T>,
) -> (Result<T>, Vec<Option<Error>>) {
    let mut all = ranks(size).into_iter();
    let first = all.next().expect("a rank");
    thread::scope(|scope| {
        let others = all
            .map(|rank| scope.spawn(|| follow(Box::new(rank), || Ok(device.clone())).err()))
            .collect::<Vec<_>>();
        let led = Staged::lead(gpt, Box::new(first), wanted).and_then(|mut staged| {
            let made = lead(gpt, &mut staged)?;
            staged.end().map(|()| made)
        });
        (led, others.into_iter().map(|other| other.join().expect("no panic")).collect())
    })
}

/// What comes out on rank 0, where all goes well.
fn on_stages<T>(
    stages: usize,
    device: &Device,
    gpt: &mut Gpt,
    uses: Uses,
    lead: impl FnOnce(&Gpt, &mut Staged) -> Result<T>,
) -> T {
    let wanted = Wanted { stages, uses, may_shrink: false };
    let (made, faults) = on_ranks(stages, device, gpt, wanted, lead);
    assert!(faults.iter().all(Option::is_none), "{faults:?}");
    made.unwrap()
}

/// Options of continuations that go far beyond the context of 16 tokens.
fn several_options() -> Vec<GenerateOptions> {
    let long = GenerateOptions { max_tokens: 40, ..GenerateOptions::default() };
    vec![
        GenerateOptions { temperature: 0.0, ..long.clone() },
        GenerateOptions { temperature: 0.0, repetition_penalty: 1.5, ..long.clone() },
        GenerateOptions { temperature: 0.8, top_k: 40, top_p: 0.9, seed: 3, ..long.clone() },
        GenerateOptions { temperature: 0.6, min_p: 0.05, stop: vec!["e".into()], ..long },
    ]
}

/// The texts of several continuations.
fn texts(
    count: u32,
    sample: impl FnOnce(&mut dyn FnMut(u32, SampleEvent<'_>)) -> Result<Vec<usize>>,
) -> (Vec<usize>, Vec<String>) {
    let mut texts = vec![String::new(); count as usize];
    let tokens = sample(&mut |sample, event| {
        if let SampleEvent::Text(piece) = event {
            texts[sample as usize].push_str(piece);
        }
    });
    (tokens.unwrap(), texts)
}

#[test]
fn stages_write_what_the_whole_model_writes() {
    let place = trained();
    // Prompts of one replay, of several, and of more than the context.
    for prompt in ["A", "Once upon a", "Once upon a time there was a little"] {
        for (options, count) in several_options().iter().zip([1, 1, 3, 10]) {
            let mut whole = open(&place, &Device::Cpu);
            let ids = whole.encode_prompt(prompt).unwrap();
            let want = texts(count, |seen| whole.sample_texts(&ids, options, count, seen));
            for stages in [2, 3] {
                let mut gpt = open(&place, &Device::Cpu);
                let uses = gpt.uses_of_samples(count as usize);
                let got = on_stages(stages, &Device::Cpu, &mut gpt, uses, |gpt, staged| {
                    let mut stages = staged.stages();
                    let mut sampler = gpt.sampler(&mut stages);
                    Ok(texts(count, |seen| sampler.texts(&ids, options, count, seen)))
                });
                assert_eq!(got, want, "{prompt:?}, {options:?}, {stages} stages");
            }
        }
    }
}

#[test]
fn stages_on_a_gpu_write_the_same_ids() {
    let Some(gpu) = gpu() else { return };
    let (place, device) = (trained(), Device::Gpu(Arc::clone(gpu)));
    let options = &several_options()[2];
    let mut whole = open(&place, &device);
    let want = whole.sample_ids(&[65, 66, 67], options, 3, &mut |_, _| {}).unwrap();
    let mut gpt = open(&place, &device);
    let uses = gpt.uses_of_samples(3);
    let got = on_stages(2, &device, &mut gpt, uses, |gpt, staged| {
        gpt.sampler(&mut staged.stages()).ids(&[65, 66, 67], options, 3, &mut |_, _| {})
    });
    assert_eq!(got, want);
}

/// The first tokens of the text: more than go through 3 stages in a row.
fn first_ids(place: &Place, count: usize) -> Vec<u32> {
    let text = std::fs::read_to_string(place.path("text.txt")).unwrap();
    let ids = open(place, &Device::Cpu).encode_prompt(&text).unwrap();
    ids[..count].to_vec()
}

/// The bits are the same on a CPU: a sum and the next normalisation are two kernels at the end of a stage, and one kernel
/// within it, which rounds alike.
#[test]
fn stages_measure_what_the_whole_model_measures() {
    let place = trained();
    let ids = first_ids(&place, 3000);
    for (windows, seq) in [(Windows::NonOverlapping, 16), (Windows::Sliding(5), 12)] {
        let mut whole = open(&place, &Device::Cpu);
        let engine = whole.batch_engine(3, seq).unwrap();
        let mut row = Perplexity::new(engine, None, windows).unwrap();
        row.push(&ids).unwrap();
        let want: Score = row.finish().unwrap();
        for stages in [2, 3] {
            let mut gpt = open(&place, &Device::Cpu);
            let uses = gpt.uses_of_batches(3, seq);
            let got = on_stages(stages, &Device::Cpu, &mut gpt, uses, |_, staged| {
                let mut stages = staged.stages();
                let mut row = Perplexity::new(&mut stages, None, windows)?;
                row.push(&ids)?;
                row.finish()
            });
            assert_eq!(got, want, "{windows:?}, {stages} stages");
        }
    }
}

#[test]
fn stages_choose_and_continue_as_the_whole_model_does() {
    let place = trained();
    let ids = first_ids(&place, 400);
    let cuts: Vec<Cut> = ids
        .chunks_exact(40)
        .map(|ids| Cut { prompt: ids[..10].to_vec(), reference: ids[10..].to_vec() })
        .collect();
    let options = GenerateOptions { temperature: 0.5, ..GenerateOptions::default() };
    let mut whole = open(&place, &Device::Cpu);
    let want = continue_and_score(&mut whole, &cuts, &options, &mut |_| {}).unwrap();
    let mut gpt = open(&place, &Device::Cpu);
    let uses = gpt.uses_of_samples(1);
    let got = on_stages(3, &Device::Cpu, &mut gpt, uses, |gpt, staged| {
        continue_on(&mut gpt.sampler(&mut staged.stages()), &cuts, &options, &mut |_| {})
    });
    assert_eq!((got.0.score, got.1), (want.0.score, want.1));

    let question = |(line, context): (usize, &str)| Question {
        line,
        context: context.into(),
        choices: vec!["was a cat".into(), "sat".into(), "zzz".into()],
        answer: 0,
    };
    let questions: Vec<Question> = ["Once there", "A dog", "The"]
        .into_iter()
        .zip(1..)
        .map(|(c, n)| question((n, c)))
        .collect();
    let (tokenizer, end) = (whole.tokenizer().unwrap().clone(), whole.end_of_text().clone());
    let prepared = Prepared::new(&questions, &tokenizer, &end, 16, " ").unwrap();
    let uses = whole.uses_of_batches(2, prepared.longest());
    let engine = whole.batch_engine(2, prepared.longest()).unwrap();
    let want = prepared.choose(engine, &mut |_| {}).unwrap();
    let got = on_stages(3, &Device::Cpu, &mut gpt, uses, |_, staged| {
        prepared.choose(&mut staged.stages(), &mut |_| {})
    });
    assert_eq!(got.log_likelihoods, want.log_likelihoods);
}

#[test]
fn a_stage_has_its_own_parameters_alone() {
    let place = trained();
    let mut gpt = open(&place, &Device::Cpu);
    let whole = gpt.engine().unwrap().program().plan.bytes(Role::Parameters);
    let mut gpt = open(&place, &Device::Cpu);
    let uses = gpt.uses_of_samples(1);
    let first = on_stages(3, &Device::Cpu, &mut gpt, uses, |_, staged| {
        Ok(staged.program().plan.bytes(Role::Parameters))
    });
    assert!(first < whole * 2 / 3, "the first of 3 stages takes {first} bytes of {whole}");
}

#[test]
fn a_grid_that_cannot_be_ends_all_ranks() {
    let place = trained();
    for (size, stages, says) in [
        (2, 3, "pipeline is 3, must be the number of ranks, 2"),
        (4, 2, "pipeline is 2, must be the number of ranks, 4"),
        (4, 4, "a pipeline of 4 stages is not possible, must be 1 to n_layer, 3"),
    ] {
        let mut gpt = open(&place, &Device::Cpu);
        let wanted = Wanted { stages, uses: gpt.uses_of_samples(1), may_shrink: true };
        let (made, faults) = on_ranks(size, &Device::Cpu, &mut gpt, wanted, |_, _| Ok(()));
        let error = made.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(faults.len(), size - 1);
        for fault in faults {
            assert!(fault.expect("it ends").to_string().contains("rank 0 could not load"));
        }
    }
}

#[test]
fn a_rank_without_a_device_ends_all_by_name() {
    let place = trained();
    let mut gpt = open(&place, &Device::Cpu);
    let wanted = Wanted { stages: 2, uses: gpt.uses_of_samples(1), may_shrink: true };
    let mut all = ranks(2).into_iter();
    let (first, second) = (all.next().unwrap(), all.next().unwrap());
    thread::scope(|scope| {
        let other =
            scope.spawn(|| follow(Box::new(second), || Err(Error::device("there is no GPU"))));
        let error = Staged::lead(&mut gpt, Box::new(first), wanted).err().expect("it cannot be");
        assert_eq!(error.to_string(), "the model cannot be loaded on rank 1: see its message");
        let own = other.join().unwrap().unwrap_err();
        assert_eq!(own.to_string(), "there is no GPU");
    });
}

#[test]
fn the_others_hear_that_rank_0_has_no_model() {
    let mut all = ranks(2).into_iter();
    let (mut first, second) = (all.next().unwrap(), all.next().unwrap());
    let error = thread::scope(|scope| {
        let other = scope.spawn(|| follow(Box::new(second), || Ok(Device::Cpu)).unwrap_err());
        give_up(&mut first);
        other.join().unwrap()
    });
    assert!(error.to_string().contains("rank 0 could not load the model"), "{error}");
}

/// Every command that takes the option says how many ranks it needs.
#[test]
fn one_process_is_no_pipeline() {
    let folder = cli::trained();
    for command in [
        &["generate", "--prompt", "A"][..],
        &["eval", "data.txt"],
        &["eval", "continuations", "data.txt"],
    ] {
        let mut wgpt = cli::wgpt(folder);
        let done = wgpt.args(command).args(["--pipeline", "2", "--device", "cpu"]).assert().code(2);
        let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        assert!(said.contains("--pipeline is 2, must be the number of ranks, 1"), "{said}");
        assert!(said.contains("hint: start 2 ranks"), "{said}");
    }
}

#[test]
fn one_stage_on_one_rank_is_the_whole_model() {
    let folder = cli::trained();
    let write = |more: &[&str]| {
        let mut wgpt = cli::wgpt(folder);
        let options = ["generate", "--prompt", "A", "--max-tokens", "20", "--device", "cpu"];
        let done = wgpt.args(options).args(more).assert().success();
        done.get_output().stdout.clone()
    };
    assert_eq!(write(&["--pipeline", "1"]), write(&[]));
}
