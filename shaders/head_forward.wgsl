// uses: slots
// logits[slot, START + v] = x[row] · table[v] for every slot that draws a token, after its row. One
// workgroup per 8 rows of the table, 32 invocations per row.

@group(0) @binding(1) var<storage, read> slots: array<u32>;           // (SLOTS, SLOT_WORDS)
@group(0) @binding(2) var<storage, read> x: array<x_elem>;            // (T, C)
@group(0) @binding(3) var<storage, read> table: array<stored_table>;  // (V, C)
@group(0) @binding(4) var<storage, read_write> logits: array<f32>;    // (SLOTS, LD)

const ROWS = 8u;
const LANES = 32u;

var<workgroup> sums: array<f32, ROWS * LANES>;

@compute @workgroup_size(ROWS * LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let v = group_index(group) * ROWS + local / LANES;
    let lane = local % LANES;
    for (var slot = 0u; slot < dims.SLOTS; slot++) {
        if !draws(slot) {
            continue;
        }
        let row = slot_word(slot, SLOT_ROW);
        var sum = 0.0;
        if v < dims.V {
            for (var c = lane; c < dims.C; c += LANES) {
                sum += f32(x[row * dims.C + c]) * number_of_table(v * dims.C + c);
            }
        }
        sums[local] = sum;
        for (var stride = LANES / 2u; stride > 0u; stride /= 2u) {
            workgroupBarrier();
            if lane < stride {
                sums[local] += sums[local + stride];
            }
        }
        if lane == 0u && v < dims.V {
            logits[slot * dims.LD + dims.START + v] = sums[local];
        }
        workgroupBarrier(); // The next slot's sums overwrite these.
    }
}
