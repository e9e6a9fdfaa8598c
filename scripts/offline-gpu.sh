#!/usr/bin/env bash
# What vendors' shader compilers make of the kernels, on a machine without a GPU.
#
# Mesa's Vulkan drivers compile for GPUs that are not there: Debian's mesa-drm-shim plays the Linux kernel's side of
# AMD's, NVIDIA's (nouveau), Apple's (asahi) and Qualcomm's, offline-gpu/intel_shim.c that of Intel's. wgpu finds such a
# device, examples/pipelines.rs compiles every variant of every kernel on it, and offline-gpu/stats_layer.c writes down
# what the compiler says: registers, spills, waves, instructions. Nothing runs: submitted work is dropped, and what is
# read back means nothing. `wgpt devices` works; `wgpt verify`, `tune` and training do not.
#
#   scripts/offline-gpu.sh                  compiles everything for the GPUs of CI, and every shader with Microsoft's DXC;
#                                           fails where it is worse than offline-gpu/table.txt says (see CONTRIBUTING.md)
#   scripts/offline-gpu.sh all              the same for all GPUs below, and NVIDIA's ptxas: 10 minutes or more
#   scripts/offline-gpu.sh bless [all]      writes what the compilers say now into the table
#   scripts/offline-gpu.sh GPU CMD [ARG]    runs a command on a GPU: cargo, a program, or one of these:
#       ... GPU probe [WORDS]               prints all that the compiler says of each pipeline whose "KERNEL VARIANT
#                                           FORMATS" has one of WORDS (split by commas; none: of all)
#       ... amd:NAME blocks WORDS [OPTION]  counts the instructions of the basic blocks of their loops, and of the path of
#                                           a tile that lies wholly inside (offline-gpu/blocks.py)
#   scripts/offline-gpu.sh ptxas [GLOB]     NVIDIA's own back end on the shaders whose names GLOB matches
#   scripts/offline-gpu.sh dxc [GLOB]       Microsoft's compiler (offline-gpu/hlsl.py)
#
# A GPU is one of these; the first of each is what it is without a name:
#   amd:NAME      navi31 (RDNA 3), navi21 (RDNA 2), navi10, gfx1201 (RDNA 4), vega20 (GCN 5), vega10, polaris10 ...
#   intel:ID      a PCI id: 56a0 (Arc A770), e20b (Arc B580), 64a0 (Lunar Lake), 9a49 (Tiger Lake)
#   nvidia:CHIP   Mesa's compiler, not NVIDIA's: 174 (GA104), 176, 164 (TU104)
#   apple         Mesa's compiler, not Apple's: M1
#   adreno:ID     740, 730, 660
#
# OFFLINE_GPU_DIR is where packages are unpacked: about 100 MB to download from Debian, and 70 MB from PyPI for DXC; by
# default target/offline-gpu. GPU_STATS=FILE gets the lines of the layer, GPU_STATS_CODE=FOLDER the compilers' own texts,
# by the numbers in these lines; GPU_STATS_SUBGROUP and GPU_STATS_UNROBUST are in offline-gpu/stats_layer.c.
#
# Exit code 75 if the packages cannot be had (no apt, no pip, no network, another system); nothing has then been compared.
set -euo pipefail
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
here=${self%.sh}
cd "$(dirname "$self")/.."
. scripts/debian.sh

# What CI compiles for in a few minutes, and what it leaves to `all`.
CI_GPUS=(intel:56a0 amd:navi31 apple adreno:740)
OTHER_GPUS=(amd:navi21 amd:gfx1201 amd:vega20 intel:9a49 intel:e20b nvidia:174 ptxas)
# A compiler that takes longer than these seconds for all kernels hangs.
PATIENCE=1800

dir=${OFFLINE_GPU_DIR:-target/offline-gpu}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
root=$dir/root
libraries=$root/usr/lib/x86_64-linux-gnu

