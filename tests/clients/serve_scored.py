"""lm-evaluation-harness, as it is, against `wgpt serve`, without a tokenizer: the log-likelihoods of a model beside those of the
harness' own `hf` backend: the stored ones of the model in scored/ (make_scored.py), or those of a folder, computed now.

    python serve_scored.py http://127.0.0.1:8000/v1 [MODEL_FOLDER]
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
try:
    import scores

    if len(sys.argv) > 2:
        import torch, transformers  # noqa: F401, E401
except ImportError as missing:
    print(f"SKIPPED: {missing}", file=sys.stderr)
    sys.exit(77)


def main():
    base, *folder = sys.argv[1:]
    if folder:
        scores.compare(base, *scores.of_folder(folder[0]))
    else:
        stored = json.loads((Path(__file__).parent / "scored" / "loglikelihoods.json").read_text())
        scores.compare(base, stored["pairs"], stored["texts"])


main()
