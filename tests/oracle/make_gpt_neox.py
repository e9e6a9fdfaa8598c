"""Makes the reference values of GPT-NeoX in tests/oracle/families: gpt_neox*/ and generation_gpt_neox.json.

    python -m venv venv && venv/bin/pip install torch==2.13.0 transformers==5.23.0 numpy==2.4.6
    venv/bin/python tests/oracle/make_gpt_neox.py

The models are tiny, with random weights of a large spread. Hugging Face's library computes their logits, losses and
gradients in float64; what it does in float32 even then, the softmax and the angles, is exchanged for float64 below.
A second implementation in NumPy, from the formulas, must agree, and so must finite differences of it.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.gpt_neox import modeling_gpt_neox as library

FAMILIES = Path(__file__).parent / "families"

# Each: the name, the seed, the settings, and the shape of the tokens.
MODELS = [
    ("gpt_neox", 1, dict(
        num_hidden_layers=2, hidden_size=48, num_attention_heads=3, intermediate_size=71, vocab_size=151,
        max_position_embeddings=64, layer_norm_eps=1e-5, hidden_act="gelu", use_parallel_residual=True,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25)), (3, 32)),
    ("gpt_neox_sequential", 2, dict(
        num_hidden_layers=2, hidden_size=40, num_attention_heads=4, intermediate_size=53, vocab_size=131,
        max_position_embeddings=64, layer_norm_eps=1e-6, hidden_act="gelu_new", use_parallel_residual=False,
        attention_bias=False, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.6)), (2, 24)),
]


def exact_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    scores = query @ key.transpose(2, 3) * scaling
    t = scores.shape[-1]
    later = torch.ones(scores.shape[-2], t, dtype=torch.bool).triu(t - scores.shape[-2] + 1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def exact_angles(self, x, position_ids):
    rope = self.config.rope_parameters
    rotated = int(self.config.hidden_size // self.config.num_attention_heads * rope["partial_rotary_factor"])
    frequencies = rope["rope_theta"] ** (-torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)
    angles = position_ids[..., None].double() * frequencies
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


library.eager_attention_forward = exact_attention
library.GPTNeoXRotaryEmbedding.forward = exact_angles


def parameters(model):
    """Returns the parameters under their names in files; in memory version 5 of the library calls the head as Llama does."""
    return {name.replace("lm_head.", "embed_out."): value for name, value in model.named_parameters()}


def random_weights(model, seed):
    """Fills the parameters, in float32, so that every mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parameters(model).items():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(noise * (0.25 if "embed_out" in name else 0.12 if "embed_in" in name else 0.16))


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def gelu(x, name):
    if name == "gelu":
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def numpy_logits(weights, config, tokens):
    """Computes the logits (B,T,V) of tokens (B,T) from the formulas."""
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    rotated = int(size * rope["partial_rotary_factor"])
    t = tokens.shape[1]
    angles = np.arange(t)[:, None] * rope["rope_theta"] ** (-np.arange(0, rotated, 2) / rotated)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def rotate(x):
        a, b = x[..., :rotated // 2], x[..., rotated // 2:rotated]
        return np.concatenate((a * cos - b * sin, b * cos + a * sin, x[..., rotated:]), -1)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def norm(x, name):
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], config.layer_norm_eps)

    x = weights["gpt_neox.embed_in.weight"][tokens]
    for layer in range(config.num_hidden_layers):
        at = f"gpt_neox.layers.{layer}"
        joined = linear(norm(x, f"{at}.input_layernorm"), f"{at}.attention.query_key_value")
        q, k, v = np.split(joined.reshape(*tokens.shape, heads, 3 * size), 3, -1)
        scores = np.einsum("bihc,bjhc->bhij", rotate(q), rotate(k)) / math.sqrt(size)
        scores = np.where(np.tri(t, dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("bhij,bjhc->bihc", shares, v).reshape(x.shape)
        attended = x + linear(mixed, f"{at}.attention.dense")
        read = x if config.use_parallel_residual else attended
        wide = gelu(linear(norm(read, f"{at}.post_attention_layernorm"), f"{at}.mlp.dense_h_to_4h"), config.hidden_act)
        x = attended + linear(wide, f"{at}.mlp.dense_4h_to_h")
    head = weights["gpt_neox.embed_in.weight" if config.tie_word_embeddings else "embed_out.weight"]
    return norm(x, "gpt_neox.final_layer_norm") @ head.T


def numpy_loss(weights, config, tokens, targets):
    logits = numpy_logits(weights, config, tokens)
    largest = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
    return (log_sum - np.take_along_axis(logits, targets[..., None], -1)[..., 0]).mean()


def check(model, tokens, targets, logits, loss, gradients):
    """Compares the library's values with NumPy's."""
    weights = {name: value.detach().numpy().copy() for name, value in parameters(model).items()}
    tokens, targets, config = tokens.numpy(), targets.numpy(), model.config
    other = numpy_logits(weights, config, tokens)
    assert np.abs(other - logits.numpy()).max() <= 1e-10 * np.abs(other).max()
    assert abs(numpy_loss(weights, config, tokens, targets) - loss) <= 1e-10
    generator = np.random.default_rng(5)
    for name, gradient in gradients.items():
        index = tuple(generator.integers(size) for size in gradient.shape)
        start, h, at = weights[name][index], 1e-4, []
        for step in (h, -h):
            weights[name][index] = start + step
            at.append(numpy_loss(weights, config, tokens, targets))
        weights[name][index] = start
        difference, largest = (at[0] - at[1]) / (2 * h), gradient.abs().max().item()
        assert abs(difference - gradient[index].item()) <= 1e-5 * largest, name


def make(name, seed, settings, shape):
    config = GPTNeoXConfig(**settings, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
    model = GPTNeoXForCausalLM(config)
    random_weights(model, seed)
    folder = FAMILIES / name
    model.save_pretrained(folder)
    model = model.double()
    generator = torch.Generator().manual_seed(100 + seed)
    tokens, targets = (torch.randint(config.vocab_size, shape, generator=generator) for _ in range(2))
    logits = model(input_ids=tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in parameters(model).items()}
    check(model, tokens, targets, logits.detach(), loss.item(), gradients)
    expect = {f"grad.{key}": gradient.float() for key, gradient in gradients.items()}
    expect |= {"tokens": tokens, "targets": targets, "logits": logits.detach().float()}
    expect["loss"] = loss.detach().reshape(1)
    save_file({key: value.contiguous() for key, value in expect.items()}, folder / "expect.safetensors", {"format": "pt"})
    print(name, sum(p.numel() for p in model.parameters()), "parameters, loss", loss.item())
    return model


def older_files(model, name):
    """Writes a model as version 4 of the library did, with the buffers that the oldest files have."""
    folder = FAMILIES / f"{name}_v4"
    folder.mkdir(exist_ok=True)
    config = json.loads((FAMILIES / name / "config.json").read_text())
    rope = config.pop("rope_parameters")
    del config["dtype"], config["is_decoder"]
    config |= dict(rotary_pct=rope["partial_rotary_factor"], rotary_emb_base=rope["rope_theta"], rope_scaling=None,
                   torch_dtype="float32", transformers_version="4.46.0")
    # The default of all versions, which older files do not mention.
    del config["attention_bias"]
    (folder / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    tensors = {key: value.detach().float().contiguous() for key, value in parameters(model).items()}
    positions, size = model.config.max_position_embeddings, model.config.hidden_size // model.config.num_attention_heads
    for layer in range(model.config.num_hidden_layers):
        at = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{at}.bias"] = torch.ones(1, 1, positions, positions, dtype=torch.bool).tril()
        tensors[f"{at}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{at}.rotary_emb.inv_freq"] = torch.zeros(int(size * rope["partial_rotary_factor"]) // 2)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def continue_greedily(model, prompt, count, end=None):
    """Returns the most likely tokens after the prompt, of at most as many positions as the model has, and the smallest
    distance between the two largest logits."""
    ids, gap = list(prompt), math.inf
    for _ in range(count):
        seen = torch.tensor([ids[-model.config.max_position_embeddings:]])
        with torch.no_grad():
            best = model(input_ids=seen, use_cache=False).logits[0, -1].topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        ids.append(best.indices[0].item())
        if ids[-1] == end:
            break
    return ids[len(prompt):], gap


def generation(model, name):
    """Writes continuations whose choices float32 cannot miss."""
    generator = torch.Generator().manual_seed(7)
    positions, vocabulary = model.config.max_position_embeddings, model.config.vocab_size

    def cases(count, lengths, new, least, crop=False, ends=False):
        found = []
        while len(found) < count:
            prompt = torch.randint(vocabulary, (lengths[len(found)],), generator=generator).tolist()
            tokens, gap = continue_greedily(model, prompt, new)
            if gap < least:
                continue
            case = dict(prompt=prompt, max_new_tokens=new)
            if ends:
                end = tokens[len(tokens) // 2]
                case |= dict(eos_token_id=end, continuation=tokens[:tokens.index(end) + 1])
            else:
                case |= dict(continuation=tokens, min_top2_gap=gap)
            found.append(case | (dict(window=positions) if crop else {}))
        return found

    reference = dict(model=name, max_position_embeddings=positions,
                     greedy=cases(8, [1, 2, 3, 5, 8, 13, 20, positions - 24], 24, 2e-3),
                     greedy_to_the_end=cases(2, [positions - 1, positions - 3], 1, 2e-3),
                     greedy_eos=cases(2, [4, 9], 24, 2e-3, ends=True),
                     greedy_cropped=cases(2, [positions - 9, positions], 24, 1e-3, crop=True))
    reference["greedy_to_the_end"][1] = cases(1, [positions - 3], 3, 2e-3)[0]
    path = FAMILIES / "generation_gpt_neox.json"
    path.write_text(json.dumps(reference, indent=1) + "\n")


def main():
    torch.manual_seed(0)
    parallel, _ = [make(*arguments) for arguments in MODELS]
    older_files(parallel, "gpt_neox")
    generation(parallel, "gpt_neox")


if __name__ == "__main__":
    main()
