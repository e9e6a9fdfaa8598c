//! Random numbers as pure functions of their position: a resumed run needs no generator state.
//!
//! The mixing function comes from SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
//! generators").

/// Returns 64 bits that depend on every one of `words` and on their order.
pub(crate) fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0x243F_6A88_85A3_08D3, |state, &word| mix(mix(state) ^ word))
}

/// SplitMix64's step: adds the golden ratio, then mixes.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Maps 64 random bits to `0..bound`, uniformly to within `bound` / 2⁶⁴.
pub(crate) fn below(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

/// A series of draws with its own key.
pub(crate) struct Draws {
    key: u64,
    count: u64,
}

impl Draws {
    /// Creates the series with this key.
    pub(crate) fn new(key: &[u64]) -> Draws {
        Draws { key: hash(key), count: 0 }
    }

    /// Returns the next number in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.count += 1;
        below(hash(&[self.key, self.count]), bound)
    }

    /// Draws one of the elements of `from`.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Draws two different elements of `from`.
    pub(crate) fn pick_two<T: Copy>(&mut self, from: &[T]) -> [T; 2] {
        let first = self.below(from.len() as u64);
        let second = (first + 1 + self.below(from.len() as u64 - 1)) % from.len() as u64;
        [from[first as usize], from[second as usize]]
    }
}

/// Returns the place of `index` in an order of `0..bound` that `key` gives: each number has a place of its own.
///
/// It is a Feistel network of four rounds over the least even number of bits that holds the numbers; what it puts
/// beyond the bound goes through it again.
pub(crate) fn permuted(index: u64, bound: u64, key: &[u64]) -> u64 {
    let half = (u64::BITS - (bound - 1).leading_zeros()).div_ceil(2).max(1);
    let (mask, key) = ((1 << half) - 1, hash(key));
    let mut at = index;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (hash(&[key, round, right]) & mask));
        }
        at = left << half | right;
        if at < bound {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::permuted;

    #[test]
    fn an_order_has_every_number_once() {
        for bound in [1, 2, 3, 7, 64, 65, 1000] {
            let order =
                |key| -> Vec<u64> { (0..bound).map(|i| permuted(i, bound, &[key])).collect() };
            let mut sorted = order(5);
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..bound), "{bound}");
            assert!(bound < 7 || order(5) != order(6), "{bound}");
        }
    }
}
