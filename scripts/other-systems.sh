#!/usr/bin/env bash
# Windows and macOS on a Linux machine: type checks for both, builds for Windows, and Wine to run them.
#
# A toolchain that cannot download the standard libraries of other systems gets them from source: Debian's rustc and rust-src
# of one version are unpacked into a folder, with nothing installed, and cargo makes the library with them.
#
#   scripts/other-systems.sh DIR                            unpacks into DIR, once: about 250 MB to download
#   scripts/other-systems.sh DIR check macos|windows [ARG ...]   cargo check; links nothing
#   scripts/other-systems.sh DIR windows COMMAND [ARG ...]  cargo COMMAND for Windows: build, or test, which runs under Wine
#   scripts/other-systems.sh DIR wine PROGRAM.exe [ARG ...] runs a program under Wine, whose Vulkan is this machine's
#
# What is built lies in DIR/target. SUITE names the Debian suite (testing). Windows needs the packages gcc-mingw-w64-x86-64-posix,
# wine, wine64 and xvfb.
#
# Exit code 75 if the toolchain cannot be had (no apt, no mirror, another system); nothing has then been run.
set -euo pipefail
usage="usage: other-systems.sh DIR [check SYSTEM | windows COMMAND | wine PROGRAM] [ARG ...]"
dir=${1:?$usage}
shift
. "$(dirname "$0")/debian.sh"

# Programs that stand for others: rustc by its own loader and libraries; a C compiler and an archiver that only make empty
# files, since a check links nothing.
write_programs() {
    local loader libraries
    loader=$(find "$dir/root" -name ld-linux-x86-64.so.2 -type f | head -n 1)
    libraries=$dir/root/usr/lib/x86_64-linux-gnu:$dir/root/lib/x86_64-linux-gnu
    mkdir -p "$dir/bin"
    printf '#!/bin/sh\nexec %q --argv0 %q --library-path %q %q --sysroot %q "$@"\n' \
        "$loader" "$dir/root/usr/bin/rustc" "$libraries" "$dir/root/usr/bin/rustc" "$dir/root/usr" >"$dir/bin/rustc"
    printf '#!/bin/bash\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && : >"$2"; shift; done\n' >"$dir/bin/no-cc"
    printf '#!/bin/bash\nfor word; do case $word in *.a) : >"$word" ;; esac; done\n' >"$dir/bin/no-ar"
    chmod +x "$dir"/bin/*
}

# Wine 8 lacks bcryptprimitives.dll, which Rust's standard library asks for random numbers.
prepare_wine() {
    export WINEPREFIX=$dir/wine WINEDEBUG=${WINEDEBUG:--all} WINEDLLOVERRIDES="mscoree,mshtml=;${WINEDLLOVERRIDES:-}"
    local library=$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll
    [ ! -e "$WINEPREFIX/done" ] || return 0
    wine wineboot --init >/dev/null 2>&1
    if [ ! -e "$library" ]; then
        cat >"$dir/random.c" <<'END'
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return RtlGenRandom(data, (ULONG)size); }
END
        x86_64-w64-mingw32-gcc -shared -o "$library" "$dir/random.c" -ladvapi32
    fi
    touch "$WINEPREFIX/done"
}

[ "$(uname)" = Linux ] || give_up "made for Linux"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# The package rustc depends on a whole C compiler, which is not needed.
unpack "$dir" libstd-rust-dev -- rustc rust-src
[ -x "$dir/bin/rustc" ] || write_programs
export RUSTC=$dir/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$dir/target
# The library is made from source for each system; a caller that wants programs fast says so by PROFILE.
std=-Zbuild-std=std,panic_abort
windows=x86_64-pc-windows-gnu
case ${1:-} in
check)
    case ${2:?$usage} in
    macos) target=aarch64-apple-darwin ;;
    windows) target=$windows ;;
    *) echo "$usage" >&2 && exit 2 ;;
    esac
    shift 2
    name=${target//-/_}
    export "CC_$name=$dir/bin/no-cc" "AR_$name=$dir/bin/no-ar"
    exec cargo check $std --target $target "$@"
    ;;
windows)
    command=${2:?$usage}
    shift 2
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER="$(realpath "$0") $dir wine"
    exec cargo "$command" $std --target $windows "$@"
    ;;
wine)
    program=${2:?$usage}
    shift 2
    # Vulkan under Wine needs a screen; one is made unless there is one.
    [ -n "${DISPLAY:-}" ] || exec xvfb-run -a "$0" "$dir" wine "$program" "$@"
    prepare_wine
    exec wine "$program" "$@"
    ;;
"") ;;
*) echo "$usage" >&2 && exit 2 ;;
esac