# Unpacks Mesa, and builds the layer and the shim, where they are not there yet.
prepare() {
    local tool name
    for tool in gcc g++ python3 dpkg; do
        command -v $tool >/dev/null || give_up "no $tool here"
    done
    python3 -m pip --version >/dev/null 2>&1 || give_up "no pip here"
    unpack "$dir" mesa-vulkan-drivers mesa-drm-shim libvulkan1 libvulkan-dev linux-libc-dev
    mkdir -p "$dir/layer" "$dir/stats"
    for name in stats_layer intel_shim; do
        # Vulkan's and the kernel's headers come from there where this machine has none, the C library's from here.
        [ "$dir/layer/$name.so" -nt "$here/$name.c" ] || gcc -O1 -Wall -Wextra -Werror -shared -fPIC -idirafter "$root/usr/include" \
            -idirafter "$root/usr/include/x86_64-linux-gnu" "$here/$name.c" -o "$dir/layer/$name.so" -ldl
    done
    cat >"$dir/layer/stats_layer.json" <<END
{ "file_format_version": "1.1.2", "layer": { "name": "VK_LAYER_WGPT_stats", "type": "GLOBAL",
  "library_path": "$dir/layer/stats_layer.so", "api_version": "1.4.0", "implementation_version": "1",
  "description": "what compilers say of pipelines", "functions": {
    "vkGetInstanceProcAddr": "stats_GetInstanceProcAddr", "vkGetDeviceProcAddr": "stats_GetDeviceProcAddr" } } }
END
}

# Builds the program that compiles the kernels, in the profile of the tests.
build_pipelines() {
    cargo build --quiet --example pipelines >&2
}
pipelines=${CARGO_TARGET_DIR:-target}/debug/examples/pipelines

# Makes a GPU the only device of Vulkan, for what is started by $runner, or by cargo.
play() {
    local id=${1#*:} shim driver
    [ "$id" != "$1" ] || id=""
    case $1 in
    amd*) driver=radeon shim=$libraries/libamdgpu_noop_drm_shim.so && export AMDGPU_GPU_ID=${id:-navi31} ;;
    nvidia*) driver=nouveau shim=$libraries/libnouveau_noop_drm_shim.so && export NOUVEAU_CHIPSET=${id:-174} ;;
    intel*)
        # The shim for Intel's interface leaves the device file to another one.
        driver=intel shim="$dir/layer/intel_shim.so $libraries/libnouveau_noop_drm_shim.so"
        export INTEL_STUB_ID=${id:-56a0} INTEL_FORCE_PROBE='*'
        ;;
    apple) driver=asahi shim=$libraries/libasahi_noop_drm_shim.so ;;
    adreno*) driver=freedreno shim=$libraries/libfreedreno_noop_drm_shim.so && export FD_GPU_ID=${id:-740} ;;
    *) echo "offline-gpu.sh: no GPU $1: it is one of ${CI_GPUS[*]} ${OTHER_GPUS[*]}, or another of these kinds" >&2 && exit 2 ;;
    esac
    export VK_DRIVER_FILES=$root/usr/share/vulkan/icd.d/${driver}_icd.json MESA_SHADER_CACHE_DISABLE=true
    export VK_LAYER_PATH=$dir/layer VK_INSTANCE_LAYERS=VK_LAYER_WGPT_stats
    # Cargo cuts its runner at blanks, so that the words are in a file. Mesa needs its own C library, and so its loader.
    runner=$dir/run-${1//:/-}
    printf '#!/bin/sh\nexec %s --library-path %s --preload "%s" "$@"\n' "$libraries/ld-linux-x86-64.so.2" "$libraries" "$shim" >"$runner"
    chmod +x "$runner"
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$runner
}

stats_of() {
    echo "${GPU_STATS:-$dir/stats/${1//:/-}.tsv}"
}

