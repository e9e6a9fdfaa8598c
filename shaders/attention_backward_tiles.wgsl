// dqkv from dout, from `p = exp(q · k / √HS - lse)`, `out = Σ_j p v`:
//     ds[i, j] = p[i, j] (dout[i] · v[j] - delta[i]) / √HS
//     dq[i] = Σ_j ds[i, j] k[j]        dk[j] = Σ_i ds[i, j] q[i]        dv[j] = Σ_i p[i, j] dout[i]
//
// One workgroup 32 positions of a head and 64 of the head's channels. The first half of z finds dq of its
// positions as queries, over 32 keys at a time; the second half finds dk and dv of its positions as keys,
// over 32 queries at a time. So nothing is added up by two workgroups. A position has two vectors: as a
// query q and dout, as a key k and v. Both halves do the same with them: products of the positions' own
// with those of the others, s and dp; then sums of the others' first vectors weighed by ds and of their
// second ones weighed by p. 8 invocations, the lanes, share 4 positions: a lane has the pairs with 4
// others, which is a matrix with a column a position, and then 8 channels of the sums. How they go
// through workgroup memory: attention_forward_tiles.wgsl.

@group(0) @binding(1) var<storage, read> qkv: array<vec4<qkv_elem>>;            // (B, T, 3C)
@group(0) @binding(2) var<storage, read> lse: array<f32>;                       // (B, NH, T)
@group(0) @binding(3) var<storage, read> delta: array<f32>;                     // (B, NH, T)
@group(0) @binding(4) var<storage, read> dout: array<vec4<dout_elem>>;          // (B, T, C)
@group(0) @binding(5) var<storage, read_write> dqkv: array<vec4<dqkv_elem>>;    // (B, T, 3C)

const SIZE = 64u;
const ROWS = 32u;
// Where the tiles of 16 channels begin: vectors of the others, and the positions' own.
const OTHER_FIRST = 0u;
const OTHER_SECOND = ROWS * 4u;
const OWN_FIRST = ROWS * 8u;
const OWN_SECOND = ROWS * 12u;

// Those four, or one vector of the others of 64 channels.
var<workgroup> tile: array<vec4<f32>, ROWS * 16u>;
// Of each position and lane, ds of the pairs with the lane's others, and then p.
var<workgroup> weights: array<vec4<f32>, ROWS * 16u>;

// Four channels from `d` on of the first vector of position `t`; outside it the last position's, and no
// channels.
fn first_vector(b: u32, head: u32, t: u32, d: u32, as_query: bool) -> vec4<f32> {
    let size = dims.C / dims.NH;
    if d >= size {
        return vec4(0.0);
    }
    let row = (b * dims.T + min(t, dims.T - 1u)) * 3u * dims.C;
    return vec4<f32>(qkv[(row + select(dims.C, 0u, as_query) + head * size + d) / 4u]);
}

// The same of the second vector.
fn second_vector(b: u32, head: u32, t: u32, d: u32, as_query: bool) -> vec4<f32> {
    let size = dims.C / dims.NH;
    if d >= size {
        return vec4(0.0);
    }
    let row = (b * dims.T + min(t, dims.T - 1u)) * dims.C;
    if as_query {
        return vec4<f32>(dout[(row + head * size + d) / 4u]);
    }
    return vec4<f32>(qkv[(3u * row + 2u * dims.C + head * size + d) / 4u]);
}

// The place of channels 4 c to 4 c + 3 of row `r` in a tile of 16 channels.
fn place(r: u32, c: u32) -> u32 {
    return r * 4u + (c ^ (r / 2u % 4u));
}

// Four rows of a tile of 16 channels that begins at `start`, as columns.
fn rows(start: u32, r: u32, c: u32) -> mat4x4<f32> {
    return mat4x4(
        tile[start + place(r, c)],
        tile[start + place(r + 8u, c)],
        tile[start + place(r + 16u, c)],
        tile[start + place(r + 24u, c)],
    );
}

// The same of a tile of 64 channels.
fn values(r: u32, c: u32) -> mat4x4<f32> {
    return mat4x4(
        tile[r * 16u + c],
        tile[(r + 8u) * 16u + c],
        tile[(r + 16u) * 16u + c],
        tile[(r + 24u) * 16u + c],
    );
}

// The place of a position's ds with the others that lane `lane` has; p is ROWS * 8 further on.
fn weights_place(position: u32, lane: u32) -> u32 {
    return position * 8u + (lane ^ (position % 8u));
}

// The weights of four positions, as columns.
fn weights_of(start: u32, position: u32, lane: u32) -> mat4x4<f32> {
    return mat4x4(
        weights[start + weights_place(position, lane)],
        weights[start + weights_place(position + 8u, lane)],
        weights[start + weights_place(position + 16u, lane)],
        weights[start + weights_place(position + 24u, lane)],
    );
}

