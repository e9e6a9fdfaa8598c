// uses: heads, first_key, attention_pairs, attention_broadcast, broadcast
// Computes dqkv from dout, for `p = exp(q · k / √HS - lse)`, `out = Σ_j p v`:
//     ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i]) / √HS
//     dq[i] = Σ_j ds[i, j] k[j]        dk[j] = Σ_i ds[i, j] q[i]        dv[j] = Σ_i p[i, j] dout[i]
//
// One workgroup, which is one subgroup of 8, per 8 positions of a head and 32 of the head's channels. The
// first half of z computes dq of its positions as queries, over 32 keys at a time; the second half computes
// dk and dv of its positions as keys, over 32 queries at a time of each head that reads them, one head after
// the other. So no sum is shared by two workgroups, and in the second half only the first KVH heads have work.
// A position has two vectors: as a query q and dout, as a key k and v. Both halves do the same with them:
// first the products of the own positions with the others, s and dp; then the sums of the others' first
// vectors weighted by ds and of their second vectors weighted by p. The layout of matrices over lanes is
// described in attention_forward_broadcast.wgsl.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;            // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;                 // (B, T)
@group(0) @binding(3) var<storage, read> lse: array<f32>;                       // (B, NH, T)
@group(0) @binding(4) var<storage, read> delta: array<f32>;                     // (B, NH, T)
@group(0) @binding(5) var<storage, read> dout: array<vec4<dout_elem>>;          // (B, T, C)
@group(0) @binding(6) var<storage, read_write> dqkv: array<vec4<dqkv_elem>>;    // as qkv

// Returns the second vectors of 4 positions from `t` on, 4 channels from `d` on: a column per position.
fn second_block(rows: vec2<u32>, t: u32, d: u32, as_queries: bool) -> mat4x4<f32> {
    if !as_queries {
        return block(rows, t, d);
    }
    return mat4x4(
        vec4<f32>(dout[vector_place(rows, t, d)]),
        vec4<f32>(dout[vector_place(rows, t + 1u, d)]),
        vec4<f32>(dout[vector_place(rows, t + 2u, d)]),
        vec4<f32>(dout[vector_place(rows, t + 3u, d)]),
    );
}

fn store(values: mat4x4<f32>, rows: vec2<u32>, t: u32, d: u32) {
    // What is left moves to the front: what is indexed by a variable would lie in memory.
    var left = values;
    for (var i = 0u; i < 4u && d < dims.HS && t + i < dims.T; i++) {
        dqkv[vector_place(rows, t + i, d)] = vec4<dqkv_elem>(left[0]);
        left = mat4x4(left[1], left[2], left[3], left[0]);
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
    let own = group_index(group) % blocks * 8u;
    if b >= dims.B {
        return;
    }
    let chunks = (dims.HS + 31u) / 32u;
    let own_d = group.z % chunks * 32u + 4u * lane;
    let as_queries = group.z < chunks;
    let as_keys = !as_queries;
    // The heads of the second half are those of the keys, each with the query heads that read it.
    let heads = dims.NH / dims.KVH;
    if as_keys & (head >= dims.KVH) {
        return;
    }
    let kv_head = select(head, head / heads, as_queries);
    let first_head = select(head * heads, head, as_queries);
    let last_head = select(head * heads + heads - 1u, head, as_queries);
    let k_rows = key_rows(b, kv_head) / 4u;
    let v_rows = value_rows(b, kv_head) / 4u;
    let end = select(dims.T, min(own + 8u, dims.T), as_queries);

    // For positions 0 to 3 (l) and 4 to 7 (h): the sums of the others' first and second vectors.
    var l_first = mat4x4<f32>(); var h_first = mat4x4<f32>();
    var l_second = mat4x4<f32>(); var h_second = mat4x4<f32>();
    var query_head = first_head;
    loop {
        let q_rows = query_rows(b, query_head) / 4u;
        let dout_rows = out_rows(b, query_head) / 4u;
        let own_first = select(k_rows, q_rows, as_queries);
        let own_second = select(v_rows, dout_rows, as_queries);
        let other_first = select(q_rows, k_rows, as_queries);
        let other_second = select(dout_rows, v_rows, as_queries);
        let head_row = (b * dims.NH + query_head) * dims.T;
        var tile = select(own, 0u, as_queries);
        loop {
            let other = tile + 4u * lane;
            var l_s = mat4x4<f32>(); var h_s = mat4x4<f32>();
            var l_dp = mat4x4<f32>(); var h_dp = mat4x4<f32>();
            var d = 0u;
            loop {
                // Lanes 0 to 3 load the first positions, the others the rest: each loads 4 of 16 channels.
                let t = own + lane / 4u * 4u;
                let d_of_own = d + lane % 4u * 4u;
                let inside = select(0.0, 1.0, d_of_own < dims.HS);
                var a = block(own_first, t, d_of_own) * inside;
                var c = second_block(own_second, t, d_of_own, as_queries) * inside;
                for (var i = 0u; i < 4u; i++) {
                    let x = transpose(block(other_first, other, d + 4u * i));
                    l_s += x * lane0(a); h_s += x * lane4(a);
                    let y = transpose(second_block(other_second, other, d + 4u * i, as_keys));
                    l_dp += y * lane0(c); h_dp += y * lane4(c);
                    a = of_next_lane_in_half(a, lane);
                    c = of_next_lane_in_half(c, lane);
                }
                continuing {
                    d += 16u;
                    break if d >= dims.HS;
                }
            }
            // p replaces s, and ds replaces dp, one position after the other.
            for (var i = 0u; i < 8u; i++) {
                let pair = pairs_of(l_s[0], l_dp[0], b, head_row, own + i, other, as_queries);
                l_s = mat4x4(l_s[1], l_s[2], l_s[3], h_s[0]);
                l_dp = mat4x4(l_dp[1], l_dp[2], l_dp[3], h_dp[0]);
                h_s = mat4x4(h_s[1], h_s[2], h_s[3], pair[0]);
                h_dp = mat4x4(h_dp[1], h_dp[2], h_dp[3], pair[1]);
            }
            var l_p = l_s; var l_ds = l_dp; var h_p = h_s; var h_ds = h_dp;
            for (var i = 0u; i < 8u; i++) {
                let x = block(other_first, tile + 4u * i, own_d);
                l_first += x * lane0(l_ds); h_first += x * lane0(h_ds);
                let y = second_block(other_second, tile + 4u * i, own_d, as_keys);
                l_second += y * lane0(l_p); h_second += y * lane0(h_p);
                l_ds = of_next_lane(l_ds, lane); h_ds = of_next_lane(h_ds, lane);
                l_p = of_next_lane(l_p, lane); h_p = of_next_lane(h_p, lane);
            }
            continuing {
                tile += 32u;
                break if tile >= end;
            }
        }
        continuing {
            query_head++;
            break if query_head > last_head;
        }
    }

    let first_rows = select(k_rows, query_rows(b, head) / 4u, as_queries);
    store(l_first, first_rows, own, own_d);
    store(h_first, first_rows, own + 4u, own_d);
    if as_keys {
        store(l_second, v_rows, own, own_d);
        store(h_second, v_rows, own + 4u, own_d);
    }
}
