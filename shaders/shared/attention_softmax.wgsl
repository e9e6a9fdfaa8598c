// Online softmax of four keys and four queries at a time: matrices with a column per query, whose keys and queries
// are APART from each other. A kernel declares APART.

const FAR = -1e30; // below any other finite score

// Returns four positions from `t` on.
fn positions(t: u32) -> vec4<u32> {
    return vec4(t) + APART * vec4(0u, 1u, 2u, 3u);
}

// Returns one column: the scores of the keys from `key` on that position `query` sees, that is, up to itself.
fn seen(scores: vec4<f32>, key: u32, query: u32) -> vec4<f32> {
    return select(vec4(FAR), scores / sqrt(f32(dims.HS)), positions(key) <= vec4(query));
}

fn seen_block(s: mat4x4<f32>, key: u32, query: u32) -> mat4x4<f32> {
    return mat4x4(
        seen(s[0], key, query),
        seen(s[1], key, query + APART),
        seen(s[2], key, query + 2u * APART),
        seen(s[3], key, query + 3u * APART),
    );
}

// Returns the last of the first keys of four positions from `query` on: no key from there on is too early for any.
fn last_first_seen(b: u32, query: u32) -> u32 {
    let early = max(first_seen(b, query), first_seen(b, query + APART));
    let late = max(first_seen(b, query + 2u * APART), first_seen(b, query + 3u * APART));
    return max(early, late);
}

// Masks the scores of keys before a position's first key. If a row contains only such keys, its contribution to a sum
// is rescaled to zero once a visible key comes.
fn from_first(s: mat4x4<f32>, b: u32, key: u32, query: u32) -> mat4x4<f32> {
    let keys = positions(key);
    return mat4x4(
        select(vec4(FAR), s[0], keys >= vec4(first_seen(b, query))),
        select(vec4(FAR), s[1], keys >= vec4(first_seen(b, query + APART))),
        select(vec4(FAR), s[2], keys >= vec4(first_seen(b, query + 2u * APART))),
        select(vec4(FAR), s[3], keys >= vec4(first_seen(b, query + 3u * APART))),
    );
}

// Returns the largest score of each query.
fn largest_of(s: mat4x4<f32>) -> vec4<f32> {
    let keys = transpose(s);
    return max(max(keys[0], keys[1]), max(keys[2], keys[3]));
}

fn exponentials(s: mat4x4<f32>, largest: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(
        exp(s[0] - largest.x),
        exp(s[1] - largest.y),
        exp(s[2] - largest.z),
        exp(s[3] - largest.w),
    );
}

// Multiplies each column by its number.
fn rescale(m: mat4x4<f32>, by: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(m[0] * by.x, m[1] * by.y, m[2] * by.z, m[3] * by.w);
}
