//! Are there enough stories, and are they sound English?

use std::collections::HashSet;

use wgpt::data::stories::{DEFAULT_SEED, DEFAULT_STORIES, PLOTS, stories, story};

/// The runs of `length` words of a story, each as the text from its first to its last word.
fn runs(words: &[&str], length: usize) -> Vec<String> {
    words.windows(length).map(|run| run.join(" ")).collect()
}

#[test]
fn there_are_many_and_they_are_different() {
    let all: Vec<String> = stories(7, 10_000).collect();
    let distinct: HashSet<&String> = all.iter().collect();
    assert!(distinct.len() >= 9_900, "{} of 10,000 are distinct", distinct.len());
    let text = all.join(" ").to_lowercase();
    let words: HashSet<&str> =
        text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty()).collect();
    assert!((400..1000).contains(&words.len()), "{} different words", words.len());
    assert!(PLOTS.len() >= 24, "{} plots", PLOTS.len());
    let titles: HashSet<&str> = PLOTS.iter().map(|plot| plot.title).collect();
    assert_eq!(titles.len(), PLOTS.len());
}

#[test]
fn a_story_is_a_function_of_seed_and_index() {
    assert_eq!(story(3, 5), story(3, 5));
    assert_eq!(stories(3, 9).nth(5), Some(story(3, 5)));
    assert_ne!(story(3, 5), story(4, 5));
    assert_ne!(story(3, 5), story(5, 3));
}

#[test]
fn runs_of_unseen_stories_are_rare_in_the_corpus() {
    let mut seen = HashSet::new();
    for text in stories(DEFAULT_SEED, DEFAULT_STORIES) {
        let words: Vec<&str> = text.split(' ').collect();
        seen.extend(runs(&words, 16));
    }
    let (mut found, mut all) = (0, 0);
    for index in DEFAULT_STORIES..DEFAULT_STORIES + 500 {
        let text = story(DEFAULT_SEED, index);
        let words: Vec<&str> = text.split(' ').collect();
        let runs = runs(&words, 16);
        all += runs.len();
        found += runs.iter().filter(|run| seen.contains(*run)).count();
    }
    let share = found as f64 / all as f64;
    assert!(share < 0.03, "{share} of the 16-word runs of unseen stories are in the corpus");
    assert!(found > 0, "the stories share a language");
}

#[test]
fn stories_are_plain_english() {
    for (index, text) in stories(11, 3_000).enumerate() {
        let fail = |why: &str| panic!("story {index}: {why}: {text}");
        let count = text.split(' ').count();
        if !(60..=150).contains(&count) {
            fail(&format!("{count} words"));
        }
        if !text.is_ascii() || text.contains(['{', '}', '<', '>', '[', ']', '|', '@', '\n']) {
            fail("a character that does not belong");
        }
        if text.contains("  ") || text.contains(" .") || text.contains(" ,") {
            fail("a stray space");
        }
        if !text.matches('"').count().is_multiple_of(2) {
            fail("an open quote");
        }
        if !text.ends_with(['.', '!', '?', '"']) || !text.starts_with(|c: char| c.is_uppercase()) {
            fail("no sentence");
        }
        let words: Vec<&str> = text.split(' ').map(|word| word.trim_matches('"')).collect();
        for pair in words.windows(2) {
            let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
            if (pair[0].eq_ignore_ascii_case("a") && vowel)
                || (pair[0].eq_ignore_ascii_case("an") && !vowel)
            {
                fail(&format!("article in {:?}", pair.join(" ")));
            }
            let first = pair[1].chars().next().expect("a word");
            if pair[0].ends_with('.') && first.is_lowercase() {
                fail(&format!("no capital in {:?}", pair.join(" ")));
            }
        }
    }
}

/// Every wording of every plot is told some time, so that no slot or list of the templates is unknown.
#[test]
fn every_plot_is_told() {
    let text: String = stories(13, 20_000).collect();
    for (plot, words) in [("race", "a prize"), ("snow", "snowman"), ("wish", "star fall")] {
        assert!(text.contains(words), "the {plot} plot is never told");
    }
}
