"""Writes what lm-evaluation-harness' own `hf` backend says of the model in scored/, for serve_scored.py to compare with:

    python make_scored.py      in an environment with lm_eval, torch and transformers

The model is a tiny one: wgpt train --vocab 400 --layers 1 --heads 2 --embd 32 --context 64 --batch-size 8 --max-iters 400.
"""

import importlib.metadata
import json
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import scores

FOLDER = Path(__file__).parent / "scored"


def main():
    rows, texts = scores.of_folder(FOLDER)
    versions = {name: importlib.metadata.version(name) for name in ["lm_eval", "torch", "transformers"]}
    scored = {"versions": versions, "pairs": rows, "texts": texts}
    (FOLDER / "loglikelihoods.json").write_text(json.dumps(scored, ensure_ascii=False, indent=0) + "\n")


main()
