// out[i] = Σ_j p[i, j] v[j] and lse[i], p = softmax of q[i] · k[j] / √HS over j <= i.
//
// One workgroup 64 queries of a head and (in z) 64 of the head's channels. Online softmax over 32 keys at
// a time. 8 invocations, the lanes, share 8 queries: a lane has the scores of 4 keys, which is a matrix
// with a column a query for each half of the queries, and then 8 channels of the outputs. What it
// multiplies goes through workgroup memory 16 channels at a time, the probabilities as a whole. Queries
// and keys of one invocation lie 8 apart, so that neighbours read different banks.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;          // (B, T, 3C)
@group(0) @binding(2) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;               // (B, NH, T)

const SIZE = 64u;
const QUERIES = 64u;
const KEYS = 32u;
const FAR = -1e30; // a score below any other that still is a number

// Keys and queries of 16 channels, or maxima, or values of 64 channels.
var<workgroup> tile: array<vec4<f32>, KEYS * 16u>;
// Of each query and lane, the probabilities of the lane's keys.
var<workgroup> weights: array<vec4<f32>, QUERIES * 8u>;

// Four channels from `d` on at position `t`, of the part of qkv that begins at `start`; outside it the
// last position's, and no channels.
fn vectors(start: u32, t: u32, d: u32) -> vec4<f32> {
    if d >= dims.C / dims.NH {
        return vec4(0.0);
    }
    return vec4<f32>(qkv[start + (min(t, dims.T - 1u) * 3u * dims.C + d) / 4u]);
}

// The place of channels 4 c to 4 c + 3 of row `r` in a tile of 16 channels.
fn place(r: u32, c: u32) -> u32 {
    return r * 4u + (c ^ (r / 2u % 4u));
}

// Four rows of a tile of 16 channels that begins at `start`, as columns.
fn rows(start: u32, r: u32, c: u32) -> mat4x4<f32> {
    return mat4x4(
        tile[start + place(r, c)],
        tile[start + place(r + 8u, c)],
        tile[start + place(r + 16u, c)],
        tile[start + place(r + 24u, c)],
    );
}

// The same of a tile of 64 channels.
fn values(r: u32, c: u32) -> mat4x4<f32> {
    return mat4x4(
        tile[r * 16u + c],
        tile[(r + 8u) * 16u + c],
        tile[(r + 16u) * 16u + c],
        tile[(r + 24u) * 16u + c],
    );
}

// The place of a query's weights of the keys that lane `lane` has.
fn weights_place(q: u32, lane: u32) -> u32 {
    return q * 8u + (lane ^ (q % 8u));
}

// The weights of queries q, q + 8, q + 16 and q + 24, as columns.
fn weights_of(q: u32, lane: u32) -> mat4x4<f32> {
    return mat4x4(
        weights[weights_place(q, lane)],
        weights[weights_place(q + 8u, lane)],
        weights[weights_place(q + 16u, lane)],
        weights[weights_place(q + 24u, lane)],
    );
}

fn store_weights(q: u32, lane: u32, p: mat4x4<f32>) {
    weights[weights_place(q, lane)] = p[0];
    weights[weights_place(q + 8u, lane)] = p[1];
    weights[weights_place(q + 16u, lane)] = p[2];
    weights[weights_place(q + 24u, lane)] = p[3];
}

// The scores of keys key, key + 8, key + 16 and key + 24 as query `q` sees them.
fn seen(scores: vec4<f32>, key: u32, q: u32) -> vec4<f32> {
    let scaled = scores / sqrt(f32(dims.C / dims.NH));
    return select(vec4(FAR), scaled, vec4(key) + vec4(0u, 8u, 16u, 24u) <= vec4(q));
}

fn seen_block(s: mat4x4<f32>, key: u32, q: u32) -> mat4x4<f32> {
    return mat4x4(
        seen(s[0], key, q),
        seen(s[1], key, q + 8u),
        seen(s[2], key, q + 16u),
        seen(s[3], key, q + 24u),
    );
}

