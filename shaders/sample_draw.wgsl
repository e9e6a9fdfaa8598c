// uses: reduce, threefry, rows, slots
// Draws the next token of every slot that draws one: the first, in the order of ids, at which the running sum of the
// probabilities exceeds u times their sum. It is written to tokens, after its row's position, and to seen. One
// workgroup per slot: an invocation sums a range of ids; the one in whose range the limit is exceeded finds the token.

@group(0) @binding(1) var<storage, read> slots: array<u32>;           // (SLOTS, SLOT_WORDS)
@group(0) @binding(2) var<storage, read> rows: array<u32>;            // (T, ROW_WORDS)
@group(0) @binding(3) var<storage, read> probs: array<f32>;           // (SLOTS, V)
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;    // (SLOTS, S + 1)
@group(0) @binding(5) var<storage, read_write> seen: array<u32>;      // (SLOTS, V)

var<workgroup> sums: array<f32, WG_SIZE>;
// The random word goes through memory: some compilers trace the range of a number back to its origin, which takes
// minutes through 20 rounds.
var<workgroup> word: u32;

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = group_index(group);
    if !draws(slot) {
        return;
    }
    let place = place_of(slot_word(slot, SLOT_ROW));
    if !place.inside {
        return;
    }
    let next = place.position + 1u;
    let first = slot * dims.V;
    let each = (dims.V + WG_SIZE - 1u) / WG_SIZE;
    let start = min(local * each, dims.V);
    let end = min(start + each, dims.V);
    var sum = 0.0;
    for (var v = start; v < end; v++) {
        sum += probs[first + v];
    }
    sums[local] = sum;
    if local == 0u {
        let key = vec2(slot_word(slot, SLOT_SEED), slot_word(slot, SLOT_SEED + 1u));
        word = threefry(key, vec2(next, 0u));
    }
    workgroupBarrier();
    var before = 0.0;
    var total = 0.0;
    for (var i = 0u; i < WG_SIZE; i++) {
        before = select(before, total, i == local);
        total += sums[i];
    }
    let wanted = f32(word >> 8u) / 16777216.0 * total;

    // The first range that exceeds it; if there is none because of rounding, the last range that is not empty.
    let exceeds = sum > 0.0 && before + sum > wanted;
    let exceeding = workgroup_max(local, select(LOWEST, -f32(local), exceeds));
    let filled = workgroup_max(local, select(LOWEST, f32(local), sum > 0.0));
    let owner = select(-exceeding, filled, exceeding == LOWEST);
    if f32(local) != owner {
        return;
    }
    var chosen = start;
    var running = before;
    for (var v = start; v < end; v++) {
        if probs[first + v] > 0.0 {
            chosen = v;
            running += probs[first + v];
            if running > wanted {
                break;
            }
        }
    }
    tokens[slot * (dims.S + 1u) + next] = chosen;
    seen[first + chosen] = 1u;
}
