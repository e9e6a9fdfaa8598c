// uses: heads, first_key
// Computes dqkv from dout, for `p = exp(q · k / √HS - lse)`, `out = Σ_j p v`:
//     ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i]) / √HS
//     dq[i] = Σ_j ds[i, j] k[j]        dk[j] = Σ_i ds[i, j] q[i]        dv[j] = Σ_i p[i, j] dout[i]
//
// One workgroup per 16 positions of a head and 256 of the head's channels. The first half of z computes dq of
// its positions as queries, over 32 keys at a time; the second half computes dk and dv of its positions as
// keys, over 32 queries at a time of each head that reads them, one head after the other. So no sum is shared
// by two workgroups, and in the second half only the first KVH heads have work. There are 16 invocations per
// position: each computes p and ds of two of the pairs, whose products go through workgroup memory 16
// channels at a time, and every 16th channel of the output.

@group(0) @binding(1) var<storage, read> qkv: array<qkv_elem>;            // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;           // (B, T)
@group(0) @binding(3) var<storage, read> lse: array<f32>;                 // (B, NH, T)
@group(0) @binding(4) var<storage, read> delta: array<f32>;               // (B, NH, T)
@group(0) @binding(5) var<storage, read> dout: array<dout_elem>;          // (B, T, C)
@group(0) @binding(6) var<storage, read_write> dqkv: array<dqkv_elem>;    // as qkv

const ROWS = 16u;
const LANES = 16u;
const OTHERS = 32u;
const DEPTH = 16u;
const PITCH = DEPTH + 1u; // so that neighbouring positions fall into different banks
const CHANNELS = 256u;

// For each position, the vectors of its two products: as a query q and dout, as a key k and v.
var<workgroup> row_tile: array<vec2<f32>, ROWS * PITCH>;
var<workgroup> other_tile: array<vec2<f32>, OTHERS * PITCH>;
// ds and p of each pair of positions.
var<workgroup> pairs: array<vec2<f32>, ROWS * (OTHERS + 1u)>;

// The inputs of a workgroup: the sequence, the head of the queries, and the rows of its parts.
struct Parts {
    b: u32,
    head: u32,
    q: vec2<u32>,
    k: vec2<u32>,
    v: vec2<u32>,
    gradient: vec2<u32>,
}

fn parts_of(b: u32, head: u32) -> Parts {
    let kv_head = head / (dims.NH / dims.KVH);
    return Parts(
        b,
        head,
        query_rows(b, head),
        key_rows(b, kv_head),
        value_rows(b, kv_head),
        out_rows(b, head),
    );
}

// Returns channel `d` of a position's two vectors, 0 outside.
fn vectors(parts: Parts, t: u32, d: u32, as_query: bool) -> vec2<f32> {
    if t >= dims.T || d >= dims.HS {
        return vec2(0.0);
    }
    if as_query {
        return vec2(f32(qkv[channel(parts.q, t, d)]), f32(dout[channel(parts.gradient, t, d)]));
    }
    return vec2(f32(qkv[channel(parts.k, t, d)]), f32(qkv[channel(parts.v, t, d)]));
}

// Computes ds and p of one query and one key from their two products.
fn pair(parts: Parts, query: u32, key: u32, products: vec2<f32>) -> vec2<f32> {
    if key > query || query >= dims.T || key < first_seen(parts.b, query) {
        return vec2(0.0);
    }
    let root = sqrt(f32(dims.HS));
    let at = (parts.b * dims.NH + parts.head) * dims.T + query;
    let p = exp(products.x / root - lse[at]);
    return vec2(p * (products.y - delta[at]) / root, p);
}

