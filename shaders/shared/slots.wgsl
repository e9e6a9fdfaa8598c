// How the slots of generation draw, from the table `slots` (SLOTS, SLOT_WORDS) (`Draw::words` in src/kernel/rows.rs).

fn slot_word(slot: u32, word: u32) -> u32 {
    return slots[slot * SLOT_WORDS + word];
}

fn slot_real(slot: u32, word: u32) -> f32 {
    return bitcast<f32>(slot_word(slot, word));
}

// Whether a slot draws a token after one of the T rows.
fn draws(slot: u32) -> bool {
    return slot < dims.SLOTS && slot_word(slot, SLOT_ROW) < dims.T;
}
