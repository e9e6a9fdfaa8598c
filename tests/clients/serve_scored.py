"""lm-evaluation-harness, as it is, against `wgpt serve`, without a tokenizer: the log-likelihoods of the model in scored/, beside
those that the harness' own `hf` backend gave (make_scored.py).

    python serve_scored.py http://127.0.0.1:8000/v1
"""

import json
import os
import sys
import urllib.request
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
try:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI
except ImportError as missing:
    print(f"SKIPPED: {missing}", file=sys.stderr)
    sys.exit(77)

TOLERANCE = 1e-4


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


def main():
    base = sys.argv[1]
    wanted = json.loads((Path(__file__).parent / "scored" / "loglikelihoods.json").read_text())
    with urllib.request.urlopen(base + "/models") as answer:
        served = json.load(answer)["data"][0]
    for more in [{}, {"num_concurrent": 4, "batch_size": 3}]:
        model = LocalCompletionsAPI(
            model=served["id"], base_url=base + "/completions", max_length=served["max_model_len"], **more
        )
        pairs = [(context, continuation) for context, continuation, _, _ in wanted["pairs"]]
        scores = model.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
        texts = [(text,) for text, _ in wanted["texts"]]
        rolling = model.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
        worst = 0.0
        found = [(*pair, *score) for pair, score in zip(pairs, scores)]
        for (*pair, logprob, is_greedy), (_, _, theirs, theirs_greedy) in zip(found, wanted["pairs"], strict=True):
            worst = max(worst, abs(logprob - theirs))
            assert abs(logprob - theirs) <= TOLERANCE, (pair, logprob, theirs)
            assert is_greedy == theirs_greedy, pair
        for ours, (text, theirs) in zip(rolling, wanted["texts"], strict=True):
            worst = max(worst, abs(ours - theirs))
            assert abs(ours - theirs) <= TOLERANCE, (text, ours, theirs)
        greedy = sum(is_greedy for _, is_greedy in scores)
        assert 0 < greedy < len(scores), "some continuations are the model's own, others are not"
        print(f"{len(pairs)} pairs and {len(texts)} texts: within {worst:.1e} of the hf backend, {greedy} greedy")


main()
