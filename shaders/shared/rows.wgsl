// Where the rows of generation are, by the table `rows` (T, 2) of slots and positions (src/kernel/rows.rs).

struct Place {
    slot: u32,
    position: u32,
    inside: bool, // else the row is masked
}

fn place_of(row: u32) -> Place {
    let slot = rows[2u * row];
    let position = rows[2u * row + 1u];
    return Place(slot, position, slot < dims.SLOTS && position < dims.S);
}
