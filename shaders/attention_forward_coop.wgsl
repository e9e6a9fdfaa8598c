// uses: heads, first_key, attention_coop
// out[i] = Σ_j p[i, j] v[j] and lse[i], p = softmax of q[i] · k[j] / √HS over the keys that i sees, on matrix units.
//
// One workgroup per OWN queries of a head and (in z) 64 of the head's channels: shared/attention_coop.wgsl.
// Sums in matrices cannot be rescaled row by row, so there are two passes over the keys: the first for the
// largest score and the sum of exponentials of each query, the second for the outputs. For larger heads the
// products take 64 channels at a time, the workgroup's own last, so that their values are then in the tile.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;          // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;               // (B, T)
@group(0) @binding(3) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;               // (B, NH, T)

const STAGES = 1u;
const FAR = -1e30; // below any other finite score

fn four(part: Part, t: u32, d: u32) -> vec4<f16> {
    if t >= dims.T || d >= dims.HS {
        return vec4<f16>();
    }
    return vec4<f16>(qkv[channel(part.rows, t, d) / 4u]);
}

// Computes exp(x), for x <= 0.
fn shrink(x: f32) -> f32 {
    return exp(max(x, -80.0));
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let blocks = (dims.T + OWN - 1u) / OWN;
    // This is `group_index`, written out: naga would consider its result non-uniform within a workgroup.
    let tile_place = group.xy + dims.FIRST;
    let index = tile_place.y * GRID_LARGEST + tile_place.x;
    let head = index / blocks % dims.NH;
    let b = index / blocks / dims.NH;
    // The blocks with the most keys start first.
    let first = (blocks - 1u - index % blocks) * OWN;
    if b >= dims.B {
        return;
    }
    let kv_head = head / (dims.NH / dims.KVH);
    let q = Part(query_rows(b, head), false);
    let k = Part(key_rows(b, kv_head), false);
    let v = Part(value_rows(b, kv_head), false);
    let size = dims.HS;
    let scale = 1.0 / sqrt(f32(size));
    let chunks = (size + CHANNELS - 1u) / CHANNELS;
    let query = first + subgroup * EDGE + lane % EDGE;
    let earliest = first_seen(b, query);
    let share = lane / EDGE;
    let stage_row = stage_place(0u, subgroup, 0u) + lane % EDGE * STAGE_PITCH;
    let weights_row = (subgroup * EDGE + lane % EDGE) * WEIGHTS_PITCH;

    var own: array<MatrixA, PARTS>;
    var sums: array<MatrixC, PARTS>;
    var largest = FAR;
    var total = 0.0;
    load_own(&own, q, first, 0u, subgroup, local);
    for (var round = 0u; round < 2u; round++) {
        for (var key = 0u; key < min(first + OWN, dims.T); key += OTHERS) {
            var s: array<MatrixC, ACROSS>;
            for (var chunk = 1u; chunk <= chunks; chunk++) {
                let d = (group.z + chunk) % chunks * CHANNELS;
                workgroupBarrier();
                if chunks > 1u {
                    load_own(&own, q, first, d, subgroup, local);
                }
                fill(0u, OTHERS, k, key, d, local);
                if round == 1u && chunk == chunks {
                    fill(SECOND, OTHERS, v, key, d, local);
                }
                workgroupBarrier();
                for (var c = 0u; c < PARTS; c++) {
                    for (var o = 0u; o < ACROSS; o++) {
                        s[o] = coopMultiplyAdd(own[c], others_across(0u, o, c), s[o]);
                    }
                }
            }
            for (var o = 0u; o < ACROSS; o++) {
                coopStoreT(s[o], &stage[stage_place(0u, subgroup, o)], STAGE_PITCH);
            }
            workgroupBarrier();
            if round == 0u {
                let before = largest;
                for (var o = share; o < OTHERS; o += LANES) {
                    let seen = key + o >= earliest && key + o <= query;
                    largest = max(largest, select(FAR, stage[stage_row + o] * scale, seen));
                }
                total *= shrink(before - largest);
                for (var o = share; o < OTHERS; o += LANES) {
                    let seen = key + o >= earliest && key + o <= query;
                    total += select(0.0, exp(stage[stage_row + o] * scale - largest), seen);
                }
                continue;
            }
            for (var o = share; o < OTHERS; o += LANES) {
                let seen = key + o >= earliest && key + o <= query;
                let p = select(0.0, exp(stage[stage_row + o] * scale - largest), seen);
                weights[weights_row + o] = f16(p);
            }
            workgroupBarrier();
            for (var o = 0u; o < ACROSS; o++) {
                let p = weights_matrix(0u, subgroup, o);
                for (var c = 0u; c < PARTS; c++) {
                    sums[c] = coopMultiplyAdd(p, others_matrix(SECOND, o, c), sums[c]);
                }
            }
        }
        // After the first round the lanes of a row combine their results.
        for (var apart = EDGE; apart < SUBGROUP && round == 0u; apart *= 2u) {
            let other_largest = subgroupShuffleXor(largest, apart);
            let other_total = subgroupShuffleXor(total, apart);
            let both = max(largest, other_largest);
            total = total * shrink(largest - both) + other_total * shrink(other_largest - both);
            largest = both;
        }
    }

    for (var c0 = 0u; c0 < PARTS; c0 += ACROSS) {
        workgroupBarrier();
        for (var o = 0u; o < ACROSS; o++) {
            coopStoreT(sums[c0 + o], &stage[stage_place(0u, subgroup, o)], STAGE_PITCH);
        }
        workgroupBarrier();
        for (var i = 4u * share; i < OTHERS; i += 4u * LANES) {
            let d = group.z * CHANNELS + c0 * EDGE + i;
            if query < dims.T && d < size {
                out[channel(out_rows(b, head), query, d) / 4u] = vec4<out_elem>(staged(stage_row + i) / total);
            }
        }
    }
    if share == 0u && group.z == 0u && query < dims.T {
        lse[(b * dims.NH + head) * dims.T + query] = largest + log(total);
    }
}
