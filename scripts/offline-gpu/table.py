"""The table of what compilers make of the kernels, scripts/offline-gpu/table.txt.

table.py show STATS                     prints all that a compiler says, a row for each pipeline
table.py compare TABLE GPU=STATS ...    compares what compilers say now with the table; exit code 1 if something is worse
table.py bless TABLE GPU=STATS ...      writes it into the table; the columns of other GPUs keep what they have

STATS is what stats_layer.c and the example `pipelines` have written. Worse is: a pipeline that no longer compiles, spills
more, or has fewer waves; a row that is missing on either side. Instructions are reported where they change by more than
2 %, and not judged. If the driver has another version than the table was made with, nothing but compilation is judged."""

import os
import sys

# The columns, in their order, and the statistics that each compiler has for a cell's four numbers: registers, waves,
# spills, instructions; the numbers of names with a + between them are added.
RADV = ("VGPRs", "Subgroups per SIMD", "Spilled VGPRs+Spilled SGPRs", "Instructions")
ANV = ("Max live registers", "subgroup size", "Spill count", "Instruction Count")
NAK = ("GPRs", "Max warps/SM", "Spills to mem", "Instruction count")
GPUS = {
    "amd:navi31": RADV,
    "intel:56a0": ANV,
    "adreno:740": ("Registers", "Waves", "Spills", "Instructions"),
    "apple": ("GPRs", "Threads", "Spills", "Instructions"),
    "amd:navi21": RADV,
    "amd:gfx1201": RADV,
    "amd:vega20": RADV,
    "intel:9a49": ANV,
    "intel:e20b": ANV,
    "nvidia:174": NAK,
    "ptxas": ("Registers", "Warps", "Spill stores", "Instructions"),
}
LEFT_OUT, UNKNOWN = "-", "?"
# Instructions may change by this share without a word.
QUIET = 0.02
WIDTHS = (28, 24, 10)

HEAD = """\
# What vendors' compilers make of each kernel, without run-time checks: registers/waves/spills/instructions.
# Formats: a letter for each argument, f (f32), h (f16), u (u32). A variant without a name is the portable one.
#   amd, nvidia, adreno, apple: Mesa's compilers (RADV, NAK, Turnip, Honeykrisp): registers of a lane; waves that a SIMD
#       (AMD), an SM (NVIDIA) or a core (Adreno) has room for, for Apple threads; spilled registers
#   intel: Mesa's compiler (ANV): most live registers; lanes of a wave instead of waves; spills
#   ptxas: NVIDIA's back end for sm_86: registers; warps that an SM has room for; bytes of spill stores
#   -  no pipeline: the device lacks what the variant needs, or the compiler does not take its source
#   ?  not compiled since the row was added
# scripts/offline-gpu.sh compares with this table, scripts/offline-gpu.sh bless rewrites it. If a row gets worse, say why
# in the message of the commit that changes it.
"""


class Stats:
    """What was written of one compiler's run: its version, and of each pipeline its statistics or why there are none."""

    def __init__(self, path):
        self.driver, self.rows, self.left_out, self.errors = "", {}, {}, {}
        self.names = []  # of all pipelines, in the order of the list
        # A compiler that could not start has written nothing.
        lines = open(path, encoding="utf-8") if os.path.exists(path) else []
        for line in lines:
            kind, *words = line.rstrip("\n").split("\t")
            if kind in ("kernel", "skip"):
                self.names.append(tuple(words[:3]))
            if kind == "adapter":
                self.driver = words[1]
            elif kind == "stat" and self.names:  # wgpu has pipelines of its own, which come before
                said = dict(word.rsplit("=", 1) for word in words[3:])
                self.rows[self.names[-1]] = {"subgroup size": words[2], **said}
            elif kind == "skip":
                self.left_out[self.names[-1]] = words[3]
            elif kind == "error":
                self.errors[self.names[-1]] = words[3]
        # A compiler that crashes ends the list where it does.
        for name in self.names:
            if name not in self.rows and name not in self.left_out:
                self.errors.setdefault(name, "the compiler has said nothing of it")

    def cell(self, name, columns):
        """Returns a pipeline's cell of the table."""
        row = self.rows.get(name)
        return "/".join(number(row, column) for column in columns) if row else LEFT_OUT


def number(row, names):
    """Returns the sum of the statistics of these names."""
    return str(sum(int(row[name]) for name in names.split("+")))


