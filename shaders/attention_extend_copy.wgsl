// Copies the keys and values of the first positions of a slot to another slot. One invocation per channel of a position
// of the keys, and then of the values.

@group(0) @binding(1) var<storage, read> copied: array<u32>;                // (COPY_WORDS): from, to, positions
@group(0) @binding(2) var<storage, read_write> cache: array<cache_elem>;    // (SLOTS, 2, S, KVH·HS)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    let width = dims.KVH * dims.HS;
    let side = dims.S * width;
    if i >= 2u * side || i % side / width >= copied[2] {
        return;
    }
    let from_slot = copied[0];
    let to_slot = copied[1];
    if from_slot >= dims.SLOTS || to_slot >= dims.SLOTS {
        return;
    }
    cache[2u * side * to_slot + i] = cache[2u * side * from_slot + i];
}
