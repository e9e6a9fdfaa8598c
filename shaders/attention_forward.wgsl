// uses: heads, first_key
// out[i] = Σ_j p[i, j] v[j] and lse[i], p = softmax of q[i] · k[j] / √HS over the keys that i sees.
//
// One workgroup per 16 queries of a head and (in z) 256 of the head's channels. It uses online softmax over 32
// keys at a time, with 16 invocations per query: each has two of the scores, whose products go through workgroup
// memory 32 channels at a time, and every 16th channel of the output.

@group(0) @binding(1) var<storage, read> qkv: array<qkv_elem>;          // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;         // (B, T)
@group(0) @binding(3) var<storage, read_write> out: array<out_elem>;    // (B, T, C)
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;         // (B, NH, T)

const ROWS = 16u;
const LANES = 16u;
const KEYS = 32u;
const DEPTH = 32u;
const PITCH = DEPTH + 1u; // so that neighbouring keys fall into different banks
const CHANNELS = 256u;
const FAR = -1e30; // below any other finite score

var<workgroup> q_tile: array<f32, ROWS * PITCH>;
var<workgroup> k_tile: array<f32, KEYS * PITCH>;
var<workgroup> weights: array<f32, ROWS * PITCH>;

// Computes this invocation's two scores, of keys `lane` and `lane + 16` of the tile from `key` on.
fn scores(q_rows: vec2<u32>, k_rows: vec2<u32>, query: u32, key: u32, local: u32) -> vec2<f32> {
    let size = dims.HS;
    let row = local / LANES;
    let lane = local % LANES;
    var dots = vec2(0.0);
    for (var depth = 0u; depth < size; depth += DEPTH) {
        for (var i = local; i < KEYS * DEPTH; i += ROWS * LANES) {
            let r = i / DEPTH;
            let d = i % DEPTH;
            var q = 0.0;
            var k = 0.0;
            if depth + d < size && r < ROWS && query + r < dims.T {
                q = f32(qkv[channel(q_rows, query + r, depth + d)]);
            }
            if depth + d < size && key + r < dims.T {
                k = f32(qkv[channel(k_rows, key + r, depth + d)]);
            }
            if r < ROWS {
                q_tile[r * PITCH + d] = q;
            }
            k_tile[r * PITCH + d] = k;
        }
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            let q = q_tile[row * PITCH + d];
            dots += q * vec2(k_tile[lane * PITCH + d], k_tile[(lane + LANES) * PITCH + d]);
        }
        workgroupBarrier();
    }
    return dots / sqrt(f32(size));
}

@compute @workgroup_size(ROWS * LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = (dims.T + ROWS - 1u) / ROWS;
    let head = group_index(group) / blocks % dims.NH;
    let b = group_index(group) / blocks / dims.NH;
    let query = group_index(group) % blocks * ROWS;
    if b >= dims.B {
        return;
    }
    let size = dims.HS;
    let kv_head = head / (dims.NH / dims.KVH);
    let q_rows = query_rows(b, head);
    let k_rows = key_rows(b, kv_head);
    let v_rows = value_rows(b, kv_head);
    let row = local / LANES;
    let lane = local % LANES;
    let first = group.z * CHANNELS + lane;
    let last = min(size, (group.z + 1u) * CHANNELS);
    let i = query + row;
    let earliest = first_seen(b, i);

    var largest = FAR;
    var sum = 0.0;
    var values: array<f32, CHANNELS / LANES>;
    for (var key = 0u; key < min(query + ROWS, dims.T); key += KEYS) {
        let raw = scores(q_rows, k_rows, query, key, local);
        let keys = vec2(key + lane, key + lane + LANES);
        let seen = (keys >= vec2(earliest)) & (keys <= vec2(i));
        let s = select(vec2(FAR), raw, seen);
        weights[row * PITCH + lane] = s.x;
        weights[row * PITCH + lane + LANES] = s.y;
        workgroupBarrier();
        let before = largest;
        for (var j = 0u; j < KEYS; j++) {
            largest = max(largest, weights[row * PITCH + j]);
        }
        workgroupBarrier();
        let p = select(vec2(0.0), exp(s - largest), seen);
        weights[row * PITCH + lane] = p.x;
        weights[row * PITCH + lane + LANES] = p.y;
        workgroupBarrier();

        let rescale = exp(max(before - largest, -80.0));
        sum *= rescale;
        for (var j = 0u; j < KEYS; j++) {
            sum += weights[row * PITCH + j];
        }
        let count = min(KEYS, dims.T - key);
        var slot = 0u;
        for (var d = first; d < last; d += LANES) {
            var value = values[slot] * rescale;
            for (var j = 0u; j < count; j++) {
                value += weights[row * PITCH + j] * f32(qkv[channel(v_rows, key + j, d)]);
            }
            values[slot] = value;
            slot++;
        }
        workgroupBarrier();
    }

    if i >= dims.T {
        return;
    }
    var slot = 0u;
    for (var d = first; d < last; d += LANES) {
        out[channel(out_rows(b, head), i, d)] = out_elem(values[slot] / sum);
        slot++;
    }
    if lane == 0u && group.z == 0u {
        lse[(b * dims.NH + head) * dims.T + i] = largest + log(sum);
    }
}
