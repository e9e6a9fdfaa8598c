//! Is a run over conversations like any other: learned from, resumed to the bit, the same on several ranks?

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use wgpt::backend::Device;
use wgpt::chat::Long;
use wgpt::train::{Changes, Resumed, RunSettings, resume_on, start};
use wgpt::{Error, Event, Summary, TrainConfig};

use crate::ranks::{assert_alike, begin};
use crate::training::{Place, assert_same, go_on, run_until, train};

/// Writes conversations to a file of this name.
fn chats(place: &Place, name: &str, count: usize) -> String {
    let line = |i: usize| {
        let reply = ["Yes.", "No, not at all.", "Maybe"][i % 3];
        json!({"messages": [
            {"role": "user", "content": format!("Is {i} it?")},
            {"role": "assistant", "content": reply},
        ]})
        .to_string()
    };
    let path = place.path(name);
    fs::write(&path, (0..count).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    path.to_string_lossy().into_owned()
}

/// A run over conversations with dropout, accumulation, evaluations and saves.
fn settings(place: &Place) -> RunSettings {
    let mut settings = place.settings();
    settings.data = vec![chats(place, "chats.jsonl", 24)];
    settings.model.n_positions = 64;
    settings
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_run_learns_and_says_what_became_of_its_conversations() {
    let place = Place::new();
    let mut settings = settings(&place);
    settings.train.max_iters = 40;
    let mut notes = vec![];
    let mut trainer = start(&settings, Device::Cpu, &mut |event| {
        if let Event::Note(note) = event {
            notes.push(note.clone());
        }
    })
    .unwrap();
    let summary = trainer.run(&mut |_| {}).unwrap();
    drop(trainer);
    let counts = summary.conversations.unwrap().training;
    assert_eq!((counts.conversations, counts.cut, counts.too_long), (24, 0, 0));
    assert!(notes.contains(&counts.to_string()), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("the plain chat template")), "{notes:?}");
    // Random bytes have a loss of 5.5; the replies are three.
    assert!(summary.val_loss.unwrap() < 3.5, "{:?}", summary.val_loss);
    // The model says how it is to be talked to, and the run what it was given.
    let template = fs::read_to_string(place.run().join("best/chat_template.jinja")).unwrap();
    assert!(template.contains("'Assistant:'"), "{template}");
    assert_eq!(json_of(&place.run().join("conversations.json"))["training"]["conversations"], 24);
    // Finished once more, it still knows.
    let again = go_on(&place.run(), &Device::Cpu).unwrap();
    assert_eq!(again.conversations.unwrap().training, counts);
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    let (whole, halves) = (Place::new(), Place::new());
    train(&settings(&whole), &Device::Cpu).unwrap();
    let mut trainer = start(&settings(&halves), Device::Cpu, &mut |_| {}).unwrap();
    assert!(!run_until(&mut trainer, 7).unwrap().finished);
    drop(trainer);
    // What it was trained on may be gone.
    fs::remove_file(halves.path("chats.jsonl")).unwrap();
    assert!(go_on(&halves.run(), &Device::Cpu).unwrap().finished);
    assert_same(&halves.run(), &whole.run(), "resumed");
}

#[test]
fn several_ranks_and_stages_do_as_one() {
    let exact = |place: &Place| {
        let mut settings = settings(place);
        settings.train.sum = wgpt::config::Sum::Exact;
        settings.train.grad_accum = 4;
        settings.train.max_iters = 6;
        settings
    };
    let alone = Place::new();
    train(&exact(&alone), &Device::Cpu).unwrap();
    let two = Place::new();
    begin(&exact(&two), 2, &Device::Cpu).unwrap();
    assert_same(&two.run(), &alone.run(), "two ranks");
    let stages = Place::new();
    let mut staged = exact(&stages);
    staged.train.pipeline = 2;
    begin(&staged, 2, &Device::Cpu).unwrap();
    assert_alike(&stages.run(), &alone.run(), 1e-4, "two stages");
}

#[test]
fn validation_data_are_validated_on() {
    let place = Place::new();
    let mut settings = settings(&place);
    settings.val_data = vec![chats(&place, "held-out.jsonl", 5)];
    let summary = train(&settings, &Device::Cpu).unwrap();
    let conversations = summary.conversations.unwrap();
    assert_eq!(conversations.training.conversations, 24);
    assert_eq!(conversations.validation.unwrap().conversations, 5);
    assert!(go_on(&place.run(), &Device::Cpu).unwrap().finished);
    // Texts have them, too.
    let texts = Place::new();
    fs::write(texts.path("held-out.txt"), "It was held out, all of it, and some more.").unwrap();
    let mut settings = texts.settings();
    settings.val_data = vec![texts.path("held-out.txt").to_string_lossy().into_owned()];
    let mut lengths = (0, 0);
    let mut trainer = start(&settings, Device::Cpu, &mut |_| {}).unwrap();
    trainer
        .run(&mut |event| {
            if let Event::Started { train_tokens, val_tokens, .. } = event {
                lengths = (*train_tokens, *val_tokens);
            }
        })
        .unwrap();
    drop(trainer);
    let bytes = fs::metadata(texts.path("text.txt")).unwrap().len() as usize;
    assert_eq!(lengths, (bytes, 42));
    assert!(go_on(&texts.run(), &Device::Cpu).unwrap().finished);
    // Of the other kind they are refused.
    let mixed = Place::new();
    let mut settings = mixed.settings();
    settings.val_data = vec![chats(&mixed, "held-out.jsonl", 5)];
    let said = train(&settings, &Device::Cpu).unwrap_err().to_string();
    assert!(said.contains("data and val_data are of different kinds"), "{said}");
}

#[test]
fn long_conversations_are_counted() {
    for (long, cut, dropped) in [(Long::Cut, 1, 0), (Long::Drop, 0, 1)] {
        let place = Place::new();
        let settings = RunSettings { long, ..settings(&place) };
        let turns: Vec<Value> = (0..8)
            .map(|i| json!({"from": if i % 2 == 0 { "human" } else { "gpt" }, "value": format!("turn {i}")}))
            .collect();
        let mut text = fs::read_to_string(place.path("chats.jsonl")).unwrap();
        text += &format!("\n{}\n", json!({"conversations": turns}));
        fs::write(place.path("chats.jsonl"), text).unwrap();
        let counts = train(&settings, &Device::Cpu).unwrap().conversations.unwrap().training;
        assert_eq!((counts.conversations, counts.cut, counts.too_long), (24 + cut, cut, dropped));
    }
}

/// Goes on with a run made longer.
fn lengthen(run: &Path, max_iters: usize) -> Result<Summary, Error> {
    let changes = Changes { max_iters: Some(max_iters), ..Changes::default() };
    match resume_on(run, 1, changes, |_| Ok(Device::Cpu), &mut |_| {})? {
        Resumed::Running(mut trainer) => trainer.run(&mut |_| {}),
        Resumed::Finished(_) => panic!("it is longer now"),
    }
}

#[test]
fn a_run_is_lengthened() {
    let place = Place::new();
    let settings = place.settings();
    train(&settings, &Device::Cpu).unwrap();
    let said = lengthen(&place.run(), 12).unwrap_err().to_string();
    assert!(said.contains("max_iters is 12, must be more than 12"), "{said}");
    let summary = lengthen(&place.run(), 20).unwrap();
    assert!(summary.finished);
    assert_eq!(summary.steps, 20);
    let kept = json_of(&place.run().join("run.json"));
    assert_eq!(kept["train"]["max_iters"], 20);
    assert_eq!(kept["train"]["lengthened"], json!([{"at": 12, "max_iters": 12}]));
    // A finished run stays at the lowest rate; each update is in metrics.jsonl once.
    let metrics = fs::read_to_string(place.run().join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert!(steps.is_sorted() && *steps.last().unwrap() == 20, "{steps:?}");
    let late = lines.iter().filter(|line| line["step"].as_u64().unwrap() > 12);
    let lowest = settings.train.min_lr();
    assert!(late.clone().count() > 2);
    late.for_each(|line| assert!((line["lr"].as_f64().unwrap() - lowest).abs() < 1e-12));
    // It goes on as any run, with the same bits as one that was not interrupted.
    let twice = Place::new();
    train(&RunSettings { data: settings.data.clone(), ..twice.settings() }, &Device::Cpu).unwrap();
    let changes = Changes { max_iters: Some(20), ..Changes::default() };
    let resumed = resume_on(&twice.run(), 1, changes, |_| Ok(Device::Cpu), &mut |_| {}).unwrap();
    let Resumed::Running(mut trainer) = resumed else { panic!("it is longer now") };
    run_until(&mut trainer, 15).unwrap();
    drop(trainer);
    assert!(go_on(&twice.run(), &Device::Cpu).unwrap().finished);
    assert_same(&twice.run(), &place.run(), "stopped after it was lengthened");
}

#[test]
fn the_rate_of_a_lengthened_run_does_not_jump() {
    let old = TrainConfig { max_iters: 100, ..TrainConfig::default() };
    for at in [0, 2, 30, 77, 100] {
        let mut new = old.clone();
        new.lengthen(at, 260, false).unwrap();
        for iter in 0..at {
            assert_eq!(new.learning_rate_at(iter), old.learning_rate_at(iter), "{at}: {iter}");
        }
        let rates: Vec<f64> = (0..=260).map(|iter| new.learning_rate_at(iter)).collect();
        let warmup = old.warmup_iters();
        assert_eq!(new.warmup_iters(), warmup);
        // From there on it falls to the lowest, by little at a time.
        let first = at.max(warmup);
        assert!((rates[first] - old.learning_rate_at(first)).abs() < 1e-15, "{at}");
        assert!(rates[first..].is_sorted_by(|a, b| a >= b), "{at}");
        assert!(rates[first..].windows(2).all(|pair| pair[0] - pair[1] < 2e-5), "{at}");
        assert!((rates[260] - old.min_lr()).abs() < 1e-15);
        // And again.
        let mut twice = new.clone();
        twice.lengthen(200, 300, false).unwrap();
        assert_eq!(twice.learning_rate_at(150), new.learning_rate_at(150));
        assert!((twice.learning_rate_at(200) - new.learning_rate_at(200)).abs() < 1e-15);
        assert!(twice.learning_rate_at(250) >= new.learning_rate_at(250));
    }
    assert!(old.clone().lengthen(50, 100, false).is_err());
    // Going on from before an earlier change undoes it: its update comes again.
    let mut undone = old.clone();
    undone.lengthen(60, 260, false).unwrap();
    undone.lengthen(90, 300, false).unwrap();
    undone.lengthen(40, 400, false).unwrap();
    let changes: Vec<_> = undone.lengthened.iter().map(|c| (c.at, c.max_iters)).collect();
    assert_eq!((changes, undone.max_iters), (vec![(40, old.max_iters)], 400));
    let rates: Vec<f64> = (40..=400).map(|iter| undone.learning_rate_at(iter)).collect();
    assert!(rates.is_sorted_by(|a, b| a >= b));
    // What has ended early may go on to its old end.
    assert!(old.clone().lengthen(50, 100, true).is_ok());
    assert!(old.clone().lengthen(50, 50, true).is_err());
}

#[test]
fn a_run_ends_when_its_patience_does() {
    let place = Place::new();
    let mut settings = place.settings();
    // It never gets better: the rate is nearly nothing.
    (settings.train.learning_rate, settings.train.min_learning_rate) = (1e-30, Some(1e-30));
    (settings.train.max_iters, settings.train.eval_every, settings.train.save_every) = (40, 3, 0);
    settings.train.dropout = 0.0;
    settings.train.patience = Some(2);
    let summary = train(&settings, &Device::Cpu).unwrap();
    assert!(summary.finished && summary.ended_early, "{summary:?}");
    // The first evaluation is the best one, then two are not.
    assert_eq!(summary.steps, 9);
    assert!(place.run().join("checkpoints/step-9").is_dir());
    assert!(summary.val_loss.is_some());
    // It is over, also when it is opened again.
    let again = go_on(&place.run(), &Device::Cpu).unwrap();
    assert!(again.finished && again.ended_early);
    assert_eq!(again.steps, 9);
    // Unless it is lengthened: it then has patience again.
    let longer = lengthen(&place.run(), 40).unwrap();
    assert!(longer.ended_early);
    assert_eq!(longer.steps, 15);
    for (patience, eval_every, wanted) in [(0, 3, "patience is 0"), (1, 0, "eval_every is 0")] {
        let train = TrainConfig { patience: Some(patience), eval_every, ..TrainConfig::default() };
        let said = train.validate(&settings.model).unwrap_err().to_string();
        assert!(said.contains(wanted), "{said}");
    }
}
