"""Models whose head size vLLM supports on CPU, requests, and plain forward passes to compare with."""

import numpy as np
import torch
import transformers

from agentbench.engine import Request
from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.types import SamplingParams

MAX_CONTEXT = 400


def write_models(root):
    """Save the models; as initialised they are nearly uniform and would hide errors, so they are sharpened."""
    folders = {}
    for name, factor in (("tied", 6.0), ("untied", 6.0), ("bf16", 2.0)):
        folder = folders[name] = root / name
        tokenizer = make_tokenizer(folder, ["go look"])
        make_model(folder, tokenizer, hidden=64, layers=2, heads=2, kv_heads=1, max_position=MAX_CONTEXT,
                   tie=name != "untied", seed=3)  # fmt: skip
        scaled(load(folder), factor).save_pretrained(folder)
    return folders


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def scaled(model, factor):
    """Multiply every matrix."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor if parameter.ndim > 1 else 1.0)
    return model


def ask(key="a", prompt=(1, 2, 3), seed=0, slot="", choices=None, **sampling):
    settings = SamplingParams(**{"max_new_tokens": 8, **sampling})
    return Request(key, tuple(prompt), settings, seed, slot=slot, choices=choices)


def some_ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, 250, count).tolist()


def table_of(model, ids):
    """[T, V]: entry t is the distribution of token t + 1, from one plain forward pass."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0].float().log_softmax(-1).numpy()


def largest_error(model, prompt, action):
    """Largest distance of a reply's log-probs from those of a plain forward pass."""
    table = table_of(model, [*prompt, *action.token_ids])
    wanted = [table[len(prompt) + at - 1, token] for at, token in enumerate(action.token_ids)]
    return float(np.abs(np.array(wanted) - np.array(action.logprobs)).max())


def score_error(model, engine, ids):
    table = table_of(model, ids)
    wanted = np.array([table[at - 1, ids[at]] for at in range(1, len(ids))])
    return float(np.abs(wanted - np.array(engine.score(ids))).max())
