// The angles of rotary embeddings (src/ops/rotary.rs), from `frequencies` (RC / 2, 2), turns per position as binary
// fractions of 64 bits with the high word first, and `places`, which a kernel declares.

// Returns the position of a row in its document: `places` says where that begins, and is the table of rows in generation.
fn position_of(row: u32) -> u32 {
    if dims.SLOTS > 0u {
        return places[ROW_WORDS * row + 1u];
    }
    let t = row % dims.T;
    return t - min(places[row], t);
}

// Returns the cosine and the sine of SCALE times the angle of a pair at a position.
fn cos_sin(pair: u32, position: u32) -> vec2<f32> {
    let turns = frequencies[pair];
    // The carry from the low word is exact to a few units, of 2^-32 turns each. The products wrap at whole turns.
    let carry = u32(f32(position) * (f32(turns.y) / 4294967296.0));
    let phase = turns.x * position + carry;
    // The nearest quarter of a turn, and the rest in radians, which is at most pi / 4.
    let quarter = (phase + 0x20000000u) >> 30u;
    let rest = f32(bitcast<i32>(phase - (quarter << 30u))) * (6.283185307179586 / 4294967296.0);
    // Polynomials that are exact to the last digit or two, since the precision of a device's functions is not known.
    let z = rest * rest;
    let s = rest + rest * z * (-0.16666654611 + z * (0.0083321608736 + z * -0.00019515295891));
    let c = 1.0 - 0.5 * z + z * z * (0.04166664568298827 + z * (-0.001388731625493765 + z * 2.443315711809948e-5));
    let turned = select(vec2(c, s), vec2(-s, c), (quarter & 1u) == 1u);
    let signed = select(turned, -turned, (quarter & 2u) == 2u);
    return vec2(signed.x, dims.SCALE * signed.y);
}

// A head of the queries, or of the keys after those, of one row.
struct Rotated {
    row: u32,
    // Where the head begins.
    start: u32,
    inside: bool,
}

// Returns head number `i` of all rows.
fn rotated_head(i: u32) -> Rotated {
    let heads = dims.NH + dims.KVH;
    let row = i / heads;
    let head = i % heads;
    let queries = query_rows(0u, head);
    let keys = key_rows(0u, head - min(head, dims.NH));
    let rows = select(keys, queries, head < dims.NH);
    return Rotated(row, channel(rows, row, 0u), row < dims.B * dims.T);
}
