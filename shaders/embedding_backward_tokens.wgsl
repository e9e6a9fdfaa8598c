// dwte[v] += Σ of dout over the rows whose token is v, for `out = wte[token] + wpe[position]`.
//
// One workgroup per row of the table. It searches 8192 tokens at a time for its own: every invocation
// records in 32 bits which of its tokens match, then all go through the matches together, each adding its
// channels. The order is always the same, and no element is added to by two invocations.

@group(0) @binding(1) var<storage, read> tokens: array<u32>;        // (B, T)
@group(0) @binding(2) var<storage, read> dout: array<f32>;          // (B, T, C)
@group(0) @binding(3) var<storage, read_write> dwte: array<f32>;    // (V, C)

const SIZE = 256u;
const TOKENS = 32u; // per invocation

var<workgroup> matches: array<u32, SIZE>;
var<workgroup> owners: array<atomic<u32>, SIZE / 32u>;

// Returns a bit for each of this invocation's tokens from `start` on that equals `id`.
fn find(start: u32, local: u32, id: u32) -> u32 {
    var found = 0u;
    for (var i = 0u; i < TOKENS; i++) {
        let row = start + i * SIZE + local;
        if row < dims.B * dims.T && tokens[row] == id {
            found |= 1u << i;
        }
    }
    return found;
}

// Adds this invocation's channels of a row.
fn add_row(v: u32, row: u32, local: u32) {
    for (var c = local; c < dims.C; c += SIZE) {
        dwte[v * dims.C + c] += dout[row * dims.C + c];
    }
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let v = group_index(group);
    if v >= dims.V {
        return;
    }
    if overwrites() {
        for (var c = local; c < dims.C; c += SIZE) {
            dwte[v * dims.C + c] = 0.0;
        }
    }
    for (var start = 0u; start < dims.B * dims.T; start += SIZE * TOKENS) {
        if local < SIZE / 32u {
            atomicStore(&owners[local], 0u);
        }
        workgroupBarrier();
        let found = find(start, local, v + dims.START);
        matches[local] = found;
        if found != 0u {
            atomicOr(&owners[local / 32u], 1u << (local % 32u));
        }
        workgroupBarrier();
        for (var word = 0u; word < SIZE / 32u; word++) {
            for (var bits = atomicLoad(&owners[word]); bits != 0u; bits &= bits - 1u) {
                let owner = word * 32u + firstTrailingBit(bits);
                for (var rest = matches[owner]; rest != 0u; rest &= rest - 1u) {
                    add_row(v, start + firstTrailingBit(rest) * SIZE + owner, local);
                }
            }
        }
        workgroupBarrier();
    }
}
