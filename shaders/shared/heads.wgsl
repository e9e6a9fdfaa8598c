// Where attention's heads lie (`Heads` in src/ops/attention/heads.rs).

// The rows of a head of a sequence: where the first begins and how far each is from the next, in elements.
fn query_rows(b: u32, head: u32) -> vec2<u32> {
    return vec2(dims.Q_START + b * dims.T * dims.Q_ROW + head * dims.Q_HEAD, dims.Q_ROW);
}

fn key_rows(b: u32, kv_head: u32) -> vec2<u32> {
    return vec2(dims.K_START + b * dims.T * dims.K_ROW + kv_head * dims.K_HEAD, dims.K_ROW);
}

fn value_rows(b: u32, kv_head: u32) -> vec2<u32> {
    return vec2(dims.V_START + b * dims.T * dims.K_ROW + kv_head * dims.K_HEAD, dims.K_ROW);
}

// The same of what comes out, (B, T, C).
fn out_rows(b: u32, head: u32) -> vec2<u32> {
    return vec2(b * dims.T * dims.C + head * dims.HS, dims.C);
}

// Channel `d` of position `t`.
fn channel(rows: vec2<u32>, t: u32, d: u32) -> u32 {
    return rows.x + t * rows.y + d;
}
