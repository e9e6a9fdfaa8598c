// Tiles for cooperative matrices as vectors of four: one store per vector.

const WIDTH = 4u;
alias TileElement = vec4<f16>;

fn put(vector: u32, value: vec4<f16>) {
    tiles[vector] = value;
}

fn got(vector: u32) -> vec4<f16> {
    return tiles[vector];
}
