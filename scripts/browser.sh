#!/usr/bin/env bash
# Is the page of docs/browser.md right? Builds it, lints the crate below it on its own target, and runs tests/browser in Chromium,
# on SwiftShader. 10 minutes on a bare machine with two cores, at most 12; 3 when it is built already.
#
#   scripts/browser.sh           exit code 75: Chromium or the toolchain could not be had
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lanes.sh
trap print_lanes EXIT
export WASM_TOOLCHAIN=${WASM_TOOLCHAIN:-$PWD/target/wasm-toolchain} WGPT_PAGE=$PWD/target/web
# The lints of other versions are shown and are no errors: the toolchain is that of the day.
known_clippy="clippy 0.1.97"

# Installs Chromium, which brings SwiftShader.
install_chromium() {
    command -v apt-get >/dev/null || return 1
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
}

# Lints web/ and what of the library only a browser has.
clippy() {
    local version args=-W
    version=$("$WASM_TOOLCHAIN/bin/clippy-driver" rustc --version)
    [ "$version" != "$known_clippy" ] || args=-D
    RUSTC_WORKSPACE_WRAPPER=$WASM_TOOLCHAIN/bin/clippy-driver \
        CLIPPY_ARGS="${args}__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__" CARGO_TARGET_DIR=$WASM_TOOLCHAIN/clippy \
        scripts/wasm-toolchain.sh "$WASM_TOOLCHAIN" \
        cargo check --quiet --package wgpt-web --profile web --target wasm32-unknown-unknown --locked
}

if [ -z "${CHROMIUM:-}" ] && ! command -v chromium >/dev/null; then
    lane "install Chromium" install_chromium || exit 75
fi
lane "toolchain for WebAssembly" scripts/wasm-toolchain.sh "$WASM_TOOLCHAIN" >/dev/null || exit 75
lane "clippy of web/" clippy
lane "build of the page" scripts/web.sh "$WGPT_PAGE"
lane "build of the tests" cargo test --no-run --test browser
lane "the page in Chromium" env WGPT_REQUIRE_BROWSER=1 cargo test --test browser
