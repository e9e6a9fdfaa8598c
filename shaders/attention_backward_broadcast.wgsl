// dqkv from dout, from `p = exp(q · k / √HS - lse)`, `out = Σ_j p v`:
//     ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i]) / √HS
//     dq[i] = Σ_j ds[i, j] k[j]        dk[j] = Σ_i ds[i, j] q[i]        dv[j] = Σ_i p[i, j] dout[i]
//
// One workgroup, which is one subgroup of 8: 8 positions of a head and 32 of the head's channels. The
// first half of z finds dq of its positions as queries, over 32 keys at a time; the second half finds dk
// and dv of its positions as keys, over 32 queries at a time. So nothing is added up by two workgroups.
// A position has two vectors: as a query q and dout, as a key k and v. Both halves do the same with them:
// products of the positions' own with those of the others, s and dp; then sums of the others' first
// vectors weighed by ds and of their second ones weighed by p. How matrices and lanes go together:
// attention_forward_broadcast.wgsl.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;            // (B, T, 3C)
@group(0) @binding(2) var<storage, read> lse: array<f32>;                       // (B, NH, T)
@group(0) @binding(3) var<storage, read> delta: array<f32>;                     // (B, NH, T)
@group(0) @binding(4) var<storage, read> dout: array<vec4<dout_elem>>;          // (B, T, C)
@group(0) @binding(5) var<storage, read_write> dqkv: array<vec4<dqkv_elem>>;    // (B, T, 3C)

// The place of channel `d` of a head at position `t` in rows of `parts` times C, in vectors; outside it
// is at the edge.
fn place(b: u32, head: u32, t: u32, d: u32, parts: u32) -> u32 {
    let size = dims.C / dims.NH;
    let row = b * dims.T + min(t, dims.T - 1u);
    return (row * parts * dims.C + head * size + min(d, size - 4u)) / 4u;
}

// The first vector of 4 positions from `t` on, 4 channels from `d` on: a column a position.
fn first_vectors(b: u32, head: u32, t: u32, d: u32, as_queries: bool) -> mat4x4<f32> {
    let part = select(dims.C / 4u, 0u, as_queries);
    return mat4x4(
        vec4<f32>(qkv[place(b, head, t, d, 3u) + part]),
        vec4<f32>(qkv[place(b, head, t + 1u, d, 3u) + part]),
        vec4<f32>(qkv[place(b, head, t + 2u, d, 3u) + part]),
        vec4<f32>(qkv[place(b, head, t + 3u, d, 3u) + part]),
    );
}

// The same of the second vector.
fn second_vectors(b: u32, head: u32, t: u32, d: u32, as_queries: bool) -> mat4x4<f32> {
    if as_queries {
        return mat4x4(
            vec4<f32>(dout[place(b, head, t, d, 1u)]),
            vec4<f32>(dout[place(b, head, t + 1u, d, 1u)]),
            vec4<f32>(dout[place(b, head, t + 2u, d, 1u)]),
            vec4<f32>(dout[place(b, head, t + 3u, d, 1u)]),
        );
    }
    let part = dims.C / 2u;
    return mat4x4(
        vec4<f32>(qkv[place(b, head, t, d, 3u) + part]),
        vec4<f32>(qkv[place(b, head, t + 1u, d, 3u) + part]),
        vec4<f32>(qkv[place(b, head, t + 2u, d, 3u) + part]),
        vec4<f32>(qkv[place(b, head, t + 3u, d, 3u) + part]),
    );
}

