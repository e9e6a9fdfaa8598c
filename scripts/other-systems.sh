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

give_up() {
    echo "other-systems.sh: $1" >&2
    exit 75
}

# Everything that apt writes goes into the folder.
unpack() {
    local mirror package
    rm -rf "$dir/root"
    mkdir -p "$dir"/{state/lists/partial,cache/archives/partial,root}
    : >"$dir/status"
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian$' | head -n 1)
    [ -n "$mirror" ] || give_up "apt knows no Debian mirror"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror ${SUITE:-testing} main" >"$dir/sources.list"
    local apt=(apt-get -qq -oDir::State="$dir/state" -oDir::State::status="$dir/status" -oDir::Cache="$dir/cache"
        -oDir::Etc::sourcelist="$dir/sources.list" -oDir::Etc::sourceparts=/dev/null
        -oDir::Etc::preferencesparts=/dev/null -oAPT::Sandbox::User=root -oAPT::Install-Recommends=false
        -oDebug::NoLocking=true -oAcquire::http::Timeout=30 -oAcquire::Retries=2)
    "${apt[@]}" update || give_up "the package lists could not be downloaded"
    # The package rustc depends on a whole C compiler, which is not needed: it is taken alone.
    "${apt[@]}" -y --download-only install libstd-rust-dev >/dev/null &&
        (cd "$dir/cache/archives" && "${apt[@]}" download rustc rust-src >/dev/null) ||
        give_up "the packages could not be downloaded"
    for package in "$dir"/cache/archives/*.deb; do
        dpkg -x "$package" "$dir/root"
    done
    rm -rf "$dir/cache" "$dir/state"
    touch "$dir/done"
}

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

[ "$(uname -sm)" = "Linux x86_64" ] || give_up "made for Linux on x86-64"
command -v apt-get >/dev/null || give_up "no apt here"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
[ -e "$dir/done" ] || unpack
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
