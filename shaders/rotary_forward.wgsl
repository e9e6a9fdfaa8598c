// uses: heads, rotary
// Rotates the first RC channels of the heads of queries and keys in place: channels i and i + RC / 2 are a pair, whose angle
// is SCALE times the position times the frequency i. One invocation per pair. See shared/rotary.wgsl.

@group(0) @binding(1) var<storage, read> frequencies: array<vec2<u32>>;    // (RC / 2): high word, low word
@group(0) @binding(2) var<storage, read> places: array<u32>;               // (B, T), or (T, ROW_WORDS)
@group(0) @binding(3) var<storage, read_write> qkv: array<qkv_elem>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    let pairs = dims.RC / 2u;
    let head = rotated_head(i / pairs);
    if !head.inside {
        return;
    }
    let turn = cos_sin(i % pairs, position_of(head.row));
    let first = head.start + i % pairs;
    let a = f32(qkv[first]);
    let b = f32(qkv[first + pairs]);
    qkv[first] = qkv_elem(a * turn.x - b * turn.y);
    qkv[first + pairs] = qkv_elem(b * turn.x + a * turn.y);
}
