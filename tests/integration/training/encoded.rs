//! Is the same text with the same tokenizer encoded once, and never taken for another?

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use wgpt::backend::Device;
use wgpt::data::{EncodedCache, EncodedKey, Sources, Tokens, encode};
use wgpt::tokenizer::AddedAs;
use wgpt::train::{RunSettings, resume, start};
use wgpt::{Error, Event, Result, Tokenizer};

use super::{Place, assert_same, contents, go_on, run_until, train};

/// A run of this name, of two updates, with its data in the place's cache.
fn settings(place: &Place, name: &str) -> RunSettings {
    let mut settings = place.settings();
    settings.cache = Some(place.path("cache"));
    settings.train.out = Some(place.path(name));
    settings.train.max_iters = 2;
    settings
}

/// What was done to get a run's data.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    found: bool,
    encoded: bool,
    notes: Vec<String>,
}

impl Seen {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Note(note) => {
                self.found |= note.contains("found the encoded data");
                self.notes.push(note.clone());
            }
            Event::Preparing { what, .. } => self.encoded |= what.contains("encoding"),
            _ => {}
        }
    }
}

/// Begins a run and ends it at once.
fn begin(settings: &RunSettings) -> Seen {
    let mut seen = Seen::default();
    start(settings, Device::Cpu, &mut |event| seen.note(event)).unwrap();
    seen
}

/// The entries of a cache; nothing else is there.
fn entries(place: &Place) -> Vec<PathBuf> {
    let found = fs::read_dir(place.path("cache/tokens")).unwrap();
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let is_entry = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 32);
    assert!(paths.iter().all(is_entry), "{paths:?}");
    paths
}

fn ids(path: &Path) -> Vec<u8> {
    fs::read(path.join("tokens.bin")).unwrap()
}

#[test]
fn the_second_run_finds_what_the_first_encoded() {
    let place = Place::new();
    let (first, second) = (settings(&place, "a"), settings(&place, "run"));
    let seen = begin(&first);
    assert!(seen.encoded && !seen.found, "{seen:?}");
    fs::remove_dir_all(place.path("a")).unwrap();
    train(&first, &Device::Cpu).unwrap();
    // Under another name, too.
    fs::rename(place.path("text.txt"), place.path("moved.md")).unwrap();
    let moved = place.path("moved.md").to_string_lossy().into_owned();
    let seen = begin(&RunSettings { data: vec![moved], ..second });
    assert!(seen.found && !seen.encoded, "{seen:?}");
    let entry = &entries(&place)[0];
    assert!(seen.notes[0].contains(&entry.display().to_string()), "{seen:?}");
    assert_eq!(entries(&place).len(), 1);
    assert!(ids(&place.path("a")) == ids(&place.run()) && ids(entry) == ids(&place.path("a")));
    // A run's folder needs the cache no more, and is what it would be without one.
    fs::remove_dir_all(place.path("cache")).unwrap();
    assert!(go_on(&place.run(), &Device::Cpu).unwrap().finished);
    let plain = Place::new();
    train(&RunSettings { cache: None, ..settings(&plain, "run") }, &Device::Cpu).unwrap();
    assert_same(&place.run(), &plain.run(), "with and without a cache");
}

#[test]
fn another_text_tokenizer_or_kind_is_another_entry() {
    let place = Place::new();
    let path = place.path("text.txt");
    let text = fs::read(&path).unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    assert!(begin(&settings(&place, "a")).encoded);
    // One letter differs; neither the length nor the time does.
    let mut changed = text.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&path, &changed).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let seen = begin(&settings(&place, "b"));
    assert!(seen.encoded && !seen.found, "{seen:?}");
    assert_eq!(ids(&place.path("b")).len(), ids(&place.path("a")).len());
    assert!(ids(&place.path("b")) != ids(&place.path("a")));

    let trained = RunSettings { tokenizer: "train".into(), ..settings(&place, "c") };
    let mut trained = trained;
    trained.model.vocab_size = 300;
    assert!(begin(&trained).encoded);
    trained.train.out = Some(place.path("d"));
    assert!(begin(&trained).found, "a tokenizer that is trained again is the same");

    // The same bytes as text and as JSON, as one file and as two.
    let json = "{\"text\": \"Once upon a time.\"}\n".repeat(20);
    let (half, _) = json.split_at(json.len() / 2);
    for (name, bytes) in [("x.txt", &*json), ("x.json", &json), ("y0.txt", half), ("y1.txt", half)]
    {
        fs::write(place.path(name), bytes).unwrap();
    }
    let with = |name: &str, data: &[&str]| RunSettings {
        data: data.iter().map(|file| place.path(file).to_string_lossy().into_owned()).collect(),
        ..settings(&place, name)
    };
    for (name, data) in [("e", &["x.txt"][..]), ("f", &["x.json"]), ("g", &["y0.txt", "y1.txt"])] {
        let seen = begin(&with(name, data));
        assert!(seen.encoded && !seen.found, "{name}: {seen:?}");
    }
    assert!(begin(&with("h", &["x.json"])).found);
}

