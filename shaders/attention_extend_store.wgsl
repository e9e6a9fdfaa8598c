// The keys and values of rows of generation go into the cache of their slots, at their positions; masked rows go
// nowhere. One invocation per channel of a row.

@group(0) @binding(1) var<storage, read> rows: array<u32>;                  // (T, 2)
@group(0) @binding(2) var<storage, read> qkv: array<qkv_elem>;              // (T, 3C)
@group(0) @binding(3) var<storage, read_write> cache: array<cache_elem>;    // (SLOTS, 2, S, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    let t = i / dims.C;
    let c = i % dims.C;
    if t >= dims.T {
        return;
    }
    let place = place_of(t);
    if !place.inside {
        return;
    }
    let row = t * 3u * dims.C;
    let at = (2u * dims.S * place.slot + place.position) * dims.C + c;
    cache[at] = cache_elem(f32(qkv[row + dims.C + c]));
    cache[dims.S * dims.C + at] = cache_elem(f32(qkv[row + 2u * dims.C + c]));
}
