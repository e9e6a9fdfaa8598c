// Sums and maxima over one workgroup of WG_SIZE invocations, by a tree: the same bits every time.

const WG_SIZE = 256u;
const LOWEST = -3.4e38;

var<workgroup> reduced: array<f32, WG_SIZE>;
var<workgroup> reduced_pairs: array<vec2<f32>, WG_SIZE>;

// Returns the sum of every invocation's `value` to all of them.
fn workgroup_sum(local: u32, value: f32) -> f32 {
    reduced[local] = value;
    for (var stride = WG_SIZE / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if local < stride {
            reduced[local] += reduced[local + stride];
        }
    }
    workgroupBarrier();
    let total = reduced[0];
    workgroupBarrier();
    return total;
}

// Returns the sums of every invocation's pair to all of them.
fn workgroup_sums(local: u32, values: vec2<f32>) -> vec2<f32> {
    reduced_pairs[local] = values;
    for (var stride = WG_SIZE / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if local < stride {
            reduced_pairs[local] += reduced_pairs[local + stride];
        }
    }
    workgroupBarrier();
    let totals = reduced_pairs[0];
    workgroupBarrier();
    return totals;
}

// Returns the largest of every invocation's `value` to all of them.
fn workgroup_max(local: u32, value: f32) -> f32 {
    reduced[local] = value;
    for (var stride = WG_SIZE / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if local < stride {
            reduced[local] = max(reduced[local], reduced[local + stride]);
        }
    }
    workgroupBarrier();
    let largest = reduced[0];
    workgroupBarrier();
    return largest;
}
