// 4 positions per invocation, 8 apart, in attention's backward pass with 64 invocations: a matrix has a column for each.

const SIZE = 64u;
const OWN = 4u;
const OWN_APART = 8u;
alias Own = mat4x4<f32>;

fn own_rows(start: u32, position: u32, c: u32) -> Own {
    return rows(start, position, c);
}

fn own_weights(start: u32, position: u32, lane: u32) -> Own {
    return weights_of(start, position, lane);
}
