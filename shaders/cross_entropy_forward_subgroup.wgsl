// row_loss = log Σ exp(logits) - logits[target], 0 without a target. A subgroup a row:
// shared/subgroup_rows.wgsl.

@group(0) @binding(1) var<storage, read> targets: array<u32>;                 // (M)
@group(0) @binding(2) var<storage, read> logits: array<vec4<logits_elem>>;    // (M, V)
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>;          // (M)

const IGNORE = 0xffffffffu;

fn row_count() -> u32 {
    return dims.M;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let width = dims.V / 4u;
    let base = row * width;

    var largest_four = vec4(LOWEST);
    for (var v = lane; v < width; v += lanes) {
        largest_four = max(largest_four, vec4<f32>(logits[base + v]));
    }
    let largest = row_max(largest_four);

    var sum_four = vec4(0.0);
    for (var v = lane; v < width; v += lanes) {
        sum_four += exp(vec4<f32>(logits[base + v]) - largest);
    }
    let sum = row_sum(sum_four);

    if lane == 0u {
        let target_id = targets[row];
        if target_id == IGNORE {
            row_loss[row] = 0.0;
        } else {
            row_loss[row] = log(sum) - (f32(logits[base + target_id / 4u][target_id % 4u]) - largest);
        }
    }
}