# Writes down what the compiler of a GPU says of all pipelines, or of those that WORDS pick: measure GPU [WORDS].
measure() {
    local stats
    stats=$(stats_of "$1")
    rm -f "$stats"
    play "$1"
    GPU_STATS=$stats timeout $PATIENCE "$runner" "$pipelines" compile "$stats" "${2:-}" >"$stats.log" 2>&1 || {
        tail "$stats.log" >&2
        echo "offline-gpu.sh: the compiler of $1 has not come to its end" >&2
        return 1
    }
}

# Writes every shader as HLSL.
write_hlsl() {
    rm -rf "$dir/hlsl"
    mkdir -p "$dir/hlsl"
    "$pipelines" hlsl "$dir/hlsl"
}

# One of the compilers that are compared, each in its own process, as many at a time as there are cores.
one_of_several() {
    case $1 in
    dxc) python3 "$here/hlsl.py" dxc "$dir" >"$dir/dxc.log" ;;
    ptxas) python3 "$here/hlsl.py" ptxas "$dir" >"$(stats_of ptxas)" ;;
    *) measure "$1" ;;
    esac
}

# Compiles everything with the named compilers, several at once.
measure_all() {
    local compiler
    for compiler in "$@"; do
        case $compiler in dxc | ptxas) python3 "$here/hlsl.py" fetch "$compiler" "$dir" || exit $? ;; esac
    done
    build_pipelines
    write_hlsl
    unset GPU_STATS GPU_STATS_CODE GPU_STATS_SUBGROUP GPU_STATS_UNROBUST
    printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} "$self" one-of-several {} || true
}

# Judges what the compilers have said: judge compare|bless GPU ...
judge() {
    local task=$1 gpu pairs=()
    shift
    for gpu in "$@"; do
        pairs+=("$gpu=$(stats_of "$gpu")")
    done
    python3 "$here/table.py" "$task" "$here/table.txt" "${pairs[@]}"
}

check() {
    local failed=0
    measure_all dxc "$@"
    judge compare "$@" || failed=1
    grep -v '^ok' "$dir/dxc.log" || true
    tail -n 1 "$dir/dxc.log" | awk '$3 != $5 || !($3 > 0) { exit 1 }' || failed=1
    [ $failed = 0 ] || echo "offline-gpu.sh: what vendors' compilers make of the kernels got worse; see CONTRIBUTING.md" >&2
    return $failed
}

if [ "${1:-}" = one-of-several ]; then
    one_of_several "$2"
    exit
fi
prepare
case ${1:-} in
"") check "${CI_GPUS[@]}" ;;
all) check "${CI_GPUS[@]}" "${OTHER_GPUS[@]}" ;;
bless)
    gpus=("${CI_GPUS[@]}")
    [ "${2:-}" != all ] || gpus+=("${OTHER_GPUS[@]}")
    measure_all "${gpus[@]}"
    judge bless "${gpus[@]}"
    ;;
ptxas | dxc)
    build_pipelines
    write_hlsl
    python3 "$here/hlsl.py" "$1" "$dir" "${2:-*}"
    ;;
*)
    gpu=$1
    shift
    case ${1:?give a command, or probe, or blocks} in
    probe)
        build_pipelines
        measure "$gpu" "${2:-}"
        python3 "$here/table.py" show "$(stats_of "$gpu")"
        ;;
    blocks)
        build_pipelines
        code=${GPU_STATS_CODE:-$dir/code}
        rm -rf "$code"
        mkdir -p "$code"
        GPU_STATS_CODE=$code measure "$gpu" "${2:?give words of the kernels to count}"
        python3 "$here/blocks.py" "$(stats_of "$gpu")" "$code" "${@:3}"
        ;;
    cargo)
        play "$gpu"
        "$@"
        ;;
    *)
        play "$gpu"
        program=$(command -v "$1")
        shift
        "$runner" "$program" "$@"
        ;;
    esac
    ;;
esac
