#!/usr/bin/env bash
# Makes a release of the last commit: an archive for Linux and one for Windows, both x86-64, each with licences, README and
# documentation, and a file of their checksums. Then each is unpacked in an empty folder, where the program trains and writes.
#
#   scripts/release.sh [DIR]     writes into DIR (target/dist)
#
# The machine's glibc may be no newer than Debian 12's, as a program for Linux needs the one that it was built with. For
# Windows it needs what scripts/windows-macos.sh installs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lanes.sh
NEWEST_GLIBC=2.36
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
systems=("$PWD/scripts/other-systems.sh" "$PWD/target/other-systems")
mkdir -p "${1:-target/dist}"
out=$(cd "${1:-target/dist}" && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"; print_lanes' EXIT

failed() {
    echo "FAILED: $*" >&2
    exit 1
}

# Prints the licence of each crate in the program for a system, then the texts, each once, after the crates that have it.
licences() {
    local name licence file sum
    local -A crates=() texts=()
    printf 'This program contains these crates, and the standard library of Rust (MIT OR Apache-2.0):\n\n'
    while IFS='|' read -r name licence; do
        printf '%s: %s\n' "$name" "$licence"
        # "wgpu v30.0.1" lies in wgpu-30.0.1.
        for file in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"${name/ v/-}"/*; do
            [[ ${file##*/} =~ ^(LICEN[CS]E|COPYING|NOTICE|UNLICENSE|license) && -f $file ]] || continue
            sum=$(sha256sum <"$file")
            crates[$sum]+="${crates[$sum]:+, }$name"
            texts[$sum]=$file
        done
    done < <(cargo tree --locked --prefix none --edges normal,no-proc-macro --no-dedupe --target "$1" --format '{p}|{l}' |
        grep -v '^wgpt ' | LC_ALL=C sort -u)
    for sum in $(printf '%s\n' "${!texts[@]}" | grep -o '^[0-9a-f]*' | sort); do
        printf '\n---- %s\n\n' "${crates["$sum  -"]}"
        cat "${texts["$sum  -"]}"
    done
}

# Lays a program and what belongs to it into a folder of the archive's name.
gather() {
    local name=$1 program=$2 target=$3
    mkdir "$place/$name"
    cp "$program" README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$place/$name"
    git archive HEAD docs | tar -x -C "$place/$name"
    licences "$target" >"$place/$name/LICENSES-OF-CRATES.txt"
    [ "$(wc -l <"$place/$name/LICENSES-OF-CRATES.txt")" -gt 1000 ] || failed "the licences of the crates are not there"
}

# What a program does in an empty folder: it trains, goes on, writes and measures. The arguments start it.
try() {
    local tiny=(--data stories --tokenizer bytes --layers 1 --heads 2 --embd 16 --context 32 --batch-size 4 --max-iters 20 --device cpu)
    "$@" --version | tr -d '\r' | grep -x "wgpt $version" || failed "it has another version"
    "$@" train "${tiny[@]}" --out run >said 2>&1 || { cat said && failed "it does not train"; }
    "$@" generate --model run --prompt "Once" --max-tokens 10 --device cpu | grep "^Once" >/dev/null || failed "it does not write"
    "$@" eval README.md --model run --device cpu >said 2>&1 || { cat said && failed "it does not measure"; }
}

# Unpacks an archive in an empty folder and tries the program there; the arguments start it.
smoke() (
    cd "$(mktemp -d -p "$place")"
    case $1 in
    *.zip) unzip -q "$out/$1" ;;
    *) tar -xzf "$out/$1" ;;
    esac
    cd wgpt-*
    shift
    try "$@"
)

git diff --quiet HEAD || failed "there are changes that are not committed"
command -v zip >/dev/null && command -v unzip >/dev/null || failed "zip and unzip are needed"
lane "toolchain for Windows" "${systems[@]}"

lane "build for Linux" cargo build --release --locked
name=wgpt-$version-x86_64-linux program=target/release/wgpt linux=$name.tar.gz
glibc=$(objdump -T $program | grep -o 'GLIBC_[0-9.]*' | cut -d_ -f2 | sort -V | tail -n 1)
[ "$(printf '%s\n' "$glibc" $NEWEST_GLIBC | sort -V | tail -n 1)" = $NEWEST_GLIBC ] ||
    failed "the program needs glibc $glibc, Debian 12 has $NEWEST_GLIBC: build it on an older system"
gather "$name" $program x86_64-unknown-linux-gnu
tar -C "$place" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" -czf "$out/$linux" "$name"

lane "build for Windows" "${systems[@]}" windows build --release --locked
name=wgpt-$version-x86_64-windows program=target/other-systems/target/x86_64-pc-windows-gnu/release/wgpt.exe windows=$name.zip
# No user's machine has the compiler's libraries.
libraries=$(x86_64-w64-mingw32-objdump -p $program | grep 'DLL Name')
! grep -E 'lib(gcc|winpthread|stdc)' <<<"$libraries" || failed "wgpt.exe needs libraries of MinGW"
gather "$name" $program x86_64-pc-windows-gnu
cp /usr/share/doc/mingw-w64-common/copyright "$place/$name/LICENSES-OF-MINGW.txt"
rm -f "$out/$windows"
(cd "$place" && zip -qrX "$out/$windows" "$name")

(cd "$out" && sha256sum "$linux" "$windows" >SHA256SUMS && sha256sum --quiet -c SHA256SUMS)
lane "try the one for Linux" smoke "$linux" env -i HOME=/nonexistent ./wgpt
lane "try the one for Windows" smoke "$windows" "${systems[@]}" wine ./wgpt.exe
(cd "$out" && ls -l "$linux" "$windows" && cat SHA256SUMS)
