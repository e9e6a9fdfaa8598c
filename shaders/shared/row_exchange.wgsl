// Sums and maxima over the lanes that share a row of attention on matrix units, of one or two subgroups: LANES of them, M
// apart. All invocations call them.

var<workgroup> of_lanes: array<f32, INVOCATIONS>;

fn row_largest(own: f32, local: u32) -> f32 {
    of_lanes[local] = own;
    workgroupBarrier();
    let first = local / UNIT_LANES * UNIT_LANES + local % M;
    var x = of_lanes[first];
    for (var i = 1u; i < LANES; i++) {
        x = max(x, of_lanes[first + i * M]);
    }
    return x;
}

fn row_sum(own: f32, local: u32) -> f32 {
    of_lanes[local] = own;
    workgroupBarrier();
    let first = local / UNIT_LANES * UNIT_LANES + local % M;
    var x = of_lanes[first];
    for (var i = 1u; i < LANES; i++) {
        x += of_lanes[first + i * M];
    }
    return x;
}
