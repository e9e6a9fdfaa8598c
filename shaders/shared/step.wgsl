// The values that the host changes between two replays (`StepWords` in src/kernel/step.rs).

struct Step {
    accumulate: u32,
    seed_0: u32,
    seed_1: u32,
    dropout: u32,
    loss_scale: f32,
    learning_rate: f32,
    beta1: f32,
    beta2: f32,
    ln_beta1: f32,
    ln_beta2: f32,
    eps: f32,
    weight_decay: f32,
    grad_clip: f32,
}

@group(1) @binding(0) var<uniform> step: Step;

// Whether accumulated buffers are overwritten: then the old values must not be read.
fn overwrites() -> bool {
    return dims.ACC == ACCUMULATE_SET || (dims.ACC == ACCUMULATE_SET_FIRST && step.accumulate == 0u);
}

// WGSL may assume that there are no NaNs and infinities; testing the bits is reliable.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}
