// 2 positions per invocation, 16 apart, in attention's backward pass with 128 invocations: a matrix has a column for each.

const SIZE = 128u;
const OWN = 2u;
const OWN_APART = 16u;
alias Own = mat2x4<f32>;

fn own_rows(start: u32, position: u32, c: u32) -> Own {
    return Own(tile[start + place(position, c)], tile[start + place(position + OWN_APART, c)]);
}

fn own_weights(start: u32, position: u32, lane: u32) -> Own {
    return Own(
        weights[start + weights_place(position, lane)],
        weights[start + weights_place(position + OWN_APART, lane)],
    );
}
