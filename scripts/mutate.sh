#!/usr/bin/env bash
# Do the tests see what they should? Each file of scripts/mutants/ is a bug that somebody might write. This puts
# in one at a time, runs the tests that should see it, and says whether one did.
#
#   scripts/mutate.sh [OPTION ...] [NAME ...]    NAME: a file's name without .patch, or how some names begin;
#                                                without any: all of them
#
#   --list          only print the names, what each bug does, and the tests that should see it
#   --check         only see that each patch still applies, and that its tests exist (seconds; nothing is built)
#   --coop          run those, too, that need matrix units, on the driver that scripts/lavapipe-coop.sh brings
#   --resume        take over what an earlier run found of the same patch with the same code and tests
#   --timeout N     seconds after which tests count as hanging, which is seen as well as a failure (600)
#
# The patches are put into a clone of the last commit, target/mutate/tree, which has its own target folder: the
# working tree is not touched, and what is not committed is not in it (the patches themselves are read from the
# working tree). Before the first bug the tests must pass without one. A bug costs an incremental build and its
# tests; target/mutate/log/ has what they said.
#
# Exit code 0 if each bug was seen, or has a line that explains why not; 1 otherwise; 2 for a wrong command line.
#
# A file begins with
#     # what: one sentence that says what goes wrong for a user
#     # tests: FILTER [FILTER ...] [--lib FILTER ...]    as for `cargo test --test integration`; after --lib of
#                                                        the library's own tests
#     # kernels: NAME [NAME ...]      which kernels alone are compared with their twins, so that it takes seconds
#     # needs: coop                  only where a driver with matrix units is needed
#     # survives: REASON             only where no test can see it
# and goes on with the diff, of one line of context, so that it still applies after changes nearby.
set -euo pipefail
cd "$(dirname "$0")/.."

mutants=$PWD/scripts/mutants
work=$PWD/target/mutate
tree=$work/tree
logs=$work/log
limit=600
mode=run
coop=no
resume=no
names=()
job=

usage() {
    echo "mutate.sh: $1 (scripts/mutate.sh --help)" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --list) mode=list ;;
    --check) mode=check ;;
    --coop) coop=yes ;;
    --resume) resume=yes ;;
    --timeout)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage "--timeout wants a number of seconds, not '${2:-}'"
        limit=$2
        shift
        ;;
    -h | --help)
        awk 'NR > 1 && /^#/ { sub(/^# ?/, ""); print; next } NR > 1 { exit }' "$0"
        exit 0
        ;;
    -*) usage "unknown option $1" ;;
    *) names+=("$1") ;;
    esac
    shift
done

# What a patch says of itself: field NAME PATCH.
field() {
    sed -n -e '/^--- /q' -e "s/^# $1: *//p" "$2"
}

# The filters for the integration tests of a patch, and those for the library's own.
integration_filters() {
    field tests "$1" | sed 's/ *--lib.*//'
}
lib_filters() {
    field tests "$1" | sed -n 's/.*--lib *//p'
}

