// uses: reduce, slots
// Computes probs from logits for every slot that draws a token: repetition penalty, temperature, top-k, top-p, min-p,
// softmax; src/ops/sample.rs has the definitions. One workgroup per slot.
//
// Nothing is sorted. A logit's bits are mapped so that their order is that of the logits. A search from the
// highest bit down finds the largest value that still has k logits, or the mass p, at or above it: this is exact
// even with ties. Among the logits that tie at top-p's value those with the smaller ids stay.

@group(0) @binding(1) var<storage, read> slots: array<u32>;          // (SLOTS, SLOT_WORDS)
@group(0) @binding(2) var<storage, read> seen: array<u32>;           // (SLOTS, V)
@group(0) @binding(3) var<storage, read> logits: array<f32>;         // (SLOTS, V)
@group(0) @binding(4) var<storage, read_write> probs: array<f32>;    // (SLOTS, V); during the kernel, the remaining logits

const GONE = -1e38; // a logit that was filtered out

var<workgroup> ties: array<u32, WG_SIZE>;

// Returns bits whose order as integers is the order of the numbers; 0 and -0 are equal.
fn order(x: f32) -> u32 {
    let bits = bitcast<u32>(select(x, 0.0, x == 0.0));
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

// Computes exp(x - largest), 0 for logits that were filtered out.
fn mass(x: f32, largest: f32) -> f32 {
    return select(exp(max(x - largest, -100.0)), 0.0, x <= GONE);
}

// `slot` is the workgroup's slot and `first` where its numbers begin: arguments, since a browser must see that they are the same for
// all invocations before it allows barriers that depend on them.

// Returns how many logits are at or above `bits`, or with `weigh` their mass.
fn at_or_above(local: u32, first: u32, bits: u32, weigh: bool, largest: f32) -> f32 {
    var sum = 0.0;
    for (var v = local; v < dims.V; v += WG_SIZE) {
        if order(probs[first + v]) >= bits {
            sum += select(1.0, mass(probs[first + v], largest), weigh);
        }
    }
    return workgroup_sum(local, sum);
}

// Returns the largest bits at or above which the number of logits, or their mass, is at least `wanted`.
fn search(local: u32, first: u32, wanted: f32, weigh: bool, largest: f32) -> u32 {
    var bits = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if at_or_above(local, first, bits | bit, weigh, largest) >= wanted {
            bits |= bit;
        }
    }
    return bits;
}

// Applies penalty and temperature; returns the largest logit.
fn scale(local: u32, slot: u32, first: u32) -> f32 {
    let wanted = slot_real(slot, SLOT_TEMPERATURE);
    let temperature = select(1.0, wanted, wanted > 0.0);
    let penalty = slot_real(slot, SLOT_REPETITION_PENALTY);
    var largest = LOWEST;
    for (var v = local; v < dims.V; v += WG_SIZE) {
        var x = logits[first + v];
        if seen[first + v] != 0u {
            x = select(x * penalty, x / penalty, x >= 0.0);
        }
        x /= temperature;
        probs[first + v] = x;
        largest = max(largest, x);
    }
    return workgroup_max(local, largest);
}

// Sets probability 1 for the first of the largest logits.
fn greedy(local: u32, first: u32, largest: f32) {
    var earliest = LOWEST;
    for (var v = local; v < dims.V; v += WG_SIZE) {
        if probs[first + v] == largest {
            earliest = max(earliest, -f32(v));
        }
    }
    let chosen = u32(-workgroup_max(local, earliest));
    for (var v = local; v < dims.V; v += WG_SIZE) {
        probs[first + v] = select(0.0, 1.0, v == chosen);
    }
}

fn keep_top_k(local: u32, slot: u32, first: u32, largest: f32) {
    let least = search(local, first, f32(slot_word(slot, SLOT_TOP_K)), false, largest);
    for (var v = local; v < dims.V; v += WG_SIZE) {
        if order(probs[first + v]) < least {
            probs[first + v] = GONE;
        }
    }
}

fn keep_top_p(local: u32, slot: u32, first: u32, largest: f32) {
    let wanted = slot_real(slot, SLOT_TOP_P) * at_or_above(local, first, 0u, true, largest);
    let cut = min(search(local, first, wanted, true, largest), order(largest));
    let above = at_or_above(local, first, cut + 1u, true, largest);

    // Each invocation has a range of ids, so that ties are counted in the order of the ids.
    let each = (dims.V + WG_SIZE - 1u) / WG_SIZE;
    let start = min(local * each, dims.V);
    let end = min(start + each, dims.V);
    storageBarrier();
    workgroupBarrier();
    var count = 0u;
    for (var v = start; v < end; v++) {
        count += select(0u, 1u, order(probs[first + v]) == cut);
    }
    ties[local] = count;
    workgroupBarrier();
    var rank = 0u;
    for (var i = 0u; i < local; i++) {
        rank += ties[i];
    }
    for (var v = start; v < end; v++) {
        let x = probs[first + v];
        if order(x) < cut {
            probs[first + v] = GONE;
        } else if order(x) == cut {
            if rank > 0u && above + f32(rank) * mass(x, largest) >= wanted {
                probs[first + v] = GONE;
            }
            rank++;
        }
    }
    storageBarrier();
    workgroupBarrier();
}

// Applies softmax to the remaining logits, and min-p: a probability is compared with the largest, whose mass is 1.
fn finish(local: u32, slot: u32, first: u32, largest: f32) {
    let min_p = slot_real(slot, SLOT_MIN_P);
    var sum = 0.0;
    for (var v = local; v < dims.V; v += WG_SIZE) {
        let p = mass(probs[first + v], largest);
        let kept = select(p, 0.0, p < min_p);
        probs[first + v] = kept;
        sum += kept;
    }
    sum = workgroup_sum(local, sum);
    for (var v = local; v < dims.V; v += WG_SIZE) {
        probs[first + v] /= sum;
    }
}

@compute @workgroup_size(WG_SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let slot = group_index(group);
    let first = slot * dims.V;
    if !draws(slot) {
        return;
    }
    let largest = scale(local, slot, first);
    if slot_real(slot, SLOT_TEMPERATURE) == 0.0 {
        greedy(local, first, largest);
        return;
    }
    let top_k = slot_word(slot, SLOT_TOP_K);
    if top_k > 0u && top_k < dims.V {
        keep_top_k(local, slot, first, largest);
    }
    if slot_real(slot, SLOT_TOP_P) < 1.0 {
        keep_top_p(local, slot, first, largest);
    }
    finish(local, slot, first, largest);
}
