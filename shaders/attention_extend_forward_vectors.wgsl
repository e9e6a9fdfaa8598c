// out of rows of generation: each sees the cached positions of its slot up to its own; masked rows are zeroed.
//
// One workgroup a row, a head and (in z) 1024 of the head's channels: attention_extend_forward.wgsl, four
// channels at a time. The invocations share out the values' vectors, and with them the positions, so that
// a head of 64 channels is read by rows of 16 neighbours.

@group(0) @binding(1) var<storage, read> rows: array<u32>;                    // (T, 2)
@group(0) @binding(2) var<storage, read> qkv: array<vec4<qkv_elem>>;          // (T, 3C)
@group(0) @binding(3) var<storage, read> cache: array<vec4<cache_elem>>;      // (SLOTS, 2, S, C)
@group(0) @binding(4) var<storage, read_write> out: array<vec4<out_elem>>;    // (T, C)

const FAR = -1e30; // a score below any other that still is a number

var<workgroup> weights: array<f32, WG_SIZE>;
var<workgroup> values: array<vec4<f32>, WG_SIZE>;

// The score of the query of row t with the key at a position of the whole cache.
fn score(t: u32, head: u32, position: u32) -> f32 {
    let width = dims.C / dims.NH / 4u;
    let query = t * 3u * dims.C / 4u + head * width;
    let key = position * dims.C / 4u + head * width;
    var products = vec4(0.0);
    for (var d = 0u; d < width; d++) {
        products += vec4<f32>(qkv[query + d]) * vec4<f32>(cache[key + d]);
    }
    return dot(products, vec4(1.0)) / sqrt(f32(4u * width));
}

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = group_index(group) / dims.NH;
    let head = group_index(group) % dims.NH;
    if t >= dims.T {
        return;
    }
    let width = dims.C / dims.NH / 4u;
    let columns = min(WG_SIZE, width - group.z * WG_SIZE);
    let shares = WG_SIZE / columns;
    let share = local / columns;
    let column = head * width + group.z * WG_SIZE + local % columns;
    let place = place_of(t);
    let seen = select(0u, place.position + 1u, place.inside);
    let keys = 2u * dims.S * place.slot;
    let stored_values = keys + dims.S;

    var largest = FAR;
    var sum = 0.0;
    var value = vec4(0.0);
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
            value += weights[j] * vec4<f32>(cache[(stored_values + start + j) * dims.C / 4u + column]);
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
    out[t * dims.C / 4u + column] = vec4<out_elem>(select(vec4(0.0), value / sum, seen > 0u));
}
