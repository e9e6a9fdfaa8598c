"""Counts the instructions of AMD's assembly by basic block: blocks.py STATS FOLDER [avoid=BLOCK,...] [trips=BLOCK:N,...].

STATS and FOLDER are what stats_layer.c has written ($GPU_STATS, $GPU_STATS_CODE) of some pipelines. For each pipeline it
prints a table of the blocks of its loops, with the number of instructions of each class, and then a path through the loop
that multiplies most: the one of a tile that lies wholly inside of its matrices. Of all paths from the loop's first block
to a branch back, that is the one with the most multiply-adds; among these the one that loads the most bytes by vectors of
64 bits or more, since a tile that reaches over an edge loads number by number, or nothing; among these the shortest.

Conditions that differ between the lanes make no branch that is taken: the code masks lanes off, and only skips a part if
no lane takes it. So where some waves take one side and some the other, the path has both: avoid=BLOCK,... leaves blocks out.
An inner loop counts as once through, unless trips=BLOCK:N,... says how often its first block is passed.

A block that no branch goes to has the name of the block before it with a number: BB7, BB7.1, BB7.2."""

import glob
import re
import sys
from dataclasses import dataclass, field

CLASSES = ["multiply", "vector", "scalar", "lds", "memory", "constant", "wait", "barrier", "branch"]
# The first pattern that matches the name of an instruction gives its class.
PATTERNS = [
    ("multiply", r"v_(dual_)?(pk_)?(fma|fmac|fmaak|fmamk|mac|dot2|dot4)(_|$)|v_mad_[fm]|v_wmma|v_swmmac|v_mfma|.*:: v_dual_fma"),
    ("lds", r"ds_"),
    ("memory", r"(t?buffer|global|flat|scratch|image)_"),
    ("constant", r"s_(buffer_)?load_"),
    ("barrier", r"s_barrier"),
    ("wait", r"s_(wait|nop|delay_alu|clause|sleep)"),
    ("branch", r"s_(cbranch|branch|endpgm|setpc|swappc)"),
    ("scalar", r"s_"),
    ("vector", r"v_"),
]
# A block whose instructions are multiply-adds to at least this share is there to multiply.
MULTIPLYING = 0.25


