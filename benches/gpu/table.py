#!/usr/bin/env python3
"""The table of benches/gpu.sh from the JSON files of its folder, as far as they are there, and the same as OUT/summary.json."""
import json
import sys
from pathlib import Path

OUT = Path(sys.argv[1])


def load(name):
    path = OUT / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def product(kernels):
    """The GFLOP/s of the square product among the kernels."""
    for row in kernels.get("kernels", []):
        if row["name"] == "linear_forward" and "C=4096 OC=4096" in row["shape"]:
            return row["gflops"]
    return None


def show_variants(classes):
    """For each kernel and shape that matrix units can compute: the fastest variant without them, and each with them."""
    for row in classes:
        units = {name: ms for name, ms in row["ms"].items() if name.startswith("coop")}
        others = [(ms, name or "portable") for name, ms in row["ms"].items() if name not in units]
        if units and others:
            ms, name = min(others)
            shown = ", ".join(f"{name} {ms:.3f}" for name, ms in sorted(units.items(), key=lambda unit: unit[1]))
            print(f"{row['kernel']} {row['shape']}: {name} {ms:.3f} ms, {shown} ms")


def main():
    torch_matmul = load("torch-matmul")
    rows = [
        ("product 4096, f32, GFLOP/s", product(load("kernels-f32")), torch_matmul.get("f32_gflops"), 0.60),
        ("product 4096, f16, GFLOP/s", product(load("kernels-mixed")), torch_matmul.get("f16_gflops"), 0.25),
    ]
    for size, bar in (("small", 1.0), ("medium", 1.0), ("large", 0.7), ("gpt2", 0.5)):
        mine, theirs = load(f"train-{size}"), load(f"torch-train-{size}")
        rows.append((f"train {size}, tokens/s", mine.get("tokens_per_s"), theirs.get("tokens_per_s"), bar))
    mine, theirs = load("generate-gpt2"), load("torch-generate-gpt2")
    rows.append(("generate gpt2, tokens/s", mine.get("tokens_per_s"), theirs.get("tokens_per_s"), 5.0))
    xl = load("generate-gpt2-xl")
    rows.append(("generate gpt2-xl, tokens/s", xl.get("tokens_per_s"), None, None))

    def show(x, digits=0):
        return "-" if x is None else f"{x:,.{digits}f}"

    print(f"{'':32}{'wgpt':>14}{'PyTorch':>14}{'ratio':>8}{'bar':>8}")
    summary = []
    for name, mine, theirs, bar in rows:
        ratio = mine / theirs if mine is not None and theirs else None
        if mine is None and theirs is None:
            continue
        print(f"{name:32}{show(mine):>14}{show(theirs):>14}{show(ratio, 2):>8}{show(bar, 2):>8}")
        summary.append({"what": name, "wgpt": mine, "pytorch": theirs, "ratio": ratio, "bar": bar})
    if xl:
        # Every weight is read once a token.
        print(f"gpt2-xl reads {xl['parameters'] * 2 * xl['tokens_per_s'] / 1e9:,.0f} GB/s of weights in half precision")
    show_variants(load("variants").get("classes", []))
    (OUT / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


main()
