#!/usr/bin/env python3
"""Does a folder that `wgpt train` wrote load in Hugging Face's transformers, as it is and exported?

    python tests/clients/transformers_loads.py FOLDER

Exit codes: 0 yes, 1 something differs, 77 torch or transformers is missing.
"""

import json
import os
import sys
import tempfile

from common import TORTURE, Checks, need, ours, wgpt

torch, transformers = need("torch", "transformers")
# Of the largest logit: f32 in another order of summation.
TOLERANCE = 1e-4


def main(folder):
    checks = Checks()
    config = json.load(open(f"{folder}/config.json"))
    ids = [(7 * i * i + 3 * i) % config["vocab_size"] for i in range(config.get("n_positions") or config["max_position_embeddings"])]
    has_tokenizer = os.path.exists(f"{folder}/tokenizer.json")

    def compare(name, path, dtype):
        loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
            path, output_loading_info=True
        )
        unmatched = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
        if config.get("tie_word_embeddings", True):
            unmatched = [key for key in unmatched if key != "lm_head.weight"]
        checks.that(f"{name}: every tensor has its place", not unmatched, str(unmatched or ""))
        checks.that(f"{name}: dtype {dtype}", loaded.dtype == dtype, str(loaded.dtype))
        with torch.no_grad():
            theirs = loaded.float().eval()(torch.tensor([ids])).logits[0]
        # Rounded weights are widened by both; what is compared is the arithmetic in f32.
        logits, encoded = ours(path, ids, TORTURE if has_tokenizer else [])
        error = (torch.tensor(logits) - theirs).abs().max() / theirs.abs().max()
        checks.that(f"{name}: logits within {TOLERANCE:g} of the largest", bool(error <= TOLERANCE), f"{error:.2e}")
        if has_tokenizer:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            wrong = [t for t, e in zip(TORTURE, encoded) if tokenizer.encode(t) != e]
            checks.that(f"{name}: ids of {len(TORTURE)} strings", not wrong, repr(wrong) if wrong else "")
            back = [t for t in TORTURE if tokenizer.decode(tokenizer.encode(t)) != t]
            checks.that(f"{name}: decoded again", not back, repr(back) if back else "")
            end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
            checks.that(f"{name}: ends with <|endoftext|>", tokenizer.eos_token_id == end == loaded.generation_config.eos_token_id)
        start = torch.tensor([ids[:3]])
        new = loaded.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=5, do_sample=False, pad_token_id=0)
        checks.that(f"{name}: generates", new.shape[1] > 3, str(new[0, 3:].tolist()))

    compare("as trained", folder, torch.float32)
    with tempfile.TemporaryDirectory() as temporary:
        exports = [
            ("f32", torch.float32, []),
            ("f16", torch.float16, ["--dtype=f16"]),
            ("bf16", torch.bfloat16, ["--dtype=bf16"]),
            ("sharded", torch.float32, ["--max-shard-size=40KB"]),
            ("sharded bf16", torch.bfloat16, ["--dtype=bf16", "--max-shard-size=20KB"]),
        ]
        for name, dtype, options in exports:
            path = f"{temporary}/{name}"
            said = json.loads(wgpt("export", "--model", folder, "--out", path, "--json", *options))
            shards = [file for file in said["files"] if file.endswith(".safetensors")]
            wanted = "model.safetensors.index.json" in said["files"]
            checks.that(f"{name}: {len(shards)} file(s) of weights", (len(shards) > 1) == wanted == ("sharded" in name))
            compare(name, path, dtype)
            card(checks, f"{name}: card", f"{path}/README.md")
    checks.end()


def card(checks, name, path):
    """Whether the card's head is what the hub reads."""
    try:
        from huggingface_hub import ModelCard
    except ImportError:
        return
    data = ModelCard.load(path).data
    good = (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    checks.that(name, good, str(data.to_dict()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
