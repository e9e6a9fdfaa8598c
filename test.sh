#!/usr/bin/env bash
# Everything that must pass before a change lands: formatting, lints, documentation, tests.
#
#   ./test.sh              all of it, the GPU backend on whatever Vulkan driver there is
#
# Where no Vulkan driver is found and apt is there, Mesa's lavapipe (a driver that runs on the CPU) is
# installed first. CI and the README use this same command.
set -euo pipefail
cd "$(dirname "$0")"
. scripts/lanes.sh
trap print_lanes EXIT

# Whether a Vulkan driver is installed: a manifest where the loader looks, or named by hand.
has_vulkan() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    local dir
    for dir in /usr/share /usr/local/share /etc "${XDG_DATA_HOME:-$HOME/.local/share}"; do
        compgen -G "$dir/vulkan/icd.d/*.json" >/dev/null && return 0
    done
    return 1
}

install_lavapipe() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "no Vulkan driver found: installing Mesa's lavapipe" >&2
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mesa-vulkan-drivers libvulkan1 >/dev/null
}

if [ "$(uname)" = Linux ] && ! has_vulkan; then
    if command -v apt-get >/dev/null; then
        lane "install lavapipe" install_lavapipe
    else
        echo "no Vulkan driver found: install your GPU's, or Mesa's lavapipe, then run this again" >&2
        exit 1
    fi
fi

lane "formatting" cargo fmt --check
lane "clippy" cargo clippy --all-targets -- -D warnings
lane "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
lane "build of the tests" cargo test --no-run
lane "tests" env WGPT_REQUIRE_GPU=1 cargo test
