#!/usr/bin/env bash
# Builds the page that trains in a browser: the crate web/ as WebAssembly, and web/page/ beside it.
#
#   scripts/web.sh [OUT]      writes the page's files to OUT (target/web)
#
# OUT can then be served by any static file server, or by `wgpt serve --train-page OUT` at /train/. The compiler and wasm-opt come from
# scripts/wasm-toolchain.sh, in the folder that WASM_TOOLCHAIN names (target/wasm-toolchain), which needs apt.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/web}
tools=${WASM_TOOLCHAIN:-target/wasm-toolchain}
target=wasm32-unknown-unknown

flags="-C target-feature=+simd128"
# Messages name files by their crates, and not by this machine's folders.
for crates in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do flags+=" --remap-path-prefix=$crates=crates"; done
CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS=$flags scripts/wasm-toolchain.sh "$tools" \
    cargo build --quiet --package wgpt-web --profile web --target "$target" --locked

mkdir -p "$out"
cargo run --quiet --release --locked --package wgpt-bindgen -- "$tools/target/$target/web/wgpt_web.wasm" "$out" wgpt

features=(simd bulk-memory nontrapping-float-to-int sign-ext mutable-globals reference-types multivalue exception-handling extended-const)
"$tools/bin/wasm-opt" -Oz "${features[@]/#/--enable-}" "$out/wgpt_bg.wasm" -o "$out/smaller.wasm"
mv "$out/smaller.wasm" "$out/wgpt_bg.wasm"

cp web/page/* "$out/"
version=$(cat "$out"/*.js "$out"/*.wasm "$out"/*.html "$out"/*.css | sha256sum | head -c 12)
sed -i "s/__WGPT_VERSION__/$version/" "$out/offline.js"
echo "$out: $(stat -c %s "$out/wgpt_bg.wasm") bytes of WebAssembly, $(gzip -9 -c "$out/wgpt_bg.wasm" | wc -c) compressed" >&2
