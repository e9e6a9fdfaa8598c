// out = x, rounded to the format of `out`. One invocation per element.

@group(0) @binding(1) var<storage, read> x: array<f32>;                 // (N)
@group(0) @binding(2) var<storage, read_write> out: array<out_elem>;    // (N)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i < dims.N {
        out[i] = out_elem(x[i]);
    }
}
