#!/usr/bin/env bash
# Serves a tiny model, and lets the clients use it that people have: the `openai` package and lm-evaluation-harness, both as
# they are, in the versions of serve-requirements.txt; and its page in headless Chromium, if that is there. Nothing is spoken
# to but PyPI, the first time, and 127.0.0.1.
#
#   tests/clients/serve.sh             packages are installed into target/serve-clients
#   PYTHON=venv/bin/python tests/clients/serve.sh      with packages that are there already
#   PYTHON=venv/bin/python tests/clients/serve.sh --all      langchain-openai, Open WebUI's requests, and the harness' `hf`
#                                                            backend on the model just trained, too: README.md names the packages
#
# Exit codes: 0 all is well, 1 something differs, 77 Python or a package is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
skip() {
    echo "SKIPPED: $1" >&2
    exit 77
}

all=no
[ "${1:-}" != --all ] || all=yes

target="$(realpath "${CARGO_TARGET_DIR:-target}")"
if [ -z "${PYTHON:-}" ]; then
    venv="$target/serve-clients"
    PYTHON="$venv/bin/python"
    wanted="$(sha256sum tests/clients/serve-requirements.txt)"
    if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
        python3 -m venv "$venv" || skip "there is no python3 with venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes \
            -r tests/clients/serve-requirements.txt || skip "the packages could not be installed"
        echo "$wanted" >"$venv/installed"
    fi
fi

# A browser for the page, where it can be installed.
has_browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome
}
if ! has_browser >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 120 apt-get install -y -qq --no-install-recommends chromium; } \
        >/dev/null 2>&1 || true
fi

# The tests' program is the one, so that nothing is built twice.
cargo test --no-run --quiet --test integration
export WGPT_BIN="$target/debug"
work="$(mktemp -d)"
server=""
stop() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
train() {
    "$WGPT_BIN/wgpt" train --vocab 500 --layers 2 --heads 2 --embd 64 --batch-size 4 --eval-every 20 --device cpu --out "$@" \
        >/dev/null 2>&1
}
train "$work/run" --context 64 --max-iters 100

# Serves a model; sets `server` and `base`.
serve() {
    : >"$work/says"
    "$WGPT_BIN/wgpt" serve --model "$1" --device cpu --port 0 >"$work/says" 2>"$work/log" &
    server=$!
    for _ in $(seq 100); do
        grep -q listening "$work/says" && break
        sleep 0.1
    done
    base="$(sed -n 's/^listening on //p' "$work/says")/v1"
}

# Ends the server, which must end well.
end() {
    kill -TERM "$server"
    wait "$server" || worst=1
    server=""
    [ "$worst" != 1 ] || cat "$work/log" >&2
}

# Runs a script with its arguments.
try() {
    local code=0
    echo "== $1"
    "$PYTHON" "tests/clients/$@" || code=$?
    # A failure counts for more than what could not be checked.
    if [ "$code" = 77 ] && [ "$worst" = 0 ]; then worst=77; fi
    if [ "$code" != 0 ] && [ "$code" != 77 ]; then worst=1; fi
}

worst=0
serve "$work/run/best"
try serve_openai.py "$base"
try serve_lm_eval.py "$base" "$work/run/best"
if has_browser >/dev/null; then
    try serve_page.py "${base%v1}"
else
    echo "*** SKIPPED: the page, since there is no Chromium ***" >&2
fi
[ $all = no ] || try serve_scored.py "$base" "$work/run/best"
end
serve tests/clients/scored
try serve_scored.py "$base"
end
if [ $all = yes ]; then
    train "$work/long" --context 256 --max-iters 40
    serve "$work/long/best"
    try serve_langchain.py "$base"
    try serve_open_webui.py "$base"
    end
fi
exit "$worst"
