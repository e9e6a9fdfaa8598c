// The gradient of a row of logits in cross-entropy's backward pass, in vectors of four.

// Turns every `lanes`th vector from `lane` on into its gradient, and the padding of the row into zeros. The lane
// that owns the target's column writes the loss before it overwrites the logit.
fn write_gradient(row: u32, lane: u32, lanes: u32, largest: f32, sum: f32) {
    let target_id = targets[row];
    let ignored = target_id >= dims.V; // also true for IGNORE
    if ignored && lane == 0u {
        row_loss[row] = 0.0;
    }
    let scale = select(step.loss_scale * f32(1u << state[STATE_SCALE_LOG2]), 0.0, ignored);
    for (var v = lane; v < dims.LD / 4u; v += lanes) {
        let x = logits_four(row, v) - largest;
        if !ignored && v == target_id / 4u {
            row_loss[row] = log(sum) - x[target_id % 4u];
        }
        let hit = select(vec4(0.0), vec4(1.0), columns(v) == vec4(target_id));
        logits[row * (dims.LD / 4u) + v] = vec4<logits_elem>(scale * (exp(x) / sum - hit));
    }
}
