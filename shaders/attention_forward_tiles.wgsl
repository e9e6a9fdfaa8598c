// uses: heads, first_key, attention_softmax, attention_tiles
// out[i] = Σ_j p[i, j] v[j] and lse[i], p = softmax of q[i] · k[j] / √HS over the keys that i sees.
//
// One workgroup of SIZE invocations per 64 queries of a head and (in z) 64 of the head's channels. It uses online
// softmax over 32 keys at a time. 8 invocations, the lanes, share 4 queries, or 8 if SIZE is 64: a lane has the scores
// of 4 keys, as a matrix with a column per query for each four of them, and then 8 channels of the outputs. The factors
// go through workgroup memory 16 channels at a time, the probabilities all at once: shared/attention_tiles.wgsl.
//
// With SIZE 64 an invocation reads less from workgroup memory per product, with 128 it needs half of the registers.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;          // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;               // (B, T)
@group(0) @binding(3) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;               // (B, NH, T)

const QUERIES = 64u;
const KEYS = 32u;
const EIGHT = SIZE == 64u; // whether the lanes share 8 queries

// Keys and queries with 16 channels, or maxima, or values with 64 channels.
var<workgroup> tile: array<vec4<f32>, KEYS * 16u>;
// For each query and lane, the probabilities of the lane's keys.
var<workgroup> weights: array<vec4<f32>, QUERIES * 8u>;

fn store_weights(q: u32, lane: u32, p: mat4x4<f32>) {
    weights[weights_place(q, lane)] = p[0];
    weights[weights_place(q + 8u, lane)] = p[1];
    weights[weights_place(q + 16u, lane)] = p[2];
    weights[weights_place(q + 24u, lane)] = p[3];
}

// Loads keys and queries from channel `d` on into the tile.
fn load_products(q_rows: vec2<u32>, k_rows: vec2<u32>, query: u32, key: u32, d: u32, local: u32) {
    workgroupBarrier();
    for (var i = local; i < KEYS * 4u; i += SIZE) {
        tile[place(i / 4u, i % 4u)] = vector_of(k_rows, key + i / 4u, d + i % 4u * 4u);
    }
    for (var i = local; i < QUERIES * 4u; i += SIZE) {
        tile[KEYS * 4u + place(i / 4u, i % 4u)] = vector_of(q_rows, query + i / 4u, d + i % 4u * 4u);
    }
    workgroupBarrier();
}

fn store(o: mat4x4<f32>, sums: vec4<f32>, b: u32, head: u32, query: u32, d: u32) {
    for (var i = 0u; i < 4u; i++) {
        let t = query + 8u * i;
        if t < dims.T && d < dims.HS {
            out[channel(out_rows(b, head), t, d) / 4u] = vec4<out_elem>(o[i] / sums[i]);
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
    // The blocks with the most keys start first.
    let first = (blocks - 1u - group_index(group) % blocks) * QUERIES;
    if b >= dims.B {
        return;
    }
    let kv_head = head / (dims.NH / dims.KVH);
    let q_rows = query_rows(b, head);
    let k_rows = key_rows(b, kv_head);
    let v_rows = value_rows(b, kv_head);
    let d0 = group.z * 64u;
    // The first 64 invocations have the first of the queries that are 8 apart, up to 24 further on.
    let q = local / 8u % 8u + local / 64u * 32u;
    let lane = local % 8u;
    let lanes = local - lane;

    // For queries q to q + 24 (l) and, if EIGHT, q + 32 to q + 56 (h); channels 4 lane to 4 lane + 3 of their
    // outputs (0), and 32 more (1).
    var l_max = vec4(FAR); var h_max = vec4(FAR);
    var l_sum = vec4(0.0); var h_sum = vec4(0.0);
    var l0 = mat4x4<f32>(); var h0 = mat4x4<f32>();
    var l1 = mat4x4<f32>(); var h1 = mat4x4<f32>();
    // Loops over workgroup memory have as many steps as there are vectors and keys: one of a constant number of steps
    // would be unrolled by compilers, which then load so much at once that registers run out.
    for (var key = 0u; key < min(first + QUERIES, dims.T); key += KEYS) {
        var l = mat4x4<f32>(); var h = mat4x4<f32>();
        for (var d = 0u; d < dims.HS; d += 16u) {
            load_products(q_rows, k_rows, first, key, d, local);
            let fours = min(4u, (dims.HS - d) / 4u);
            for (var c = 0u; c < fours; c++) {
                let keys = transpose(rows(0u, lane, c));
                l += keys * rows(KEYS * 4u, q, c);
                if EIGHT { h += keys * rows(KEYS * 4u, q + 32u, c); }
            }
        }
        l = from_first(seen_block(l, key + lane, first + q), b, key + lane, first + q);
        if EIGHT { h = from_first(seen_block(h, key + lane, first + q + 32u), b, key + lane, first + q + 32u); }
        workgroupBarrier();
        tile[local] = largest_of(l);
        if EIGHT { tile[SIZE + local] = largest_of(h); }
        workgroupBarrier();
        let l_before = l_max;
        let h_before = h_max;
        for (var i = 0u; i < 8u; i++) {
            l_max = max(l_max, tile[lanes + i]);
            if EIGHT { h_max = max(h_max, tile[SIZE + lanes + i]); }
        }
        let l_scale = exp(max(l_before - l_max, vec4(-80.0)));
        l = exponentials(l, l_max);
        l_sum = l_sum * l_scale + vec4(1.0) * l;
        store_weights(q, lane, l);
        l0 = rescale(l0, l_scale);
        l1 = rescale(l1, l_scale);
        if EIGHT {
            let h_scale = exp(max(h_before - h_max, vec4(-80.0)));
            h = exponentials(h, h_max);
            h_sum = h_sum * h_scale + vec4(1.0) * h;
            store_weights(q + 32u, lane, h);
            h0 = rescale(h0, h_scale);
            h1 = rescale(h1, h_scale);
        }
        workgroupBarrier();
        for (var i = local; i < KEYS * 16u; i += SIZE) {
            tile[i] = vector_of(v_rows, key + i / 16u, d0 + i % 16u * 4u);
        }
        workgroupBarrier();
        let present = min(8u, dims.T - key);
        for (var i = 0u; i < present; i++) {
            let l_p = weights_of(0u, q, i);
            let v0 = values(i, lane);
            let v1 = values(i, lane + 8u);
            l0 += v0 * l_p;
            l1 += v1 * l_p;
            if EIGHT {
                let h_p = weights_of(0u, q + 32u, i);
                h0 += v0 * h_p;
                h1 += v1 * h_p;
            }
        }
    }

    workgroupBarrier();
    tile[local] = l_sum;
    if EIGHT { tile[SIZE + local] = h_sum; }
    workgroupBarrier();
    l_sum = vec4(0.0);
    h_sum = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
        l_sum += tile[lanes + i];
        if EIGHT { h_sum += tile[SIZE + lanes + i]; }
    }
    let query = first + q;
    let row = (b * dims.NH + head) * dims.T;
    let d = d0 + 4u * lane;
    let is_first = lane == 0u && group.z == 0u;
    store(l0, l_sum, b, head, query, d);
    store(l1, l_sum, b, head, query, d + 32u);
    if is_first { store_lse(l_max + log(l_sum), row, query); }
    if EIGHT {
        store(h0, h_sum, b, head, query + 32u, d);
        store(h1, h_sum, b, head, query + 32u, d + 32u);
        if is_first { store_lse(h_max + log(h_sum), row, query + 32u); }
    }
}