@dataclass
class Block:
    """A basic block: its instructions, and the names of the blocks that may follow."""

    name: str
    code: list = field(default_factory=list)
    next: list = field(default_factory=list)

    def count(self):
        """Returns the number of instructions of each class."""
        classes = [class_of(line) for line in self.code]
        return {name: classes.count(name) for name in CLASSES}

    def multiplies(self):
        """Whether its work is to multiply, not to load, store or count."""
        return self.count()["multiply"] >= MULTIPLYING * len(self.code)

    def wide_bytes(self):
        """Returns the bytes that a lane loads from buffers by vectors of 64 bits or more."""
        widths = [re.match(r"(?:buffer|global)_load_(?:b|dwordx)(\d+)", line) for line in self.code]
        bits = [int(w[1]) * (32 if "dword" in w[0] else 1) for w in widths if w]
        return sum(b // 8 for b in bits if b >= 64)


def class_of(line):
    return next((name for name, pattern in PATTERNS if re.match(pattern, line)), "vector")


def blocks_of(text):
    """Cuts assembly into blocks, in the order of the code: at labels, and behind branches."""
    blocks, label, part = [Block("BB0")], "BB0", 0
    ended = False
    for line in text.splitlines():
        mark = re.match(r"(BB\d+):", line)
        words = re.match(r"\s+([a-z]\w+.*?)\s*(;|$)", line)
        if mark:
            label, part = mark[1], 0
            if blocks[-1].code:
                blocks.append(Block(label))
            blocks[-1].name = label
            ended = False
        elif words:
            if ended:
                part += 1
                blocks.append(Block(f"{label}.{part}"))
                ended = False
            blocks[-1].code.append(words[1])
            ended = class_of(words[1]) == "branch"
    for block, after in zip(blocks, blocks[1:] + [None]):
        last = block.code[-1] if block.code else ""
        target = re.search(r"\bBB\d+", last) if class_of(last) == "branch" else None
        falls = after and not re.match(r"s_(branch|endpgm|setpc)", last)
        block.next = ([target[0]] if target else []) + ([after.name] if falls else [])
    return blocks


def walked(following, first):
    """Walks from a block to those that follow it, depth first; returns their names in an order in which each comes before
    those that follow it, but for branches back, and the branches back: from where, to where."""
    seen, open_blocks, done, back = {first}, {first}, [], []
    stack = [(first, iter(following[first]))]
    while stack:
        name, rest = stack[-1]
        for after in rest:
            if after in open_blocks:
                back.append((name, after))
            elif after not in seen:
                seen.add(after)
                open_blocks.add(after)
                stack.append((after, iter(following[after])))
                break
        else:
            open_blocks.remove(name)
            done.append(name)
            stack.pop()
    return done[::-1], back


def loops_of(blocks, back):
    """Returns the loops, a set of blocks by the name of the first block: from there blocks are reached that branch back."""
    before = {block.name: [b.name for b in blocks if block.name in b.next] for block in blocks}
    loops = {}
    for end, head in back:
        inside, todo = loops.setdefault(head, {head}), [end]
        while todo:
            name = todo.pop()
            if name not in inside:
                inside.add(name)
                todo += before[name]
    return loops


def once_through(following, loops, back, main):
    """Returns what follows each block if every loop but `main` is passed once: a branch back to it leaves it instead."""
    changed = dict(following)
    for end, head in back:
        if head != main:
            leaves = [after for name in loops[head] for after in following[name] if after not in loops[head]]
            changed[end] = [after for after in changed[end] if after != head] + leaves
    return changed


def path_inside(by_name, following, head, inside, avoid):
    """Returns the names of the blocks on the path of a tile that lies wholly inside: see the head of this file."""
    order, _ = walked(following, head)
    best = {head: ((0, 0, 0), None)}  # the score of the best path up to a block, without it, and the block before
    ends = []
    for name in order:
        if name not in best or name not in inside or name in avoid:
            continue
        block = by_name[name]
        own = (block.count()["multiply"], block.wide_bytes(), -len(block.code))
        score = tuple(a + b for a, b in zip(best[name][0], own))
        for after in following[name]:
            if after == head:
                ends.append((score, name))
            elif after not in best or score > best[after][0]:
                best[after] = (score, name)
    if not ends:
        return []
    path, name = [], max(ends)[1]
    while name:
        path.append(name)
        name = best[name][1]
    return path[::-1]


def total(blocks, trips):
    """Returns the counts of some blocks together, each as often as it is passed."""
    counts = [(block.count(), trips.get(block.name, 1)) for block in blocks]
    return {name: sum(count[name] * n for count, n in counts) for name in CLASSES}


def show_head(label, note=""):
    print(f"{label:<26}{'all':>7}{''.join(f'{name:>9}' for name in CLASSES)}  {note}".rstrip())


def show(label, counts, note=""):
    cells = "".join(f"{counts[name]:>9}" for name in CLASSES)
    print(f"{label:<26}{sum(counts.values()):>7}{cells}  {note}".rstrip())


def depth_of(name, loops):
    return sum(name in inside for inside in loops.values())


def report(name, text, avoid, trips):
    """Prints the blocks of a pipeline's loops, and the path of a tile that lies wholly inside."""
    blocks = blocks_of(text)
    following = {block.name: block.next for block in blocks}
    _, back = walked(following, blocks[0].name)
    loops = loops_of(blocks, back)
    by_name = {block.name: block for block in blocks}
    print(f"\n{name}: {sum(len(b.code) for b in blocks)} instructions, {len(blocks)} blocks, {len(loops)} loops")
    if not loops:
        show("all", total(blocks, {}))
        return
    outer = [head for head in loops if depth_of(head, loops) == 1]
    main = max(outer, key=lambda head: total([by_name[b] for b in loops[head]], {})["multiply"])
    path = path_inside(by_name, once_through(following, loops, back, main), main, loops[main], avoid)
    # An inner loop passes all its blocks as often as its first one.
    often = {block: n for head, n in trips.items() for block in loops.get(head, {head})}

    show_head("block (* on the path)", "then")
    for block in (b for b in blocks if b.name in loops[main]):
        inner = "loop " if block.name in loops and block.name != main else ""
        star = "*" if block.name in path else " "
        show(f"{star}{'  ' * depth_of(block.name, loops)}{block.name}", block.count(), inner + " ".join(block.next))
    steps = [by_name[b] for b in path]
    show_head("once through")
    show("  blocks that multiply", total([b for b in steps if b.multiplies()], often))
    show("  the rest of the path", total([b for b in steps if not b.multiplies()], often))
    show("the path, wholly inside", total(steps, often))
    show("all blocks of the loop", total([by_name[b] for b in loops[main]], {}))
    for head in (h for h in path if h in loops and h != main and h not in trips):
        print(f"(The inner loop from {head} on counts as once through: trips={head}:N.)")


def names_of(stats):
    """Returns the names of the pipelines by their numbers."""
    names, name = {}, None
    for line in open(stats):
        words = line.rstrip("\n").split("\t")
        if words[0] == "kernel":
            name = " ".join(words[1:])
        elif words[0] == "stat" and name:  # wgpu has pipelines of its own, which come before
            names[int(words[1])] = name
    return names


if __name__ == "__main__":
    stats, folder = sys.argv[1:3]
    options = dict(word.split("=", 1) for word in sys.argv[3:])
    avoid = set(options.get("avoid", "").split(","))
    trips = {head: int(n) for head, n in (pair.split(":") for pair in options.get("trips", "").split(",") if pair)}
    for number, name in names_of(stats).items():
        for path in sorted(glob.glob(f"{folder}/{number:04d}-*-Assembly.txt")):
            report(name, open(path).read(), avoid, trips)
