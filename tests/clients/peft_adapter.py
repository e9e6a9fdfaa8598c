#!/usr/bin/env python3
"""Do adapters that `wgpt train --lora-rank` wrote load in PEFT, and PEFT's in wgpt?

    python tests/clients/peft_adapter.py FOLDER

FOLDER is the model that adapters are trained for here, on little stories.
Exit codes: 0 yes, 1 something differs, 77 torch, transformers or peft is missing.
"""

import json
import os
import sys
import tempfile

from common import Checks, need, ours, wgpt

torch, transformers, peft = need("torch", "transformers", "peft")
# Of the largest logit: f32 in another order of summation.
TOLERANCE = 1e-4
TARGETS = {
    "gpt2": [["c_attn"], ["c_attn", "c_proj", "c_fc"], ["mlp.c_proj", "h.0.attn.c_proj"], ["all-linear"]],
    "llama": [["q_proj", "v_proj"], ["mlp.down_proj", "layers.0.self_attn.o_proj"], ["all-linear"]],
    "gpt_neox": [["query_key_value"], ["mlp.dense_4h_to_h", "layers.0.attention.dense"], ["all-linear"]],
}


def main(folder):
    checks = Checks()
    folder = os.path.abspath(folder)
    config = json.load(open(f"{folder}/config.json"))
    ids = [(7 * i * i + 3 * i) % config["vocab_size"] for i in range(config.get("n_positions") or config["max_position_embeddings"])]

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    def logits(model):
        with torch.no_grad():
            return model.eval()(torch.tensor([ids])).logits[0]

    def compare(name, model, path):
        theirs, unadapted = logits(model), logits(base())
        error = (torch.tensor(ours(path, ids)[0]) - theirs).abs().max() / theirs.abs().max()
        good = bool(error <= TOLERANCE)
        checks.that(f"{name}: logits within {TOLERANCE:g} of the largest", good, f"{error:.2e}")
        moved = (theirs - unadapted).abs().max() / unadapted.abs().max()
        checks.that(f"{name}: other logits than without", bool(moved > 10 * TOLERANCE), f"{moved:.2e}")

    with tempfile.TemporaryDirectory() as temporary:
        is_gpt2 = config["model_type"] == "gpt2"
        for i, targets in enumerate(TARGETS.get(config["model_type"], TARGETS["llama"])):
            run = f"{temporary}/run-{i}"
            options = ["--lora-rank=4", "--lora-alpha=6", f"--lora-targets={','.join(targets)}"]
            sizes = ["--max-iters=30", "--eval-every=10", "--batch-size=4", "--lr=1e-2", "--device=cpu"]
            wgpt("train", f"--init={folder}", f"--out={run}", "--json", *options, *sizes)
            name = f"ours, {' '.join(targets)}"
            compare(name, peft.PeftModel.from_pretrained(base(), f"{run}/best"), f"{run}/best")
            # By the name of the model that the adapters have.
            auto = peft.AutoPeftModelForCausalLM.from_pretrained(f"{run}/best")
            checks.that(f"{name}: PEFT finds the model", bool((logits(auto) != logits(base())).any()))

            modules = targets[0] if targets == ["all-linear"] else targets
            settings = peft.LoraConfig(
                r=3, lora_alpha=7, target_modules=modules, fan_in_fan_out=is_gpt2, task_type="CAUSAL_LM"
            )
            torch.manual_seed(i)
            model = peft.get_peft_model(base(), settings)
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    torch.nn.init.normal_(parameter, std=0.2)
            model.save_pretrained(f"{temporary}/theirs-{i}")
            compare(f"theirs, {' '.join(targets)}", model, f"{temporary}/theirs-{i}")
    checks.end()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
