#!/usr/bin/env python3
"""Does llama.cpp itself, in the package xllamacpp, run a file of `wgpt export --gguf`?

    python tests/clients/llama_cpp_loads.py FOLDER

Exit codes: 0 yes, 1 something differs, 77 xllamacpp or torch is missing.
"""

import json
import os
import shutil
import sys
import tempfile
import urllib.request

from common import TORTURE, Checks, need, ours, wgpt

xllamacpp, torch = need("xllamacpp", "torch")
PROMPT = "Once upon a time"
NEW = 16
# The largest difference of a log-probability among the likeliest five. Its cache of keys and values is in f16, so that
# f32 is not exact either.
TOLERANCES = {"f32": 5e-3, "f16": 1e-2, "bf16": 5e-2, "q8_0": 1e-1}
# It takes GELU by tanh in every GPT-NeoX. The forms differ by at most 4.8e-4, which makes 1.3e-3 of a log-probability of
# tests/oracle/families/gpt_neox: this much more may one differ from that of a model with the exact form.
FORM_OF_GELU = 5e-3


def main(folder):
    checks = Checks()
    for dtype, tolerance in TOLERANCES.items():
        with tempfile.TemporaryDirectory() as temporary:
            path = f"{temporary}/model.gguf"
            wgpt("export", "--model", folder, "--gguf", path, "--dtype", dtype)
            config = json.load(open(f"{folder}/config.json"))
            server = serve(path, config.get("n_positions") or config["max_position_embeddings"])
            check_ids(checks, dtype, server, folder)
            computed = folder
            if config["model_type"] == "gpt_neox":
                computed = by_tanh(folder, config, f"{temporary}/by_tanh")
                check_logprobs(checks, f"{dtype}, as it is", server, folder, tolerance + FORM_OF_GELU)
            check_logprobs(checks, dtype, server, computed, tolerance)
            del server
    checks.end()


def by_tanh(folder, config, copy):
    """A copy of a model that has the same weights and takes GELU by tanh."""
    shutil.copytree(folder, copy)
    with open(f"{copy}/config.json", "w") as file:
        json.dump(config | {"hidden_act": "gelu_new"}, file)
    return copy


def serve(path, context):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = context, 1, False, 0
    params.cpuparams.n_threads = min(4, os.cpu_count())
    return xllamacpp.Server(params)


def as_json(answer):
    return json.loads(answer) if isinstance(answer, str) else answer


def check_ids(checks, dtype, server, folder):
    """Whether it cuts texts into the same tokens."""
    # It ends a text at a NUL.
    texts = [text for text in TORTURE if "\0" not in text]
    _, encoded = ours(folder, [0], texts)
    wrong = [(text, got, ids) for text, ids in zip(texts, encoded) if (got := tokenize(server, text)) != ids]
    checks.that(f"{dtype}: ids of {len(texts)} strings", not wrong, repr(wrong) if wrong else "")


def tokenize(server, text):
    """The ids of a text; the server answers this over HTTP alone."""
    body = json.dumps({"content": text, "parse_special": True, "add_special": False}).encode()
    request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


def check_logprobs(checks, dtype, server, folder, tolerance):
    """Whether it finds the likeliest tokens as likely as we do, along a continuation of its own."""
    asked = {"prompt": PROMPT, "temperature": 0.0, "max_tokens": NEW, "n_predict": NEW, "logprobs": 5, "n_probs": 5}
    choice = as_json(server.handle_completions(asked))["choices"][0]
    tokens = choice["logprobs"]["content"]
    _, [prompt] = ours(folder, [0], [PROMPT])
    new = [token["id"] for token in tokens]
    logits, _ = ours(folder, prompt + new)
    rows = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), dim=-1)[len(prompt) - 1 :]
    worst = max(
        abs(float(row[top["id"]]) - top["logprob"]) for token, row in zip(tokens, rows) for top in token["top_logprobs"]
    )
    checks.that(f"{dtype}: log-probabilities within {tolerance:g}", len(new) > 0 and worst <= tolerance, f"{worst:.1e}")
    if dtype == "f32":
        greedy = [int(row.argmax()) for row in rows[: len(new)]]
        checks.that("f32: the greedy continuation", greedy == new, repr(choice["text"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
