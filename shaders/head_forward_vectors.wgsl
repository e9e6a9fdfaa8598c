// logits[START + v] = x[last] · wte[v], last the last valid row, in vectors of four. One workgroup 8 rows of
// the table, 32 invocations a row: a row is read 512 bytes (256 in half precision) at a time.

@group(0) @binding(1) var<storage, read> x: array<vec4<x_elem>>;        // (T, C)
@group(0) @binding(2) var<storage, read> wte: array<vec4<wte_elem>>;    // (V, C)
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;      // (all slices' V)

const ROWS = 8u;
const LANES = 32u;

var<workgroup> sums: array<f32, ROWS * LANES>;

@compute @workgroup_size(ROWS * LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let v = group_index(group) * ROWS + local / LANES;
    let lane = local % LANES;
    let width = dims.C / 4u;
    let last = clamp(step.count, 1u, dims.T) - 1u;
    var sum = 0.0;
    if v < dims.V {
        for (var c = lane; c < width; c += LANES) {
            sum += dot(vec4<f32>(x[last * width + c]), vec4<f32>(wte[v * width + c]));
        }
    }
    sums[local] = sum;
    for (var stride = LANES / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if lane < stride {
            sums[local] += sums[local + stride];
        }
    }
    if lane == 0u && v < dims.V {
        logits[dims.START + v] = sums[local];
    }
}
