// How every engine of a matrix product reads its operands: four neighbours in memory, 0 outside.
//
// The product is out (M,N) = a (M,K) · b (K,N). A kernel declares
//     sizes()                     M, K, N
//     A_ALONG_K, B_ALONG_K        whether neighbours in k are neighbours in memory
//     strides_fit()               whether all rows begin at multiples of four
//     a_at(m, k), b_at(k, n)      one element
//     a_four(m, k), b_four(k, n)  four neighbours from there on, where a multiple of four begins
//     store(m, n, x), store_four  the same for the output, with any further operation of the kernel
//     B_SUMS, store_sum(n, x)     whether the sum of each column of b is needed, and its destination
// and an engine has `main`: it computes the sums in tiles and stores each once.

// Loops are avoided where possible: Mesa's drivers that run on a CPU end a shader's loops silently after 65,535
// iterations of all of them.

// Returns neighbour `i` of a (m, k), reading single elements.
fn a_near(m: u32, k: u32, i: u32, inside: u32) -> f32 {
    if i >= inside {
        return 0.0;
    }
    return a_at(m + select(i, 0u, A_ALONG_K), k + select(0u, i, A_ALONG_K));
}

// Returns neighbour `i` of b (k, n), reading single elements.
fn b_near(k: u32, n: u32, i: u32, inside: u32) -> f32 {
    if i >= inside {
        return 0.0;
    }
    return b_at(k + select(0u, i, B_ALONG_K), n + select(i, 0u, B_ALONG_K));
}

// Returns a (m, k..k+4) or a (m..m+4, k).
fn a_vector(m: u32, k: u32, size: vec3<u32>, fit: bool) -> vec4<f32> {
    if m >= size.x || k >= size.y {
        return vec4(0.0);
    }
    let inside = select(size.x - m, size.y - k, A_ALONG_K);
    if fit && inside >= 4u {
        return a_four(m, k);
    }
    return vec4(a_near(m, k, 0u, inside), a_near(m, k, 1u, inside), a_near(m, k, 2u, inside), a_near(m, k, 3u, inside));
}

// Returns b (k..k+4, n) or b (k, n..n+4).
fn b_vector(k: u32, n: u32, size: vec3<u32>, fit: bool) -> vec4<f32> {
    if n >= size.z || k >= size.y {
        return vec4(0.0);
    }
    let inside = select(size.z - n, size.y - k, B_ALONG_K);
    if fit && inside >= 4u {
        return b_four(k, n);
    }
    return vec4(b_near(k, n, 0u, inside), b_near(k, n, 1u, inside), b_near(k, n, 2u, inside), b_near(k, n, 3u, inside));
}

// Returns a (m..m+4, k..k+4): row i holds four neighbours in m, of k + i.
fn a_block(m: u32, k: u32, size: vec3<u32>, fit: bool) -> mat4x4<f32> {
    if A_ALONG_K {
        return transpose(mat4x4(
            a_vector(m, k, size, fit),
            a_vector(m + 1u, k, size, fit),
            a_vector(m + 2u, k, size, fit),
            a_vector(m + 3u, k, size, fit),
        ));
    }
    return mat4x4(
        a_vector(m, k, size, fit),
        a_vector(m, k + 1u, size, fit),
        a_vector(m, k + 2u, size, fit),
        a_vector(m, k + 3u, size, fit),
    );
}

// Returns b (k..k+4, n..n+4): row i holds four neighbours in n, of k + i.
fn b_block(k: u32, n: u32, size: vec3<u32>, fit: bool) -> mat4x4<f32> {
    if B_ALONG_K {
        return transpose(mat4x4(
            b_vector(k, n, size, fit),
            b_vector(k, n + 1u, size, fit),
            b_vector(k, n + 2u, size, fit),
            b_vector(k, n + 3u, size, fit),
        ));
    }
    // Drivers that compile for a CPU take half the time for a loop. The other blocks are not read by one: NVIDIA's compiler
    // would need more registers.
    var rows: mat4x4<f32>;
    for (var i = 0u; i < 4u; i++) {
        rows = mat4x4(rows[1], rows[2], rows[3], b_vector(k + i, n, size, fit));
    }
    return rows;
}

// Returns the same block of a, if all of it is inside and all rows begin at multiples of four.
fn a_block_inside(m: u32, k: u32) -> mat4x4<f32> {
    if A_ALONG_K {
        return transpose(mat4x4(a_four(m, k), a_four(m + 1u, k), a_four(m + 2u, k), a_four(m + 3u, k)));
    }
    return mat4x4(a_four(m, k), a_four(m, k + 1u), a_four(m, k + 2u), a_four(m, k + 3u));
}

// Returns the same block of b, if all of it is inside and all rows begin at multiples of four.
fn b_block_inside(k: u32, n: u32) -> mat4x4<f32> {
    if B_ALONG_K {
        return transpose(mat4x4(b_four(k, n), b_four(k, n + 1u), b_four(k, n + 2u), b_four(k, n + 3u)));
    }
    return mat4x4(b_four(k, n), b_four(k + 1u, n), b_four(k + 2u, n), b_four(k + 3u, n));
}

// Stores the elements of out (m, n..n+4) that lie inside of it.
fn store_vector(m: u32, n: u32, size: vec3<u32>, fit: bool, value: vec4<f32>) {
    if m >= size.x || n >= size.z {
        return;
    }
    if fit && size.z - n >= 4u {
        store_four(m, n, value);
        return;
    }
    for (var i = 0u; i < min(size.z - n, 4u); i++) {
        store(m, n + i, value[i]);
    }
}
