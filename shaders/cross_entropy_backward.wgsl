// uses: reduce
// logits = loss_scale · S · (softmax(logits) - [v = target]) in place, 0 without a target, and row_loss as in
// the forward pass: `row_loss = log Σ exp(logits) - logits[target]`. The padding of a row becomes 0. One
// workgroup per row. The invocation that owns the target's column writes the loss before it overwrites the logit.

@group(0) @binding(1) var<storage, read> targets: array<u32>;                 // (M)
@group(0) @binding(2) var<storage, read> state: array<u32>;                   // S = 2^state[STATE_SCALE_LOG2]
@group(0) @binding(3) var<storage, read_write> logits: array<logits_elem>;    // (M, LD), columns 0..V
@group(0) @binding(4) var<storage, read_write> row_loss: array<f32>;          // (M)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group_index(group);
    if row >= dims.M {
        return;
    }
    let base = row * dims.LD;
    let target_id = targets[row];
    let ignored = target_id >= dims.V; // also true for IGNORE

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

    if ignored && local == 0u {
        row_loss[row] = 0.0;
    }
    let scale = step.loss_scale * f32(1u << state[STATE_SCALE_LOG2]);
    for (var v = local; v < dims.V; v += WG_SIZE) {
        let x = f32(logits[base + v]) - largest;
        if v == target_id {
            row_loss[row] = log(sum) - x;
        }
        let hit = select(0.0, 1.0, v == target_id);
        let gradient = scale * (exp(x) / sum - hit);
        logits[base + v] = logits_elem(select(gradient, 0.0, ignored));
    }
    for (var v = dims.V + local; v < dims.LD; v += WG_SIZE) {
        logits[base + v] = logits_elem(0.0);
    }
}
