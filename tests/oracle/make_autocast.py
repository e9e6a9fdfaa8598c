"""Measures how far the gradients of PyTorch's autocast in bf16 are from those in float64: tests/oracle/autocast_bf16.json.

    python -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.24.0 numpy==2.4.6
    venv/bin/python tests/oracle/make_autocast.py

The models and the gradients in float64 are those of this folder. Weights are in float32; forward and backward pass run on
the CPU under `torch.autocast("cpu", torch.bfloat16)`, the loss in float32, as autocast has it. For each model the file has
the loss's relative error, that of all gradients as one vector (`all`), and the mean over all tensors of the relative error
of each (`mean`), both by Euclidean norms. The K third of GPT-2's c_attn.bias, whose gradient is 0, is left out of `mean`.
"""

import json
import math
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
MODELS = [HERE / name for name in ("gpt2_tiny_a", "gpt2_tiny_b", "gpt2_tiny_c")]
MODELS += [HERE / "families" / name for name in ("llama_bias", "mistral_window", "qwen2", "qwen3", "gpt_neox")]


def name_in_file(name, wanted):
    """Returns the name that the reference has for a parameter of the library."""
    return name if name in wanted else name.replace("lm_head.", "embed_out.")


def without_keys(name, gradient):
    """Returns a gradient without the part that is 0 but for rounding."""
    if not name.endswith("attn.c_attn.bias"):
        return gradient
    third = gradient.numel() // 3
    return torch.cat((gradient[:third], gradient[2 * third:]))


def errors(folder):
    expect = load_file(folder / "expect.safetensors")
    wanted = {name[5:]: value.double() for name, value in expect.items() if name.startswith("grad.")}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(expect["tokens"], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), expect["targets"].flatten())
    loss.backward()
    squares, total, each = 0.0, 0.0, []
    for name, parameter in model.named_parameters():
        name = name_in_file(name, wanted)
        got, want = parameter.grad.double(), wanted[name]
        squares += (got - want).square().sum().item()
        total += want.square().sum().item()
        got, want = without_keys(name, got), without_keys(name, want)
        each.append(((got - want).norm() / want.norm()).item())
    assert len(each) == len(wanted), folder
    want = expect["loss"].item()
    return {"loss": abs(loss.item() - want) / want, "all": math.sqrt(squares / total), "mean": sum(each) / len(each)}


def main():
    torch.set_num_threads(1)
    result = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "errors": {folder.name: errors(folder) for folder in MODELS},
    }
    (HERE / "autocast_bf16.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


main()
