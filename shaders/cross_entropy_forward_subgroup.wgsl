// uses: subgroup_rows, logits
// row_loss = log Σ exp(logits) - logits[target], 0 without a target. One subgroup per row, which is read once:
// shared/subgroup_rows.wgsl, shared/logits.wgsl.

@group(0) @binding(1) var<storage, read> targets: array<u32>;                 // (M)
@group(0) @binding(2) var<storage, read> logits: array<vec4<logits_elem>>;    // (M, LD), columns 0..V
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>;          // (M)

fn row_count() -> u32 {
    return dims.M;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let mine = statistics(row, lane, lanes);
    let largest = subgroupMax(mine.largest);
    let sum = subgroupAdd(mine.sum * exp(mine.largest - largest));

    if lane == 0u {
        let target_id = targets[row];
        if target_id >= dims.V { // also true for IGNORE
            row_loss[row] = 0.0;
        } else {
            row_loss[row] = log(sum) - (logits_four(row, target_id / 4u)[target_id % 4u] - largest);
        }
    }
}
