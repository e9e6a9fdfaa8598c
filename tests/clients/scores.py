"""Log-likelihoods by lm-evaluation-harness: of a model that a server has, and of a folder by the harness' own `hf` backend."""

import json
import urllib.request

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from questions import TEXTS, pairs, questions

TOLERANCE = 1e-4


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


def said(model, context):
    """Returns two tokens that the model itself goes on with, as text; empty if they are none."""
    ids = model.tokenizer(context, return_tensors="pt").input_ids
    out = model.model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
    text = model.tokenizer.decode(out[0, ids.shape[1] :])
    return "" if "\ufffd" in text else text


def of_folder(folder):
    """Returns what the `hf` backend says of a model: rows of context, continuation, log-likelihood, whether it is greedy; and of
    text, log-likelihood."""
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    contexts = [question["context"] for question in questions()[:30]]
    own = [(context, said(model, context)) for context in contexts]
    all = pairs() + [pair for pair in own if pair[1]]
    scores = model.loglikelihood(requests("loglikelihood", all), disable_tqdm=True)
    texts = model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS]), disable_tqdm=True)
    rows = [[*pair, logprob, is_greedy] for pair, (logprob, is_greedy) in zip(all, scores, strict=True)]
    return rows, [list(one) for one in zip(TEXTS, texts)]


def compare(base, wanted_pairs, wanted_texts):
    """Compares what a server answers with rows as `of_folder` returns them."""
    with urllib.request.urlopen(base + "/models") as answer:
        served = json.load(answer)["data"][0]
    for more in [{}, {"num_concurrent": 4, "batch_size": 3}]:
        model = LocalCompletionsAPI(
            model=served["id"], base_url=base + "/completions", max_length=served["max_model_len"], **more
        )
        pairs = [(context, continuation) for context, continuation, _, _ in wanted_pairs]
        scores = model.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
        texts = [(text,) for text, _ in wanted_texts]
        rolling = model.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
        worst = 0.0
        found = [(*pair, *score) for pair, score in zip(pairs, scores)]
        for (*pair, logprob, is_greedy), (_, _, theirs, theirs_greedy) in zip(found, wanted_pairs, strict=True):
            worst = max(worst, abs(logprob - theirs))
            assert abs(logprob - theirs) <= TOLERANCE, (pair, logprob, theirs)
            assert is_greedy == theirs_greedy, pair
        for ours, (text, theirs) in zip(rolling, wanted_texts, strict=True):
            worst = max(worst, abs(ours - theirs))
            assert abs(ours - theirs) <= TOLERANCE, (text, ours, theirs)
        greedy = sum(is_greedy for _, is_greedy in scores)
        assert 0 < greedy < len(scores), "some continuations are the model's own, others are not"
        print(f"{len(pairs)} pairs and {len(texts)} texts: within {worst:.1e} of the hf backend, {greedy} greedy")
