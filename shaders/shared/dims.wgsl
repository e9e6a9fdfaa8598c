// The sizes of a dispatch (`Dims` in src/kernel.rs), and its place in a folded grid.

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
}

@group(0) @binding(0) var<uniform> dims: Dims;

// The number of a workgroup in a grid that `grid::fold` made; the last ones may be past the end.
fn group_index(group: vec3<u32>) -> u32 {
    return group.y * 65535u + group.x;
}
