#!/usr/bin/env bash
# Windows and macOS: all is type-checked for macOS and built for Windows, and what is built runs under Wine.
#
#   scripts/windows-macos.sh [DIR]     DIR (target/other-systems) keeps the toolchain and what is built
#
# The first run in a folder only type-checks the library and the program for both, so that no run takes long.
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

# A quick build is wanted where nothing runs; what runs under Wine spends its time in the crates that it needs.
export CARGO_PROFILE_DEV_DEBUG=false CARGO_INCREMENTAL=0
quick=(--quiet --config 'profile.dev.package."*".opt-level=0')
fast=(--quiet --config 'profile.dev.package."*".opt-level=1')

if [ ! -e "$dir/checked" ]; then
    lane "macOS: type check" "${on[@]}" check macos "${quick[@]}" --lib --bins
    lane "Windows: type check" "${on[@]}" check windows "${quick[@]}" --lib --bins
    touch "$dir/checked"
    echo "*** SKIPPED: tests under Wine, since nothing was kept in $dir to build them quickly; the next run has them ***" >&2
    exit
fi

lane "macOS: type check" "${on[@]}" check macos "${quick[@]}" --lib --bins --tests
lane "Windows: build" "${on[@]}" windows test "${fast[@]}" --test integration --no-run

wgpt=$dir/target/x86_64-pc-windows-gnu/debug/wgpt.exe
said=$("${on[@]}" wine "$wgpt" --version | tr -d '\r')
[ "$said" = "wgpt $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" ] || { echo "FAILED: wgpt.exe says '$said'" >&2 && exit 1; }

# What depends on the system: paths, locks, renames over open files, line ends, downloads, a run that is killed. Each test has a
# process of its own, since in Wine 8 what one leaves may fail the next: its threads end with an invalid handle, its server with it.
dependent=(systems:: run_folder:: hub:: data::downloads:: killed::a_killed_run_goes_on_bit_for_bit_on_the_cpu)
# Wine 8 does not replace a file that is open, which Windows 10 does.
dependent+=(--skip systems::a_file_that_is_being_read_is_replaced
    --skip run_folder::a_run_keeps_the_newest_checkpoints_and_shows_the_last_model)
tests() {
    local program name names failed=0
    program=$(ls -t "$dir"/target/x86_64-pc-windows-gnu/debug/deps/integration-*.exe | head -n 1)
    names=$("${on[@]}" wine "$program" --list "${dependent[@]}" 2>/dev/null | tr -d '\r' | sed -n 's/: test$//p')
    [ "$(wc -l <<<"$names")" -gt 20 ] || { echo "FAILED: the tests could not be listed" >&2 && return 1; }
    for name in $names; do
        "${on[@]}" wine "$program" --exact "$name" >"$dir/said" 2>&1 </dev/null && continue
        echo "FAILED under Wine: $name" >&2
        cat "$dir/said" >&2
        failed=1
    done
    echo "$(wc -l <<<"$names") tests under Wine"
    return $failed
}
lane "Windows: tests" tests
# Wine's DX12 has an adapter, too, on which nothing runs; Vulkan's come first.
lane "Windows: verify on Vulkan" "${on[@]}" wine "$wgpt" verify --device gpu:0
