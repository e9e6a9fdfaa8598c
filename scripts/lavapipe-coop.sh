#!/usr/bin/env bash
# A newer Mesa lavapipe beside the system's own, without root and without installing anything.
#
# Debian 12's lavapipe runs every portable kernel but has no matrix units; Mesa 26's plays cooperative
# matrices of 8 x 8. This unpacks it, with the libraries that it needs, into a folder, and runs a command
# on it through that folder's own dynamic loader: cargo starts its tests so by itself, another program is
# started by $COOP_RUNNER PROGRAM.
#
#   scripts/lavapipe-coop.sh DIR [COMMAND ...]      DIR: about 100 MB to download, once
#
# Exit code 75 if it cannot be had (no apt, no mirror, another system); nothing has then been run.
set -euo pipefail
dir=${1:?usage: lavapipe-coop.sh DIR [COMMAND ...]}
shift

give_up() {
    echo "lavapipe-coop.sh: $1" >&2
    exit 75
}

# Everything that apt writes goes into the folder.
unpack() {
    local mirror package
    mkdir -p "$dir"/{state/lists/partial,cache/archives/partial,root}
    : >"$dir/status"
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian$' | head -n 1)
    [ -n "$mirror" ] || give_up "apt knows no Debian mirror"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror testing main" >"$dir/sources.list"
    local apt=(apt-get -oDir::State="$dir/state" -oDir::State::status="$dir/status" -oDir::Cache="$dir/cache"
        -oDir::Etc::sourcelist="$dir/sources.list" -oDir::Etc::sourceparts=/dev/null
        -oDir::Etc::preferencesparts=/dev/null -oAPT::Sandbox::User=root -oAPT::Install-Recommends=false
        -oDebug::NoLocking=true -oAcquire::http::Timeout=30 -oAcquire::Retries=2)
    "${apt[@]}" -qq update || give_up "the package lists could not be downloaded"
    "${apt[@]}" -qq -y --download-only install mesa-vulkan-drivers libvulkan1 libc6 libgcc-s1 >/dev/null ||
        give_up "the packages could not be downloaded"
    for package in "$dir"/cache/archives/*.deb; do
        dpkg -x "$package" "$dir/root"
    done
    rm -rf "$dir/cache" "$dir/state"
    touch "$dir/done"
}

[ "$(uname -m)" = x86_64 ] || give_up "made for x86-64"
command -v apt-get >/dev/null || give_up "no apt here"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
[ -e "$dir/done" ] || unpack

libraries=$dir/root/usr/lib/x86_64-linux-gnu
loader=$(find "$dir/root" -name ld-linux-x86-64.so.2 -type f | head -n 1)
export COOP_RUNNER="$loader --library-path $libraries:$dir/root/lib/x86_64-linux-gnu"
export VK_DRIVER_FILES=$dir/root/usr/share/vulkan/icd.d/lvp_icd.json
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$COOP_RUNNER
"$@"
