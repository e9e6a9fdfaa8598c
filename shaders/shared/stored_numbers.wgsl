// How a kernel reads the matrix MATRIX where it is in single or half precision: as vectors of four numbers.

alias stored_MATRIX = vec4<MATRIX_elem>;

fn numbers_of_MATRIX(i: u32) -> vec4<f32> {
    return vec4<f32>(MATRIX[i]);
}

fn number_of_MATRIX(i: u32) -> f32 {
    return f32(MATRIX[i / 4u][i % 4u]);
}
