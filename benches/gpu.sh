#!/usr/bin/env bash
# Everything that needs a GPU, in at most 8 minutes, beside PyTorch where there is one: for a GPU that is borrowed for minutes.
#
#   benches/gpu.sh [--part NAME ...] [--list] [OUT]
#
#   OUT          a folder for what is printed, default target/gpu-bench
#   --part NAME  runs only this part; may be given several times
#   --list       only prints the parts, in their order, with the seconds that each may take
#
# Programs must have been built before. WGPT is the binary (default target/release/wgpt), DEVICE the device (default auto),
# PYTHON a Python with PyTorch and transformers (default python3; without them the rows of the peer stay empty), TESTS a
# test executable (without it the part is left out), BUDGET the seconds for all parts (default 480). Nothing else should use
# the machine meanwhile.
#
# The parts with the smallest limits come first. A command that reaches the limit of its part, or the end of the budget, is ended
# and told of; what was measured until then stays. The table is printed after each part, as far as it is known, and lies in
# OUT/summary.json; times of parts are in OUT/parts.txt.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
wgpt=${WGPT:-target/release/wgpt}
device=${DEVICE:-auto}
python=${PYTHON:-python3}
budget=${BUDGET:-480}

# Each part with the seconds that it may take.
parts=(devices:5 verify:30 products:40 generate:40 small:50 medium:55 variants:55 tests:60 large:65 gpt2:80)

wanted=()
out=target/gpu-bench
while [ $# -gt 0 ]; do
    case $1 in
    --part)
        [[ " ${parts[*]}" == *" ${2:-}:"* ]] || { echo "no such part: ${2:-}" >&2; exit 2; }
        wanted+=("$2")
        shift
        ;;
    --list) printf '%s\n' "${parts[@]/:/ }"; exit 0 ;;
    -*) echo "no such option: $1" >&2; exit 2 ;;
    *) out=$1 ;;
    esac
    shift
done
mkdir -p "$out"
# A part that is measured again leaves the figures of the others as they are.
[ ${#wanted[@]} -gt 0 ] || rm -f "$out"/*.json "$out"/*.txt

# Runs a command with the seconds that are left to its part, its output into $out/NAME.json.
within() { # name, command
    local name=$1 left=$((part_end - SECONDS)) code=0
    shift
    [ "$left" -gt 0 ] || { echo "  $name: no time is left" >&2; return; }
    timeout -k 2 "$left" "$@" >"$out/$name.json" 2>"$out/$name.txt" || code=$?
    case $code in
    0) return ;;
    124 | 137) echo "  $name: ended after $left s" >&2 ;;
    *) echo "  $name failed: $(tail -n 1 "$out/$name.txt")" >&2 ;;
    esac
    rm -f "$out/$name.json"
}

# Runs a command of ours.
ours() { # name, arguments
    local name=$1
    shift
    within "$name" "$wgpt" "$@" --device "$device" --json
}

# The same of PyTorch.
peer() { # name, arguments
    local name=$1
    shift
    within "torch-$name" "$python" "$here/gpu/torch_peer.py" "$@"
}

training() { # size, batch, sequence
    ours "train-$1" bench train --size "$1" --batch-size "$2" --seq-len "$3" --precision auto --profile
    peer "train-$1" train "$1" "$2" "$3"
}

part_devices() { within devices "$wgpt" devices --json; }
part_verify() { ours verify verify; }
part_products() {
    # A product of 4096 x 4096 x 4096: the attention's projection at this width, 4 x 1024 rows.
    local square=(--layers 1 --heads 32 --embd 4096 --vocab 512 --context 1024 --batch-size 4 --seq-len 1024 --steps 20)
    ours kernels-f32 bench kernels "${square[@]}" --precision f32
    ours kernels-mixed bench kernels "${square[@]}" --precision mixed
    peer matmul matmul 4096
}
part_generate() {
    ours generate-gpt2 bench generate --size gpt2 --precision auto
    peer generate-gpt2 generate gpt2
    ours generate-gpt2-xl bench generate --size gpt2-xl --precision auto --steps 2
}
part_small() { training small 8 128; }
part_medium() { training medium 4 256; }
part_large() { training large 2 512; }
part_gpt2() { training gpt2 16 1024; }
# Every variant that the device can run, those for matrix units among them, on the shapes of GPT-2.
part_variants() { ours variants tune --size gpt2 --batch-size 4 --seq-len 1024 --precision auto; }
part_tests() {
    [ -n "${TESTS:-}" ] || { echo "  no TESTS" >&2; return; }
    WGPT_REQUIRE_GPU=1 within tests "$TESTS"
}

for entry in "${parts[@]}"; do
    part=${entry%:*} limit=${entry#*:}
    [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $part "* ]] || continue
    [ "$SECONDS" -lt "$budget" ] || { echo "$part: the budget of $budget s is spent" >&2; continue; }
    began=$SECONDS
    part_end=$((began + limit < budget ? began + limit : budget))
    echo "== $part, at most $((part_end - began)) s" >&2
    "part_$part"
    echo "$part $((SECONDS - began)) s of $limit" | tee -a "$out/parts.txt" >&2
    "$python" "$here/gpu/table.py" "$out" || echo "no Python: the figures are in $out/*.json" >&2
done
echo "$SECONDS s in all" >&2
