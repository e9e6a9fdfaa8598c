"""lm-evaluation-harness, as it is, against `wgpt serve`, without a tokenizer: multiple choice and perplexity on files that this
script makes, compared with `wgpt eval`.

    python serve_lm_eval.py http://127.0.0.1:8000/v1 MODEL_FOLDER
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import urllib.request
from array import array
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
try:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    import aiohttp, tenacity  # noqa: F401, E401
except ImportError as missing:
    print(f"SKIPPED: {missing}", file=sys.stderr)
    sys.exit(77)

WGPT = Path(os.environ["WGPT_BIN"]) / "wgpt"
from questions import TEXTS, questions

TOLERANCE = 1e-4

CHOICES_TASK = """
task: local_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
TEXTS_TASK = """
task: local_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""


def lines(path, objects):
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def wgpt_eval(*arguments):
    out = subprocess.run([WGPT, "eval", *arguments, "--device", "cpu", "--json"], check=True, capture_output=True)
    return json.loads(out.stdout)


def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def ids(base, text):
    body = {"prompt": text, "add_special_tokens": False}
    return ask(base.removesuffix("/v1") + "/tokenize", body)["tokens"]


def greedy_questions(base):
    """Questions among whose choices is what the model itself says."""
    made = []
    for question in questions()[:30]:
        body = {"prompt": question["context"], "max_tokens": 2, "temperature": 0}
        said = ask(base + "/completions", body)["choices"][0]["text"]
        if said and "\ufffd" not in said:
            made.append({**question, "choices": [said, *question["choices"]], "answer": 0})
    return made


def main():
    base, model = sys.argv[1], sys.argv[2]
    with urllib.request.urlopen(base + "/models") as answer:
        served = json.load(answer)["data"][0]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        os.environ["HF_HOME"] = str(folder / "hf")
        choices = lines(folder / "choices.jsonl", questions() + greedy_questions(base))
        texts = lines(folder / "texts.jsonl", [dict(text=text) for text in TEXTS])
        (folder / "choices.yaml").write_text(CHOICES_TASK.format(file=choices))
        (folder / "texts.yaml").write_text(TEXTS_TASK.format(file=texts))
        arguments = f"model={served['id']},base_url={base}/completions,max_length={served['max_model_len']}"
        for more in ["", ",num_concurrent=4,batch_size=3"]:
            results = simple_evaluate(
                model="local-completions",
                model_args=arguments + more,
                tasks=["local_choices", "local_texts"],
                task_manager=TaskManager(include_path=str(folder), include_defaults=False),
                bootstrap_iters=0,
            )
            compare(results, choices, base, model)


def compare(results, choices, base, model):
    """Compares what the harness found with what `wgpt eval` finds."""
    ours = wgpt_eval("choices", str(choices), "--model", model, "--delimiter", "")
    theirs = results["results"]["local_choices"]
    for name in ["acc", "acc_norm"]:
        assert abs(ours[name] - theirs[f"{name},none"]) < 1e-9, (name, ours[name], theirs)
    greedy = [bool(one[1]) for sample in results["samples"]["local_choices"] for one in sample["filtered_resps"]]
    assert 0 < sum(greedy) < len(greedy), "some choices are the model's own, others are not"
    print(f"multiple choice: acc {ours['acc']}, acc_norm {ours['acc_norm']} in both, {sum(greedy)} of {len(greedy)} greedy")

    # The harness puts the end-of-text token before a text, and so scores its first token too.
    nats = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for i, text in enumerate(TEXTS):
            path = Path(folder) / f"{i}.bin"
            # 16 bits an id, as nanoGPT writes them.
            path.write_bytes(array("H", ids(base, "<|endoftext|>" + text)).tobytes())
            nats += wgpt_eval(str(path), "--model", model)["total"]["nll_sum"]
    ours = nats / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    theirs = results["results"]["local_texts"]["bits_per_byte,none"]
    assert abs(ours - theirs) <= TOLERANCE * ours, (ours, theirs)
    print(f"perplexity: {theirs:.6f} bits per byte, wgpt eval {ours:.6f}")


main()
