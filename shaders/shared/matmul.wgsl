// The register-tiled matrix product: (M,K) times (K,N) in tiles of 64 x 64.
//
// One workgroup of 64 invocations computes one tile: 16 columns of `a` and 16 rows of `b` at a time
// go through workgroup memory, and every invocation keeps 8 x 8 sums in registers, as four blocks of
// 4 x 4 that lie 32 apart, so that neighbours read neighbouring words. The sums are written out one
// by one, since not every compiler keeps an array that a loop indexes in registers.
//
// A kernel declares `a_at(m, k)`, `b_at(k, n)` and `store(m, n, value)`, and in A_ALONG_K and
// B_ALONG_K whether neighbours in k are neighbours in memory: these are then read together.

const TILE = 64u;
const TILE_K = 16u;
const MATMUL_SIZE = 64u;
const PITCH = 17u; // 16 vectors a row, and one so that columns fall into different banks

var<workgroup> a_tile: array<vec4<f32>, TILE_K * PITCH>;
var<workgroup> b_tile: array<vec4<f32>, TILE_K * PITCH>;

fn a_inside(m: u32, k: u32, M: u32, K: u32) -> f32 {
    if m < M && k < K {
        return a_at(m, k);
    }
    return 0.0;
}

fn b_inside(k: u32, n: u32, K: u32, N: u32) -> f32 {
    if n < N && k < K {
        return b_at(k, n);
    }
    return 0.0;
}

// The place of a tile's vector `i`: its row (in k), and its column in vectors.
fn tile_place(i: u32, along_k: bool) -> vec2<u32> {
    if along_k {
        return vec2(i % TILE_K, i / TILE_K);
    }
    return vec2(i / 16u, i % 16u);
}

fn load_tiles(local: u32, m0: u32, n0: u32, k0: u32, M: u32, K: u32, N: u32) {
    for (var i = local; i < TILE_K * 16u; i += MATMUL_SIZE) {
        let a = tile_place(i, A_ALONG_K);
        let m = m0 + 4u * a.y;
        let ka = k0 + a.x;
        a_tile[a.x * PITCH + a.y] = vec4(
            a_inside(m, ka, M, K),
            a_inside(m + 1u, ka, M, K),
            a_inside(m + 2u, ka, M, K),
            a_inside(m + 3u, ka, M, K),
        );
        let b = tile_place(i, B_ALONG_K);
        let n = n0 + 4u * b.y;
        let kb = k0 + b.x;
        b_tile[b.x * PITCH + b.y] = vec4(
            b_inside(kb, n, K, N),
            b_inside(kb, n + 1u, K, N),
            b_inside(kb, n + 2u, K, N),
            b_inside(kb, n + 3u, K, N),
        );
    }
}

fn store_four(m: u32, n: u32, M: u32, N: u32, value: vec4<f32>) {
    if m >= M {
        return;
    }
    if n < N {
        store(m, n, value.x);
    }
    if n + 1u < N {
        store(m, n + 1u, value.y);
    }
    if n + 2u < N {
        store(m, n + 2u, value.z);
    }
    if n + 3u < N {
        store(m, n + 3u, value.w);
    }
}

// The tile of workgroup `group`: x counts columns of tiles, y rows.
fn matmul(group: vec3<u32>, local: u32, M: u32, K: u32, N: u32) {
    let m0 = group.y * TILE;
    let n0 = group.x * TILE;
    let x = local % 8u;
    let y = local / 8u;

    // Sums of row r, columns 0..4 (l) and 32..36 (h) of this invocation.
    var l0 = vec4(0.0); var l1 = vec4(0.0); var l2 = vec4(0.0); var l3 = vec4(0.0);
    var l4 = vec4(0.0); var l5 = vec4(0.0); var l6 = vec4(0.0); var l7 = vec4(0.0);
    var h0 = vec4(0.0); var h1 = vec4(0.0); var h2 = vec4(0.0); var h3 = vec4(0.0);
    var h4 = vec4(0.0); var h5 = vec4(0.0); var h6 = vec4(0.0); var h7 = vec4(0.0);

    for (var k0 = 0u; k0 < K; k0 += TILE_K) {
        load_tiles(local, m0, n0, k0, M, K, N);
        workgroupBarrier();
        for (var k = 0u; k < TILE_K; k++) {
            let a = a_tile[k * PITCH + y];
            let c = a_tile[k * PITCH + 8u + y];
            let bl = b_tile[k * PITCH + x];
            let bh = b_tile[k * PITCH + 8u + x];
            l0 += a.x * bl; l1 += a.y * bl; l2 += a.z * bl; l3 += a.w * bl;
            l4 += c.x * bl; l5 += c.y * bl; l6 += c.z * bl; l7 += c.w * bl;
            h0 += a.x * bh; h1 += a.y * bh; h2 += a.z * bh; h3 += a.w * bh;
            h4 += c.x * bh; h5 += c.y * bh; h6 += c.z * bh; h7 += c.w * bh;
        }
        workgroupBarrier();
    }

    let m = m0 + 4u * y;
    let n = n0 + 4u * x;
    store_four(m, n, M, N, l0); store_four(m, n + 32u, M, N, h0);
    store_four(m + 1u, n, M, N, l1); store_four(m + 1u, n + 32u, M, N, h1);
    store_four(m + 2u, n, M, N, l2); store_four(m + 2u, n + 32u, M, N, h2);
    store_four(m + 3u, n, M, N, l3); store_four(m + 3u, n + 32u, M, N, h3);
    store_four(m + 32u, n, M, N, l4); store_four(m + 32u, n + 32u, M, N, h4);
    store_four(m + 33u, n, M, N, l5); store_four(m + 33u, n + 32u, M, N, h5);
    store_four(m + 34u, n, M, N, l6); store_four(m + 34u, n + 32u, M, N, h6);
    store_four(m + 35u, n, M, N, l7); store_four(m + 35u, n + 32u, M, N, h7);
}
