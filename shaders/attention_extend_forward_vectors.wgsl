// uses: heads, reduce, rows
// Computes out of rows of generation: each row sees the cached positions of its slot from its first key up to its
// own; masked rows are zeroed.
//
// One workgroup per row, head and (in z) 1024 of the head's channels, as in attention_extend_forward.wgsl, but four
// channels at a time. The invocations are distributed over the values' vectors and over the positions, so that
// a head of 64 channels is read in rows by 16 neighbouring invocations.

@group(0) @binding(1) var<storage, read> rows: array<u32>;                    // (T, ROW_WORDS)
@group(0) @binding(2) var<storage, read> qkv: array<vec4<qkv_elem>>;          // layout: see Dims
@group(0) @binding(3) var<storage, read> cache: array<vec4<cache_elem>>;      // (SLOTS, 2, S, KVH·HS)
@group(0) @binding(4) var<storage, read_write> out: array<vec4<out_elem>>;    // (T, C)

const FAR = -1e30; // below any other finite score

var<workgroup> weights: array<f32, WG_SIZE>;
var<workgroup> values: array<vec4<f32>, WG_SIZE>;

// Computes the score of the query that begins at vector `query` with the key that begins at vector `key` in the cache.
fn score(query: u32, key: u32) -> f32 {
    var products = vec4(0.0);
    for (var d = 0u; d < dims.HS / 4u; d++) {
        products += vec4<f32>(qkv[query + d]) * vec4<f32>(cache[key + d]);
    }
    return dot(products, vec4(1.0)) / sqrt(f32(dims.HS));
}

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = group_index(group) / dims.NH;
    let head = group_index(group) % dims.NH;
    if t >= dims.T {
        return;
    }
    let columns = min(WG_SIZE, dims.HS / 4u - group.z * WG_SIZE);
    let shares = WG_SIZE / columns;
    let share = local / columns;
    let column = group.z * WG_SIZE + local % columns;
    let place = place_of(t);
    let end = select(0u, place.position + 1u, place.inside);
    // The places of the head's first key and first value in the cache, and the distance to the next, in vectors.
    let width = dims.KVH * dims.HS / 4u;
    let keys = 2u * dims.S * place.slot * width + head / (dims.NH / dims.KVH) * dims.HS / 4u;
    let stored_values = keys + dims.S * width;
    let query = channel(query_rows(0u, head), t, 0u) / 4u;

    var largest = FAR;
    var sum = 0.0;
    var value = vec4(0.0);
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
            value += weights[j] * vec4<f32>(cache[stored_values + (start + j) * width + column]);
        }
        workgroupBarrier();
    }

    values[local] = value;
    workgroupBarrier();
    if share > 0u {
        return;
    }
    for (var other = 1u; other < shares; other++) {
        value += values[other * columns + local];
    }
    let at = channel(out_rows(0u, head), t, 4u * column) / 4u;
    out[at] = vec4<out_elem>(select(vec4(0.0), value / sum, place.inside));
}
