// How a kernel reads the matrix MATRIX where it is in q8_0: 17 halves of words are a block of 32 numbers, first the scale in
// half precision, then a signed byte per number.

alias stored_MATRIX = u32;

fn numbers_of_MATRIX(i: u32) -> vec4<f32> {
    let block = 17u * (i / 8u);
    let scale = unpack2x16float(MATRIX[block / 2u])[block % 2u];
    let at = block + 1u + 2u * (i % 8u);
    var bytes = MATRIX[at / 2u];
    if at % 2u == 1u {
        bytes = (bytes >> 16u) | (MATRIX[at / 2u + 1u] << 16u);
    }
    // Shifts to the left and back give bytes their signs.
    return scale * vec4<f32>((vec4(bitcast<i32>(bytes)) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u));
}

fn number_of_MATRIX(i: u32) -> f32 {
    return numbers_of_MATRIX(i / 4u)[i % 4u];
}
