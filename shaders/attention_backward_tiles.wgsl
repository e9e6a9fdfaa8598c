// uses: heads, first_key, attention_pairs, attention_tiles
// Computes dqkv from dout, for `p = exp(q · k / √HS - lse)`, `out = Σ_j p v`:
//     ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i]) / √HS
//     dq[i] = Σ_j ds[i, j] k[j]        dk[j] = Σ_i ds[i, j] q[i]        dv[j] = Σ_i p[i, j] dout[i]
//
// One workgroup per 32 positions of a head and 64 of the head's channels. The first half of z computes dq of
// its positions as queries, over 32 keys at a time; the second half computes dk and dv of its positions as
// keys, over 32 queries at a time of each head that reads them, one head after the other. So no sum is shared
// by two workgroups, and in the second half only the first KVH heads have work. A position has two vectors:
// as a query q and dout, as a key k and v. Both halves do the same with them: first the products of the own
// positions with the others, s and dp; then the sums of the others' first vectors weighted by ds and of their
// second vectors weighted by p. A workgroup has SIZE invocations. 8 of them, the lanes, share some positions, 4 if
// SIZE is 64 (shared/attention_four.wgsl), 2 if it is 128 (shared/attention_two.wgsl): a lane has their pairs with 4
// others, as a matrix with a column per position, and then 8 channels of the sums. Their way through workgroup
// memory is described in shared/attention_tiles.wgsl.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;            // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;                 // (B, T)
@group(0) @binding(3) var<storage, read> lse: array<f32>;                       // (B, NH, T)
@group(0) @binding(4) var<storage, read> delta: array<f32>;                     // (B, NH, T)
@group(0) @binding(5) var<storage, read> dout: array<vec4<dout_elem>>;          // (B, T, C)
@group(0) @binding(6) var<storage, read_write> dqkv: array<vec4<dqkv_elem>>;    // as qkv

const ROWS = 32u;
// Where the tiles of 16 channels begin: the vectors of the others, and those of the own positions.
const OTHER_FIRST = 0u;
const OTHER_SECOND = ROWS * 4u;
const OWN_FIRST = ROWS * 8u;
const OWN_SECOND = ROWS * 12u;

// Those four tiles, or one vector of each of the others with 64 channels.
var<workgroup> tile: array<vec4<f32>, ROWS * 16u>;
// For each position and lane, ds of the pairs with the lane's others, followed by p.
var<workgroup> weights: array<vec4<f32>, ROWS * 16u>;

// Returns four channels from `d` on of the second vector of position `t`, or of the last one past the end; 0 past HS.
fn second_vector(rows: vec2<u32>, t: u32, d: u32, as_query: bool) -> vec4<f32> {
    if !as_query {
        return vector_of(rows, t, d);
    }
    if d >= dims.HS {
        return vec4(0.0);
    }
    return vec4<f32>(dout[channel(rows, min(t, dims.T - 1u), d) / 4u]);
}

// Stores ds of a position and the lane's four others in `weights`, and p ROWS * 8 further on.
fn store_pairs(position: u32, lane: u32, pairs: mat2x4<f32>) {
    let at = weights_place(position, lane);
    weights[at] = pairs[1];
    weights[at + ROWS * 8u] = pairs[0];
}

