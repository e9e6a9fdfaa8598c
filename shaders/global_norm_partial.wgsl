// uses: reduce
// For each block of 2^14 gradients: the largest magnitude, Σ (g / largest)², and 1 if some gradient was not
// finite. One workgroup per block.

@group(0) @binding(1) var<storage, read> grads: array<f32>;             // (N)
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;    // (blocks, NORM_PARTIAL_LEN)

const SMALLEST = 1.2e-38; // some devices have no numbers below it
const LARGE = 1e30; // some devices have no reciprocals of numbers far above it

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let block = group_index(group);
    let start = block * NORM_BLOCK;
    if start >= dims.N {
        return;
    }
    let end = min(start + NORM_BLOCK, dims.N);

    var largest = 0.0;
    var broken = 0.0;
    for (var i = start + local; i < end; i += WG_SIZE) {
        if is_finite(grads[i]) {
            largest = max(largest, abs(grads[i]));
        } else {
            broken = 1.0;
        }
    }
    largest = workgroup_max(local, largest);
    broken = workgroup_max(local, broken);

    let shrink = select(1.0, 1e-20, largest > LARGE);
    var sum = 0.0;
    for (var i = start + local; i < end && largest > SMALLEST; i += WG_SIZE) {
        let ratio = grads[i] * shrink / (largest * shrink);
        sum += ratio * ratio;
    }
    sum = workgroup_sum(local, sum);

    if local == 0u {
        let finite = broken == 0.0;
        partials[block * NORM_PARTIAL_LEN] = select(0.0, largest, finite);
        partials[block * NORM_PARTIAL_LEN + 1u] = select(0.0, sum, finite);
        partials[block * NORM_PARTIAL_LEN + 2u] = broken;
    }
}
