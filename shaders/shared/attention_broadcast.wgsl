// What attention's `broadcast` reads: blocks of four positions by four channels. Places here count vectors of four.

const APART = 1u;

// The place of 4 channels from `d` on of position `t`; outside it is at the edge.
fn vector_place(rows: vec2<u32>, t: u32, d: u32) -> u32 {
    return rows.x + min(d, dims.HS - 4u) / 4u + min(t, dims.T - 1u) * rows.y;
}

// What a head has in qkv of 4 channels from `d` on at 4 positions from `t` on, a column per position.
fn block(rows: vec2<u32>, t: u32, d: u32) -> mat4x4<f32> {
    return mat4x4(
        vec4<f32>(qkv[vector_place(rows, t, d)]),
        vec4<f32>(qkv[vector_place(rows, t + 1u, d)]),
        vec4<f32>(qkv[vector_place(rows, t + 2u, d)]),
        vec4<f32>(qkv[vector_place(rows, t + 3u, d)]),
    );
}
