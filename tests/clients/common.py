"""What the client scripts share: packages that may be missing, running wgpt, comparisons."""

import importlib
import json
import os
import subprocess
import sys

MISSING = 77
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Blanks, line ends, contractions, digits, scripts without blanks, combining and astral characters, the special token, a NUL.
TORTURE = [
    "",
    " ",
    "Once upon a time",
    "  two  blanks  \n\n\n and\tlines\r\n",
    "I'm you're he'd we'll they've IT'S 'tis",
    "3.14159 12,345 ½ Ⅷ ٣",
    "naïve café — “quoted” … ¿qué?",
    "日本語とかな、中文，한국어",
    "मानक हिन्दी ไทย العربية עברית",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b\u00a0\u3000x",
    "<|endoftext|>a<|endoftext|><|endoftext|> b",
    "<|endoftext|",
    "\x00\x01\x7f\x85\ufeff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "def f(x):\n    return x**2  # comment\n",
]


def need(*names):
    """The modules of these names; says which is missing and ends with a code of its own."""
    found = []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            print(f"SKIPPED: {error}; pip install {' '.join(names)}", file=sys.stderr)
            sys.exit(MISSING)
    return found


def program(name):
    """A binary of a debug or release build: WGPT_BIN names the folder if it is another."""
    folders = [os.environ.get("WGPT_BIN"), f"{ROOT}/target/release", f"{ROOT}/target/debug"]
    for path in (f"{folder}/{name}" for folder in folders if folder):
        if os.path.exists(path):
            return path
    print(f"{name} is not built: cargo build --examples --bins", file=sys.stderr)
    sys.exit(1)


def wgpt(*args):
    """Runs wgpt; its output."""
    return subprocess.run([program("wgpt"), *args], check=True, capture_output=True, text=True).stdout


def ours(folder, ids, texts=()):
    """Logits of the ids and ids of the texts, as wgpt has them."""
    request = json.dumps({"ids": list(ids), "texts": list(texts)})
    command = [program("examples/logits"), folder]
    out = subprocess.run(command, input=request, check=True, capture_output=True, text=True).stdout
    answer = json.loads(out)
    return answer["logits"], answer["encoded"]


class Checks:
    """Counts what differs, and goes on."""

    def __init__(self):
        self.failed = 0

    def that(self, what, good, detail=""):
        print(f"{'ok  ' if good else 'FAIL'} {what}{f'  {detail}' if detail else ''}")
        self.failed += not good

    def end(self):
        sys.exit(1 if self.failed else 0)
