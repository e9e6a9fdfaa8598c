#!/usr/bin/env python3
"""Is a file of `wgpt export --gguf` what llama.cpp's own Python package writes and reads?

    python tests/clients/gguf_loads.py FOLDER

Exit codes: 0 yes, 1 something differs, 77 gguf, torch, transformers or accelerate is missing.
"""

import json
import os
import sys
import tempfile

from common import TORTURE, Checks, need, wgpt

# transformers reads GGUF files with the help of accelerate.
gguf, numpy, torch, transformers, _ = need("gguf", "numpy", "torch", "transformers", "accelerate")
TYPES = gguf.GGMLQuantizationType
# dtype: its type, llama.cpp's type of the file, the largest error of a logit of the largest
DTYPES = {
    "f32": (TYPES.F32, gguf.LlamaFileType.ALL_F32, 1e-4),
    "f16": (TYPES.F16, gguf.LlamaFileType.MOSTLY_F16, 1e-2),
    "bf16": (TYPES.BF16, gguf.LlamaFileType.MOSTLY_BF16, 1e-1),
    "q8_0": (TYPES.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0, 1e-1),
}
LINEAR = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# model_type: llama.cpp's architecture
ARCHITECTURES = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gpt_neox": "gptneox",
}
# Those whose GGUF files transformers does not read.
UNREAD = ["gpt_neox"]


def main(folder):
    checks = Checks()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
    config = model.config
    context = config.max_position_embeddings
    ids = torch.tensor([[(7 * i * i + 3 * i) % config.vocab_size for i in range(context)]])
    with torch.no_grad():
        wanted = model(ids).logits[0]
    architecture = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES[config.model_type]]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    with tempfile.TemporaryDirectory() as temporary:
        for dtype, (kind, file_type, tolerance) in DTYPES.items():
            path = f"{temporary}/model.gguf"
            wgpt("export", "--model", folder, "--gguf", path, "--dtype", dtype)
            reader = gguf.GGUFReader(path)
            check_entries(checks, dtype, reader, config, file_type, folder)
            check_tensors(checks, dtype, reader, model, names, kind)
            if reader.get_field("tokenizer.ggml.tokens") and config.model_type not in UNREAD:
                check_transformers(checks, dtype, temporary, config, ids, wanted, tolerance)
                check_tokenizer(checks, dtype, temporary, folder)
            del reader
            os.remove(path)
    checks.end()


def check_entries(checks, dtype, reader, config, file_type, folder):
    """Whether the file says of the model what config.json and tokenizer.json say."""
    get = lambda key: field.contents() if (field := reader.get_field(key)) else None
    architecture = ARCHITECTURES[config.model_type]
    entries = {
        "general.architecture": architecture,
        "general.file_type": int(file_type),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }
    entries |= {f"{architecture}.{key}": value for key, value in settings(config).items()}
    if os.path.exists(f"{folder}/tokenizer.json"):
        tokenizer = json.load(open(f"{folder}/tokenizer.json", encoding="utf-8"))
        spelled = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
        tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
        types = [int(gguf.TokenType.UNUSED)] * config.vocab_size
        for token, id in tokenizer["model"]["vocab"].items():
            tokens[id], types[id] = token, int(gguf.TokenType.NORMAL)
        for token in tokenizer["added_tokens"]:
            kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
            tokens[token["id"]], types[token["id"]] = token["content"], int(kind)
        entries |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": spelled,
            "tokenizer.ggml.bos_token_id": config.bos_token_id,
            "tokenizer.ggml.eos_token_id": config.eos_token_id,
        }
    else:
        entries["tokenizer.ggml.model"] = "no_vocab"
    # An empty list has no contents.
    wrong = [key for key, value in entries.items() if get(key) != value and not (value == [] and not get(key))]
    checks.that(f"{dtype}: {len(entries)} entries", not wrong, str([(key, get(key)) for key in wrong] or ""))


