// uses: reduce, logits, logits_gradient
// logits = loss_scale · S · (softmax(logits) - [v = target]) in place, 0 without a target, and row_loss
// as in the forward pass: `row_loss = log Σ exp(logits) - logits[target]`; in vectors of four. One workgroup per
// row, which is read once for the sum and once more for the gradient: shared/logits.wgsl,
// shared/logits_gradient.wgsl.

@group(0) @binding(1) var<storage, read> targets: array<u32>;                       // (M)
@group(0) @binding(2) var<storage, read> state: array<u32>;                         // S = 2^state[STATE_SCALE_LOG2]
@group(0) @binding(3) var<storage, read_write> logits: array<vec4<logits_elem>>;    // (M, LD), columns 0..V
@group(0) @binding(4) var<storage, read_write> row_loss: array<f32>;                // (M)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.M {
        return;
    }
    let mine = statistics(row, local, WG_SIZE);
    let largest = workgroup_max(local, mine.largest);
    let sum = workgroup_sum(local, mine.sum * exp(mine.largest - largest));
    write_gradient(row, local, WG_SIZE, largest, sum);
}
