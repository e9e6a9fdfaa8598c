// uses: reduce
// p = softmax of the first i + 1 scores of row i, 0 after them. One workgroup per row.

@group(0) @binding(1) var<storage, read> s: array<f32>;          // (B, NH, T, T)
@group(0) @binding(2) var<storage, read_write> p: array<f32>;    // (B, NH, T, T)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.B * dims.NH * dims.T {
        return;
    }
    let base = row * dims.T;
    let seen = row % dims.T + 1u;

    var largest = LOWEST;
    for (var j = local; j < seen; j += WG_SIZE) {
        largest = max(largest, s[base + j]);
    }
    largest = workgroup_max(local, largest);

    var sum = 0.0;
    for (var j = local; j < seen; j += WG_SIZE) {
        sum += exp(s[base + j] - largest);
    }
    sum = workgroup_sum(local, sum);

    for (var j = local; j < dims.T; j += WG_SIZE) {
        if j < seen {
            p[base + j] = exp(s[base + j] - largest) / sum;
        } else {
            p[base + j] = 0.0;
        }
    }
}
