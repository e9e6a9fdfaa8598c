#!/usr/bin/env bash
# A Rust compiler that makes WebAssembly, with no root and nothing installed.
#
# rustup's toolchain comes without a std for wasm32-unknown-unknown, and a machine that reaches only
# package registries cannot add one. Debian's libstd-rust-dev-wasm32 is that std, made by Debian's rustc
# of the same version. This script unpacks both from a Debian suite into a folder, with the libraries they
# need, and runs that rustc through the folder's own dynamic loader. cargo, the linker of build scripts and
# rust-lld are those of the machine's toolchain, whose version may be another.
#
#   wasm-toolchain.sh DIR                    unpack into DIR (once; about 200 MB to download, 800 MB on disk)
#   wasm-toolchain.sh DIR CMD [ARG ...]      ... and run CMD with it, e.g.
#       wasm-toolchain.sh DIR cargo build --lib --release --target wasm32-unknown-unknown
#   wasm-toolchain.sh DIR bindgen IN.wasm OUT NAME
#       write what a page loads (OUT/NAME.js, OUT/NAME_bg.wasm), as `wasm-bindgen --target web` does, with the
#       version of wasm-bindgen that ./Cargo.lock names (compiled once, about a minute)
#
# SUITE names the Debian suite (default: testing). What cargo makes goes to CARGO_TARGET_DIR (default:
# DIR/target), apart from what the machine's own compiler makes.
set -euo pipefail
dir=${1:?usage: wasm-toolchain.sh DIR [CMD ...]}; shift
suite=${SUITE:-testing}
mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
root=$dir/root

if [ ! -e "$dir/done" ]; then
  mkdir -p "$dir"/{state/lists/partial,cache/archives/partial,etc,bin} "$root"
  : > "$dir/status"
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian$' | head -n 1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:?no Debian mirror configured} $suite main" > "$dir/etc/sources.list"
  apt=(-oDir::State="$dir/state" -oDir::State::status="$dir/status" -oDir::Cache="$dir/cache" -oDir::Etc::sourcelist="$dir/etc/sources.list"
       -oDir::Etc::sourceparts=/dev/null -oDir::Etc::preferencesparts=/dev/null -oAPT::Sandbox::User=root -oAPT::Install-Recommends=false -oDebug::NoLocking=true)
  apt-get "${apt[@]}" -qq update
  # The package rustc asks for a whole gcc, which the machine has: it is taken alone.
  apt-get "${apt[@]}" -qq -y --download-only install libstd-rust-dev libstd-rust-dev-wasm32 binaryen
  (cd "$dir/cache/archives" && apt-get "${apt[@]}" -qq download rustc rust-clippy)
  for deb in "$dir"/cache/archives/*.deb; do dpkg -x "$deb" "$root"; done
  rm -rf "$dir/cache" "$dir/state"
  loader=$(find "$root" -name 'ld-linux-x86-64.so.2' -type f | head -n 1)
  libraries=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu
  printf '#!/bin/sh\nexec %q --library-path %q %q --sysroot %q "$@"\n' \
    "$loader" "$libraries" "$root/usr/bin/rustc" "$root/usr" > "$dir/bin/rustc"
  printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' \
    "$loader" "$libraries" "$root/usr/bin/wasm-opt" > "$dir/bin/wasm-opt"
  # cargo calls it with rustc's path before its arguments.
  printf '#!/bin/sh\nshift\nexec %q --library-path %q %q rustc --sysroot %q "$@"\n' \
    "$loader" "$libraries" "$root/usr/bin/clippy-driver" "$root/usr" > "$dir/bin/clippy-driver"
  chmod +x "$dir"/bin/*
  touch "$dir/done"
fi

# The program that writes what a page loads: the library below the command of wasm-bindgen, which asks for
# fewer crates.
bindgen() {
  local version made
  version=$(awk '$0 == "name = \"wasm-bindgen\"" { getline; gsub(/[^0-9.]/, ""); print }' Cargo.lock)
  made=$dir/bindgen-${version:?no wasm-bindgen in Cargo.lock}
  if [ ! -e "$made/done" ]; then
    mkdir -p "$made/src"
    cat > "$made/Cargo.toml" <<END
[package]
name = "bindgen"
version = "0.1.0"
edition = "2024"
[dependencies]
wasm-bindgen-cli-support = "=$version"
[workspace]
END
    cat > "$made/src/main.rs" <<'END'
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(&args[0]).out_name(&args[2]).typescript(false).omit_default_module_path(false).remove_name_section(true);
    let made = bindgen.web(true).and_then(|bindgen| bindgen.generate(&args[1]));
    if let Err(error) = made {
        eprintln!("{error:?}");
        std::process::exit(1);
    }
}
END
    (cd "$made" && CARGO_TARGET_DIR=$made/target cargo build --release)
    touch "$made/done"
  fi
  "$made/target/release/bindgen" "$@"
}

if [ "${1:-}" = bindgen ]; then
  bindgen "${2:?IN.wasm}" "${3:?OUT}" "${4:?NAME}"
  exit
fi
lld=$(find "$(rustc --print sysroot)/lib/rustlib" -name rust-lld | head -n 1)
export RUSTC=$dir/bin/rustc
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$dir/target}
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=${lld:?the toolchain of the machine has no rust-lld}
if [ $# -gt 0 ]; then exec "$@"; fi
echo "RUSTC='$RUSTC'"
echo "CARGO_TARGET_DIR='$CARGO_TARGET_DIR'"
echo "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER='$lld'"
