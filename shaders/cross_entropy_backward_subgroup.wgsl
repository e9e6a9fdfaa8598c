// logits = loss_scale · S · (softmax(logits) - [v = target]) in place, 0 without a target, and row_loss
// as in the forward pass: `row_loss = log Σ exp(logits) - logits[target]`. A subgroup a row:
// shared/subgroup_rows.wgsl. The lane that owns the target's column keeps its logit for the loss.

@group(0) @binding(1) var<storage, read> targets: array<u32>;                       // (M)
@group(0) @binding(2) var<storage, read> state: array<u32>;                         // S = 2^state[SCALE_LOG2]
@group(0) @binding(3) var<storage, read_write> logits: array<vec4<logits_elem>>;    // (M, V)
@group(0) @binding(4) var<storage, read_write> row_loss: array<f32>;                // (M)

const IGNORE = 0xffffffffu;
const SCALE_LOG2 = 4u;

fn row_count() -> u32 {
    return dims.M;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let width = dims.V / 4u;
    let base = row * width;
    let target_id = targets[row];

    var largest_four = vec4(LOWEST);
    for (var v = lane; v < width; v += lanes) {
        largest_four = max(largest_four, vec4<f32>(logits[base + v]));
    }
    let largest = row_max(largest_four);

    var sum_four = vec4(0.0);
    var hit = 0.0;
    for (var v = lane; v < width; v += lanes) {
        let x = vec4<f32>(logits[base + v]) - largest;
        if v == target_id / 4u {
            hit = x[target_id % 4u];
        }
        sum_four += exp(x);
    }
    let sum = row_sum(sum_four);

    let ignored = target_id == IGNORE;
    if ignored && lane == 0u {
        row_loss[row] = 0.0;
    }
    if !ignored && lane == target_id / 4u % lanes {
        row_loss[row] = log(sum) - hit;
    }
    let scale = select(step.loss_scale * f32(1u << state[SCALE_LOG2]), 0.0, ignored);
    for (var v = lane; v < width; v += lanes) {
        let p = exp(vec4<f32>(logits[base + v]) - largest) / sum;
        let is_target = vec4(4u * v) + vec4(0u, 1u, 2u, 3u) == vec4(target_id);
        logits[base + v] = vec4<logits_elem>(scale * (p - select(vec4(0.0), vec4(1.0), is_target)));
    }
}