# Every chosen name, one a line.
chosen() {
    local patch name wanted found
    for wanted in "${names[@]-}"; do
        found=no
        for patch in "$mutants"/*.patch; do
            name=$(basename "$patch" .patch)
            if [[ $name == "$wanted"* ]]; then
                echo "$name"
                found=yes
            fi
        done
        [ $found = yes ] || usage "no file of scripts/mutants/ has a name that begins with '$wanted'"
    done | sort -u
}

# The names of all tests, by reading the sources: integration tests, or with --lib those of the library.
source_tests() {
    local root=tests/integration module=""
    [ "${1:-}" != --lib ] || root=src module=tests::
    find "$root" -name '*.rs' -exec awk -v root="$root/" -v module="$module" '
        FNR == 1 { file = substr(FILENAME, length(root) + 1); gsub("/", "::", file); sub(/(::mod)?\.rs$/, "", file) }
        /^ *#\[test\]/ { test = 1 }
        test && match($0, /fn [a-z0-9_]+/) { print file "::" module substr($0, RSTART + 3, RLENGTH - 3); test = 0 }
    ' {} +
}

# Complains of filters that are in no name: unmatched LIST FILTER ...
unmatched() {
    local list=$1 filter
    shift
    for filter in "$@"; do
        grep -qF -- "$filter" <<<"$list" || echo "no test has '$filter' in its name"
    done
}

# What is wrong with a patch, one fault a line; the lists of tests are given.
faults() {
    local patch=$1 integration=$2 lib=$3 kernel
    [ -n "$(field what "$patch")" ] || echo "it has no line '# what:'"
    [ -n "$(field tests "$patch")" ] || echo "it has no line '# tests:'"
    # shellcheck disable=SC2046 # Filters are words.
    unmatched "$integration" $(integration_filters "$patch")
    # shellcheck disable=SC2046
    unmatched "$lib" $(lib_filters "$patch")
    for kernel in $(field kernels "$patch"); do
        grep -qrF "name: \"$kernel\"" src/ops || echo "there is no kernel $kernel"
    done
    [ -z "$(field needs "$patch")" ] || [ "$(field needs "$patch")" = coop ] || echo "it needs what is not known"
    git apply --check "$patch" 2>&1 || true
}

list() {
    local name
    while read -r name; do
        printf '%s\n    %s\n    %s\n' "$name" "$(field what "$mutants/$name.patch")" "$(field tests "$mutants/$name.patch")"
    done <<<"$all"
}

check() {
    local name fault bad=0 integration lib
    integration=$(source_tests)
    lib=$(source_tests --lib)
    while read -r name; do
        while read -r fault; do
            echo "$name: $fault" >&2
            bad=1
        done < <(faults "$mutants/$name.patch" "$integration" "$lib")
    done <<<"$all"
    [ $bad = 0 ] || exit 1
    echo "$(wc -l <<<"$all") patches apply, and their tests exist"
}

# A clone of the last commit that shares its objects; later runs only change the files that differ.
prepare() {
    mkdir -p "$work" "$logs"
    exec 9>"$work/lock"
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "mutate.sh: another one works in $work" >&2
        exit 1
    fi
    [ -d "$tree/.git" ] || git clone --quiet --shared --no-checkout . "$tree"
    git -C "$tree" checkout --quiet --force --detach "$(git rev-parse HEAD)"
    git -C "$tree" clean --quiet -fd
    if [ -n "$(git status --porcelain -- src shaders tests Cargo.toml Cargo.lock)" ]; then
        echo "mutate.sh: what is not committed is left out" >&2
    fi
    # What tests say of a bug holds as long as these stay.
    code_state=$(git rev-parse HEAD:src HEAD:shaders HEAD:tests HEAD:Cargo.lock | git hash-object --stdin)
    # The least work for the compiler and linker; what is built is only run once.
    export CARGO_TARGET_DIR=$work/target CARGO_PROFILE_DEV_DEBUG=0 CARGO_TERM_COLOR=never
    # A GPU test that is skipped sees nothing.
    export WGPT_REQUIRE_GPU=1
    unset WGPT_KERNELS
}

# Takes a bug out again, whatever state a run was left in.
restore() {
    git -C "$tree" checkout --quiet --force .
}

# Runs a command in the tree for at most N seconds, so that Ctrl-C ends it, too: limited N COMMAND ...
limited() {
    local seconds=$1 code=0
    shift
    (cd "$tree" && exec timeout --kill-after=10 "$seconds" "$@" 9>&-) &
    job=$!
    wait "$job" || code=$?
    job=
    return "$code"
}

interrupted() {
    trap - INT TERM
    [ -z "$job" ] || kill "$job" 2>/dev/null || true
    wait 2>/dev/null || true
    exit 130
}

finish() {
    [ ! -d "$tree/.git" ] || restore
}

# Builds what some patches' tests want of integration tests and the library's own, which is the library once more.
build() {
    local patch lib="" integration=""
    for patch in "$@"; do
        [ -z "$(lib_words "$patch")" ] || lib=--lib
        [ -z "$(integration_filters "$patch")" ] || integration="--test integration"
    done
    # shellcheck disable=SC2086 # Options are words.
    limited 3600 cargo test --quiet $lib $integration --no-run
}

# Runs a command in the tree until it ends, or a test fails in what it says: the others would find out nothing more.
# until_failure LOG SECONDS COMMAND ...
until_failure() {
    local log=$1 seconds=$2 code=0
    shift 2
    (cd "$tree" && exec timeout --kill-after=10 "$seconds" "$@" 9>&-) >>"$log" 2>&1 &
    job=$!
    while kill -0 "$job" 2>/dev/null; do
        if grep -q '^test .* \.\.\. FAILED$' "$log"; then
            kill "$job" 2>/dev/null || true
        fi
        sleep 0.3
    done
    wait "$job" || code=$?
    job=
    ! grep -q '^test .* \.\.\. FAILED$' "$log" || code=101
    return "$code"
}

# Tests of the tree as it is: tests FILE-FOR-WHAT-THEY-SAY DRIVER INTEGRATION-FILTERS LIB-FILTERS [KERNELS].
tests() {
    local log=$1 driver=$2 code=0 runner=(env)
    [ -z "${5:-}" ] || runner+=("WGPT_KERNELS=$5")
    [ "$driver" != coop ] || runner+=(WGPT_REQUIRE_COOP=1 scripts/lavapipe-coop.sh "$PWD/target/lavapipe-coop")
    # shellcheck disable=SC2086 # Filters are words.
    if [ -n "$3" ]; then
        until_failure "$log" "$limit" "${runner[@]}" cargo test --test integration -- $3 || code=$?
    fi
    # shellcheck disable=SC2086
    if [ $code = 0 ] && [ -n "$4" ]; then
        until_failure "$log" "$limit" "${runner[@]}" cargo test --lib -- ${4/#every/} || code=$?
    fi
    return $code
}

# The names of the tests that failed, from what they said.
failed() {
    sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$1"
}

# The names of the built tests of a target.
test_names() {
    limited 600 cargo test --quiet "$@" -- --list 2>/dev/null | sed -n 's/: test$//p'
}

# Asks the built tests for their names, and runs those that are wanted without any bug: with one that fails
# anyway, or that does not exist, nothing would be found out.
baseline() {
    local name patch driver integration="" lib="" fault patches=() bad=0
    while read -r name; do
        patches+=("$mutants/$name.patch")
    done <<<"$all"
    echo "without a bug: building and testing" >&2
    build "${patches[@]}" >"$logs/baseline" 2>&1 || {
        tail -n 30 "$logs/baseline" >&2
        echo "mutate.sh: the last commit does not compile" >&2
        exit 1
    }
    for patch in "${patches[@]}"; do
        [ -n "$integration" ] || [ -z "$(integration_filters "$patch")" ] || integration=$(test_names --test integration)
        [ -n "$lib" ] || [ -z "$(lib_words "$patch")" ] || lib=$(test_names --lib)
    done
    while read -r name; do
        patch=$mutants/$name.patch
        while read -r fault; do
            echo "$name: $fault" >&2
            bad=1
        done < <(cd "$tree" && faults "$patch" "$integration" "$lib")
    done <<<"$all"
    [ $bad = 0 ] || exit 1
    for driver in plain coop; do
        pass_first "$driver"
    done
}

# The filters of all chosen patches that run on a driver must pass; what passed once with this code does.
pass_first() {
    local driver=$1 name patch filter wanted="" wanted_lib="" known=$work/passed
    touch "$known"
    while read -r name; do
        patch=$mutants/$name.patch
        [ "$(driver_of "$patch")" = "$driver" ] || continue
        for filter in $(integration_filters "$patch"); do
            grep -qxF "$code_state $driver $filter" "$known" || [[ " $wanted " == *" $filter "* ]] || wanted+=" $filter"
        done
        for filter in $(lib_words "$patch"); do
            grep -qxF "$code_state $driver --lib $filter" "$known" || [[ " $wanted_lib " == *" $filter "* ]] || wanted_lib+=" $filter"
        done
    done <<<"$all"
    [ -n "$wanted$wanted_lib" ] || return 0
    [ "$driver" = plain ] || [ $coop = yes ] || return 0
    : >"$logs/baseline"
    limit=3600 tests "$logs/baseline" "$driver" "$wanted" "$wanted_lib" || {
        failed "$logs/baseline" >&2
        echo "mutate.sh: tests fail without a bug ($logs/baseline); nothing can be found out with them" >&2
        exit 1
    }
    for filter in $wanted; do echo "$code_state $driver $filter"; done >>"$known"
    for filter in $wanted_lib; do echo "$code_state $driver --lib $filter"; done >>"$known"
}

# The filters of the library's tests; `every` where --lib stands alone.
lib_words() {
    local filters
    field tests "$1" | grep -q -- '--lib' || return 0
    filters=$(lib_filters "$1")
    echo "${filters:-every}"
}

driver_of() {
    [ "$(field needs "$1")" = coop ] && echo coop || echo plain
}

# One bug: puts it in, builds, tests, takes it out. Sets `result` and `seen`.
try() {
    local name=$1 log=$logs/$1 code=0 patch=$mutants/$1.patch
    : >"$log"
    if ! git -C "$tree" apply "$patch" >>"$log" 2>&1; then
        result=error seen="the patch does not apply"
        return
    fi
    if ! build "$patch" >>"$log" 2>&1; then
        result=error seen="it does not compile: $log"
        restore
        return
    fi
    tests "$log" "$(driver_of "$patch")" "$(integration_filters "$patch")" "$(lib_words "$patch")" "$(field kernels "$patch")" || code=$?
    restore
    seen=$(failed "$log" | head -n 1)
    case $code in
    0) result=SURVIVED seen="" ;;
    75) result=error seen="no driver with matrix units could be had" ;;
    124 | 137) result=caught seen="timeout after $limit s" ;;
    *)
        result=caught
        if [ -z "$seen" ] && grep -q "(signal: " "$log"; then
            seen="the tests crashed"
        elif [ -z "$seen" ]; then
            result=error seen="the tests did not run: $log"
        fi
        ;;
    esac
    local reason
    reason=$(field survives "$patch")
    if [ $result = SURVIVED ] && [ -n "$reason" ]; then
        result=explained seen=$reason
    elif [ $result = caught ] && [ -n "$reason" ]; then
        seen+=" (its line '# survives:' is not true)"
    fi
}

# One bug, or what an earlier run found of it. Sets `line`, its line of the table.
row() {
    local name=$1 patch=$mutants/$1.patch start=$SECONDS key kept=$work/results/$1
    mkdir -p "$work/results"
    key=$code_state-$(git hash-object "$patch")
    if [ "$(driver_of "$patch")" = coop ] && [ $coop = no ]; then
        line=$(printf '%-9s %-52s         %s' "skipped" "$name" "it needs --coop")
        return
    fi
    if [ $resume = yes ] && [ -e "$kept" ] && [ "$(head -n 1 "$kept")" = "$key" ]; then
        line=$(tail -n 1 "$kept")
        return
    fi
    local result seen
    try "$name" </dev/null
    line=$(printf '%-9s %-52s %4d s  %s' "$result" "$name" $((SECONDS - start)) "$seen")
    [ "$result" = error ] || printf '%s\n%s\n' "$key" "$line" >"$kept"
}

# How many lines of the table begin with a word.
count() {
    grep -c "^$1" "$work/table" || true
}

run() {
    local name line
    prepare
    trap finish EXIT
    trap interrupted INT TERM
    baseline
    : >"$work/table"
    while read -r name; do
        row "$name"
        echo "$line" | tee -a "$work/table"
    done <<<"$all"
    printf '\n%s bugs: %s caught, %s explained, %s SURVIVED, %s errors, %s skipped; the table is %s\n' \
        "$(wc -l <"$work/table")" "$(count caught)" "$(count explained)" "$(count SURVIVED)" "$(count error)" \
        "$(count skipped)" "$work/table"
    ! grep -qE '^(SURVIVED|error)' "$work/table"
}

# What follows is read as a whole, so that this file may be edited while it runs.
main() {
    all=$(chosen)
    "$mode"
}
main; exit
