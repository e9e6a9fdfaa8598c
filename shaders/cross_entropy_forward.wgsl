// uses: reduce
// row_loss = log Σ exp(logits) - logits[target], 0 without a target. One workgroup per row.

@group(0) @binding(1) var<storage, read> targets: array<u32>;           // (M)
@group(0) @binding(2) var<storage, read> logits: array<logits_elem>;    // (M, LD), columns 0..V
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>;    // (M)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.M {
        return;
    }
    let base = row * dims.LD;

    var largest = LOWEST;
    for (var v = local; v < dims.V; v += WG_SIZE) {
        largest = max(largest, f32(logits[base + v]));
    }
    largest = workgroup_max(local, largest);

    var sum = 0.0;
    for (var v = local; v < dims.V; v += WG_SIZE) {
        sum += exp(f32(logits[base + v]) - largest);
    }
    sum = workgroup_sum(local, sum);

    if local == 0u {
        let target_id = targets[row];
        if target_id >= dims.V { // also true for IGNORE
            row_loss[row] = 0.0;
        } else {
            row_loss[row] = log(sum) - (f32(logits[base + target_id]) - largest);
        }
    }
}