fn store(sums: Own, rows: vec2<u32>, position: u32, d: u32) {
    for (var i = 0u; i < OWN; i++) {
        let t = position + OWN_APART * i;
        if t < dims.T && d < dims.HS {
            dqkv[channel(rows, t, d) / 4u] = vec4<dqkv_elem>(sums[i]);
        }
    }
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = (dims.T + ROWS - 1u) / ROWS;
    let head = group_index(group) / blocks % dims.NH;
    let b = group_index(group) / blocks / dims.NH;
    let own = group_index(group) % blocks * ROWS;
    if b >= dims.B {
        return;
    }
    let chunks = (dims.HS + 63u) / 64u;
    let d0 = group.z % chunks * 64u;
    let as_query = group.z < chunks;
    // The heads of the second half are those of the keys, each with the query heads that read it.
    let heads = dims.NH / dims.KVH;
    if (!as_query) & (head >= dims.KVH) {
        return;
    }
    let kv_head = select(head, head / heads, as_query);
    let first_head = select(head * heads, head, as_query);
    let last_head = select(head * heads + heads - 1u, head, as_query);
    let k_rows = key_rows(b, kv_head);
    let v_rows = value_rows(b, kv_head);
    let end = select(dims.T, min(own + ROWS, dims.T), as_query);
    let position = local / 8u;
    let lane = local % 8u;
    let t = own + position;

    // The sums of the others' first and second vectors: channels 4 lane to 4 lane + 3 (0), and 32 more (1).
    var first0 = Own(); var first1 = Own();
    var second0 = Own(); var second1 = Own();
    for (var query_head = first_head; query_head <= last_head; query_head++) {
        let q_rows = query_rows(b, query_head);
        let dout_rows = out_rows(b, query_head);
        let own_first = select(k_rows, q_rows, as_query);
        let own_second = select(v_rows, dout_rows, as_query);
        let other_first = select(q_rows, k_rows, as_query);
        let other_second = select(dout_rows, v_rows, as_query);
        let head_row = (b * dims.NH + query_head) * dims.T;
        // Loops over workgroup memory have as many steps as there are vectors and positions: one of a constant number of
        // steps would be unrolled by compilers, which then load so much at once that registers run out.
        for (var other = select(own, 0u, as_query); other < end; other += ROWS) {
            var s = Own();
            var dp = Own();
            for (var d = 0u; d < dims.HS; d += 16u) {
                workgroupBarrier();
                for (var i = local; i < ROWS * 4u; i += SIZE) {
                    let r = i / 4u;
                    let di = d + i % 4u * 4u;
                    let at = place(r, i % 4u);
                    tile[OTHER_FIRST + at] = vector_of(other_first, other + r, di);
                    tile[OTHER_SECOND + at] = second_vector(other_second, other + r, di, !as_query);
                    tile[OWN_FIRST + at] = vector_of(own_first, own + r, di);
                    tile[OWN_SECOND + at] = second_vector(own_second, own + r, di, as_query);
                }
                workgroupBarrier();
                let fours = min(4u, (dims.HS - d) / 4u);
                for (var c = 0u; c < fours; c++) {
                    s += transpose(rows(OTHER_FIRST, lane, c)) * own_rows(OWN_FIRST, position, c);
                    dp += transpose(rows(OTHER_SECOND, lane, c)) * own_rows(OWN_SECOND, position, c);
                }
            }
            for (var i = 0u; i < OWN; i++) {
                let apart = i * OWN_APART;
                let pairs = pairs_of(s[i], dp[i], b, head_row, t + apart, other + lane, as_query);
                store_pairs(position + apart, lane, pairs);
            }
            workgroupBarrier();
            for (var i = local; i < ROWS * 16u; i += SIZE) {
                tile[i] = vector_of(other_first, other + i / 16u, d0 + i % 16u * 4u);
            }
            workgroupBarrier();
            let present = min(8u, end - other);
            for (var i = 0u; i < present; i++) {
                let ds = own_weights(0u, position, i);
                first0 += values(i, lane) * ds;
                first1 += values(i, lane + 8u) * ds;
            }
            if as_query {
                continue;
            }
            workgroupBarrier();
            for (var i = local; i < ROWS * 16u; i += SIZE) {
                tile[i] = second_vector(other_second, other + i / 16u, d0 + i % 16u * 4u, true);
            }
            workgroupBarrier();
            for (var i = 0u; i < present; i++) {
                let p = own_weights(ROWS * 8u, position, i);
                second0 += values(i, lane) * p;
                second1 += values(i, lane + 8u) * p;
            }
        }
    }

    let d = d0 + 4u * lane;
    let first_rows = select(k_rows, query_rows(b, head), as_query);
    store(first0, first_rows, t, d);
    store(first1, first_rows, t, d + 32u);
    if !as_query {
        store(second0, v_rows, t, d);
        store(second1, v_rows, t, d + 32u);
    }
}
