// uses: heads, rotary
// Rotates the first RC channels of the heads of queries and keys in place: channels i and i + RC / 2 are a pair, whose angle
// is SCALE times the position times the frequency i. One invocation per four pairs. See shared/rotary.wgsl.

@group(0) @binding(1) var<storage, read> frequencies: array<vec2<u32>>;    // (RC / 2): high word, low word
@group(0) @binding(2) var<storage, read> places: array<u32>;               // (B, T), or (T, ROW_WORDS)
@group(0) @binding(3) var<storage, read_write> qkv: array<vec4<qkv_elem>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    let fours = dims.RC / 8u;
    let head = rotated_head(i / fours);
    if !head.inside {
        return;
    }
    let four = i % fours;
    let position = position_of(head.row);
    let turn = array(
        cos_sin(4u * four, position),
        cos_sin(4u * four + 1u, position),
        cos_sin(4u * four + 2u, position),
        cos_sin(4u * four + 3u, position),
    );
    let cosines = vec4(turn[0].x, turn[1].x, turn[2].x, turn[3].x);
    let sines = vec4(turn[0].y, turn[1].y, turn[2].y, turn[3].y);
    let first = head.start / 4u + four;
    let a = vec4<f32>(qkv[first]);
    let b = vec4<f32>(qkv[first + fours]);
    qkv[first] = vec4<qkv_elem>(a * cosines - b * sines);
    qkv[first + fours] = vec4<qkv_elem>(b * cosines + a * sines);
}