// Leaves ds and p of a position (counted from `own`) with the four others (from `other`) that the lane
// has, from their products.
fn store_pair(
    s: vec4<f32>,
    dp: vec4<f32>,
    row: u32,
    own: u32,
    position: u32,
    other: u32,
    lane: u32,
    as_query: bool,
) {
    let others = vec4(other + lane) + vec4(0u, 8u, 16u, 24u);
    let query = select(others, vec4(own + position), as_query);
    let key = select(vec4(own + position), others, as_query);
    let i = vec4(row) + min(query, vec4(dims.T - 1u));
    let log_sums = vec4(lse[i.x], lse[i.y], lse[i.z], lse[i.w]);
    let deltas = vec4(delta[i.x], delta[i.y], delta[i.z], delta[i.w]);
    let root = sqrt(f32(dims.C / dims.NH));
    let seen = (key <= query) & (query < vec4(dims.T));
    let p = select(vec4(0.0), exp(s / root - log_sums), seen);
    let at = weights_place(position, lane);
    weights[at] = p * (dp - deltas) / root;
    weights[at + ROWS * 8u] = p;
}

fn store(sums: mat4x4<f32>, part: u32, b: u32, head: u32, position: u32, d: u32) {
    let size = dims.C / dims.NH;
    for (var i = 0u; i < 4u; i++) {
        let t = position + 8u * i;
        if t < dims.T && d < size {
            let at = ((b * dims.T + t) * 3u + part) * dims.C + head * size + d;
            dqkv[at / 4u] = vec4<dqkv_elem>(sums[i]);
        }
    }
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let blocks = (dims.T + ROWS - 1u) / ROWS;
    let head = group_index(group) / blocks % dims.NH;
    let b = group_index(group) / blocks / dims.NH;
    let own = group_index(group) % blocks * ROWS;
    if b >= dims.B {
        return;
    }
    let size = dims.C / dims.NH;
    let row = (b * dims.NH + head) * dims.T;
    let chunks = (size + 63u) / 64u;
    let channel = group.z % chunks * 64u;
    let as_query = group.z < chunks;
    let end = select(dims.T, min(own + ROWS, dims.T), as_query);
    let position = local / 8u;
    let lane = local % 8u;

    // Sums of the others' first and second vectors, channels 4 lane to 4 lane + 3 (0), and 32 more (1).
    var first0 = mat4x4<f32>(); var first1 = mat4x4<f32>();
    var second0 = mat4x4<f32>(); var second1 = mat4x4<f32>();
    for (var other = select(own, 0u, as_query); other < end; other += ROWS) {
        var s = mat4x4<f32>();
        var dp = mat4x4<f32>();
        for (var d = 0u; d < size; d += 16u) {
            workgroupBarrier();
            for (var i = local; i < ROWS * 4u; i += SIZE) {
                let r = i / 4u;
                let di = d + i % 4u * 4u;
                let at = place(r, i % 4u);
                tile[OTHER_FIRST + at] = first_vector(b, head, other + r, di, !as_query);
                tile[OTHER_SECOND + at] = second_vector(b, head, other + r, di, !as_query);
                tile[OWN_FIRST + at] = first_vector(b, head, own + r, di, as_query);
                tile[OWN_SECOND + at] = second_vector(b, head, own + r, di, as_query);
            }
            workgroupBarrier();
            for (var c = 0u; c < 4u; c++) {
                s += transpose(rows(OTHER_FIRST, lane, c)) * rows(OWN_FIRST, position, c);
                dp += transpose(rows(OTHER_SECOND, lane, c)) * rows(OWN_SECOND, position, c);
            }
        }
        store_pair(s[0], dp[0], row, own, position, other, lane, as_query);
        store_pair(s[1], dp[1], row, own, position + 8u, other, lane, as_query);
        store_pair(s[2], dp[2], row, own, position + 16u, other, lane, as_query);
        store_pair(s[3], dp[3], row, own, position + 24u, other, lane, as_query);
        workgroupBarrier();
        for (var i = local; i < ROWS * 16u; i += SIZE) {
            tile[i] = first_vector(b, head, other + i / 16u, channel + i % 16u * 4u, !as_query);
        }
        workgroupBarrier();
        for (var i = 0u; i < 8u; i++) {
            let ds = weights_of(0u, position, i);
            first0 += values(i, lane) * ds;
            first1 += values(i, lane + 8u) * ds;
        }
        if as_query {
            continue;
        }
        workgroupBarrier();
        for (var i = local; i < ROWS * 16u; i += SIZE) {
            tile[i] = second_vector(b, head, other + i / 16u, channel + i % 16u * 4u, true);
        }
        workgroupBarrier();
        for (var i = 0u; i < 8u; i++) {
            let p = weights_of(ROWS * 8u, position, i);
            second0 += values(i, lane) * p;
            second1 += values(i, lane + 8u) * p;
        }
    }

    let t = own + position;
    let d = channel + 4u * lane;
    let part = select(1u, 0u, as_query);
    store(first0, part, b, head, t, d);
    store(first1, part, b, head, t, d + 32u);
    if !as_query {
        store(second0, 2u, b, head, t, d);
        store(second1, 2u, b, head, t, d + 32u);
    }
}
