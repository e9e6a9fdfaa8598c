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
. "$(dirname "$0")/debian.sh"
dir=${1:?usage: lavapipe-coop.sh DIR [COMMAND ...]}
shift

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
unpack "$dir" mesa-vulkan-drivers libvulkan1

libraries=$dir/root/usr/lib/x86_64-linux-gnu
loader=$(find "$dir/root" -name ld-linux-x86-64.so.2 -type f | head -n 1)
export COOP_RUNNER="$loader --library-path $libraries:$dir/root/lib/x86_64-linux-gnu"
export VK_DRIVER_FILES=$dir/root/usr/share/vulkan/icd.d/lvp_icd.json
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$COOP_RUNNER
"$@"