#[test]
fn a_damaged_entry_is_made_again_and_a_cache_that_cannot_be_written_is_no_error() {
    let place = Place::new();
    begin(&settings(&place, "first"));
    let entry = entries(&place).remove(0);
    let tokens = entry.join("tokens.bin");
    let whole = fs::read(&tokens).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (i, bytes) in [&whole[..whole.len() / 2], &flipped, b"1234"].into_iter().enumerate() {
        fs::write(&tokens, bytes).unwrap();
        let name = format!("again{i}");
        let seen = begin(&settings(&place, &name));
        assert!(seen.encoded && !seen.found, "{i}: {seen:?}");
        assert!(fs::read(&tokens).unwrap() == whole && ids(&place.path(&name)) == whole);
    }
    fs::remove_file(entry.join("about.json")).unwrap();
    assert!(begin(&settings(&place, "about")).encoded);
    assert!(begin(&settings(&place, "found")).found);
    assert_eq!(entries(&place).len(), 1);

    fs::write(place.path("file"), "no folder").unwrap();
    let unwritable =
        RunSettings { cache: Some(place.path("file")), ..settings(&place, "unwritable") };
    let seen = begin(&unwritable);
    assert!(seen.notes.iter().any(|note| note.contains("could not be kept")), "{seen:?}");
    assert!(ids(&place.path("unwritable")) == whole);
    // An error of the data is one.
    fs::write(place.path("text.txt"), b"\xFF\xFF\xFF").unwrap();
    let mut seen = Seen::default();
    let begun = start(&settings(&place, "broken"), Device::Cpu, &mut |event| seen.note(event));
    let error = begun.err().expect("no text").to_string();
    assert!(error.contains("text.txt") && error.contains("byte 0"), "{error}");
    assert!(seen.notes.is_empty(), "it is not the cache's: {seen:?}");
    assert!(!place.path("broken").exists());
    assert_eq!(entries(&place).len(), 1);
}

#[test]
fn two_at_once_write_one_whole_entry_and_a_changing_text_none() {
    let place = Place::new();
    let data = [place.path("text.txt").to_string_lossy().into_owned()];
    let (sources, tokenizer) = (Sources::parse(&data).unwrap(), Tokenizer::bytes());
    let end = tokenizer.end_of_text();
    let key = EncodedKey::new(&sources, &tokenizer, end, &mut |_| {}).unwrap();
    let cache = EncodedCache::new(&place.path("cache"));
    let make = |is_same: bool| {
        let about = (sources.name(), tokenizer.vocab_size());
        let fill = &mut |push: &mut dyn FnMut(&[u32]) -> Result<()>| {
            encode(sources.documents(), tokenizer.encoder(AddedAs::Tokens), end, push, &mut |_| {})
        };
        cache.make(key, about, fill, || Ok(is_same)).unwrap()
    };
    assert_eq!((make(false), cache.find(key)), (None, None), "it was changed meanwhile");
    assert_eq!(entries(&place).len(), 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| make(true))).collect();
        for thread in threads {
            let made = thread.join().unwrap().expect("one of them wrote it");
            assert_eq!(Some(made), cache.find(key));
        }
    });
    let found = cache.find(key).unwrap();
    let text = fs::read(place.path("text.txt")).unwrap();
    assert_eq!(Tokens::open(&found.path).unwrap().len(), text.len());
    assert_eq!(entries(&place).len(), 1);
}

/// A text whose ids, of two bytes each, are more than a run's folder has a copy of.
fn large() -> (Place, RunSettings) {
    let place = Place::new();
    fs::write(place.path("text.txt"), "Once upon a time. ".repeat((64 << 20) / 2 / 18 + 10))
        .unwrap();
    let mut settings = settings(&place, "run");
    settings.train.max_iters = 4;
    settings.train.val_tokens = Some(200);
    (place, settings)
}

/// Goes on with a stopped run, and begins to train.
fn resumed(run: &Path) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    resume(run, |_| Ok(Device::Cpu), &mut |event| seen.note(event)).map(|_| seen)
}

#[test]
fn large_data_stay_in_the_cache_and_are_made_again() {
    let (place, settings) = large();
    let run = place.path("run");
    let mut trainer = start(&settings, Device::Cpu, &mut |_| {}).unwrap();
    run_until(&mut trainer, 2).unwrap();
    drop(trainer);
    assert!(!run.join("tokens.bin").exists());
    let reference = fs::read_to_string(run.join("tokens.json")).unwrap();
    let entry = entries(&place).remove(0);
    assert!(reference.contains(&entry.display().to_string()), "{reference}");
    assert_eq!(resumed(&run).unwrap(), Seen::default(), "nothing is to be done");

    // Damaged, or gone: made again from the same text.
    let tokens = entry.join("tokens.bin");
    let file = File::options().write(true).open(&tokens).unwrap();
    file.set_len(1 << 20).unwrap();
    let seen = resumed(&run).unwrap();
    assert!(seen.encoded && seen.notes[0].contains(&tokens.display().to_string()), "{seen:?}");
    fs::remove_dir_all(place.path("cache")).unwrap();
    // From another text, or none, it is refused.
    let text = place.path("text.txt");
    fs::rename(&text, place.path("kept.txt")).unwrap();
    let error = resumed(&run).unwrap_err();
    for words in ["tokens.bin", "gone", "text.txt"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(error.advice().unwrap().contains("put the data"), "{error:?}");
    fs::write(&text, "Twice upon a time. ".repeat(100)).unwrap();
    let error = resumed(&run).unwrap_err();
    assert!(
        error.to_string().contains("text.txt") && error.to_string().contains("changed"),
        "{error}"
    );
    let before = contents(&run);
    fs::rename(place.path("kept.txt"), &text).unwrap();
    // Where the cache cannot be written any more, the run's folder has it.
    fs::remove_dir_all(place.path("cache")).unwrap();
    fs::write(place.path("cache"), "no folder").unwrap();
    let seen = resumed(&run).unwrap();
    assert!(seen.encoded && !seen.found, "{seen:?}");
    assert!(!before.contains_key("tokens.bin") && run.join("tokens.bin").is_file());
    assert!(go_on(&run, &Device::Cpu).unwrap().finished);
}
