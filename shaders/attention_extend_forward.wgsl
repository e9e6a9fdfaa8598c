// uses: heads, reduce, rows
// Computes out of rows of generation: each row sees the cached positions of its slot from its first key up to its
// own; masked rows are zeroed.
//
// One workgroup per row, head and (in z) 256 of the head's channels. It uses online softmax over 256 positions
// at a time: each invocation scores one position; then the invocations are distributed over the channels,
// several per channel if there are more invocations than channels.

@group(0) @binding(1) var<storage, read> rows: array<u32>;              // (T, ROW_WORDS)
@group(0) @binding(2) var<storage, read> qkv: array<qkv_elem>;          // layout: see Dims
@group(0) @binding(3) var<storage, read> cache: array<cache_elem>;      // (SLOTS, 2, S, KVH·HS)
@group(0) @binding(4) var<storage, read_write> out: array<out_elem>;    // (T, C)

const FAR = -1e30; // below any other finite score

var<workgroup> weights: array<f32, WG_SIZE>;

// Computes the score of the query that begins at `query` with the key that begins at `key` in the cache.
fn score(query: u32, key: u32) -> f32 {
    var dot = 0.0;
    for (var d = 0u; d < dims.HS; d++) {
        dot += f32(qkv[query + d]) * f32(cache[key + d]);
    }
    return dot / sqrt(f32(dims.HS));
}

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = group_index(group) / dims.NH;
    let head = group_index(group) % dims.NH;
    if t >= dims.T {
        return;
    }
    let channels = min(WG_SIZE, dims.HS - group.z * WG_SIZE);
    let shares = WG_SIZE / channels;
    let share = local / channels;
    let column = group.z * WG_SIZE + local % channels;
    let place = place_of(t);
    let end = select(0u, place.position + 1u, place.inside);
    // The places of the head's first key and first value in the cache, and the distance from each to the next.
    let width = dims.KVH * dims.HS;
    let keys = 2u * dims.S * place.slot * width + head / (dims.NH / dims.KVH) * dims.HS;
    let stored_values = keys + dims.S * width;
    let query = channel(query_rows(0u, head), t, 0u);

    var largest = FAR;
    var sum = 0.0;
    var value = 0.0;
    for (var start = place.first_key; start < end; start += WG_SIZE) {
        let inside = start + local < end;
        var s = FAR;
        if inside {
            s = score(query, keys + (start + local) * width);
        }
        let before = largest;
        largest = max(largest, workgroup_max(local, s));
        let weight = select(0.0, exp(s - largest), inside);
        weights[local] = weight;
        let rescale = exp(max(before - largest, -80.0));
        sum = sum * rescale + workgroup_sum(local, weight);
        value *= rescale;
        for (var j = share; j < min(WG_SIZE, end - start) && share < shares; j += shares) {
            value += weights[j] * f32(cache[stored_values + (start + j) * width + column]);
        }
        workgroupBarrier();
    }

    weights[local] = value;
    workgroupBarrier();
    if share > 0u {
        return;
    }
    for (var other = 1u; other < shares; other++) {
        value += weights[other * channels + local];
    }
    out[channel(out_rows(0u, head), t, column)] = out_elem(select(0.0, value / sum, place.inside));
}
