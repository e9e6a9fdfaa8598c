// The positions of rows in their documents, from `starts` (B, T), which a kernel declares.

// Returns the position of a row in its document: one that begins behind the row begins with it.
fn position_of(row: u32) -> u32 {
    let t = row % dims.T;
    return t - min(starts[row], t);
}
