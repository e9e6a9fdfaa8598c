// How a kernel reads the matrix MATRIX where it is in bf16: four numbers are two words, each number the upper half of one in
// single precision.

alias stored_MATRIX = vec2<u32>;

fn numbers_of_MATRIX(i: u32) -> vec4<f32> {
    let words = MATRIX[i];
    return bitcast<vec4<f32>>(vec4(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}

fn number_of_MATRIX(i: u32) -> f32 {
    return numbers_of_MATRIX(i / 4u)[i % 4u];
}
