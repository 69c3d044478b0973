"""Real weights in low precision on this device: are caches kept, and how far are engine and trainer apart?

    python benchmarks/gpu/check.py FOLDER

One JSON line for each dtype: the engine's verdict and what it measured (KL in nats, see `agentbench.engines.hf.probe`),
mean distance of log-probs to float32 over ordinary text, and tokens a second with and without caches.
"""

import argparse
import json
import logging
import time

import torch

from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import HFEngine
from agentbench.engines.hf.probe import compare
from agentbench.models.loading import open_model
from agentbench.types import SamplingParams

TEXT = (
    "You are in the middle of a room. Looking quickly around you, you see a countertop 1, a drawer 3, and a shelf 1. "
    "Your task is to: put some dishsponge on countertop. "
)


def score(model, ids):
    """Log-prob of each token but the first."""
    at = torch.tensor([ids], device=model.device)
    with torch.no_grad():
        logits = model(at, use_cache=False).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, at[0, 1:, None])[:, 0]


def speed(model, tokenizer, keep, rows, new):
    """Sampled tokens per wall and per CPU second over two turns of `rows` conversations."""
    engine = HFEngine(model, tokenizer, keep_cache="auto" if keep else False)
    texts = [tokenizer.encode(f"Game {i}. {TEXT * 3}", add_special_tokens=False) for i in range(rows)]
    sampling = SamplingParams(max_new_tokens=new, min_new_tokens=new)
    wall, cpu, made = time.perf_counter(), time.process_time(), 0
    for turn in range(2):
        asked = [Request(f"{turn}-{i}", tuple(ids), sampling, i, slot=str(i)) for i, ids in enumerate(texts)]
        for ids, action in zip(texts, sample(engine, asked), strict=True):
            ids += [*action.token_ids, *tokenizer.encode("\nNothing happens. > ", add_special_tokens=False)]
            made += len(action.token_ids)
    return {
        "tokens_per_s": made / (time.perf_counter() - wall),
        "tokens_per_cpu_s": made / (time.process_time() - cpu),
    }


def main():
    """Print one line for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--dtypes", default="float32,bfloat16,float16")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--new", type=int, default=32)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    exact, tokenizer = open_model(asked.folder, dtype="float32")
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    truth = score(exact, ids)
    for dtype in asked.dtypes.split(","):
        model, _ = open_model(asked.folder, dtype=dtype)
        with torch.no_grad():
            found = compare(model, tokenizer, 2048)
        line = {
            "dtype": dtype,
            "device": str(model.device),
            "torch": torch.__version__,
            "keeps_cache": found.holds,
            "cached": found.cached,
            "rounding": found.rounding,
            "control": found.control,
            "limit": found.limit,
            "logprob_gap": float((score(model, ids) - truth).abs().mean()),
            "kept": speed(model, tokenizer, True, asked.rows, asked.new),
            "recomputed": speed(model, tokenizer, False, asked.rows, asked.new),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
