//! Counter-based random numbers: the same on every backend, in any order of evaluation.
//!
//! Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):
//! it needs only additions, rotations and exclusive ors, which WGSL has.

const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];

/// Returns two random words from a key and a counter.
///
/// ```
/// use wgpt::ops::random::threefry;
/// assert_eq!(threefry([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
/// ```
#[inline(always)]
pub fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let keys = [key[0], key[1], 0x1bd1_1bda ^ key[0] ^ key[1]];
    let mut x = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for round in 0..20 {
        x[0] = x[0].wrapping_add(x[1]);
        x[1] = x[1].rotate_left(ROTATIONS[round % 8]) ^ x[0];
        if round % 4 == 3 {
            let group = round / 4 + 1;
            x[0] = x[0].wrapping_add(keys[group % 3]);
            x[1] = x[1].wrapping_add(keys[(group + 1) % 3]).wrapping_add(group as u32);
        }
    }
    x
}

/// Returns a number in [0, 1) with 24 bits.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 / (1 << 24) as f32
}

/// Returns a key for one replay, from the run's seed and two numbers that identify the replay.
pub fn key(seed: u64, a: u32, b: u32) -> [u32; 2] {
    threefry([seed as u32, (seed >> 32) as u32], [a, b])
}
