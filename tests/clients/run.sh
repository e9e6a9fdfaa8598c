#!/usr/bin/env bash
# Trains some tiny models and shows them to Python's packages: see README.md beside this file.
#
#   PYTHON=venv/bin/python tests/clients/run.sh [--all]      --all: serves one, too, for all clients of serve.sh
#
# Exit codes: 0 all is well, 1 something differs, 77 Python or a package is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
if ! command -v "$python" >/dev/null; then
    echo "SKIPPED: there is no $python; set PYTHON to one with the packages that README.md names" >&2
    exit 77
fi

cargo build --quiet --bins --examples
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export WGPT_BIN
WGPT_BIN="$(realpath "${CARGO_TARGET_DIR:-target}")/debug"
wgpt="$WGPT_BIN/wgpt"
sizes=(--layers 2 --heads 2 --embd 64 --context 32 --batch-size 4 --max-iters 100 --eval-every 50 --device cpu)
"$wgpt" train --tokenizer bytes --out "$work/bytes" "${sizes[@]}" >/dev/null 2>&1
"$wgpt" train --vocab 500 --out "$work/trained" "${sizes[@]}" >/dev/null 2>&1

for arch in llama qwen3; do
    "$wgpt" train --arch "$arch" --kv-heads 1 --vocab 500 --out "$work/$arch" "${sizes[@]}" >/dev/null 2>&1
done
"$wgpt" train --arch gpt_neox --vocab 500 --out "$work/gpt_neox" "${sizes[@]}" >/dev/null 2>&1

worst=0
for run in bytes trained llama qwen3 gpt_neox; do
    for script in transformers_loads peft_adapter gguf_loads llama_cpp_loads llama_cpp_patterns; do
        echo "== $script.py on a model with tokenizer: $run"
        code=0
        "$python" "tests/clients/$script.py" "$work/$run/best" || code=$?
        # A failure counts for more than what could not be checked.
        if [ "$code" = 77 ] && [ "$worst" = 0 ]; then worst=77; fi
        if [ "$code" != 0 ] && [ "$code" != 77 ]; then worst=1; fi
    done
done
if [ "${1:-}" = --all ]; then
    code=0
    PYTHON="$(command -v "$python")" tests/clients/serve.sh --all || code=$?
    if [ "$code" = 77 ] && [ "$worst" = 0 ]; then worst=77; fi
    if [ "$code" != 0 ] && [ "$code" != 77 ]; then worst=1; fi
fi
exit "$worst"
