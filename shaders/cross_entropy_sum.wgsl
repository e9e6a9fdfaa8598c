// uses: reduce
// loss += loss_scale · Σ row_loss. One workgroup.

@group(0) @binding(1) var<storage, read> row_loss: array<f32>;      // (M)
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;    // (1)

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var row = local; row < dims.M; row += WG_SIZE) {
        sum += row_loss[row];
    }
    sum = step.loss_scale * workgroup_sum(local, sum);
    if local != 0u {
        return;
    }
    if overwrites() {
        loss[0] = sum;
    } else {
        loss[0] += sum;
    }
}
