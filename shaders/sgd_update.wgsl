// params -= learning rate · gradient (clipped, with coupled decay). One invocation per parameter.

@group(0) @binding(1) var<storage, read> grads: array<f32>;           // (N)
@group(0) @binding(2) var<storage, read> norm: array<f32>;            // norm, coef
@group(0) @binding(3) var<storage, read> state: array<u32>;           // applied, skipped in a row, skipped, skip
@group(0) @binding(4) var<storage, read_write> params: array<f32>;    // (N)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i >= arrayLength(&params) || state[STATE_SKIP] != 0u {
        return;
    }
    let decay = select(0.0, step.weight_decay, dims.ID == DECAY_COUPLED);
    params[i] -= step.learning_rate * (grads[i] * norm[1] + decay * params[i]);
}
