//! Simple children's stories, any number of them, each a pure function of a seed and an index.
//!
//! A story consists of an opening, a day, the four beats of a plot ([`PLOTS`]), a lesson and an ending. Each is drawn
//! from several wordings in a small template language:
//!
//! | written | means |
//! |---|---|
//! | `{hero}` | an element of the story's cast (the hero's name, `the cat`, a place …), which stays the same |
//! | `<walked>` | a word from one of the lists, drawn anew each time |
//! | `[a\|b\|c]` | one of these |
//! | `=` | before a lesson: a general truth, told in one of several frames |
//! | `@` | `a` or `an`, depending on the next word; `the` before an animal or a thing that was mentioned before |
//!
//! The rest is plain text; sentences are capitalised at the end. Every list is drawn from uniformly, so a model learns
//! the language rather than the stories: there are far more possible stories than any corpus holds.
//!
//! ```
//! use wgpt::data::stories;
//! let story = stories::story(1, 7);
//! assert_eq!(story, stories::stories(1, 10).nth(7).unwrap());
//! assert!(story.is_ascii() && story.ends_with(['.', '!', '"']));
//! ```

mod plots;
mod words;

pub use plots::{PLOTS, Plot};

use super::random::Draws;

/// The number of stories in the `stories` corpus of a training run: about 6 MB of text.
pub const DEFAULT_STORIES: u64 = 12_000;

/// The seed of the `stories` corpus; it does not depend on the seed of the training run.
pub const DEFAULT_SEED: u64 = 1;

/// Returns the story with this index in the endless series of this seed: one line of ASCII without a line end.
pub fn story(seed: u64, index: u64) -> String {
    let mut draws = Draws::new(&[seed, index, 0x5709]);
    let cast = Cast::draw(&mut draws);
    let plot = &PLOTS[draws.below(PLOTS.len() as u64) as usize];
    let mut template = String::new();
    let beats = plot.beats.iter().map(|beat| &beat[..]);
    let parts =
        [OPENINGS, HABITS, DAYS].into_iter().chain(beats).chain([&plot.lessons[..], ENDINGS]);
    for (index, wordings) in parts.enumerate() {
        if index > 0 {
            template.push(' ');
        }
        if (4..=6).contains(&index) && draws.below(5) == 0 {
            template.push_str(draws.pick(ASIDES));
            template.push(' ');
        }
        let wording = draws.pick(wordings);
        match wording.strip_prefix('=') {
            Some(truth) => template.push_str(&draws.pick(TRUTHS).replace('=', truth)),
            None => template.push_str(wording),
        }
    }
    let mut words = String::with_capacity(1024);
    let mut teller =
        Teller { cast: &cast, draws: &mut draws, pet_known: false, thing_known: false };
    teller.tell(&template, &mut words);
    finish(words.trim())
}

/// Returns the first `count` stories of a seed.
pub fn stories(seed: u64, count: u64) -> impl Iterator<Item = String> {
    (0..count).map(move |index| story(seed, index))
}

const OPENINGS: &[&str] = &[
    "once upon a time, there was @ {trait} {kind} named {name}. {he} lived in <home> near {place2}.",
    "once there was @ {trait} {kind} called {name}, who lived in <home> with {his} {elder}.",
    "{name} was @ {trait} {kind}. {he} lived in <home> with {his} {elder}.",
    "the {kind} in this story was <very> {trait}. {his} name was {name}, and {he} lived in <home>.",
    "in <home> lived @ {trait} {kind}. {his} name was {name}.",
    "long ago, @ {trait} {kind} lived in <home>. {his} name was {name}.",
    "this is a story about {name}, @ {trait} {kind} from <home>.",
    "there was once @ {trait} {kind} with @ {color} {thing}. {his} name was {name}.",
];

const HABITS: &[&str] = &[
    "{he} <loved> to <game> with {his} [best|good|old|dear] friend, @ {fkind} named {fname}.",
    "{his} [best|good|old] friend was @ {fkind} called {fname}. They <loved> to <game>.",
    "{name} <loved> {his} {color} {thing}, and {his} friend {fname} the {fkind} <loved> to <game>.",
    "next door lived @ {fkind} named {fname}, and they <loved> to <game> {in}.",
    "{name} had a friend, @ {fkind} named {fname}, who <loved> {food}.",
    "every day {he} and {fname} the {fkind} <walked> to {place} to <game>.",
];

