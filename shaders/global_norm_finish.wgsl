// The norm of all gradients from the blocks' parts, the factor that clips it, and whether the update is
// skipped: src/ops/global_norm.rs has the formulas. One workgroup.

@group(0) @binding(1) var<storage, read> partials: array<f32>;       // (N, 3)
@group(0) @binding(2) var<storage, read> loss: array<f32>;           // (1)
@group(0) @binding(3) var<storage, read_write> norm: array<f32>;     // norm, coef
@group(0) @binding(4) var<storage, read_write> state: array<u32>;    // the words below

const APPLIED = 0u;
const SKIPPED_IN_A_ROW = 1u;
const SKIPPED = 2u;
const SKIP = 3u;

const SMALLEST = 1.2e-38; // below it some devices have no numbers
const LARGE = 1e30; // far above it some devices have no reciprocals

fn decide(total: f32, broken: bool) {
    let skip = broken || !is_finite(loss[0]) || !is_finite(total);
    state[SKIP] = select(0u, 1u, skip);
    if skip {
        norm[0] = -1.0;
        norm[1] = 0.0;
        state[SKIPPED] += 1u;
        state[SKIPPED_IN_A_ROW] += 1u;
        return;
    }
    let clip = step.grad_clip;
    let clipped = clip > 0.0 && clip < total + 1e-6;
    norm[0] = total;
    norm[1] = select(1.0, clip / (total + 1e-6), clipped);
    state[APPLIED] += 1u;
    state[SKIPPED_IN_A_ROW] = 0u;
}

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(local_invocation_index) local: u32) {
    var largest = 0.0;
    var broken = 0.0;
    for (var i = local; i < dims.N; i += WG_SIZE) {
        largest = max(largest, partials[i * 3u]);
        broken = max(broken, partials[i * 3u + 2u]);
    }
    largest = workgroup_max(local, largest);
    broken = workgroup_max(local, broken);

    let shrink = select(1.0, 1e-20, largest > LARGE);
    var sum = 0.0;
    for (var i = local; i < dims.N && largest > SMALLEST; i += WG_SIZE) {
        let ratio = partials[i * 3u] * shrink / (largest * shrink);
        sum += partials[i * 3u + 1u] * ratio * ratio;
    }
    sum = workgroup_sum(local, sum);
    if local == 0u {
        decide(largest * sqrt(sum), broken > 0.0);
    }
}
