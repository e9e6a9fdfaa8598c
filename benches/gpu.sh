#!/usr/bin/env bash
# Everything that is measured on a GPU, in one run, beside PyTorch where there is one: a table, and JSON.
#
#   benches/gpu.sh [OUT]           OUT: a folder for what is printed, default target/gpu-bench
#
# WGPT is the binary (default target/release/wgpt), DEVICE the device (default auto), PYTHON a Python with
# PyTorch and transformers (default python3; without them the rows of the peer stay empty), TESTS a test
# executable to run first (none by default). Nothing else should use the machine meanwhile.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-target/gpu-bench}
wgpt=${WGPT:-target/release/wgpt}
device=${DEVICE:-auto}
python=${PYTHON:-python3}
mkdir -p "$out"
rm -f "$out"/*.json "$out"/*.txt

# Runs a command of ours, its JSON into $out/NAME.json.
ours() {
    local name=$1
    shift
    echo "wgpt $*" >&2
    "$wgpt" "$@" --device "$device" --json >"$out/$name.json" 2>"$out/$name.txt" ||
        { echo "  failed: $(tail -n 1 "$out/$name.txt")" >&2; rm -f "$out/$name.json"; }
}

# The same of PyTorch.
peer() {
    local name=$1
    shift
    echo "torch $*" >&2
    "$python" "$here/gpu/torch_peer.py" "$@" >"$out/torch-$name.json" 2>"$out/torch-$name.txt" ||
        { echo "  failed: $(tail -n 1 "$out/torch-$name.txt")" >&2; rm -f "$out/torch-$name.json"; }
}

[ -z "${TESTS:-}" ] || WGPT_REQUIRE_GPU=1 "$TESTS" >"$out/tests.txt" 2>&1 || echo "tests failed: $out/tests.txt" >&2
"$wgpt" devices >"$out/devices.txt" 2>&1
ours verify verify

# A product of 4096 x 4096 x 4096: the attention's projection at this width, 4 x 1024 rows.
square=(--layers 1 --heads 32 --embd 4096 --vocab 512 --context 1024 --batch-size 4 --seq-len 1024 --steps 20)
ours kernels-f32 bench kernels "${square[@]}" --precision f32
ours kernels-mixed bench kernels "${square[@]}" --precision mixed
peer matmul matmul 4096

training() { # size, batch, sequence
    ours "train-$1" bench train --size "$1" --batch-size "$2" --seq-len "$3" --precision auto --profile
    peer "train-$1" train "$1" "$2" "$3"
}
training small 8 128
training medium 4 256
training large 2 512
training gpt2 16 1024

ours generate-gpt2 bench generate --size gpt2 --precision auto
peer generate-gpt2 generate gpt2
ours generate-gpt2-xl bench generate --size gpt2-xl --precision auto --steps 2

"$python" "$here/gpu/table.py" "$out" || echo "no Python: the figures are in $out/*.json" >&2
