//! Do conversations that are packed side by side see nothing of each other? Proved on an engine, bit by bit.
//!
//! For a conversation alone, with the others beside it and no target in them, loss and gradients are computed three times: as they are; with
//! every token of all other conversations, and of the padding, replaced; and with every label replaced that is not learned, before
//! labels become targets. The second and third must have the same bits as the first: a change of exactly 0. To see that something
//! is measured, a fourth one replaces a label that is learned: the loss must then change.

use crate::data::{self, Packed, Rows, Tokens, marks, random};
use crate::engine::{Engine, Tensor};
use crate::error::{Error, Result};
use crate::kernel::Step;
use crate::ops::cross_entropy::{IGNORE, counted};

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Proof {
    /// Conversations that were examined.
    pub conversations: usize,
    /// The numbers that were compared for each: the loss and all gradients.
    pub numbers: usize,
    /// Tokens of other conversations and of padding that were replaced.
    pub replaced: usize,
    /// Labels that are not learned, and were replaced.
    pub labels: usize,
    /// The largest change of a loss when others were replaced, and when labels were.
    pub loss_change: [f64; 2],
    /// The largest change of a gradient in both cases.
    pub gradient_change: [f64; 2],
    /// The least change of the loss when a learned label was replaced, among all conversations.
    pub control: f64,
}

impl Proof {
    /// Whether nothing changed that should not, and something changed where it should.
    pub fn holds(&self) -> bool {
        let changes = self.loss_change.iter().chain(&self.gradient_change);
        changes.copied().all(|change| change == 0.0) && self.control > 0.0 && self.conversations > 0
    }
}

/// A conversation in a batch.
struct Place {
    row: usize,
    /// Its rows within the row of the batch.
    places: std::ops::Range<usize>,
    /// Its places in the tokens.
    tokens: std::ops::Range<usize>,
}

/// Examines up to `most` conversations; `seen` is called after each.
///
/// The engine's program must train on batches, and drop nothing.
///
/// # Errors
///
/// If a window has no two conversations, so that there is nothing to see, or the device is lost.
///
/// # Panics
///
/// If the engine's sequences are not as long as the windows.
pub fn prove(
    engine: &mut Engine,
    tokens: &Tokens,
    packed: &Packed,
    most: usize,
    seen: &mut dyn FnMut(usize),
) -> Result<Proof> {
    let uses = engine.program().uses;
    let (b, t) = (uses.batch, uses.seq);
    let mut proof = Proof { control: f64::INFINITY, ..Proof::default() };
    let crowded = (0..packed.len()).find(|window| packed.conversations(*window).len() > 1);
    let Some(first) = crowded else {
        return Err(Error::input(format!(
            "no two conversations of {} have room in a window of {t} tokens: none can see another",
            tokens.name()
        ))
        .hint("give a longer sequence, or shorter conversations"));
    };
    for first in (first..packed.len()).step_by(b) {
        let mut batch = [vec![0; b * t], vec![0; b * t], vec![0; b * t]];
        let [x, y, starts] = &mut batch;
        packed.fill(tokens, first, Rows { tokens: x, targets: y, starts });
        for place in places(packed, first, b) {
            if proof.conversations == most {
                return Ok(proof);
            }
            examine(engine, tokens, &place, &batch, t, &mut proof)?;
            seen(proof.conversations);
        }
    }
    Ok(proof)
}

/// Returns the conversations of a batch.
fn places(packed: &Packed, first: usize, b: usize) -> Vec<Place> {
    let mut all = vec![];
    for row in 0..b.min(packed.len() - first) {
        let mut at = 0;
        for one in packed.conversations(first + row) {
            let places = at..at + one.len() - 1;
            at = places.end;
            all.push(Place { row, places, tokens: one.clone() });
        }
    }
    all
}

/// Examines one conversation.
fn examine(
    engine: &mut Engine,
    tokens: &Tokens,
    place: &Place,
    [x, _, starts]: &[Vec<u32>; 3],
    t: usize,
    proof: &mut Proof,
) -> Result<()> {
    let vocab = engine.program().config.vocab_size as u64;
    let own = place.row * t + place.places.start..place.row * t + place.places.end;
    let mut words = vec![0; place.tokens.len()];
    tokens.copy_marked(place.tokens.clone(), &mut words);
    // The label of each place is the next token, learned or not.
    let targets = |labels: &[u32]| {
        let mut targets = vec![IGNORE; x.len()];
        let found = labels.iter().map(|word| data::target(*word));
        targets[own.clone()].iter_mut().zip(found).for_each(|(target, found)| *target = found);
        targets
    };
    let other = |word: u32, i: usize| {
        let id = u64::from(word & !marks::ALL);
        let step = 1 + random::below(random::hash(&[i as u64, id]), vocab.max(2) - 1);
        ((id + step) % vocab) as u32 | word & marks::ALL
    };
    let labels = &words[1..];
    let base = measure(engine, x, starts, &targets(labels))?;
    let replaced: Vec<u32> = x
        .iter()
        .enumerate()
        .map(|(i, id)| if own.contains(&i) { *id } else { other(*id, i) })
        .collect();
    let learned = |word: u32| word & marks::LEARNED != 0;
    let relabelled: Vec<u32> = labels
        .iter()
        .enumerate()
        .map(|(i, word)| if learned(*word) { *word } else { other(*word, i) })
        .collect();
    let cases = [(&replaced, targets(labels)), (x, targets(&relabelled))];
    for (case, (x, targets)) in cases.into_iter().enumerate() {
        let (loss, gradients) = measure(engine, x, starts, &targets)?;
        let change = |a: f32, b: f32| {
            // NaN is a change as well.
            let change = f64::from((a - b).abs());
            if a.to_bits() == b.to_bits() {
                0.0
            } else if change.is_nan() {
                f64::INFINITY
            } else {
                change.max(f64::MIN_POSITIVE)
            }
        };
        let largest =
            gradients.iter().zip(&base.1).map(|(a, b)| change(*a, *b)).fold(0.0, f64::max);
        proof.loss_change[case] = proof.loss_change[case].max(change(loss, base.0));
        proof.gradient_change[case] = proof.gradient_change[case].max(largest);
    }
    let mut astray = labels.to_vec();
    if let Some((i, word)) = astray.iter_mut().enumerate().find(|(_, word)| learned(**word)) {
        *word = other(*word, i);
    }
    let (loss, _) = measure(engine, x, starts, &targets(&astray))?;
    proof.control = proof.control.min(f64::from((loss - base.0).abs()));
    proof.conversations += 1;
    proof.numbers = 1 + base.1.len();
    proof.replaced += x.len() - own.len();
    proof.labels += labels.iter().filter(|word| !learned(**word)).count();
    Ok(())
}

/// Returns the loss and all gradients of a batch.
fn measure(
    engine: &mut Engine,
    tokens: &[u32],
    starts: &[u32],
    targets: &[u32],
) -> Result<(f32, Vec<f32>)> {
    engine.write_document_starts(starts);
    engine.train_batch(tokens, targets, (0, counted(targets)), Step::default());
    let loss = engine.read_loss()?;
    let mut gradients = vec![];
    for param in engine.program().params.clone().iter().filter(|param| param.is_trained()) {
        gradients.extend(engine.param_data(param, Tensor::Gradient)?);
    }
    Ok((loss, gradients))
}
