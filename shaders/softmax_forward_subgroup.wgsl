// uses: subgroup_rows
// p = softmax of the first i + 1 scores of row i, 0 after them. One subgroup per row:
// shared/subgroup_rows.wgsl.

@group(0) @binding(1) var<storage, read> s: array<f32>;          // (B, NH, T, T)
@group(0) @binding(2) var<storage, read_write> p: array<f32>;    // (B, NH, T, T)

fn row_count() -> u32 {
    return dims.B * dims.NH * dims.T;
}

fn work(row: u32, lane: u32, lanes: u32) {
    let base = row * dims.T;
    let seen = row % dims.T + 1u;

    var largest = LOWEST;
    for (var j = lane; j < seen; j += lanes) {
        largest = max(largest, s[base + j]);
    }
    largest = subgroupMax(largest);

    var sum = 0.0;
    for (var j = lane; j < seen; j += lanes) {
        sum += exp(s[base + j] - largest);
    }
    sum = subgroupAdd(sum);

    for (var j = lane; j < dims.T; j += lanes) {
        if j < seen {
            p[base + j] = exp(s[base + j] - largest) / sum;
        } else {
            p[base + j] = 0.0;
        }
    }
}
