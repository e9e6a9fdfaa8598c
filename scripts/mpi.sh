#!/usr/bin/env bash
# Trains on several ranks under MPI, on this machine's cores, and compares: any number of ranks must write the same bytes.
#
#   scripts/mpi.sh      builds wgpt with the feature `mpi` (where Open MPI is missing and apt is there, it is installed
#                       first), then tests it; takes about 6 minutes, most of them for the build
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v mpirun >/dev/null || ! command -v mpicc >/dev/null || ! compgen -G "/usr/lib/llvm-*/lib/libclang.so*" >/dev/null; then
    if ! command -v apt-get >/dev/null; then
        echo "no Open MPI found: install it and libclang, then run this again" >&2
        exit 75
    fi
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        openmpi-bin libopenmpi-dev libclang-dev >/dev/null
fi

cargo clippy --features mpi -- -D warnings
cargo build --features mpi
wgpt=$PWD/target/debug/wgpt

# Containers often run as root; there are more ranks than cores, and ranks that wait must leave the cores to others.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
on_ranks() {
    local ranks=$1
    shift
    timeout 120 mpirun --oversubscribe --mca mpi_yield_when_idle 1 -n "$ranks" "$wgpt" "$@"
}

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

failed() {
    echo "FAILED: $*" >&2
    exit 1
}

# The processes of a run's ranks.
ranks_of() {
    pgrep -f -- "^$wgpt train .*--out $1$"
}

# Waits for a run's first saves.
until_saved() {
    for _ in $(seq 2000); do
        [ "$(ls "$1/checkpoints" 2>/dev/null | wc -l)" -lt 2 ] || return 0
        sleep 0.02
    done
    failed "$1 saved nothing"
}

# What a run writes, less what tells the time.
written() {
    (cd "$1" && find . -name '*.safetensors' -o -name 'tokenizer*.json' -o -name 'tokens.bin' | LC_ALL=C sort | xargs sha256sum)
}

same() {
    diff <(written "$1") <(written "$2") >&2 || failed "$3"
    echo "ok: $3"
}

settings=(--data stories --tokenizer bytes --layers 2 --heads 2 --embd 16 --context 32 --batch-size 2 --sum exact
    --save-every 4 --eval-every 5 --eval-iters 3 --val-tokens 500 --log-every 1 --dropout 0.1 --device cpu)

"$wgpt" train "${settings[@]}" --grad-accum 4 --max-iters 12 --out alone 2>/dev/null >/dev/null
for ranks in 1 2 3 4; do
    on_ranks $ranks train "${settings[@]}" --grad-accum 4 --max-iters 12 --out "on-$ranks" >/dev/null 2>log || { cat log; failed "$ranks ranks"; }
    same "on-$ranks" alone "$ranks ranks write the bytes of one"
done

# By default each rank has one micro-batch.
on_ranks 2 train "${settings[@]}" --max-iters 12 --out default >/dev/null 2>log || { cat log; failed "the default"; }
"$wgpt" train "${settings[@]}" --grad-accum 2 --max-iters 12 --out two >/dev/null 2>&1
same default two "a micro-batch per rank is the default"

# Shares that were measured: the bytes stay, and the run keeps the shares.
on_ranks 2 train "${settings[@]}" --grad-accum 4 --max-iters 12 --rank-batch auto --out measured >/dev/null 2>log || { cat log; failed "--rank-batch auto"; }
grep -q "^rank 0 takes [123] of 4 micro-batches" log || { cat log; failed "the line about the shares"; }
grep -q '"rank_shares"' measured/run.json || failed "the shares in run.json"
same measured alone "2 ranks with measured shares write the bytes of one"

# The ranks may split the optimiser's state: the bytes stay.
on_ranks 3 train "${settings[@]}" --grad-accum 4 --max-iters 12 --zero --out split >/dev/null 2>log || { cat log; failed "--zero"; }
same split alone "3 ranks that split the optimiser's state write the bytes of one"

# Layers on several ranks: the same losses but for rounding, on another grid after a resume, too.
losses() {
    sed 's/.*"loss":\([0-9.]*\).*/\1/' "$1/metrics.jsonl"
}
alike() {
    paste <(losses "$1") <(losses alone) | awk '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= 1e-4 * $2)) exit 1 } END { exit NR != 12 }' || failed "$2"
    echo "ok: $2"
}
on_ranks 4 train "${settings[@]}" --grad-accum 4 --max-iters 12 --pipeline 2 --out stages >said 2>log || { cat log; failed "--pipeline"; }
grep -q "A sample" said || { cat said log; failed "the text that stages make together"; }
alike stages "2 stages of 2 ranks learn as one rank does"

