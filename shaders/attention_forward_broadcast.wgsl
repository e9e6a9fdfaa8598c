// uses: heads, first_key, attention_softmax, attention_broadcast, broadcast
// out[i] = Σ_j p[i, j] v[j] and lse[i], p = softmax of q[i] · k[j] / √HS over the keys that i sees.
//
// One workgroup, which is one subgroup of 8, per 8 queries of a head and (in z) 32 of the head's channels.
// It uses online softmax over 32 keys at a time. Each lane has 4 of them, so that its values for 4 keys and
// 4 queries are a matrix with a column per query. The lanes read the queries together, each a part, and pass
// them on by subgroupBroadcast; they do the same with the probabilities, for which each lane then has 4
// channels. Nothing goes through workgroup memory, and there is no barrier.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;          // by Q_START, K_START, V_START
@group(0) @binding(2) var<storage, read> first_key: array<u32>;               // (B, T)
@group(0) @binding(3) var<storage, read_write> out: array<vec4<out_elem>>;    // (B, T, C)
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;               // (B, NH, T)

fn store(values: mat4x4<f32>, sums: vec4<f32>, b: u32, head: u32, query: u32, d: u32) {
    // What is left moves to the front: what is indexed by a variable would lie in memory.
    var left = values;
    var divisors = sums;
    for (var i = 0u; i < 4u && d < dims.HS && query + i < dims.T; i++) {
        out[channel(out_rows(b, head), query + i, d) / 4u] = vec4<out_elem>(left[0] / divisors.x);
        left = mat4x4(left[1], left[2], left[3], left[0]);
        divisors = divisors.yzwx;
    }
}

fn store_lse(largest: vec4<f32>, sums: vec4<f32>, row: u32, query: u32) {
    var values = largest + log(sums);
    for (var i = 0u; i < 4u && query + i < dims.T; i++) {
        lse[row + query + i] = values.x;
        values = values.yzwx;
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
    let query = group_index(group) % blocks * 8u;
    if b >= dims.B {
        return;
    }
    let kv_head = head / (dims.NH / dims.KVH);
    let q_rows = query_rows(b, head) / 4u;
    let k_rows = key_rows(b, kv_head) / 4u;
    let v_rows = value_rows(b, kv_head) / 4u;
    let own_d = group.z * 32u + 4u * lane;
    let no_early_key = max(last_first_seen(b, query), last_first_seen(b, query + 4u));
    let end = min(query + 8u, dims.T);

    // For queries 0 to 3 (l) and 4 to 7 (h).
    var l_max = vec4(FAR); var h_max = vec4(FAR);
    var l_sum = vec4(0.0); var h_sum = vec4(0.0);
    var l_out = mat4x4<f32>(); var h_out = mat4x4<f32>();
    var tile = 0u;
    loop {
        let key = tile + 4u * lane;
        var l = mat4x4<f32>();
        var h = mat4x4<f32>();
        var d = 0u;
        loop {
            // Lanes 0 to 3 load the first queries, the others the rest: each loads 4 of 16 channels.
            let q_d = d + lane % 4u * 4u;
            var q = block(q_rows, query + lane / 4u * 4u, q_d) * select(0.0, 1.0, q_d < dims.HS);
            for (var i = 0u; i < 16u; i += 4u) {
                let k = transpose(block(k_rows, key, d + i));
                l += k * lane0(q); h += k * lane4(q);
                q = of_next_lane_in_half(q, lane);
            }
            continuing {
                d += 16u;
                break if d >= dims.HS;
            }
        }
        l = seen_block(l, key, query);
        h = seen_block(h, key, query + 4u);
        if tile < no_early_key {
            l = from_first(l, b, key, query);
            h = from_first(h, b, key, query + 4u);
        }
        let l_before = l_max; l_max = max(l_max, subgroupMax(largest_of(l)));
        let h_before = h_max; h_max = max(h_max, subgroupMax(largest_of(h)));
        let l_scale = exp(max(l_before - l_max, vec4(-80.0)));
        let h_scale = exp(max(h_before - h_max, vec4(-80.0)));
        l = exponentials(l, l_max);
        h = exponentials(h, h_max);
        l_sum = l_sum * l_scale + vec4(1.0) * l;
        h_sum = h_sum * h_scale + vec4(1.0) * h;

        l_out = rescale(l_out, l_scale); h_out = rescale(h_out, h_scale);
        for (var i = 0u; i < 32u; i += 4u) {
            let v = block(v_rows, tile + i, own_d);
            l_out += v * lane0(l); h_out += v * lane0(h);
            l = of_next_lane(l, lane);
            h = of_next_lane(h, lane);
        }
        continuing {
            tile += 32u;
            break if tile >= end;
        }
    }

    l_sum = subgroupAdd(l_sum);
    h_sum = subgroupAdd(h_sum);
    store(l_out, l_sum, b, head, query, own_d);
    store(h_out, h_sum, b, head, query + 4u, own_d);
    if lane == 0u && group.z == 0u {
        let row = (b * dims.NH + head) * dims.T;
        store_lse(l_max, l_sum, row, query);
        store_lse(h_max, h_sum, row, query + 4u);
    }
}