class Table:
    """The committed table: drivers by GPU, and cells by pipeline and GPU, in the order of the rows."""

    def __init__(self, path):
        self.path, self.drivers, self.cells = path, {}, {}
        try:
            lines = open(path, encoding="utf-8").read().splitlines()
        except FileNotFoundError:
            return
        columns = []
        for line in lines:
            if line.startswith("# driver "):
                gpu, driver = line.removeprefix("# driver ").split(": ", 1)
                self.drivers[gpu] = driver
            elif line and not line.startswith("#"):
                words = line.split()
                if not columns:
                    columns = words[3:]
                else:
                    self.cells[tuple(words[:3])] = dict(zip(columns, words[3:]))

    def write(self):
        with open(self.path, "w", encoding="utf-8") as out:
            out.write(HEAD)
            for gpu in (gpu for gpu in GPUS if gpu in self.drivers):
                out.write(f"# driver {gpu}: {self.drivers[gpu]}\n")
            out.write(row_of(("kernel", "variant", "formats"), GPUS))
            for key, cells in self.cells.items():
                out.write(row_of(key, [cells.get(gpu, UNKNOWN) for gpu in GPUS]))


def row_of(key, cells):
    words = [f"{word:<{width}}" for word, width in zip(key, WIDTHS)] + [f"{cell:<18}" for cell in cells]
    return " ".join(words).rstrip() + "\n"


def bless(table, found):
    """Puts figures into the table. Its rows become those of the first GPU, in its order."""
    first = next(iter(found.values()))
    table.cells = {name: dict(table.cells.get(name, {})) for name in first.names}
    for gpu, stats in found.items():
        table.drivers[gpu] = stats.driver
        for name, cells in table.cells.items():
            cells[gpu] = stats.cell(name, GPUS[gpu])
    table.write()


def judged(old, new):
    """Returns what is worse, and what is only worth a word, in a cell that has changed."""
    if old == UNKNOWN:
        return ["it is not in the table"], []
    if LEFT_OUT in (old, new):
        return [f"it was {old}, is {new}"], []
    (_, old_waves, old_spills, old_length), (_, waves, spills, length) = (cell.split("/") for cell in (old, new))
    worse, said = [], []
    for what, before, now, is_worse in [
        ("waves", old_waves, waves, int(waves) < int(old_waves)),
        ("spills", old_spills, spills, int(spills) > int(old_spills)),
    ]:
        if before != now:
            (worse if is_worse else said).append(f"{what} {before} to {now}")
    if abs(int(length) - int(old_length)) > QUIET * int(old_length):
        said.append(f"instructions {old_length} to {length} ({int(length) / int(old_length) - 1:+.0%})")
    return worse, said


def compare(table, gpu, stats):
    """Prints what differs from the table; returns whether something is worse."""
    failed = [(name, f"does not compile: {why}") for name, why in stats.errors.items()]
    if not stats.names:
        print(f"WORSE  {gpu}: nothing was compiled")
        return True
    same = table.drivers.get(gpu) == stats.driver
    if not same:
        known = table.drivers.get(gpu, "nothing")
        print(f"*** NOT JUDGED: {gpu} has {stats.driver}, the table was made with {known} ***")
    gone = [name for name, cells in table.cells.items() if cells.get(gpu, UNKNOWN) not in (LEFT_OUT, UNKNOWN)]
    failed += [(name, "is in the table, but no pipeline any more") for name in gone if same and name not in stats.names]
    words = []
    for name in (name for name in stats.names if name not in stats.errors):
        old, now = table.cells.get(name, {}).get(gpu, UNKNOWN), stats.cell(name, GPUS[gpu])
        worse, said = judged(old, now) if old != now else ([], [])
        failed += [(name, line) for line in worse if same]
        words += [(name, line) for line in said + ([] if same else worse)]
    for name, line in words:
        print(f"       {gpu} {' '.join(name)}: {line}")
    for name, line in failed:
        print(f"WORSE  {gpu} {' '.join(name)}: {line}")
    print(f"{gpu}: {len(stats.rows)} pipelines compile, {len(stats.left_out)} are left out, {len(failed)} are worse")
    return bool(failed)


def show(stats):
    """Prints all statistics, and what was left out."""
    columns = list(dict.fromkeys(column for row in stats.rows.values() for column in row))
    print("kernel", "variant", "formats", *columns, sep="\t")
    for name, row in stats.rows.items():
        print(*name, *(row.get(column, "") for column in columns), sep="\t")
    for name, why in [*stats.left_out.items(), *stats.errors.items()]:
        print("#", *name, why, sep="\t")


def main(task, path, *pairs):
    if task == "show":
        show(Stats(path))
        return False
    table = Table(path)
    found = {gpu: Stats(file) for gpu, file in (pair.split("=", 1) for pair in pairs)}
    if task == "compare":
        return any([compare(table, gpu, stats) for gpu, stats in found.items()])
    refused = [(gpu, name) for gpu, stats in found.items() for name in stats.errors]
    refused += [(gpu, ["anything"]) for gpu, stats in found.items() if not stats.names]
    for gpu, name in refused:
        print(f"{gpu} {' '.join(name)} does not compile", file=sys.stderr)
    if not refused:
        bless(table, found)
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