// p and ds of one own position with 4 others from `other` on, from their products.
fn pair(s: vec4<f32>, dp: vec4<f32>, row: u32, own: u32, other: u32, as_queries: bool) -> mat2x4<f32> {
    let others = vec4(other) + vec4(0u, 1u, 2u, 3u);
    let query = select(others, vec4(own), as_queries);
    let key = select(vec4(own), others, as_queries);
    let at = vec4(row) + min(query, vec4(dims.T - 1u));
    let log_sums = vec4(lse[at.x], lse[at.y], lse[at.z], lse[at.w]);
    let deltas = vec4(delta[at.x], delta[at.y], delta[at.z], delta[at.w]);
    let root = sqrt(f32(dims.C / dims.NH));
    let seen = (key <= query) & (query < vec4(dims.T));
    let p = select(vec4(0.0), exp(s / root - log_sums), seen);
    return mat2x4(p, p * (dp - deltas) / root);
}

fn store(values: mat4x4<f32>, part: u32, b: u32, head: u32, t: u32, d: u32) {
    for (var i = 0u; i < 4u && d < dims.C / dims.NH && t + i < dims.T; i++) {
        let at = place(b, head, t + i, d, 3u) + part * dims.C / 4u;
        dqkv[at] = vec4<dqkv_elem>(values[i]);
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
    let size = dims.C / dims.NH;
    let row = (b * dims.NH + head) * dims.T;
    let chunks = (size + 31u) / 32u;
    let channel = group.z % chunks * 32u + 4u * lane;
    let as_queries = group.z < chunks;
    let as_keys = !as_queries;
    let end = select(dims.T, min(own + 8u, dims.T), as_queries);

    // Of positions 0 to 3 (l) and 4 to 7 (h): the sums of the others' first and second vectors.
    var l_first = mat4x4<f32>(); var h_first = mat4x4<f32>();
    var l_second = mat4x4<f32>(); var h_second = mat4x4<f32>();
    var tile = select(own, 0u, as_queries);
    loop {
        let other = tile + 4u * lane;
        var l_s = mat4x4<f32>(); var h_s = mat4x4<f32>();
        var l_dp = mat4x4<f32>(); var h_dp = mat4x4<f32>();
        var d = 0u;
        loop {
            // Lanes 0 to 3 have the first positions, the others the rest: each 4 of 16 channels.
            let t = own + lane / 4u * 4u;
            let own_d = d + lane % 4u * 4u;
            let inside = select(0.0, 1.0, own_d < size);
            let a = first_vectors(b, head, t, own_d, as_queries) * inside;
            let c = second_vectors(b, head, t, own_d, as_queries) * inside;
            let a0 = transpose(first_vectors(b, head, other, d, as_keys));
            l_s += a0 * lane0(a); h_s += a0 * lane4(a);
            let c0 = transpose(second_vectors(b, head, other, d, as_keys));
            l_dp += c0 * lane0(c); h_dp += c0 * lane4(c);
            let a1 = transpose(first_vectors(b, head, other, d + 4u, as_keys));
            l_s += a1 * lane1(a); h_s += a1 * lane5(a);
            let c1 = transpose(second_vectors(b, head, other, d + 4u, as_keys));
            l_dp += c1 * lane1(c); h_dp += c1 * lane5(c);
            let a2 = transpose(first_vectors(b, head, other, d + 8u, as_keys));
            l_s += a2 * lane2(a); h_s += a2 * lane6(a);
            let c2 = transpose(second_vectors(b, head, other, d + 8u, as_keys));
            l_dp += c2 * lane2(c); h_dp += c2 * lane6(c);
            let a3 = transpose(first_vectors(b, head, other, d + 12u, as_keys));
            l_s += a3 * lane3(a); h_s += a3 * lane7(a);
            let c3 = transpose(second_vectors(b, head, other, d + 12u, as_keys));
            l_dp += c3 * lane3(c); h_dp += c3 * lane7(c);
            continuing {
                d += 16u;
                break if d >= size;
            }
        }
        let l0 = pair(l_s[0], l_dp[0], row, own, other, as_queries);
        let l1 = pair(l_s[1], l_dp[1], row, own + 1u, other, as_queries);
        let l2 = pair(l_s[2], l_dp[2], row, own + 2u, other, as_queries);
        let l3 = pair(l_s[3], l_dp[3], row, own + 3u, other, as_queries);
        let h0 = pair(h_s[0], h_dp[0], row, own + 4u, other, as_queries);
        let h1 = pair(h_s[1], h_dp[1], row, own + 5u, other, as_queries);
        let h2 = pair(h_s[2], h_dp[2], row, own + 6u, other, as_queries);
        let h3 = pair(h_s[3], h_dp[3], row, own + 7u, other, as_queries);
        let l_p = mat4x4(l0[0], l1[0], l2[0], l3[0]); let l_ds = mat4x4(l0[1], l1[1], l2[1], l3[1]);
        let h_p = mat4x4(h0[0], h1[0], h2[0], h3[0]); let h_ds = mat4x4(h0[1], h1[1], h2[1], h3[1]);
        let x0 = first_vectors(b, head, tile, channel, as_keys);
        l_first += x0 * lane0(l_ds); h_first += x0 * lane0(h_ds);
        let y0 = second_vectors(b, head, tile, channel, as_keys);
        l_second += y0 * lane0(l_p); h_second += y0 * lane0(h_p);
        let x1 = first_vectors(b, head, tile + 4u, channel, as_keys);
        l_first += x1 * lane1(l_ds); h_first += x1 * lane1(h_ds);
        let y1 = second_vectors(b, head, tile + 4u, channel, as_keys);
        l_second += y1 * lane1(l_p); h_second += y1 * lane1(h_p);
        let x2 = first_vectors(b, head, tile + 8u, channel, as_keys);
        l_first += x2 * lane2(l_ds); h_first += x2 * lane2(h_ds);
        let y2 = second_vectors(b, head, tile + 8u, channel, as_keys);
        l_second += y2 * lane2(l_p); h_second += y2 * lane2(h_p);
        let x3 = first_vectors(b, head, tile + 12u, channel, as_keys);
        l_first += x3 * lane3(l_ds); h_first += x3 * lane3(h_ds);
        let y3 = second_vectors(b, head, tile + 12u, channel, as_keys);
        l_second += y3 * lane3(l_p); h_second += y3 * lane3(h_p);
        let x4 = first_vectors(b, head, tile + 16u, channel, as_keys);
        l_first += x4 * lane4(l_ds); h_first += x4 * lane4(h_ds);
        let y4 = second_vectors(b, head, tile + 16u, channel, as_keys);
        l_second += y4 * lane4(l_p); h_second += y4 * lane4(h_p);
        let x5 = first_vectors(b, head, tile + 20u, channel, as_keys);
        l_first += x5 * lane5(l_ds); h_first += x5 * lane5(h_ds);
        let y5 = second_vectors(b, head, tile + 20u, channel, as_keys);
        l_second += y5 * lane5(l_p); h_second += y5 * lane5(h_p);
        let x6 = first_vectors(b, head, tile + 24u, channel, as_keys);
        l_first += x6 * lane6(l_ds); h_first += x6 * lane6(h_ds);
        let y6 = second_vectors(b, head, tile + 24u, channel, as_keys);
        l_second += y6 * lane6(l_p); h_second += y6 * lane6(h_p);
        let x7 = first_vectors(b, head, tile + 28u, channel, as_keys);
        l_first += x7 * lane7(l_ds); h_first += x7 * lane7(h_ds);
        let y7 = second_vectors(b, head, tile + 28u, channel, as_keys);
        l_second += y7 * lane7(l_p); h_second += y7 * lane7(h_p);
        continuing {
            tile += 32u;
            break if tile >= end;
        }
    }

    store(l_first, select(1u, 0u, as_queries), b, head, own, channel);
    store(h_first, select(1u, 0u, as_queries), b, head, own + 4u, channel);
    if as_keys {
        store(l_second, 2u, b, head, own, channel);
        store(h_second, 2u, b, head, own + 4u, channel);
    }
}
