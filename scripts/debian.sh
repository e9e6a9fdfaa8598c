# To be sourced: newer packages of Debian's beside the system's own, without root and without installing anything.

# Ends a script whose packages cannot be had: exit code 75, and nothing has then been run.
give_up() {
    echo "$(basename "$0"): $1" >&2
    exit 75
}

# Unpacks packages into DIR/root, once: unpack DIR PACKAGE ... [-- PACKAGE ...]. Those before -- come with all that they need,
# those after it alone. Everything that apt writes goes into DIR. SUITE names the Debian suite (testing).
unpack() {
    local dir=$1 mirror package with=(libc6 libgcc-s1)
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        with+=("$1")
        shift
    done
    [ $# = 0 ] || shift
    [ ! -e "$dir/done" ] || return 0
    [ "$(uname -m)" = x86_64 ] || give_up "made for x86-64"
    command -v apt-get >/dev/null || give_up "no apt here"
    rm -rf "$dir/root"
    mkdir -p "$dir"/{state/lists/partial,cache/archives/partial,root}
    : >"$dir/status"
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian$' | head -n 1)
    [ -n "$mirror" ] || give_up "apt knows no Debian mirror"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror ${SUITE:-testing} main" >"$dir/sources.list"
    local apt=(apt-get -oDir::State="$dir/state" -oDir::State::status="$dir/status" -oDir::Cache="$dir/cache"
        -oDir::Etc::sourcelist="$dir/sources.list" -oDir::Etc::sourceparts=/dev/null
        -oDir::Etc::preferencesparts=/dev/null -oAPT::Sandbox::User=root -oAPT::Install-Recommends=false
        -oDebug::NoLocking=true -oAcquire::http::Timeout=30 -oAcquire::Retries=2)
    "${apt[@]}" -qq update || give_up "the package lists could not be downloaded"
    "${apt[@]}" -qq -y --download-only install "${with[@]}" >/dev/null &&
        { [ $# = 0 ] || (cd "$dir/cache/archives" && "${apt[@]}" -qq download "$@" >/dev/null); } ||
        give_up "the packages could not be downloaded"
    for package in "$dir"/cache/archives/*.deb; do
        dpkg -x "$package" "$dir/root"
    done
    rm -rf "$dir/cache" "$dir/state"
    touch "$dir/done"
}
