// The keys and values of the valid new rows within the context go into the cache from step.position on. One
// invocation per channel of a row.

@group(0) @binding(1) var<storage, read> qkv: array<qkv_elem>;              // (T, 3C)
@group(0) @binding(2) var<storage, read_write> cache: array<cache_elem>;    // (2, S, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    let t = i / dims.C;
    let c = i % dims.C;
    let position = step.position + t;
    if t >= min(dims.T, step.count) || position >= dims.S {
        return;
    }
    let row = t * 3u * dims.C;
    let at = position * dims.C + c;
    cache[at] = cache_elem(f32(qkv[row + dims.C + c]));
    cache[dims.S * dims.C + at] = cache_elem(f32(qkv[row + 2u * dims.C + c]));
}
