"""Writes what lm-evaluation-harness' own `hf` backend says of the model in scored/, for serve_scored.py to compare with:

    python make_scored.py      in an environment with lm_eval, torch and transformers

The model is a tiny one: wgpt train --vocab 400 --layers 1 --heads 2 --embd 32 --context 64 --batch-size 8 --max-iters 400.
"""

import importlib.metadata
import json
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from questions import TEXTS, pairs, questions

FOLDER = Path(__file__).parent / "scored"


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


def said(model, context):
    """Returns two tokens that the model itself goes on with, as text; empty if they are none."""
    ids = model.tokenizer(context, return_tensors="pt").input_ids
    out = model.model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
    text = model.tokenizer.decode(out[0, ids.shape[1] :])
    return "" if "\ufffd" in text else text


def main():
    model = HFLM(pretrained=str(FOLDER), device="cpu", dtype="float32", batch_size=1)
    contexts = [question["context"] for question in questions()[:30]]
    own = [(context, said(model, context)) for context in contexts]
    all = pairs() + [pair for pair in own if pair[1]]
    scores = model.loglikelihood(requests("loglikelihood", all), disable_tqdm=True)
    texts = model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS]), disable_tqdm=True)
    versions = {name: importlib.metadata.version(name) for name in ["lm_eval", "torch", "transformers"]}
    rows = [[*pair, logprob, is_greedy] for pair, (logprob, is_greedy) in zip(all, scores, strict=True)]
    scored = {"versions": versions, "pairs": rows, "texts": [list(one) for one in zip(TEXTS, texts)]}
    (FOLDER / "loglikelihoods.json").write_text(json.dumps(scored, ensure_ascii=False, indent=0) + "\n")


main()
