// The sizes of a dispatch (`Dims` in src/kernel/dims.rs), and its place in a folded grid.

struct Dims {
    B: u32,
    T: u32,
    C: u32,
    OC: u32,
    NH: u32,
    V: u32,
    S: u32,
    M: u32,
    K: u32,
    N: u32,
    LD: u32,
    START: u32,
    ACC: u32,
    ID: u32,
    EPS: f32,
    SCALE: f32,
    HS: u32,
    KVH: u32,
    Q_START: u32,
    K_START: u32,
    V_START: u32,
    Q_ROW: u32,
    K_ROW: u32,
    Q_HEAD: u32,
    K_HEAD: u32,
    RC: u32,
    WINDOW: u32,
    SLOTS: u32,
    FIRST: vec2<u32>,
}

@group(0) @binding(0) var<uniform> dims: Dims;

// Returns the column and the row of a workgroup in its grid; a dispatch may be a part of the grid.
fn group_tile(group: vec3<u32>) -> vec2<u32> {
    return group.xy + dims.FIRST;
}

// Returns the number of a workgroup in a grid from `grid::fold`; the last ones may be past the end.
fn group_index(group: vec3<u32>) -> u32 {
    let tile = group_tile(group);
    return tile.y * GRID_LARGEST + tile.x;
}

// Returns the first position of the window that ends at `position`.
fn window_start(position: u32) -> u32 {
    return select(0u, position + 1u - min(position + 1u, dims.WINDOW), dims.WINDOW > 0u);
}
