// uses: heads, rows
// Stores the keys and values of rows of generation in the cache of their slots, at their positions; those of masked
// rows are not stored. One invocation per channel of a row's key heads.

@group(0) @binding(1) var<storage, read> rows: array<u32>;                  // (T, ROW_WORDS)
@group(0) @binding(2) var<storage, read> qkv: array<qkv_elem>;              // layout: see Dims
@group(0) @binding(3) var<storage, read_write> cache: array<cache_elem>;    // (SLOTS, 2, S, KVH·HS)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    let width = dims.KVH * dims.HS;
    let t = i / width;
    let c = i % width;
    if t >= dims.T {
        return;
    }
    let place = place_of(t);
    if !place.inside {
        return;
    }
    let kv_head = c / dims.HS;
    let d = c % dims.HS;
    let at = (2u * dims.S * place.slot + place.position) * width + c;
    cache[at] = cache_elem(f32(qkv[channel(key_rows(0u, kv_head), t, d)]));
    cache[dims.S * width + at] = cache_elem(f32(qkv[channel(value_rows(0u, kv_head), t, d)]));
}
