// Tiles for cooperative matrices as scalars: Metal loads matrices from nothing else.

const WIDTH = 1u;
alias TileElement = f16;

fn put(vector: u32, value: vec4<f16>) {
    let at = 4u * vector;
    tiles[at] = value.x;
    tiles[at + 1u] = value.y;
    tiles[at + 2u] = value.z;
    tiles[at + 3u] = value.w;
}

fn got(vector: u32) -> vec4<f16> {
    let at = 4u * vector;
    return vec4(tiles[at], tiles[at + 1u], tiles[at + 2u], tiles[at + 3u]);
}
