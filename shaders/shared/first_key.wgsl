// The keys that a position sees, from `first_key` (B, T), which a kernel declares.

// Returns the first key that position `t` sees, which is at most `t` and in its window. Past the end it is the last
// position's.
fn first_seen(b: u32, t: u32) -> u32 {
    let position = min(t, dims.T - 1u);
    return max(min(first_key[b * dims.T + position], position), window_start(position));
}