const DAYS: &[&str] = &[
    "<day>, <sky>, and {hero} <walked> to {place}.",
    "<day>, {hero} <walked> to {place} to <game>.",
    "<day>, {hero} got up and ate some {food}.",
    "<day>, {hero} and {friend} met {in}. \"<hello>!\" <said> {fname}.",
    "<day>, <sky>.",
    "<day>, {hero} saw that <sky>, and {he} <smiled>.",
    "it was a <nice> day, and <sky>.",
];

/// Sentences that may be told between two beats.
const ASIDES: &[&str] = &[
    "@ {pet} [watched|saw it all|sat close by|looked at them].",
    "by now <sky>.",
    "far away, @ {pet} [sang|called|slept].",
    "{hero} [held|looked at|thought of] the {color} {thing}.",
    "{friend} [stood|sat|waited] {in}.",
    "{hero} could smell some {food}.",
    "{friend} thought about {place2}.",
    "{he} thought about {his} {elder}.",
    "all was still {in}.",
    "{hero} [smiled|laughed|sang|rested] a little.",
    "it was a <nice> place to <game>.",
    "they could see {place2}.",
];

/// The frames of a lesson that is a general truth; `=` stands for it.
const TRUTHS: &[&str] = &[
    "{hero} learned that =.",
    "now {hero} knew that =.",
    "\"=,\" <said> {his} {elder}.",
    "\"=,\" <said> {friend}.",
    "so {hero} and {friend} saw that =.",
    "\"=!\" sang {hero} and {friend}.",
];

const ENDINGS: &[&str] = &[
    "they <walked> home, and {hero} was <very> <glad>.",
    "that night {hero} slept well.",
    "{hero} and {friend} stayed friends for ever.",
    "{his} {elder} was <glad> too.",
    "it had been a <nice> day.",
    "and then they ate some {food} {in}.",
    "\"what a <nice> day!\" said {hero}.",
    "the end.",
    "and {hero} [smiled|laughed|sang|danced] all the way home.",
];

/// The people and things of a story. They are drawn once and stay the same.
struct Cast {
    hero: Person,
    friend: Person,
    trait_: &'static str,
    elder: &'static str,
    thing: &'static str,
    colors: [&'static str; 2],
    places: [(&'static str, &'static str); 2],
    food: &'static str,
    pet: &'static str,
}

/// A child or an animal with a name.
struct Person {
    name: &'static str,
    kind: &'static str,
    female: bool,
}

impl Person {
    fn draw(draws: &mut Draws) -> Person {
        let female = draws.below(2) == 1;
        let name = draws.pick(if female { words::GIRLS } else { words::BOYS });
        let child = if female { "girl" } else { "boy" };
        let kind = if draws.below(3) == 0 { child } else { draws.pick(words::ANIMALS) };
        Person { name, kind, female }
    }

    /// Draws a person whose name and kind differ from those of `other`.
    fn draw_unlike(other: &Person, draws: &mut Draws) -> Person {
        loop {
            let person = Person::draw(draws);
            if person.name != other.name && person.kind != other.kind {
                return person;
            }
        }
    }
}

impl Cast {
    fn draw(draws: &mut Draws) -> Cast {
        let hero = Person::draw(draws);
        let friend = Person::draw_unlike(&hero, draws);
        Cast {
            hero,
            friend,
            trait_: draws.pick(words::TRAITS),
            elder: draws.pick(words::ELDERS),
            thing: draws.pick(words::THINGS),
            colors: draws.pick_two(words::COLORS),
            places: draws.pick_two(words::PLACES),
            food: draws.pick(words::FOODS),
            pet: draws.pick(words::PETS),
        }
    }

