#!/usr/bin/env bash
# A Rust compiler that makes WebAssembly, with its clippy and wasm-opt, with no root and nothing installed.
#
# A toolchain that cannot download the standard library for wasm32-unknown-unknown gets it from Debian, made by Debian's rustc of the
# same version. Both are unpacked into a folder, and that rustc runs through the folder's own dynamic loader. cargo, the linker of
# build scripts and rust-lld are those of the machine's toolchain, whose version may be another.
#
#   scripts/wasm-toolchain.sh DIR                    unpacks into DIR, once: about 250 MB to download, 1 GB on the disk
#   scripts/wasm-toolchain.sh DIR CMD [ARG ...]      ... and runs CMD with it, such as
#       scripts/wasm-toolchain.sh DIR cargo build --package wgpt-web --target wasm32-unknown-unknown
#
# DIR/bin has rustc, clippy-driver and wasm-opt. What cargo makes goes to CARGO_TARGET_DIR (DIR/target), apart from what the machine's
# own compiler makes. SUITE names the Debian suite (testing).
#
# Exit code 75 if the packages cannot be had; nothing has then been run.
set -euo pipefail
usage="usage: wasm-toolchain.sh DIR [CMD [ARG ...]]"
dir=${1:?$usage}
shift
. "$(dirname "$0")/debian.sh"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# rustc's package asks for a whole gcc, which the machine has: it is taken alone.
unpack "$dir" libstd-rust-dev libstd-rust-dev-wasm32 binaryen -- rustc rust-clippy

# Programs of the folder, by its own loader and libraries.
write_programs() {
    local root=$dir/root loader libraries
    loader=$(find "$root" -name ld-linux-x86-64.so.2 -type f | head -n 1)
    libraries=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu
    mkdir -p "$dir/bin"
    printf '#!/bin/sh\nexec %q --library-path %q %q --sysroot %q "$@"\n' \
        "$loader" "$libraries" "$root/usr/bin/rustc" "$root/usr" >"$dir/bin/rustc"
    # cargo calls it with rustc's path before its arguments.
    printf '#!/bin/sh\nshift\nexec %q --library-path %q %q rustc --sysroot %q "$@"\n' \
        "$loader" "$libraries" "$root/usr/bin/clippy-driver" "$root/usr" >"$dir/bin/clippy-driver"
    printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' \
        "$loader" "$libraries" "$root/usr/bin/wasm-opt" >"$dir/bin/wasm-opt"
    chmod +x "$dir"/bin/*
}
[ -x "$dir/bin/wasm-opt" ] || write_programs

lld=$(find "$(rustc --print sysroot)/lib/rustlib" -name rust-lld | head -n 1)
export RUSTC=$dir/bin/rustc
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$dir/target}
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=${lld:?the toolchain of the machine has no rust-lld}
[ $# = 0 ] || exec "$@"
