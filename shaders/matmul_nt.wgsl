// out (M,N) = a (M,K) · transpose(b (N,K)). Rows of `out` are LD apart and begin at START; what lies
// between stays. Tiles: shared/matmul.wgsl.

@group(0) @binding(1) var<storage, read> a: array<a_elem>;              // (M, K)
@group(0) @binding(2) var<storage, read> b: array<b_elem>;              // (N, K)
@group(0) @binding(3) var<storage, read_write> out: array<out_elem>;    // (M, LD), columns START..START + N

const A_ALONG_K = true;
const B_ALONG_K = true;

fn a_at(m: u32, k: u32) -> f32 {
    return f32(a[m * dims.K + k]);
}

fn b_at(k: u32, n: u32) -> f32 {
    return f32(b[n * dims.K + k]);
}

fn store(m: u32, n: u32, value: f32) {
    out[m * dims.LD + dims.START + n] = out_elem(value);
}

@compute @workgroup_size(MATMUL_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    matmul(group, local, dims.M, dims.K, dims.N);
}