# A model on the stages writes and measures what it does on one rank.
writes=(generate --model alone --prompt "Once upon a time" --max-tokens 60 --temperature 0.8 --top-k 40 --num-samples 3 --device cpu)
measures=(eval "$place/text" --model alone --stride 8 --device cpu)
"$wgpt" generate --model alone --prompt "The" --greedy --max-tokens 400 --device cpu >text
"$wgpt" "${writes[@]}" >alone.text && "$wgpt" "${measures[@]}" >alone.measure 2>/dev/null
on_ranks 2 "${writes[@]}" --pipeline 2 >stages.text 2>log || { cat log; failed "generate --pipeline"; }
cmp alone.text stages.text || failed "2 stages write another text than one rank"
echo "ok: 2 stages write the text of one rank"
on_ranks 2 "${measures[@]}" --pipeline 2 >stages.measure 2>log || { cat log; failed "eval --pipeline"; }
cmp alone.measure stages.measure || failed "2 stages measure another perplexity than one rank"
echo "ok: 2 stages measure the perplexity of one rank"
on_ranks 3 "${writes[@]}" --pipeline 2 >/dev/null 2>log && failed "2 stages on 3 ranks" || true
grep -q "pipeline is 2, must be the number of ranks, 3" log || { cat log; failed "the message about the number of ranks"; }

# A run that is killed goes on with another number of ranks.
on_ranks 3 train "${settings[@]}" --grad-accum 4 --max-iters 400 --out killed >/dev/null 2>log &
shell=$!
until_saved killed
kill -9 "$(ranks_of killed | tail -1)"
wait "$shell" && failed "a run without one of its ranks ended as if nothing had been" || true
on_ranks 2 train --resume killed >/dev/null 2>log || { cat log; failed "the resumed run"; }
"$wgpt" train "${settings[@]}" --grad-accum 4 --max-iters 400 --out whole >/dev/null 2>&1
same killed whole "a run of 3 ranks that was killed goes on with 2, to the bytes of the undisturbed one"

# Ranks that train on their own between syncs go on bit for bit, too, but only as many as began.
# (Evaluations come after a sync: every 4 updates instead of 5.)
local=("${settings[@]/%5/4}" --grad-accum 3 --sync-every 4 --max-iters 400)
on_ranks 3 train "${local[@]}" --out local-whole >/dev/null 2>log || { cat log; failed "local training"; }
on_ranks 3 train "${local[@]}" --out local-killed >/dev/null 2>log &
shell=$!
until_saved local-killed
kill -9 "$(ranks_of local-killed | tail -1)"
wait "$shell" && failed "a run of local training without one of its ranks ended as if nothing had been" || true
on_ranks 2 train --resume local-killed >/dev/null 2>log && failed "local training went on with fewer ranks" || true
grep -q "the number of ranks is 2, must be 3" log || { cat log; failed "the message about the number of ranks"; }
on_ranks 3 train --resume local-killed >/dev/null 2>log || { cat log; failed "the resumed run of local training"; }
same local-killed local-whole "local training on 3 ranks that was killed goes on to the bytes of the undisturbed run"

# SIGUSR1 to mpirun stops all ranks after the same update, which is saved.
on_ranks 2 train "${settings[@]}" --grad-accum 4 --max-iters 1000000 --out stopped >said 2>log &
shell=$!
for _ in $(seq 400); do
    grep -q "step 3/" log && break
    sleep 0.05
done
kill -USR1 "$(pgrep -f -- "^mpirun .*--out stopped$")"
wait "$shell" || { cat log; failed "a run that was told to stop"; }
grep -q "everything is saved" said || { cat said log; failed "the message of a run that was told to stop"; }
echo "ok: SIGUSR1 stops all ranks"

# The launcher starts a run again whose rank has died or hangs, to the same bytes, and leaves no process behind.
starter="mpirun --oversubscribe --mca mpi_yield_when_idle 1"
launch() {
    timeout 120 "$wgpt" launch -n 3 --starter "$starter" "$@" -- train "${settings[@]}" --grad-accum 4 --max-iters 400 --out "$out"
}
for fault in KILL STOP; do
    out=launched-$fault
    launch --rank-timeout 3 >/dev/null 2>log &
    shell=$!
    until_saved $out
    kill -$fault "$(ranks_of $out | shuf -n 1)"
    wait "$shell" || { cat log; failed "a launched run after SIG$fault"; }
    grep -q "^rank [0-2] on .* going on from the last save" log || { cat log; failed "the message that names the rank"; }
    same $out whole "a launched run goes on after SIG$fault of a rank ($(grep -o "^rank [0-2]" log))"
