// The backward pass's formulas for the products of one position with four others, which are APART from each other. A
// kernel declares APART, `lse` and `delta`.

// Computes p and ds of position `own` with four others from `other` on, from q · k (s) and dout · v (dp); `head_row`
// is where the head's positions begin in lse and delta.
fn pairs_of(
    s: vec4<f32>,
    dp: vec4<f32>,
    b: u32,
    head_row: u32,
    own: u32,
    other: u32,
    as_query: bool,
) -> mat2x4<f32> {
    let others = vec4(other) + APART * vec4(0u, 1u, 2u, 3u);
    let query = select(others, vec4(own), as_query);
    let key = select(vec4(own), others, as_query);
    let i = vec4(head_row) + min(query, vec4(dims.T - 1u));
    let log_sums = vec4(lse[i.x], lse[i.y], lse[i.z], lse[i.w]);
    let deltas = vec4(delta[i.x], delta[i.y], delta[i.z], delta[i.w]);
    let first = vec4(
        first_seen(b, query.x),
        first_seen(b, query.y),
        first_seen(b, query.z),
        first_seen(b, query.w),
    );
    let root = sqrt(f32(dims.HS));
    let seen = (key >= first) & (key <= query) & (query < vec4(dims.T));
    let p = select(vec4(0.0), exp(s / root - log_sums), seen);
    return mat2x4(p, p * (dp - deltas) / root);
}
