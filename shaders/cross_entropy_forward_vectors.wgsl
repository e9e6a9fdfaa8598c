// uses: reduce, logits
// row_loss = log Σ exp(logits) - logits[target], 0 without a target, in vectors of four. One workgroup per row,
// which is read once: shared/logits.wgsl.

@group(0) @binding(1) var<storage, read> targets: array<u32>;                 // (M)
@group(0) @binding(2) var<storage, read> logits: array<vec4<logits_elem>>;    // (M, LD), columns 0..V
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>;          // (M)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.M {
        return;
    }
    let mine = statistics(row, local, WG_SIZE);
    let largest = workgroup_max(local, mine.largest);
    let sum = workgroup_sum(local, mine.sum * exp(mine.largest - largest));

    if local == 0u {
        let target_id = targets[row];
        if target_id >= dims.V { // also true for IGNORE
            row_loss[row] = 0.0;
        } else {
            row_loss[row] = log(sum) - (logits_four(row, target_id / 4u)[target_id % 4u] - largest);
        }
    }
}
