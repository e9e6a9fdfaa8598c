// dweight += transpose(x) · dout and dbias += the column sums of dout, from `out = x · weight + bias`.
// Tiles: shared/matmul.wgsl. The workgroups of the first row of tiles sum the bias's columns, one an
// invocation.

@group(0) @binding(1) var<storage, read> x: array<x_elem>;             // (B, T, C)
@group(0) @binding(2) var<storage, read> dout: array<dout_elem>;       // (B, T, OC)
@group(0) @binding(3) var<storage, read_write> dweight: array<f32>;    // (C, OC)
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;      // (OC)

const A_ALONG_K = false;
const B_ALONG_K = false;

fn a_at(m: u32, k: u32) -> f32 {
    return f32(x[k * dims.C + m]);
}

fn b_at(k: u32, n: u32) -> f32 {
    return f32(dout[k * dims.OC + n]);
}

fn store(m: u32, n: u32, value: f32) {
    let at = m * dims.OC + n;
    if overwrites() {
        dweight[at] = value;
    } else {
        dweight[at] += value;
    }
}

fn sum_column(o: u32) {
    var sum = 0.0;
    for (var row = 0u; row < dims.B * dims.T; row++) {
        sum += f32(dout[row * dims.OC + o]);
    }
    if overwrites() {
        dbias[o] = sum;
    } else {
        dbias[o] += sum;
    }
}

@compute @workgroup_size(MATMUL_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    matmul(group, local, dims.C, dims.B * dims.T, dims.OC);
    let o = group.x * TILE + local;
    if group.y == 0u && o < dims.OC {
        sum_column(o);
    }
}
