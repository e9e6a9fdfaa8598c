// Sums and maxima over the lanes that share a row of attention on matrix units, all of one subgroup: LANES of them, M apart.

fn row_largest(own: f32, local: u32) -> f32 {
    var x = own;
    for (var apart = M; apart < UNIT_LANES; apart *= 2u) {
        x = max(x, subgroupShuffleXor(x, apart));
    }
    return x;
}

fn row_sum(own: f32, local: u32) -> f32 {
    var x = own;
    for (var apart = M; apart < UNIT_LANES; apart *= 2u) {
        x += subgroupShuffleXor(x, apart);
    }
    return x;
}
