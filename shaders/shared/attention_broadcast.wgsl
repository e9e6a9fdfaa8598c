// The reads of attention's `broadcast` variants: blocks of four positions by four channels. Places count vec4s.

const APART = 1u;

// Returns the place of 4 channels from `d` on of position `t`; outside, it is clamped to the edge.
fn vector_place(rows: vec2<u32>, t: u32, d: u32) -> u32 {
    return rows.x + min(d, dims.HS - 4u) / 4u + min(t, dims.T - 1u) * rows.y;
}

// Returns a head's 4 channels from `d` on at 4 positions from `t` on in qkv, a column per position.
fn block(rows: vec2<u32>, t: u32, d: u32) -> mat4x4<f32> {
    return mat4x4(
        vec4<f32>(qkv[vector_place(rows, t, d)]),
        vec4<f32>(qkv[vector_place(rows, t + 1u, d)]),
        vec4<f32>(qkv[vector_place(rows, t + 2u, d)]),
        vec4<f32>(qkv[vector_place(rows, t + 3u, d)]),
    );
}
