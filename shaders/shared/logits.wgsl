// Rows of logits in vectors of four: they begin LD apart, a multiple of four, and the padding past V does not
// affect the results.

// Returns the columns of vector `v`.
fn columns(v: u32) -> vec4<u32> {
    return vec4(4u * v) + vec4(0u, 1u, 2u, 3u);
}

// Returns the logits of vector `v` of a row, with the lowest number in place of the padding.
fn logits_four(row: u32, v: u32) -> vec4<f32> {
    let x = vec4<f32>(logits[row * (dims.LD / 4u) + v]);
    return select(vec4(LOWEST), x, columns(v) < vec4(dims.V));
}

struct Statistics {
    largest: f32,
    sum: f32, // of the exponentials relative to the largest
}

// Returns the statistics of every `lanes`th vector of a row from `lane` on, in one read.
fn statistics(row: u32, lane: u32, lanes: u32) -> Statistics {
    var found = Statistics(LOWEST, 0.0);
    for (var v = lane; v < (dims.V + 3u) / 4u; v += lanes) {
        let x = logits_four(row, v);
        let largest = max(found.largest, max(max(x.x, x.y), max(x.z, x.w)));
        found.sum = found.sum * exp(found.largest - largest) + dot(exp(x - largest), vec4(1.0));
        found.largest = largest;
    }
    return found;
}
