// The places of the rows of generation, from the table `rows` (T, ROW_WORDS) of slots, positions and first keys
// (src/kernel/rows.rs).

struct Place {
    slot: u32,
    position: u32,
    first_key: u32, // the first position that the row sees
    inside: bool,   // if false, the row is masked
}

fn place_of(row: u32) -> Place {
    let slot = rows[ROW_WORDS * row];
    let position = rows[ROW_WORDS * row + 1u];
    let first_key = max(min(position, rows[ROW_WORDS * row + 2u]), window_start(position));
    return Place(slot, position, first_key, slot < dims.SLOTS && position < dims.S);
}
