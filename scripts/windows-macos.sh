#!/usr/bin/env bash
# Windows and macOS: all is type-checked for macOS and built for Windows, and what is built runs under Wine.
#
#   scripts/windows-macos.sh [DIR]     DIR (target/other-systems) keeps the toolchain and what is built
#
# Exit code 75 if Wine, MinGW or the toolchain cannot be had; nothing has then been checked.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lanes.sh
dir=${1:-target/other-systems}
on=(scripts/other-systems.sh "$dir")

install() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    command -v apt-get >/dev/null || return 75
    $sudo apt-get update -qq || return 75
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || return 75
}

for program in wine xvfb-run xauth x86_64-w64-mingw32-gcc; do
    command -v $program >/dev/null && continue
    lane "install Wine and MinGW" install wine wine64 xvfb xauth gcc-mingw-w64-x86-64-posix
    break
done
lane "unpack the toolchain" "${on[@]}"
trap print_lanes EXIT

# What another clone has built of its dependencies is of use, but not of the crate itself, which lies elsewhere.
if [ "$(cat "$dir/clone" 2>/dev/null)" != "$PWD" ]; then
    rm -rf "$dir"/target/*/debug/{.fingerprint,build,deps}/{,lib}{wgpt,integration}-*
    echo "$PWD" >"$dir/clone"
fi

# A quick build is wanted, and no fast programs.
export CARGO_PROFILE_DEV_DEBUG=false CARGO_INCREMENTAL=0
quick=(--quiet --config 'profile.dev.package."*".opt-level=0')
tests=(--lib --bins --test integration)

lane "macOS: type check" "${on[@]}" check macos "${quick[@]}" --lib --bins --tests
lane "Windows: build" "${on[@]}" windows test "${quick[@]}" "${tests[@]}" --no-run

# What depends on the system: paths, locks, renames over open files, line ends, downloads, a run that is killed.
dependent=(systems:: run_folder:: hub:: data::downloads:: files:: cache::
    killed::a_killed_run_goes_on_bit_for_bit_on_the_cpu)
lane "Windows: tests" "${on[@]}" windows test "${quick[@]}" "${tests[@]}" -- "${dependent[@]}"

wgpt=$dir/target/x86_64-pc-windows-gnu/debug/wgpt.exe
[ "$("${on[@]}" wine "$wgpt" --version | tr -d '\r')" = "wgpt $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" ]
lane "Windows: verify on Vulkan" "${on[@]}" wine "$wgpt" verify --device gpu
