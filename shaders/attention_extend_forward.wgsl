// out of rows of generation: each sees the cached positions of its slot up to its own; masked rows are zeroed.
//
// One workgroup a row, a head and (in z) 256 of the head's channels. Online softmax over 256 positions
// at a time: an invocation scores one position each; then the invocations share out the channels,
// several to one where there are more invocations than channels.

@group(0) @binding(1) var<storage, read> rows: array<u32>;              // (T, 2)
@group(0) @binding(2) var<storage, read> qkv: array<qkv_elem>;          // (T, 3C)
@group(0) @binding(3) var<storage, read> cache: array<cache_elem>;      // (SLOTS, 2, S, C)
@group(0) @binding(4) var<storage, read_write> out: array<out_elem>;    // (T, C)

const FAR = -1e30; // a score below any other that still is a number

var<workgroup> weights: array<f32, WG_SIZE>;

// The score of the query of row t with the key at a position of the whole cache.
fn score(t: u32, head: u32, position: u32) -> f32 {
    let size = dims.C / dims.NH;
    let query = t * 3u * dims.C + head * size;
    let key = position * dims.C + head * size;
    var dot = 0.0;
    for (var d = 0u; d < size; d++) {
        dot += f32(qkv[query + d]) * f32(cache[key + d]);
    }
    return dot / sqrt(f32(size));
}

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = group_index(group) / dims.NH;
    let head = group_index(group) % dims.NH;
    if t >= dims.T {
        return;
    }
    let size = dims.C / dims.NH;
    let channels = min(WG_SIZE, size - group.z * WG_SIZE);
    let shares = WG_SIZE / channels;
    let share = local / channels;
    let column = head * size + group.z * WG_SIZE + local % channels;
    let place = place_of(t);
    let seen = select(0u, place.position + 1u, place.inside);
    let keys = 2u * dims.S * place.slot;
    let stored_values = keys + dims.S;

    var largest = FAR;
    var sum = 0.0;
    var value = 0.0;
    for (var start = 0u; start < seen; start += WG_SIZE) {
        let inside = start + local < seen;
        var s = FAR;
        if inside {
            s = score(t, head, keys + start + local);
        }
        let before = largest;
        largest = max(largest, workgroup_max(local, s));
        let weight = select(0.0, exp(s - largest), inside);
        weights[local] = weight;
        let rescale = exp(max(before - largest, -80.0));
        sum = sum * rescale + workgroup_sum(local, weight);
        value *= rescale;
        for (var j = share; j < min(WG_SIZE, seen - start) && share < shares; j += shares) {
            value += weights[j] * f32(cache[(stored_values + start + j) * dims.C + column]);
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
    out[t * dims.C + column] = out_elem(select(0.0, value / sum, seen > 0u));
}
