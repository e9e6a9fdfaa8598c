// What the slots of generation draw by, by the table `slots` (SLOTS, 12) (`Draw::words` in src/kernel/rows.rs).

const SLOT_WORDS = 12u;
const DRAWN_ROW = 0u;
const SEED = 1u; // and the next
const TOP_K = 3u;
const TEMPERATURE = 4u;
const TOP_P = 6u;
const MIN_P = 8u;
const REPETITION_PENALTY = 10u;

fn slot_word(slot: u32, word: u32) -> u32 {
    return slots[slot * SLOT_WORDS + word];
}

fn slot_real(slot: u32, word: u32) -> f32 {
    return bitcast<f32>(slot_word(slot, word));
}

// Whether a slot draws a token after one of the T rows.
fn draws(slot: u32) -> bool {
    return slot < dims.SLOTS && slot_word(slot, DRAWN_ROW) < dims.T;
}
