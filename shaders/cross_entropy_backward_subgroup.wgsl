// uses: subgroup_rows, logits, logits_gradient
// logits = loss_scale · S · (softmax(logits) - [v = target]) in place, 0 without a target, and row_loss
// as in the forward pass: `row_loss = log Σ exp(logits) - logits[target]`. One subgroup per row:
// shared/subgroup_rows.wgsl, shared/logits.wgsl, shared/logits_gradient.wgsl.

@group(0) @binding(1) var<storage, read> targets: array<u32>;                       // (M)
@group(0) @binding(2) var<storage, read> state: array<u32>;                         // S = 2^state[STATE_SCALE_LOG2]
@group(0) @binding(3) var<storage, read_write> logits: array<vec4<logits_elem>>;    // (M, LD), columns 0..V
@group(0) @binding(4) var<storage, read_write> row_loss: array<f32>;                // (M)

fn row_count() -> u32 {
    return dims.M;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let mine = statistics(row, lane, lanes);
    let largest = subgroupMax(mine.largest);
    let sum = subgroupAdd(mine.sum * exp(mine.largest - largest));
    write_gradient(row, lane, lanes, largest, sum);
}
