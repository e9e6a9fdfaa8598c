//! The ranks of pairs: a hash table that is built once and then queried very often.
//!
//! Most queried pairs do not merge. Half of the table's slots are empty, so usually one access to one cache line
//! gives the answer; a general hash map takes twice as long.

/// The rank of a pair that does not merge, and the mark of a symbol that was merged into another; no id is so large.
pub(super) const NONE: u32 = u32::MAX;

/// The rank of each pair of ids that merges.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ranks {
    /// The slots, a power of two; a pair whose own slot is taken is in the next free one.
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot {
    left: u32,
    right: u32,
    /// [`NONE`] in an empty slot.
    rank: u32,
}

impl Ranks {
    /// Builds the table from pairs in the order of their ranks; a pair that is listed more than once has its last rank.
    pub(super) fn new(pairs: impl ExactSizeIterator<Item = (u32, u32)>) -> Ranks {
        let size = (2 * pairs.len()).next_power_of_two().max(2);
        let mut ranks = Ranks { slots: vec![Slot { left: 0, right: 0, rank: NONE }; size] };
        for ((left, right), rank) in pairs.zip(0..) {
            let place = ranks.find(left, right);
            ranks.slots[place] = Slot { left, right, rank };
        }
        ranks
    }

    /// Returns the rank of a pair, or [`NONE`].
    #[inline(always)]
    pub(super) fn get(&self, left: u32, right: u32) -> u32 {
        self.slots[self.find(left, right)].rank
    }

    /// Returns the slot that holds a pair, or the empty slot where it would be.
    #[inline(always)]
    fn find(&self, left: u32, right: u32) -> usize {
        let mask = self.slots.len() - 1;
        let hash = (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut place = (hash >> 32) as usize & mask;
        loop {
            let slot = &self.slots[place];
            if (slot.left == left && slot.right == right) || slot.rank == NONE {
                return place;
            }
            place = (place + 1) & mask;
        }
    }
}
