// uses: heads, first_key, attention_pairs, attention_coop
// Computes dqkv from dout, for `p = exp(q · k / √HS - lse)`, `out = Σ_j p v`, on matrix units:
//     ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i])
//     dq[i] = Σ_j ds[i, j] k[j] / √HS     dk[j] = Σ_i ds[i, j] q[i] / √HS     dv[j] = Σ_i p[i, j] dout[i]
//
// One workgroup per OWN positions of a head and 64 of the head's channels: shared/attention_coop.wgsl. The
// halves of z and the two vectors of a position are the same as in attention_backward_tiles.wgsl: the first
// half computes dq of its positions as queries, the second half dk and dv of its positions as keys, over the
// query heads that read them, one after the other. Heads of more than 64 channels have their products taken 64
// at a time, the workgroup's own channels last, so that the others' vectors for them are then in the tile. s and dp go
// through the stage one after the other: so 28 KiB of workgroup memory are enough.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;            // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;                 // (B, T)
@group(0) @binding(3) var<storage, read> lse: array<f32>;                       // (B, NH, T)
@group(0) @binding(4) var<storage, read> delta: array<f32>;                     // (B, NH, T)
@group(0) @binding(5) var<storage, read> dout: array<vec4<dout_elem>>;          // (B, T, C)
@group(0) @binding(6) var<storage, read_write> dqkv: array<vec4<dqkv_elem>>;    // as qkv

const KINDS = 2u; // ds, p
const APART = 1u;

fn four(part: Part, at: u32) -> vec4<f16> {
    if part.of_dout {
        return vec4<f16>(dout[at]);
    }
    return vec4<f16>(qkv[at]);
}

// Returns the second part if `which`, else the first.
fn either(first: Part, second: Part, which: bool) -> Part {
    return Part(select(first.rows, second.rows, which), select(first.of_dout, second.of_dout, which));
}

