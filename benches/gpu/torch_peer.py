#!/usr/bin/env python3
"""PyTorch on the work that benches/gpu.sh measures of wgpt; one JSON object on stdout.

torch_peer.py matmul N               N x N x N in f32 (without TF32) and in f16, GFLOP/s
torch_peer.py train SIZE BATCH SEQ   forward, backward, clipping and fused AdamW under bf16 autocast, torch.compile
torch_peer.py generate SIZE          Hugging Face generate in f16, greedy, prompt 16, 64 new tokens
"""
import json
import sys
import time

import torch

SIZES = {  # layers, heads, width, vocabulary, context
    "small": (4, 4, 128, 1000, 128),
    "medium": (6, 6, 384, 2000, 256),
    "large": (12, 12, 768, 5000, 512),
    "gpt2": (12, 12, 768, 50257, 1024),
    "gpt2-xl": (48, 25, 1600, 50257, 1024),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(run, warmup=3, steps=20):
    for _ in range(warmup):
        run()
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        run()
    wait()
    return (time.perf_counter() - began) / steps


def gpt2(size):
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, heads, width, vocab, context = SIZES[size]
    config = GPT2Config(n_layer=layers, n_head=heads, n_embd=width, vocab_size=vocab, n_positions=context,
                        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=None)
    return GPT2LMHeadModel(config).to(DEVICE)


def matmul(n):
    torch.backends.cuda.matmul.allow_tf32 = False
    result = {}
    for name, dtype in (("f32", torch.float32), ("f16", torch.float16)):
        a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
        result[f"{name}_gflops"] = 2 * n**3 / seconds(lambda: a @ b) / 1e9
    return result


def train(size, batch, seq):
    model = gpt2(size)
    step_model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=DEVICE == "cuda")
    ids = torch.randint(0, SIZES[size][3], (batch, seq), device=DEVICE)

    def step():
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = step_model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"tokens_per_s": batch * seq / seconds(step, warmup=5)}


def generate(size):
    model = gpt2(size).half().eval()
    prompt = torch.randint(0, SIZES[size][3], (1, 16), device=DEVICE)

    def run():
        model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=64,
                       min_new_tokens=64, pad_token_id=0)

    with torch.inference_mode():
        return {"tokens_per_s": 64 / seconds(run, warmup=1, steps=5)}


def main():
    what, *rest = sys.argv[1:]
    runs = {"matmul": lambda: matmul(int(rest[0])), "train": lambda: train(rest[0], int(rest[1]), int(rest[2])),
            "generate": lambda: generate(rest[0])}
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    print(json.dumps({"version": torch.__version__, "device": name, **runs[what]()}))


main()
