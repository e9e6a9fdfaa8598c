// uses: adam
// Adam and AdamW: src/ops/optimizer.rs has the formulas. One invocation per parameter.

@group(0) @binding(1) var<storage, read> grads: array<f32>;           // (N)
@group(0) @binding(2) var<storage, read> norm: array<f32>;            // norm, coef
@group(0) @binding(3) var<storage, read> state: array<u32>;           // applied, skipped in a row, skipped, skip
@group(0) @binding(4) var<storage, read_write> params: array<f32>;    // (N)
@group(0) @binding(5) var<storage, read_write> m: array<f32>;         // (N)
@group(0) @binding(6) var<storage, read_write> v: array<f32>;         // (N)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(group) * 256u + local;
    if i >= arrayLength(&v) || state[STATE_SKIP] != 0u {
        return;
    }
    let t = f32(state[STATE_APPLIED]);
    let coupled = select(0.0, step.weight_decay, dims.ID == DECAY_COUPLED);
    let decoupled = select(0.0, step.learning_rate * step.weight_decay, dims.ID == DECAY_DECOUPLED);

    let g = grads[i] * norm[1] + coupled * params[i];
    let p = params[i] - decoupled * params[i];
    let first = step.beta1 * m[i] + (1.0 - step.beta1) * g;
    let second = step.beta2 * v[i] + (1.0 - step.beta2) * g * g;
    m[i] = first;
    v[i] = second;
    let m_hat = first / one_minus_exp(t * step.ln_beta1);
    let v_hat = second / one_minus_exp(t * step.ln_beta2);
    params[i] = p - step.learning_rate * m_hat / (sqrt(v_hat) + step.eps);
}
