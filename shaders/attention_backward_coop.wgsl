// dqkv from dout, from `p = exp(q · k / √HS - lse)`, `out = Σ_j p v`, on matrix units:
//     ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i])
//     dq[i] = Σ_j ds[i, j] k[j] / √HS     dk[j] = Σ_i ds[i, j] q[i] / √HS     dv[j] = Σ_i p[i, j] dout[i]
//
// One workgroup some positions of a head and 64 of the head's channels: shared/attention_coop.wgsl. The
// halves of z and the two vectors of a position are those of attention_backward_tiles.wgsl: the first half
// finds dq of its positions as queries, the second dk and dv of its positions as keys. Of larger heads
// the products take 64 channels at a time, the workgroup's own last, so that the others' are there then.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;            // (B, T, 3C)
@group(0) @binding(2) var<storage, read> lse: array<f32>;                       // (B, NH, T)
@group(0) @binding(3) var<storage, read> delta: array<f32>;                     // (B, NH, T)
@group(0) @binding(4) var<storage, read> dout: array<vec4<dout_elem>>;          // (B, T, C)
@group(0) @binding(5) var<storage, read_write> dqkv: array<vec4<dqkv_elem>>;    // (B, T, 3C)

const STAGES = 2u;

fn four(part: u32, b: u32, head: u32, t: u32, d: u32) -> vec4<f16> {
    let size = dims.C / dims.NH;
    if t >= dims.T || d >= size {
        return vec4<f16>();
    }
    let row = b * dims.T + t;
    if part == DOUT {
        return vec4<f16>(dout[(row * dims.C + head * size + d) / 4u]);
    }
    return vec4<f16>(qkv[((row * 3u + part) * dims.C + head * size + d) / 4u]);
}

// ds and p of a pair from its products.
fn pair(s: f32, dp: f32, row: u32, query: u32, key: u32) -> vec2<f32> {
    if key > query || query >= dims.T {
        return vec2(0.0);
    }
    let p = exp(s / sqrt(f32(dims.C / dims.NH)) - lse[row + query]);
    return vec2(p * (dp - delta[row + query]), p);
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let blocks = (dims.T + OWN - 1u) / OWN;
    // `group_index`, whose result naga would take to differ within a workgroup.
    let tile_place = group.xy + dims.FIRST;
    let index = tile_place.y * 65535u + tile_place.x;
    let head = index / blocks % dims.NH;
    let b = index / blocks / dims.NH;
    let own = index % blocks * OWN;
    if b >= dims.B {
        return;
    }
    let place = vec2(b, head);
    let size = dims.C / dims.NH;
    let row = (b * dims.NH + head) * dims.T;
    let chunks = (size + CHANNELS - 1u) / CHANNELS;
    let as_query = group.z < chunks;
    let begin = select(own, 0u, as_query);
    let end = select(dims.T, min(own + OWN, dims.T), as_query);
    let position = own + subgroup * EDGE + lane % EDGE;
    let share = lane / EDGE;
    let stage_row = stage_place(0u, subgroup, 0u) + lane % EDGE * STAGE_PITCH;
    let weights_row = (subgroup * EDGE + lane % EDGE) * WEIGHTS_PITCH;

    var own_first: array<MatrixA, PARTS>;
    var own_second: array<MatrixA, PARTS>;
    // Of the others' first vectors weighed by ds, and of their second ones weighed by p.
    var first_sums: array<MatrixC, PARTS>;
    var second_sums: array<MatrixC, PARTS>;
    load_own(&own_first, select(K, Q, as_query), place, own, 0u, subgroup, local);
    load_own(&own_second, select(V, DOUT, as_query), place, own, 0u, subgroup, local);
    for (var other = begin; other < end; other += OTHERS) {
        var s: array<MatrixC, ACROSS>;
        var dp: array<MatrixC, ACROSS>;
        for (var chunk = 1u; chunk <= chunks; chunk++) {
            let d = (group.z + chunk) % chunks * CHANNELS;
            if chunks > 1u {
                load_own(&own_first, select(K, Q, as_query), place, own, d, subgroup, local);
                load_own(&own_second, select(V, DOUT, as_query), place, own, d, subgroup, local);
            }
            workgroupBarrier();
            fill(0u, OTHERS, select(Q, K, as_query), place, other, d, local);
            fill(SECOND, OTHERS, select(DOUT, V, as_query), place, other, d, local);
            workgroupBarrier();
            for (var c = 0u; c < PARTS; c++) {
                for (var o = 0u; o < ACROSS; o++) {
                    s[o] = coopMultiplyAdd(own_first[c], others_across(0u, o, c), s[o]);
                    dp[o] = coopMultiplyAdd(own_second[c], others_across(SECOND, o, c), dp[o]);
                }
            }
        }
        for (var o = 0u; o < ACROSS; o++) {
            coopStoreT(s[o], &stage[stage_place(0u, subgroup, o)], STAGE_PITCH);
            coopStoreT(dp[o], &stage[stage_place(1u, subgroup, o)], STAGE_PITCH);
        }
        workgroupBarrier();
        for (var o = share; o < OTHERS; o += LANES) {
            let at = stage_row + o;
            let query = select(other + o, position, as_query);
            let key = select(position, other + o, as_query);
            let both = pair(stage[at], stage[at + OWN * STAGE_PITCH], row, query, key);
            weights[weights_row + o] = f16(both.x);
            weights[OWN * WEIGHTS_PITCH + weights_row + o] = f16(both.y);
        }
        workgroupBarrier();
        for (var o = 0u; o < ACROSS; o++) {
            let ds = weights_matrix(0u, subgroup, o);
            for (var c = 0u; c < PARTS; c++) {
                first_sums[c] = coopMultiplyAdd(ds, others_matrix(0u, o, c), first_sums[c]);
            }
        }
        if as_query {
            continue;
        }
        for (var o = 0u; o < ACROSS; o++) {
            let p = weights_matrix(1u, subgroup, o);
            for (var c = 0u; c < PARTS; c++) {
                second_sums[c] = coopMultiplyAdd(p, others_matrix(SECOND, o, c), second_sums[c]);
            }
        }
    }

    for (var c0 = 0u; c0 < PARTS; c0 += ACROSS) {
        workgroupBarrier();
        for (var o = 0u; o < ACROSS; o++) {
            coopStoreT(first_sums[c0 + o], &stage[stage_place(0u, subgroup, o)], STAGE_PITCH);
            coopStoreT(second_sums[c0 + o], &stage[stage_place(1u, subgroup, o)], STAGE_PITCH);
        }
        workgroupBarrier();
        for (var i = 4u * share; i < OTHERS; i += 4u * LANES) {
            let d = group.z % chunks * CHANNELS + c0 * EDGE + i;
            let at = ((b * dims.T + position) * 3u * dims.C + head * size + d) / 4u;
            let inside = position < dims.T && d < size;
            if inside {
                let first = staged(stage_row + i) / sqrt(f32(size));
                dqkv[at + select(dims.C / 4u, 0u, as_query)] = vec4<dqkv_elem>(first);
            }
            if inside && !as_query {
                let second = staged(stage_row + OWN * STAGE_PITCH + i);
                dqkv[at + dims.C / 2u] = vec4<dqkv_elem>(second);
            }
        }
    }
}