// Writes a row of sums, multiplied by a factor, as the gradient of position `t`; the lane's fours begin at channel `d`
// and, in the stage, at `row`.
fn write(
    sums: ptr<function, array<MatrixC, PARTS>>,
    factor: f32,
    rows: vec2<u32>,
    t: u32,
    d: u32,
    work: Work,
    row: u32,
) {
    for (var c0 = 0u; c0 < PARTS; c0 += ACROSS) {
        workgroupBarrier();
        for (var i = 0u; i < ACROSS / work.parts; i++) {
            let place = stage_place(work.unit, i * work.parts + work.part);
            coopStoreT((*sums)[c0 / work.parts + i], &stage[place], STAGE_PITCH * 4u);
        }
        workgroupBarrier();
        for (var i = 0u; i < FOURS; i++) {
            let o = 4u * LANES * i;
            if t < dims.T && d + c0 * N + o < dims.HS {
                let at = channel(rows, t, d + c0 * N + o) / 4u;
                dqkv[at] = vec4<dqkv_elem>(staged(row + o) * factor);
            }
        }
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
    let own = index % blocks * OWN;
    if b >= dims.B {
        return;
    }
    let as_query = group.z < CHUNKS;
    let last_chunk = group.z % CHUNKS;
    // The heads of the second half are those of the keys, each with the query heads that read it.
    let heads = dims.NH / dims.KVH;
    if (!as_query) & (head >= dims.KVH) {
        return;
    }
    let kv_head = select(head, head / heads, as_query);
    let first_head = select(head * heads, head, as_query);
    let last_head = select(head * heads + heads - 1u, head, as_query);
    let k = Part(key_rows(b, kv_head), false);
    let v = Part(value_rows(b, kv_head), false);
    let begin = select(own, 0u, as_query);
    let end = select(dims.T, min(own + OWN, dims.T), as_query);
    let work = work_of(subgroup, lanes);
    let own_row = local / UNIT_LANES * M + local % M;
    let position = own + own_row;
    let share = local % UNIT_LANES / M;
    let stage_row = own_row * STAGE_PITCH * 4u + 4u * share;
    let root = sqrt(f32(dims.HS));

    var own_first: array<MatrixA, CHUNKS * PARTS>;
    var own_second: array<MatrixA, CHUNKS * PARTS>;
    // The sums of the others' first vectors weighted by ds, and of their second vectors weighted by p.
    var first_sums: array<MatrixC, PARTS>;
    var second_sums: array<MatrixC, PARTS>;
    for (var query_head = first_head; query_head <= last_head; query_head++) {
        let q = Part(query_rows(b, query_head), false);
        let d_out = Part(out_rows(b, query_head), true);
        let own_part = either(k, q, as_query);
        let own_second_part = either(v, d_out, as_query);
        let other_part = either(q, k, as_query);
        let other_second_part = either(d_out, v, as_query);
        let row = (b * dims.NH + query_head) * dims.T;
        load_own(&own_first, own_part, own, last_chunk + 1u, work.unit, local);
        load_own(&own_second, own_second_part, own, last_chunk + 1u, work.unit, local);
        for (var other = begin; other < end; other += OTHERS) {
            var s: array<MatrixC, ACROSS>;
            var dp: array<MatrixC, ACROSS>;
            for (var chunk = 0u; chunk < CHUNKS; chunk++) {
                let d = (last_chunk + 1u + chunk) % CHUNKS * CHANNELS;
                workgroupBarrier();
                fill(0u, OTHERS, other_part, other, d, local);
                fill(SECOND, OTHERS, other_second_part, other, d, local);
                workgroupBarrier();
                for (var c = 0u; c < PARTS; c++) {
                    for (var i = 0u; i < ACROSS / work.parts; i++) {
                        let o = i * work.parts + work.part;
                        s[i] = coopMultiplyAdd(own_first[chunk * PARTS + c], others_across(0u, o, c), s[i]);
                        dp[i] = coopMultiplyAdd(own_second[chunk * PARTS + c], others_across(SECOND, o, c), dp[i]);
                    }
                }
            }
            for (var i = 0u; i < ACROSS / work.parts; i++) {
                let place = stage_place(work.unit, i * work.parts + work.part);
                coopStoreT(s[i], &stage[place], STAGE_PITCH * 4u);
            }
            workgroupBarrier();
            var products: array<vec4<f32>, FOURS>;
            for (var i = 0u; i < FOURS; i++) {
                products[i] = staged(stage_row + 4u * LANES * i);
            }
            workgroupBarrier();
            for (var i = 0u; i < ACROSS / work.parts; i++) {
                let place = stage_place(work.unit, i * work.parts + work.part);
                coopStoreT(dp[i], &stage[place], STAGE_PITCH * 4u);
            }
            workgroupBarrier();
            for (var i = 0u; i < FOURS; i++) {
                let o = 4u * LANES * i;
                let dps = staged(stage_row + o);
                let both = pairs_of(products[i], dps, b, row, position, other + 4u * share + o, as_query);
                // The root is divided out at the end, so that small ds keep their bits.
                put(weights_place(0u, own_row) + share + LANES * i, vec4<f16>(both[1] * root));
                put(weights_place(1u, own_row) + share + LANES * i, vec4<f16>(both[0]));
            }
            workgroupBarrier();
            for (var o = 0u; o < ACROSS; o++) {
                let ds = weights_matrix(0u, work.unit, o);
                for (var i = 0u; i < PARTS / work.parts; i++) {
                    let vectors = others_matrix(0u, o, i * work.parts + work.part);
                    first_sums[i] = coopMultiplyAdd(ds, vectors, first_sums[i]);
                }
            }
            if as_query {
                continue;
            }
            for (var o = 0u; o < ACROSS; o++) {
                let p = weights_matrix(1u, work.unit, o);
                for (var i = 0u; i < PARTS / work.parts; i++) {
                    let vectors = others_matrix(SECOND, o, i * work.parts + work.part);
                    second_sums[i] = coopMultiplyAdd(p, vectors, second_sums[i]);
                }
            }
        }
    }

    let d = last_chunk * CHANNELS + 4u * share;
    let first_rows = select(k.rows, query_rows(b, head), as_query);
    write(&first_sums, 1.0 / root, first_rows, position, d, work, stage_row);
    if !as_query {
        write(&second_sums, 1.0, v.rows, position, d, work, stage_row);
    }
}