done

# Hosts that are made up: what plays ssh starts everything on this machine, but nothing for a host that is marked as gone.
# (Ranks that share memory with some of this machine's ranks and not with others make Open MPI crash: all use TCP.)
cat >agent <<'END'
#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
host=$1 place=$(dirname "$0")
shift
[ ! -e "$place/gone-$host" ] || exit 255
echo $$ >"$place/agent-of-$host"
exec sh -c "$*"
END
# What plays srun starts two ranks on each host, by mpirun.
cat >srun <<'END'
#!/usr/bin/env bash
while [[ $1 == -* ]]; do
    case $1 in
    --version) echo "slurm that is played" && exit ;;
    --nodelist=*) hosts=${1#*=} ;;
    --nodes=*) [ "${1#*=}" = "$(tr ',' '\n' <<<"$hosts" | wc -l)" ] || exit 3 ;;
    -n) ranks=$2 && shift ;;
    *) exit 4 ;;
    esac
    shift
done
exec mpirun --bind-to none --mca btl self,tcp --mca plm_rsh_agent "$(dirname "$0")/agent" --mca mpi_yield_when_idle 1 --host "${hosts//,/:2,}:2" -n "$ranks" -x WGPT_LAUNCH "$@"
END
chmod +x agent srun

# Ends what Open MPI has on a host, with which its ranks end, and lets nothing start there any more.
lose() {
    local daemon
    daemon=$(cat "agent-of-$1")
    touch "gone-$1"
    # shellcheck disable=SC2046 # Processes are words.
    kill -9 "$daemon" $(pgrep -P "$daemon")
}
on_hosts() {
    timeout 120 "$wgpt" launch "$@" -- train "${settings[@]}" --max-iters 400 --out "$out" "${more[@]}"
}
distant="mpirun --bind-to none --mca btl self,tcp --mca plm_rsh_agent $place/agent --mca mpi_yield_when_idle 1"

out=launched-fewer more=(--grad-accum 4)
on_hosts --host nine:2,ten:1 --starter "$distant" >/dev/null 2>log &
shell=$!
until_saved $out
lose ten
wait "$shell" || { cat log; failed "a launched run that has lost a host"; }
grep -q "host ten is gone; going on from the last save of $out on 2 of 3 ranks" log || { cat log; failed "the message that names the host"; }
same $out whole "a launched run that loses a host goes on with fewer ranks"
rm gone-*

printf '# hosts of a job\nnine slots=2\nten:2\n' >hosts
out=launched-stages more=(--grad-accum 4 --pipeline 2)
on_hosts --hostfile hosts --starter "$place/srun" >/dev/null 2>log &
shell=$!
until_saved $out
lose ten
wait "$shell" || { cat log; failed "a launched pipeline that has lost a host"; }
grep -q "host ten is gone; going on from the last save of $out on 2 of 4 ranks" log || { cat log; failed "the message about a pipeline's host"; }
echo "ok: srun's ranks go on as one pipeline instead of two"
rm gone-*

out=launched-too-few more=(--grad-accum 3 --pipeline 2)
on_hosts --host nine,ten --starter "$distant" >/dev/null 2>log &
shell=$!
until_saved $out
lose ten
wait "$shell" && failed "a pipeline of 2 stages went on on one rank" || true
grep -q "host ten is gone: only 1 rank is left, must be at least 2, as --pipeline has it" log || { cat log; failed "the message about too few hosts"; }
echo "ok: a pipeline that too few ranks are left for ends with a message"
rm gone-*

out=launched-stopped
launch >said 2>log &
shell=$!
until_saved $out
kill -TERM "$(pgrep -f -- "^$wgpt launch .*--out $out$")"
wait "$shell" || { cat log; failed "a launched run that was told to stop"; }
grep -q "everything is saved" said || { cat said log; failed "the save of a launched run that was told to stop"; }
echo "ok: SIGTERM stops a launched run after a save"
if pgrep -f -- "$wgpt train" >/dev/null; then
    failed "a process was left behind"
fi

# What cannot be is refused, on every rank, with a message.
on_ranks 3 train "${settings[@]}" --grad-accum 2 --max-iters 12 --out few >/dev/null 2>log && failed "fewer micro-batches than ranks" || true
grep -q "must be at least the number of ranks, 3" log || { cat log; failed "the message about too few micro-batches"; }
[ ! -e few ] || failed "a run that was refused left a folder"
echo "ok: fewer micro-batches than ranks are refused"
