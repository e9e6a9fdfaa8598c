// The layout of attention's heads (`Heads` in src/ops/attention/heads.rs).

// Returns the start of the first row of a head of a sequence and the distance from each row to the next, in elements.
fn query_rows(b: u32, head: u32) -> vec2<u32> {
    return vec2(dims.Q_START + b * dims.T * dims.Q_ROW + head * dims.Q_HEAD, dims.Q_ROW);
}

fn key_rows(b: u32, kv_head: u32) -> vec2<u32> {
    return vec2(dims.K_START + b * dims.T * dims.K_ROW + kv_head * dims.K_HEAD, dims.K_ROW);
}

fn value_rows(b: u32, kv_head: u32) -> vec2<u32> {
    return vec2(dims.V_START + b * dims.T * dims.K_ROW + kv_head * dims.K_HEAD, dims.K_ROW);
}

// Returns the same for the output, (B, T, C).
fn out_rows(b: u32, head: u32) -> vec2<u32> {
    return vec2(b * dims.T * dims.C + head * dims.HS, dims.C);
}

// Returns the place of channel `d` of position `t`.
fn channel(rows: vec2<u32>, t: u32, d: u32) -> u32 {
    return rows.x + t * rows.y + d;
}
