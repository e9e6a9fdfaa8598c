// uses: heads, first_key, attention_coop
// out[i] = Σ_j p[i, j] v[j] and lse[i], p = softmax of q[i] · k[j] / √HS over the keys that i sees, on matrix units.
//
// One workgroup per OWN queries of a head: shared/attention_coop.wgsl. It uses online softmax over OTHERS keys at a time,
// relative to a score of each query that need not be the largest: sums in matrices can be rescaled only by way of the
// stage, so that is done when a score exceeds it by more than RISE. 64 channels of keys and values are in workgroup
// memory at a time.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;          // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;               // (B, T)
@group(0) @binding(3) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;               // (B, NH, T)

const KINDS = 1u;
const FAR = -1e30; // below any other finite score
// Probabilities in half precision may be so many times e too large: e^8 is a twentieth of the largest number.
const RISE = 8.0;

// One more than the last key block's first key in which the score of some query rose.
var<workgroup> risen: atomic<u32>;

fn four(part: Part, at: u32) -> vec4<f16> {
    return vec4<f16>(qkv[at]);
}

// Returns the scores of four keys from `key` on: FAR for those that the query does not see.
fn scores(products: vec4<f32>, key: u32, earliest: u32, query: u32) -> vec4<f32> {
    let keys = vec4(key) + vec4(0u, 1u, 2u, 3u);
    let seen = (keys >= vec4(earliest)) & (keys <= vec4(query));
    return select(vec4(FAR), products / sqrt(f32(dims.HS)), seen);
}

fn largest_of(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

// Multiplies each row of a unit's sums by its factor, by way of the stage. `row` is where the lane's fours begin.
fn rescale(sums: ptr<function, array<MatrixC, CHUNKS * PARTS>>, factor: f32, work: Work, row: u32) {
    for (var c0 = 0u; c0 < CHUNKS * PARTS; c0 += ACROSS) {
        for (var i = 0u; i < ACROSS / work.parts; i++) {
            let place = stage_place(work.unit, i * work.parts + work.part);
            coopStoreT((*sums)[c0 / work.parts + i], &stage[place], STAGE_PITCH * 4u);
        }
        workgroupBarrier();
        for (var i = 0u; i < FOURS; i++) {
            for (var j = 0u; j < 4u; j++) {
                stage[row + 4u * LANES * i + j] *= factor;
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < ACROSS / work.parts; i++) {
            let place = stage_place(work.unit, i * work.parts + work.part);
            (*sums)[c0 / work.parts + i] = coopLoadT<MatrixC>(&stage[place], STAGE_PITCH * 4u);
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) lanes: u32,
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
    let work = work_of(subgroup, lanes);
    let own_row = local / UNIT_LANES * M + local % M;
    let query = first + own_row;
    let earliest = first_seen(b, query);
    let share = local % UNIT_LANES / M;
    let stage_row = own_row * STAGE_PITCH * 4u + 4u * share;
    let weights_row = weights_place(0u, own_row) + share;

    var own: array<MatrixA, CHUNKS * PARTS>;
    var sums: array<MatrixC, CHUNKS * PARTS>;
    var largest = FAR;
    var total = 0.0;
    if local == 0u {
        atomicStore(&risen, 0u);
    }
    load_own(&own, q, first, 0u, work.unit, local);
    for (var key = 0u; key < min(first + OWN, dims.T); key += OTHERS) {
        var s: array<MatrixC, ACROSS>;
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            workgroupBarrier();
            fill(0u, OTHERS, k, key, chunk * CHANNELS, local);
            if chunk == 0u {
                fill(SECOND, OTHERS, v, key, 0u, local);
            }
            workgroupBarrier();
            for (var c = 0u; c < PARTS; c++) {
                for (var i = 0u; i < ACROSS / work.parts; i++) {
                    let keys = others_across(0u, i * work.parts + work.part, c);
                    s[i] = coopMultiplyAdd(own[chunk * PARTS + c], keys, s[i]);
                }
            }
        }
        for (var i = 0u; i < ACROSS / work.parts; i++) {
            let place = stage_place(work.unit, i * work.parts + work.part);
            coopStoreT(s[i], &stage[place], STAGE_PITCH * 4u);
        }
        workgroupBarrier();

        var mine: array<vec4<f32>, FOURS>;
        var most = FAR;
        for (var i = 0u; i < FOURS; i++) {
            let o = 4u * LANES * i;
            mine[i] = scores(staged(stage_row + o), key + 4u * share + o, earliest, query);
            most = max(most, largest_of(mine[i]));
        }
        most = row_largest(most, local);
        var factor = 1.0;
        if most > largest + RISE {
            factor = exp(max(largest - most, -80.0));
            // Before its first key a query has sums of 0, which need no factor.
            if largest > FAR {
                atomicStore(&risen, key + 1u);
            }
            largest = most;
        }
        total *= factor;
        for (var i = 0u; i < FOURS; i++) {
            let p = select(exp(mine[i] - largest), vec4(0.0), mine[i] == vec4(FAR));
            total += dot(p, vec4(1.0));
            put(weights_row + LANES * i, vec4<f16>(p));
        }
        if workgroupUniformLoad(&risen) == key + 1u {
            rescale(&sums, factor, work, stage_row);
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            if chunk > 0u {
                workgroupBarrier();
                fill(SECOND, OTHERS, v, key, chunk * CHANNELS, local);
                workgroupBarrier();
            }
            for (var o = 0u; o < ACROSS; o++) {
                let p = weights_matrix(0u, work.unit, o);
                for (var i = 0u; i < PARTS / work.parts; i++) {
                    let sum = chunk * PARTS / work.parts + i;
                    let values = others_matrix(SECOND, o, i * work.parts + work.part);
                    sums[sum] = coopMultiplyAdd(p, values, sums[sum]);
                }
            }
        }
    }

    total = row_sum(total, local);
    for (var c0 = 0u; c0 < CHUNKS * PARTS; c0 += ACROSS) {
        workgroupBarrier();
        for (var i = 0u; i < ACROSS / work.parts; i++) {
            let place = stage_place(work.unit, i * work.parts + work.part);
            coopStoreT(sums[c0 / work.parts + i], &stage[place], STAGE_PITCH * 4u);
        }
        workgroupBarrier();
        for (var i = 0u; i < FOURS; i++) {
            let o = 4u * LANES * i;
            let d = c0 * N + 4u * share + o;
            if query < dims.T && d < dims.HS {
                out[channel(out_rows(b, head), query, d) / 4u] = vec4<out_elem>(staged(stage_row + o) / total);
            }
        }
    }
    if share == 0u && query < dims.T {
        lse[(b * dims.NH + head) * dims.T + query] = largest + log(total);
    }
}
