// logits = loss_scale · (softmax(logits) - [v = target]) in place, 0 without a target, and row_loss as
// in the forward pass: `row_loss = log Σ exp(logits) - logits[target]`. A subgroup a row:
// shared/subgroup_rows.wgsl. On the way the exponentials take the logits' place, so that each is found
// once; the lane that owns the target's column keeps its logit for the loss.

@group(0) @binding(1) var<storage, read> targets: array<u32>;              // (M)
@group(0) @binding(2) var<storage, read_write> logits: array<vec4<f32>>;   // (M, V)
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>;       // (M)

const IGNORE = 0xffffffffu;

fn row_count() -> u32 {
    return dims.M;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let width = dims.V / 4u;
    let base = row * width;
    let target_id = targets[row];

    var largest_four = vec4(LOWEST);
    for (var v = lane; v < width; v += lanes) {
        largest_four = max(largest_four, logits[base + v]);
    }
    let largest = row_max(largest_four);

    var sum_four = vec4(0.0);
    var hit = 0.0;
    for (var v = lane; v < width; v += lanes) {
        let x = logits[base + v] - largest;
        if v == target_id / 4u {
            hit = x[target_id % 4u];
        }
        let exponentials = exp(x);
        logits[base + v] = exponentials;
        sum_four += exponentials;
    }
    let sum = row_sum(sum_four);

    let ignored = target_id == IGNORE;
    if ignored && lane == 0u {
        row_loss[row] = 0.0;
    }
    if !ignored && lane == target_id / 4u % lanes {
        row_loss[row] = log(sum) - hit;
    }
    let scale = select(step.loss_scale, 0.0, ignored);
    for (var v = lane; v < width; v += lanes) {
        let is_target = vec4(4u * v) + vec4(0u, 1u, 2u, 3u) == vec4(target_id);
        logits[base + v] = scale * (logits[base + v] / sum - select(vec4(0.0), vec4(1.0), is_target));
    }
}
