# To be sourced: runs steps by name, and prints at the end how many seconds each took.

LANES=()

# Runs a command as the lane NAME; the exit code is the command's.
lane() {
    local name=$1 began=$SECONDS code=0
    shift
    echo "=== $name" >&2
    "$@" || code=$?
    LANES+=("$(printf '%6d s  %s' $((SECONDS - began)) "$name")")
    return "$code"
}

# Prints the seconds of all lanes and of their sum; for `trap print_lanes EXIT`, so that a failed run says them, too.
print_lanes() {
    printf '=== seconds of each lane\n' >&2
    [ ${#LANES[@]} = 0 ] || printf '%s\n' "${LANES[@]}" >&2
    printf '%6d s  in all\n' "$SECONDS" >&2
}
