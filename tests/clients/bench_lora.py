#!/usr/bin/env python3
"""The benchmark `wgpt bench lora --size smollm2-135m --device cpu` in transformers and PEFT, in f32 on the CPU.

    python tests/clients/bench_lora.py [--threads 2] [--steps 50] [--warmup 1] [--batch-sizes 1,4] [--seq-len 512]

The same sizes, random weights, adapters of rank 8 and alpha 16 on all seven projections, AdamW with clipping, instructions
with answers of which the answers are trained. Prints one JSON object per batch size.
Exit codes: 0 done, 77 torch, transformers or peft is missing.
"""

import argparse
import json
import random
import statistics
import time

from common import need

torch, transformers, peft = need("torch", "transformers", "peft")


def instructions(count):
    """Ids, a byte each, and labels: -100 outside of answers."""
    number, ids, labels = random.Random(1337).randrange, [], []
    while len(ids) < count:
        numbers = [number(1000) for _ in range(2 + number(6))]
        asked = "### Instruction:\nAdd the numbers, and show how.\n\n### Input:\n"
        asked = (asked + ", ".join(map(str, numbers)) + "\n\n### Response:\n").encode()
        answer = (" + ".join(map(str, numbers)) + f" = {sum(numbers)}.\n\n").encode()
        ids += [*asked, *answer]
        labels += [-100] * len(asked) + list(answer)
    return ids[:count], labels[:count]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--batch-sizes", default="1,4")
    parser.add_argument("--seq-len", type=int, default=512)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1337)
    sizes = dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9)
    config = transformers.LlamaConfig(
        **sizes, num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, rms_norm_eps=1e-5,
        rope_theta=100000.0, tie_word_embeddings=True, attn_implementation="sdpa",
    )
    base = transformers.LlamaForCausalLM(config).float()
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = peft.LoraConfig(r=8, lora_alpha=16, target_modules=projections, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, settings).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for batch in map(int, args.batch_sizes.split(",")):
        optimizer = torch.optim.AdamW(trained, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        rows = batch * args.seq_len
        ids, labels = (torch.tensor(all).view(4, batch, args.seq_len) for all in instructions(4 * rows))
        times = []
        for step in range(args.warmup + args.steps):
            began = time.perf_counter()
            loss = model(input_ids=ids[step % 4], labels=labels[step % 4], use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            times.append(time.perf_counter() - began)
        median = statistics.median(times[args.warmup :])
        print(json.dumps({
            "peer": f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}, f32",
            "threads": torch.get_num_threads(),
            "batch_size": batch,
            "tokens_per_s": round(rows / median, 1),
            "step_ms": round(median * 1e3, 1),
            "steps": args.steps,
            "trained_parameters": sum(parameter.numel() for parameter in trained),
        }), flush=True)


if __name__ == "__main__":
    main()
