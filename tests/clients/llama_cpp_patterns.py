#!/usr/bin/env python3
"""Does llama.cpp cut texts as we do, by the name of the pattern that `wgpt export --gguf` writes?

    python tests/clients/llama_cpp_patterns.py FOLDER

Exit codes: 0 yes, 1 something differs, 77 xllamacpp is missing.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request

from common import TORTURE, Checks, need, program, wgpt

(xllamacpp,) = need("xllamacpp")
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CL100K = (
    CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def bytes_stage(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(regex):
    stage = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [stage, bytes_stage(False)]}


# By name: the pre-tokenizer, and whether merges are ignored where a piece is a token.
NAMES = {
    "gpt-2": (bytes_stage(True), False),
    "dbrx": (split(CL100K), False),
    "llama-bpe": (split(CL100K), True),
    "qwen2": (split(CL100K.replace("{1,3}", "")), False),
    "gpt-4o": (split(O200K), False),
    "smollm": (
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_stage(True)]},
        False,
    ),
}


def main(folder):
    checks = Checks()
    for name, (pre_tokenizer, ignore_merges) in NAMES.items():
        with tempfile.TemporaryDirectory() as temporary:
            model, path = f"{temporary}/model", f"{temporary}/model.gguf"
            shutil.copytree(folder, model)
            tokenizer = json.load(open(f"{model}/tokenizer.json"))
            tokenizer["pre_tokenizer"], tokenizer["model"]["ignore_merges"] = pre_tokenizer, ignore_merges
            json.dump(tokenizer, open(f"{model}/tokenizer.json", "w"))
            wgpt("export", "--model", model, "--gguf", path)
            check_ids(checks, name, model, path)
    checks.end()


def check_ids(checks, name, model, path):
    """Whether the name is in the file, and texts have the same ids. A NUL ends a text there; marks it knows otherwise."""
    length = len(name).to_bytes(8, "little")
    file = open(path, "rb").read()
    checks.that(f"{name} is in the file", b"tokenizer.ggml.pre\x08\0\0\0" + length + name.encode() in file)
    texts = [text for text in TORTURE if text and "\0" not in text]
    if name == "gpt-4o":
        texts = [text for text in texts if text.isascii()]
    server = serve(path)
    wrong = [(text, theirs, ids) for text in texts if (theirs := tokenize(server, text)) != (ids := ours(model, text))]
    checks.that(f"{name}: ids of {len(texts)} strings", not wrong, repr(wrong) if wrong else "")


def ours(model, text):
    command = [program("wgpt"), "tokenizer", "encode", "--tokenizer", model]
    out = subprocess.run(command, input=text.encode(), check=True, capture_output=True).stdout
    return [int(id) for id in out.split()]


def serve(path):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 32, 1, False, 0
    params.cpuparams.n_threads = min(4, os.cpu_count())
    return xllamacpp.Server(params)


def tokenize(server, text):
    body = json.dumps({"content": text, "parse_special": True, "add_special": False}).encode()
    request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
