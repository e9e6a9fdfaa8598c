// out[i] = Σ_j p[i, j] v[j] and lse[i], p = softmax of q[i] · k[j] / √HS over j <= i.
//
// One workgroup, which is one subgroup of 8: 8 queries of a head and (in z) 32 of the head's channels.
// Online softmax over 32 keys at a time, of which each lane has 4, so that what a lane knows of 4 keys
// and 4 queries is a matrix: a column a query. The lanes read the queries together, each a part, and
// hand them on by subgroupBroadcast; so they do with the probabilities, for which they then have 4
// channels each. Nothing goes through workgroup memory, and there is no barrier.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;          // (B, T, 3C)
@group(0) @binding(2) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;               // (B, NH, T)

const FAR = -1e30; // a score below any other that still is a number

// What a head has of 4 channels from `d` on at 4 positions from `t` on, a column a position; outside it
// is what is there at the edge. `start` is where its part of qkv begins in the sequence.
fn block(start: u32, t: u32, d: u32) -> mat4x4<f32> {
    let stride = 3u * dims.C / 4u;
    let at = start + min(d, dims.C / dims.NH - 4u) / 4u;
    let last = dims.T - 1u;
    return mat4x4(
        vec4<f32>(qkv[at + min(t, last) * stride]),
        vec4<f32>(qkv[at + min(t + 1u, last) * stride]),
        vec4<f32>(qkv[at + min(t + 2u, last) * stride]),
        vec4<f32>(qkv[at + min(t + 3u, last) * stride]),
    );
}

// One column, its scores: 4 keys from `key` on as `query` sees them.
fn seen(scores: vec4<f32>, key: u32, query: u32) -> vec4<f32> {
    let scaled = scores / sqrt(f32(dims.C / dims.NH));
    return select(vec4(FAR), scaled, vec4(key) + vec4(0u, 1u, 2u, 3u) <= vec4(query));
}

fn seen_block(s: mat4x4<f32>, key: u32, query: u32) -> mat4x4<f32> {
    return mat4x4(
        seen(s[0], key, query),
        seen(s[1], key, query + 1u),
        seen(s[2], key, query + 2u),
        seen(s[3], key, query + 3u),
    );
}

// The largest score of each query, over all lanes.
fn maxima(s: mat4x4<f32>) -> vec4<f32> {
    let keys = transpose(s);
    return subgroupMax(max(max(keys[0], keys[1]), max(keys[2], keys[3])));
}

fn exponentials(s: mat4x4<f32>, largest: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(
        exp(s[0] - largest.x),
        exp(s[1] - largest.y),
        exp(s[2] - largest.z),
        exp(s[3] - largest.w),
    );
}

// Each column times its number.
fn rescale(m: mat4x4<f32>, by: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(m[0] * by.x, m[1] * by.y, m[2] * by.z, m[3] * by.w);
}

fn store(values: mat4x4<f32>, sums: vec4<f32>, b: u32, head: u32, query: u32, d: u32) {
    let size = dims.C / dims.NH;
    for (var i = 0u; i < 4u && d < size && query + i < dims.T; i++) {
        let at = ((b * dims.T + query + i) * dims.C + head * size + d) / 4u;
        out[at] = vec4<out_elem>(values[i] / sums[i]);
    }
}

fn store_lse(largest: vec4<f32>, sums: vec4<f32>, row: u32, query: u32) {
    for (var i = 0u; i < 4u && query + i < dims.T; i++) {
        lse[row + query + i] = largest[i] + log(sums[i]);
    }
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let blocks = (dims.T + 7u) / 8u;
    let head = group_index(group) / blocks % dims.NH;
    let b = group_index(group) / blocks / dims.NH;
    let query = group_index(group) % blocks * 8u;
    if b >= dims.B {
        return;
    }
    let size = dims.C / dims.NH;
    let q_start = (b * dims.T * 3u * dims.C + head * size) / 4u;
    let k_start = q_start + dims.C / 4u;
    let v_start = k_start + dims.C / 4u;
    let channel = group.z * 32u + 4u * lane;
    let end = min(query + 8u, dims.T);

    // Of queries 0 to 3 (l) and 4 to 7 (h).
    var l_max = vec4(FAR); var h_max = vec4(FAR);
    var l_sum = vec4(0.0); var h_sum = vec4(0.0);
    var l_out = mat4x4<f32>(); var h_out = mat4x4<f32>();
    var tile = 0u;
    loop {
        let key = tile + 4u * lane;
        var l = mat4x4<f32>();
        var h = mat4x4<f32>();
        var d = 0u;
        loop {
            // Lanes 0 to 3 have the first queries, the others the rest: each 4 of 16 channels.
            let own = d + lane % 4u * 4u;
            let q = block(q_start, query + lane / 4u * 4u, own) * select(0.0, 1.0, own < size);
            let k0 = transpose(block(k_start, key, d));
            l += k0 * lane0(q); h += k0 * lane4(q);
            let k1 = transpose(block(k_start, key, d + 4u));
            l += k1 * lane1(q); h += k1 * lane5(q);
            let k2 = transpose(block(k_start, key, d + 8u));
            l += k2 * lane2(q); h += k2 * lane6(q);
            let k3 = transpose(block(k_start, key, d + 12u));
            l += k3 * lane3(q); h += k3 * lane7(q);
            continuing {
                d += 16u;
                break if d >= size;
            }
        }
        l = seen_block(l, key, query);
        h = seen_block(h, key, query + 4u);
        let l_before = l_max; l_max = max(l_max, maxima(l));
        let h_before = h_max; h_max = max(h_max, maxima(h));
        let l_scale = exp(max(l_before - l_max, vec4(-80.0)));
        let h_scale = exp(max(h_before - h_max, vec4(-80.0)));
        l = exponentials(l, l_max);
        h = exponentials(h, h_max);
        l_sum = l_sum * l_scale + vec4(1.0) * l;
        h_sum = h_sum * h_scale + vec4(1.0) * h;

        l_out = rescale(l_out, l_scale); h_out = rescale(h_out, h_scale);
        let v0 = block(v_start, tile, channel);
        l_out += v0 * lane0(l); h_out += v0 * lane0(h);
        let v1 = block(v_start, tile + 4u, channel);
        l_out += v1 * lane1(l); h_out += v1 * lane1(h);
        let v2 = block(v_start, tile + 8u, channel);
        l_out += v2 * lane2(l); h_out += v2 * lane2(h);
        let v3 = block(v_start, tile + 12u, channel);
        l_out += v3 * lane3(l); h_out += v3 * lane3(h);
        let v4 = block(v_start, tile + 16u, channel);
        l_out += v4 * lane4(l); h_out += v4 * lane4(h);
        let v5 = block(v_start, tile + 20u, channel);
        l_out += v5 * lane5(l); h_out += v5 * lane5(h);
        let v6 = block(v_start, tile + 24u, channel);
        l_out += v6 * lane6(l); h_out += v6 * lane6(h);
        let v7 = block(v_start, tile + 28u, channel);
        l_out += v7 * lane7(l); h_out += v7 * lane7(h);
        continuing {
            tile += 32u;
            break if tile >= end;
        }
    }

    l_sum = subgroupAdd(l_sum);
    h_sum = subgroupAdd(h_sum);
    store(l_out, l_sum, b, head, query, channel);
    store(h_out, h_sum, b, head, query + 4u, channel);
    if lane == 0u && group.z == 0u {
        let row = (b * dims.NH + head) * dims.T;
        store_lse(l_max, l_sum, row, query);
        store_lse(h_max, h_sum, row, query + 4u);
    }
}