// The largest score of each query among this lane's keys.
fn maxima(s: mat4x4<f32>) -> vec4<f32> {
    let keys = transpose(s);
    return max(max(keys[0], keys[1]), max(keys[2], keys[3]));
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

// Leaves keys and queries from channel `d` on in the tile.
fn load_products(q_start: u32, k_start: u32, query: u32, key: u32, d: u32, local: u32) {
    workgroupBarrier();
    for (var i = local; i < KEYS * 4u; i += SIZE) {
        tile[place(i / 4u, i % 4u)] = vectors(k_start, key + i / 4u, d + i % 4u * 4u);
    }
    for (var i = local; i < QUERIES * 4u; i += SIZE) {
        tile[KEYS * 4u + place(i / 4u, i % 4u)] = vectors(q_start, query + i / 4u, d + i % 4u * 4u);
    }
    workgroupBarrier();
}

fn store(o: mat4x4<f32>, sums: vec4<f32>, b: u32, head: u32, query: u32, d: u32) {
    let size = dims.C / dims.NH;
    for (var i = 0u; i < 4u; i++) {
        let t = query + 8u * i;
        if t < dims.T && d < size {
            out[((b * dims.T + t) * dims.C + head * size + d) / 4u] = vec4<out_elem>(o[i] / sums[i]);
        }
    }
}

fn store_lse(log_sums: vec4<f32>, row: u32, query: u32) {
    for (var i = 0u; i < 4u; i++) {
        if query + 8u * i < dims.T {
            lse[row + query + 8u * i] = log_sums[i];
        }
    }
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = (dims.T + QUERIES - 1u) / QUERIES;
    let head = group_index(group) / blocks % dims.NH;
    let b = group_index(group) / blocks / dims.NH;
    // The longest blocks begin first.
    let first = (blocks - 1u - group_index(group) % blocks) * QUERIES;
    if b >= dims.B {
        return;
    }
    let size = dims.C / dims.NH;
    let q_start = (b * dims.T * 3u * dims.C + head * size) / 4u;
    let k_start = q_start + dims.C / 4u;
    let v_start = k_start + dims.C / 4u;
    let channel = group.z * 64u;
    let q = local / 8u;
    let lane = local % 8u;

    // Queries q to q + 24 (l) and q + 32 to q + 56 (h); of their outputs channels 4 lane to 4 lane + 3
    // (0), and 32 more (1).
    var l_max = vec4(FAR); var h_max = vec4(FAR);
    var l_sum = vec4(0.0); var h_sum = vec4(0.0);
    var l0 = mat4x4<f32>(); var h0 = mat4x4<f32>();
    var l1 = mat4x4<f32>(); var h1 = mat4x4<f32>();
    for (var key = 0u; key < min(first + QUERIES, dims.T); key += KEYS) {
        var l = mat4x4<f32>(); var h = mat4x4<f32>();
        for (var d = 0u; d < size; d += 16u) {
            load_products(q_start, k_start, first, key, d, local);
            for (var c = 0u; c < 4u; c++) {
                let keys = transpose(rows(0u, lane, c));
                l += keys * rows(KEYS * 4u, q, c);
                h += keys * rows(KEYS * 4u, q + 32u, c);
            }
        }
        l = seen_block(l, key + lane, first + q);
        h = seen_block(h, key + lane, first + q + 32u);
        workgroupBarrier();
        tile[local] = maxima(l);
        tile[SIZE + local] = maxima(h);
        workgroupBarrier();
        let l_before = l_max;
        let h_before = h_max;
        for (var i = 0u; i < 8u; i++) {
            l_max = max(l_max, tile[q * 8u + i]);
            h_max = max(h_max, tile[SIZE + q * 8u + i]);
        }
        let l_scale = exp(max(l_before - l_max, vec4(-80.0)));
        let h_scale = exp(max(h_before - h_max, vec4(-80.0)));
        l = exponentials(l, l_max);
        h = exponentials(h, h_max);
        l_sum = l_sum * l_scale + vec4(1.0) * l;
        h_sum = h_sum * h_scale + vec4(1.0) * h;
        store_weights(q, lane, l);
        store_weights(q + 32u, lane, h);
        workgroupBarrier();
        for (var i = local; i < KEYS * 16u; i += SIZE) {
            tile[i] = vectors(v_start, key + i / 16u, channel + i % 16u * 4u);
        }
        workgroupBarrier();
        l0 = rescale(l0, l_scale); h0 = rescale(h0, h_scale);
        l1 = rescale(l1, l_scale); h1 = rescale(h1, h_scale);
        for (var i = 0u; i < 8u; i++) {
            let l_p = weights_of(q, i);
            let h_p = weights_of(q + 32u, i);
            let v0 = values(i, lane);
            l0 += v0 * l_p; h0 += v0 * h_p;
            let v1 = values(i, lane + 8u);
            l1 += v1 * l_p; h1 += v1 * h_p;
        }
    }

    workgroupBarrier();
    tile[local] = l_sum;
    tile[SIZE + local] = h_sum;
    workgroupBarrier();
    l_sum = vec4(0.0);
    h_sum = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
        l_sum += tile[q * 8u + i];
        h_sum += tile[SIZE + q * 8u + i];
    }
    let query = first + q;
    let d = channel + 4u * lane;
    store(l0, l_sum, b, head, query, d); store(h0, h_sum, b, head, query + 32u, d);
    store(l1, l_sum, b, head, query, d + 32u); store(h1, h_sum, b, head, query + 32u, d + 32u);
    if lane == 0u && group.z == 0u {
        let row = (b * dims.NH + head) * dims.T;
        store_lse(l_max + log(l_sum), row, query);
        store_lse(h_max + log(h_sum), row, query + 32u);
    }
}
