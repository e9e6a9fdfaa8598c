// Tiles of workgroup memory as used by attention's `tiles` variants: the rows and positions of one invocation are 8
// apart, so that neighbours read different banks. A kernel declares `tile` and `weights`.

const APART = 8u;

// Returns four channels from `d` on of position `t` in qkv, or of the last position past the end; 0 past HS.
fn vector_of(rows: vec2<u32>, t: u32, d: u32) -> vec4<f32> {
    if d >= dims.HS {
        return vec4(0.0);
    }
    return vec4<f32>(qkv[channel(rows, min(t, dims.T - 1u), d) / 4u]);
}

// Returns the place of channels 4 c to 4 c + 3 of row `r` in a tile of 16 channels.
fn place(r: u32, c: u32) -> u32 {
    return r * 4u + (c ^ (r / 2u % 4u));
}

// Returns four rows of a tile of 16 channels that begins at `start`, as columns.
fn rows(start: u32, r: u32, c: u32) -> mat4x4<f32> {
    return mat4x4(
        tile[start + place(r, c)],
        tile[start + place(r + 8u, c)],
        tile[start + place(r + 16u, c)],
        tile[start + place(r + 24u, c)],
    );
}

// Returns the same for a tile of 64 channels.
fn values(r: u32, c: u32) -> mat4x4<f32> {
    return mat4x4(
        tile[r * 16u + c],
        tile[(r + 8u) * 16u + c],
        tile[(r + 16u) * 16u + c],
        tile[(r + 24u) * 16u + c],
    );
}

// Returns the place of a position's weights for the others of lane `lane`.
fn weights_place(position: u32, lane: u32) -> u32 {
    return position * 8u + (lane ^ (position % 8u));
}

// Returns the weights of four positions, among those that begin at `start`, as columns.
fn weights_of(start: u32, position: u32, lane: u32) -> mat4x4<f32> {
    return mat4x4(
        weights[start + weights_place(position, lane)],
        weights[start + weights_place(position + 8u, lane)],
        weights[start + weights_place(position + 16u, lane)],
        weights[start + weights_place(position + 24u, lane)],
    );
}