def settings(config):
    """What llama.cpp's converter writes of the sizes."""
    exact = lambda number: float(numpy.float32(number))
    same = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "vocab_size": config.vocab_size,
    }
    if config.model_type == "gpt2":
        epsilon = exact(config.layer_norm_epsilon)
        return same | {"feed_forward_length": config.n_inner or 4 * config.n_embd, "attention.layer_norm_epsilon": epsilon}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config.model_type == "gpt_neox":
        rope = config.rope_parameters
        return same | {
            "feed_forward_length": config.intermediate_size,
            "attention.layer_norm_epsilon": exact(config.layer_norm_eps),
            "rope.dimension_count": int(head * rope["partial_rotary_factor"]),
            "rope.freq_base": exact(rope["rope_theta"]),
            "use_parallel_residual": config.use_parallel_residual,
        }
    return same | {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": exact(config.rms_norm_eps),
        "rope.dimension_count": head,
        "rope.freq_base": exact(config.rope_parameters["rope_theta"]),
    }


def converted(name, value, config):
    """A tensor as llama.cpp's converter has it: GPT-2's linear layers turned, Llama's queries and keys by neighbours, and
    GPT-NeoX's queries of all heads first, then their keys, then their values."""
    if name.endswith(LINEAR):
        return value.T
    if ARCHITECTURES[config.model_type] == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
        return halves.swapaxes(1, 2).reshape(value.shape)
    if "query_key_value" in name:
        heads = value.reshape(config.num_attention_heads, 3, -1, *value.shape[1:])
        return heads.swapaxes(0, 1).reshape(value.shape)
    return value


def check_tensors(checks, dtype, reader, model, names, kind):
    """Whether the tensors are those of llama.cpp's converter, with its bytes."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    wrong, worst = [], 0.0
    tied = model.config.tie_word_embeddings
    state = {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    for name, value in state.items():
        ours = tensors.pop(names.get_name(name, try_suffixes=(".weight", ".bias")), None)
        value = converted(name, value, model.config).contiguous().numpy()
        wanted = kind if value.ndim == 2 and "wpe" not in name else TYPES.F32
        if wanted == TYPES.Q8_0 and value.shape[-1] % 32:
            wanted = TYPES.F16
        quantised = gguf.quants.quantize(value, wanted)
        shape = tuple(int(n) for n in reversed(ours.shape)) if ours else None
        if shape != value.shape or ours.tensor_type != wanted or ours.data.tobytes() != quantised.tobytes():
            wrong.append(name)
        if wanted == TYPES.Q8_0 and ours:
            blocks = numpy.abs(value).reshape(-1, 32).max(axis=1) / 127
            errors = numpy.abs(gguf.dequantize(ours.data, wanted).reshape(-1, 32) - value.reshape(-1, 32)).max(axis=1)
            worst = max(worst, float((errors / numpy.maximum(blocks, 1e-30)).max()))
    checks.that(f"{dtype}: {len(state)} tensors bit for bit", not wrong, str(wrong or ""))
    checks.that(f"{dtype}: no other tensors", not tensors, str(list(tensors) or ""))
    if dtype == "q8_0":
        # Half a step, and half a bit of the scale's 11.
        checks.that("q8_0: within a step", worst <= 0.5 + 127 / 2048, f"{worst:.4f} of a scale at most")


def check_transformers(checks, dtype, folder, config, ids, wanted, tolerance):
    """Whether transformers reads the weights from the file. It takes the context and the MLP's width of a GPT-2 for 1024
    and 4 widths, whatever the file says, so that the sizes are given to it."""
    try:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file="model.gguf", config=config, dtype=torch.float32
        )
    except Exception as error:
        checks.that(f"{dtype}: transformers reads the file", False, repr(error))
        return
    with torch.no_grad():
        logits = loaded.eval()(ids).logits[0]
    error = float((logits - wanted).abs().max() / wanted.abs().max())
    checks.that(f"{dtype}: transformers' logits within {tolerance:g} of the largest", error <= tolerance, f"{error:.2e}")


def check_tokenizer(checks, dtype, folder, source):
    """Whether transformers reads the same tokenizer from the file as from the folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    wanted = transformers.AutoTokenizer.from_pretrained(source)
    wrong = [text for text in TORTURE if tokenizer.encode(text) != wanted.encode(text)]
    checks.that(f"{dtype}: ids of {len(TORTURE)} strings", not wrong, repr(wrong) if wrong else "")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
