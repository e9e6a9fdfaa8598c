// uses: reduce
// Computes the norm of all gradients from the partials of the blocks, the clipping factor, and whether the update
// is skipped: src/ops/global_norm.rs has the formulas. One workgroup.

@group(0) @binding(1) var<storage, read> partials: array<f32>;       // (N, NORM_PARTIAL_LEN)
@group(0) @binding(2) var<storage, read> loss: array<f32>;           // (1)
@group(0) @binding(3) var<storage, read_write> norm: array<f32>;     // norm, coef
@group(0) @binding(4) var<storage, read_write> state: array<u32>;    // the words below

const SMALLEST = 1.2e-38; // some devices have no numbers below it
const LARGE = 1e30; // some devices have no reciprocals of numbers far above it

// Returns the factor by which every gradient was multiplied.
fn loss_scale() -> f32 {
    return f32(1u << state[STATE_SCALE_LOG2]);
}

fn count_skip(overflow: bool) {
    state[STATE_SCALE_AGE] = 0u;
    if overflow {
        state[STATE_OVERFLOWED] += 1u;
        state[STATE_SCALE_LOG2] -= 1u;
    } else {
        state[STATE_SKIPPED] += 1u;
        state[STATE_SKIPPED_IN_A_ROW] += 1u;
    }
}

fn count_good() {
    state[STATE_APPLIED] += 1u;
    state[STATE_SKIPPED_IN_A_ROW] = 0u;
    if dims.ID != LOSS_SCALE_DYNAMIC {
        return;
    }
    state[STATE_SCALE_AGE] += 1u;
    if state[STATE_SCALE_AGE] >= STATE_GROWTH_INTERVAL {
        state[STATE_SCALE_AGE] = 0u;
        state[STATE_SCALE_LOG2] = min(STATE_LARGEST_SCALE_LOG2, state[STATE_SCALE_LOG2] + 1u);
    }
}

fn decide(total: f32, scale: f32, broken: bool) {
    let skip = broken || !is_finite(loss[0]);
    state[STATE_SKIP] = select(0u, 1u, skip);
    if skip {
        norm[0] = -1.0;
        norm[1] = 0.0;
        count_skip(broken && is_finite(loss[0]) && state[STATE_SCALE_LOG2] > 0u);
        return;
    }
    let clip = step.grad_clip;
    let clipped = clip > 0.0 && clip < total + 1e-6;
    let shrink = select(1.0, 1e-20, total > LARGE);
    norm[0] = total;
    norm[1] = select(1.0, clip * shrink / ((total + 1e-6) * shrink), clipped) / scale;
    count_good();
}

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(local_invocation_index) local: u32) {
    var largest = 0.0;
    var broken = 0.0;
    for (var i = local; i < dims.N; i += WG_SIZE) {
        largest = max(largest, partials[i * NORM_PARTIAL_LEN]);
        broken = max(broken, partials[i * NORM_PARTIAL_LEN + 2u]);
    }
    largest = workgroup_max(local, largest);
    broken = workgroup_max(local, broken);

    let shrink = select(1.0, 1e-20, largest > LARGE);
    var sum = 0.0;
    for (var i = local; i < dims.N && largest > SMALLEST; i += WG_SIZE) {
        let ratio = partials[i * NORM_PARTIAL_LEN] * shrink / (largest * shrink);
        sum += partials[i * NORM_PARTIAL_LEN + 1u] * ratio * ratio;
    }
    sum = workgroup_sum(local, sum);
    if local == 0u {
        let scale = loss_scale();
        let total = largest / scale * sqrt(sum);
        decide(total, scale, broken > 0.0 || !is_finite(total));
    }
}