// Stores ds and p of the positions from `row0` on with the others from `other0` on in `pairs`.
fn find_pairs(parts: Parts, row0: u32, other0: u32, rows_are_queries: bool, local: u32) {
    let row = local / LANES;
    let lane = local % LANES;
    var first = vec2(0.0);
    var second = vec2(0.0);
    for (var depth = 0u; depth < dims.HS; depth += DEPTH) {
        for (var i = local; i < OTHERS * DEPTH; i += ROWS * LANES) {
            let t = i / DEPTH;
            let d = i % DEPTH;
            if t < ROWS {
                row_tile[t * PITCH + d] = vectors(parts, row0 + t, depth + d, rows_are_queries);
            }
            other_tile[t * PITCH + d] = vectors(parts, other0 + t, depth + d, !rows_are_queries);
        }
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            let own = row_tile[row * PITCH + d];
            first += own * other_tile[lane * PITCH + d];
            second += own * other_tile[(lane + LANES) * PITCH + d];
        }
        workgroupBarrier();
    }
    let at = row * (OTHERS + 1u) + lane;
    let t = row0 + row;
    let u = other0 + lane;
    if rows_are_queries {
        pairs[at] = pair(parts, t, u, first);
        pairs[at + LANES] = pair(parts, t, u + LANES, second);
    } else {
        pairs[at] = pair(parts, u, t, first);
        pairs[at + LANES] = pair(parts, u + LANES, t, second);
    }
    workgroupBarrier();
}

fn backward_queries(b: u32, head: u32, query: u32, chunk: u32, local: u32) {
    let row = local / LANES;
    let start = chunk * CHANNELS + local % LANES;
    let end = min(dims.HS, (chunk + 1u) * CHANNELS);
    let parts = parts_of(b, head);
    var dq: array<f32, CHANNELS / LANES>;
    for (var key = 0u; key < min(query + ROWS, dims.T); key += OTHERS) {
        find_pairs(parts, query, key, true, local);
        let keys = min(OTHERS, dims.T - key);
        var slot = 0u;
        for (var d = start; d < end; d += LANES) {
            var sum = dq[slot];
            for (var j = 0u; j < keys; j++) {
                sum += pairs[row * (OTHERS + 1u) + j].x * f32(qkv[channel(parts.k, key + j, d)]);
            }
            dq[slot] = sum;
            slot++;
        }
        workgroupBarrier();
    }
    var slot = 0u;
    for (var d = start; d < end && query + row < dims.T; d += LANES) {
        dqkv[channel(parts.q, query + row, d)] = dqkv_elem(dq[slot]);
        slot++;
    }
}

fn backward_keys(b: u32, kv_head: u32, key: u32, chunk: u32, local: u32) {
    let row = local / LANES;
    let start = chunk * CHANNELS + local % LANES;
    let end = min(dims.HS, (chunk + 1u) * CHANNELS);
    let heads = dims.NH / dims.KVH;
    var dkv: array<vec2<f32>, CHANNELS / LANES>;
    for (var head = kv_head * heads; head < (kv_head + 1u) * heads; head++) {
        let parts = parts_of(b, head);
        for (var query = key; query < dims.T; query += OTHERS) {
            find_pairs(parts, key, query, false, local);
            let queries = min(OTHERS, dims.T - query);
            var slot = 0u;
            for (var d = start; d < end; d += LANES) {
                var sum = dkv[slot];
                for (var i = 0u; i < queries; i++) {
                    sum += pairs[row * (OTHERS + 1u) + i] * vectors(parts, query + i, d, true);
                }
                dkv[slot] = sum;
                slot++;
            }
            workgroupBarrier();
        }
    }
    let k_rows = key_rows(b, kv_head);
    let v_rows = value_rows(b, kv_head);
    var slot = 0u;
    for (var d = start; d < end && key + row < dims.T; d += LANES) {
        dqkv[channel(k_rows, key + row, d)] = dqkv_elem(dkv[slot].x);
        dqkv[channel(v_rows, key + row, d)] = dqkv_elem(dkv[slot].y);
        slot++;
    }
}

@compute @workgroup_size(ROWS * LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = (dims.T + ROWS - 1u) / ROWS;
    let head = group_index(group) / blocks % dims.NH;
    let b = group_index(group) / blocks / dims.NH;
    let first = group_index(group) % blocks * ROWS;
    if b >= dims.B {
        return;
    }
    let chunks = (dims.HS + CHANNELS - 1u) / CHANNELS;
    if group.z < chunks {
        backward_queries(b, head, first, group.z, local);
    } else if head < dims.KVH {
        backward_keys(b, head, first, group.z - chunks, local);
    }
}