    /// Writes the text of the slot `name`.
    fn write(&self, name: &str, draws: &mut Draws, out: &mut String) {
        let (person, part) = match name.strip_prefix('f') {
            Some(part @ ("name" | "kind" | "he" | "him" | "his")) => (&self.friend, part),
            _ if name == "friend" => (&self.friend, "who"),
            _ if name == "hero" => (&self.hero, "who"),
            _ => (&self.hero, name),
        };
        let by_gender = |he, she| if person.female { she } else { he };
        let word = match part {
            "who" if draws.below(5) == 0 => {
                out.push_str("the ");
                person.kind
            }
            "who" | "name" => person.name,
            "kind" => person.kind,
            "he" => by_gender("he", "she"),
            "him" => by_gender("him", "her"),
            "his" => by_gender("his", "her"),
            "trait" => self.trait_,
            "elder" => self.elder,
            "thing" => self.thing,
            "color" => self.colors[0],
            "color2" => self.colors[1],
            "place" => self.places[0].1,
            "place2" => self.places[1].1,
            "food" => self.food,
            "pet" => self.pet,
            "in" | "in2" => {
                let (preposition, place) = self.places[usize::from(part == "in2")];
                out.push_str(preposition);
                out.push(' ');
                place
            }
            _ => unreachable!("no slot {{{name}}}"),
        };
        out.push_str(word);
    }
}

/// Expands templates to text.
struct Teller<'a> {
    cast: &'a Cast,
    draws: &'a mut Draws,
    pet_known: bool,
    thing_known: bool,
}

impl Teller<'_> {
    fn tell(&mut self, template: &str, out: &mut String) {
        let mut rest = template;
        while let Some(at) = rest.find(['{', '<', '[']) {
            out.push_str(&rest[..at]);
            let close = match rest.as_bytes()[at] {
                b'{' => '}',
                b'<' => '>',
                _ => ']',
            };
            let end = at + rest[at..].find(close).expect("a template closes its brackets");
            let inner = &rest[at + 1..end];
            match close {
                '}' => self.slot(inner, &rest[end + 1..], out),
                '>' => out.push_str(self.draws.pick(list(inner))),
                _ => {
                    let ways: Vec<&str> = inner.split('|').collect();
                    let way = self.draws.pick(&ways);
                    self.tell(way, out);
                }
            }
            rest = &rest[end + 1..];
        }
        out.push_str(rest);
    }

    /// Writes a slot; something that was mentioned before gets `the` instead of `@`.
    fn slot(&mut self, name: &str, after: &str, out: &mut String) {
        let known = match name {
            "pet" => std::mem::replace(&mut self.pet_known, true),
            "color" if after.starts_with(" {thing}") => self.thing_known,
            _ => false,
        };
        self.thing_known |= name == "thing";
        if known && out.ends_with("@ ") {
            out.truncate(out.len() - 2);
            out.push_str("the ");
        }
        self.cast.write(name, self.draws, out);
    }
}

/// Returns the list of words called `name`.
fn list(name: &str) -> &'static [&'static str] {
    let found = words::LISTS.iter().find(|(list, _)| *list == name);
    found.unwrap_or_else(|| unreachable!("no list <{name}>")).1
}

/// Words that continue the sentence after a quoted question or exclamation.
const SPEAKING: &[&str] = &["said", "asked", "cried", "called", "whispered", "sang", "thought"];

/// Replaces `@` by `a` or `an`, and capitalises the beginnings of sentences.
fn finish(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut sentence = true;
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        if !out.is_empty() {
            out.push(' ');
        }
        let article = words
            .peek()
            .filter(|_| word == "@")
            .map(|next| if next.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" });
        let bare = article.unwrap_or(word);
        let word = bare.trim_start_matches('"');
        let quoted = word.len() < bare.len();
        if quoted {
            out.push('"');
        }
        let pronoun = matches!(word, "he" | "she" | "it");
        let verb = if pronoun { words.peek().copied().unwrap_or("") } else { word };
        let spoken = out.ends_with("!\" ") || out.ends_with("?\" ");
        let goes_on = spoken && SPEAKING.contains(&verb.trim_end_matches(['.', ',']));
        if quoted || (sentence && !goes_on) {
            let mut letters = word.chars();
            out.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
            out.push_str(letters.as_str());
        } else {
            out.push_str(word);
        }
        sentence = word.trim_end_matches('"').ends_with(['.', '!', '?']);
    }
    out
}
