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

# Installs packages of Debian's or Ubuntu's.
install_packages() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

if [ "$(uname)" = Linux ] && ! has_vulkan; then
    if command -v apt-get >/dev/null; then
        echo "no Vulkan driver found: installing Mesa's lavapipe" >&2
        lane "install lavapipe" install_packages mesa-vulkan-drivers libvulkan1
    else
        echo "no Vulkan driver found: install your GPU's, or Mesa's lavapipe, then run this again" >&2
        exit 1
    fi
fi

# One test watches by strace that files are forced to the disk before they get their names; it is skipped, and says so, without.
if [ "$(uname)" = Linux ] && ! command -v strace >/dev/null && command -v apt-get >/dev/null; then
    lane "install strace" install_packages strace || echo "strace could not be installed" >&2
fi

lane "formatting" cargo fmt --check
lane "clippy" cargo clippy --all-targets -- -D warnings
lane "the library alone" cargo check --lib --no-default-features
lane "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
lane "build of the tests" cargo test --no-run
lane "tests" env WGPT_REQUIRE_GPU=1 cargo test
