// out (M,N) += transpose(a (K,M)) · b (K,N). Rows of `a` are LD apart and begin at START. Tiles:
// shared/matmul.wgsl.

@group(0) @binding(1) var<storage, read> a: array<a_elem>;              // (K, LD), columns START..START + M
@group(0) @binding(2) var<storage, read> b: array<b_elem>;              // (K, N)
@group(0) @binding(3) var<storage, read_write> out: array<out_elem>;    // (M, N)

const A_ALONG_K = false;
const B_ALONG_K = false;

fn a_at(m: u32, k: u32) -> f32 {
    return f32(a[k * dims.LD + dims.START + m]);
}

fn b_at(k: u32, n: u32) -> f32 {
    return f32(b[k * dims.N + n]);
}

fn store(m: u32, n: u32, value: f32) {
    let at = m * dims.N + n;
    if overwrites() {
        out[at] = out_elem(value);
    } else {
        out[at] = out_elem(f32(out[at]) + value);
    }
}

@compute @workgroup_size(MATMUL_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    matmul(group, local, dims.M, dims.K, dims.N);
}
