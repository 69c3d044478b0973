"""Times the hf engine against `generate` of transformers on the same multi-turn conversations, in one run.

    OMP_NUM_THREADS=1 python benchmarks/engine_hf.py --output engine_hf.json

Every conversation begins with a prompt and grows by an observation and a reply per turn; lengths are ragged. `generate`
takes all conversations of a turn at once, left-padded, and computes them from the start, as it does when it is called
turn by turn. Figures are CPU seconds of the median of `--repeats` alternating runs, and sampled tokens per CPU second.
Leaves out: whether the engine is right (`tests/core/engines/hf/`), though the largest log-prob error is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from agentbench.engine import Request
from agentbench.engines.hf.engine import HFEngine
from agentbench.engines.hf.forward import cache_name
from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.models.vocabulary import vocabulary_of
from agentbench.types import SamplingParams

Ids = list[list[int]]


def main() -> None:
    """Run the benchmark and print a table."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(folder, ["any text"])
        vocab = max(options.vocab, len(tokenizer))
        make_model(
            folder,
            tokenizer,
            hidden=options.hidden,
            layers=options.layers,
            heads=options.heads,
            kv_heads=options.heads // 2,
            vocab=vocab,
            max_position=4096,
        )
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    record: dict[str, Any] = {
        "options": vars(options) | {"output": None},
        "parameters": model.num_parameters(),
        "cpu": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "rows": [],
    }
    for ragged in (False, True):
        work = Workload(options, vocab, ragged)
        record["rows"] += _compare(work, model, tokenizer, options.repeats)
    record["step_ms"] = _steps(model, tokenizer, options)
    record["largest_logprob_error"] = _largest_error(Workload(options, vocab, True), model, tokenizer)
    _print(record)
    if options.output:
        options.output.write_text(json.dumps(record, indent=1, default=str) + "\n")


class Workload:
    """Prompts, observations and reply lengths of all conversations, fixed by a seed."""

    def __init__(self, options: argparse.Namespace, vocab: int, ragged: bool) -> None:
        """Draw the lengths; replies are `reply` tokens, or 1 to twice that many when ragged."""
        source = np.random.default_rng(options.seed)
        count, turns = options.conversations, options.turns
        self.ragged, self.turns, self.count = ragged, turns, count
        high = 2 * options.reply if ragged else options.reply
        low = 1 if ragged else options.reply
        self.replies = source.integers(low, high + 1, (count, turns))
        sizes = source.integers(options.prompt // 2, options.prompt * 3 // 2, count)
        self.prompts = [source.integers(0, 256, size).tolist() for size in sizes]
        sizes = source.integers(options.observation // 2, options.observation * 3 // 2, (count, turns))
        self.observations = [[source.integers(0, 256, size).tolist() for size in row] for row in sizes]
        self.useful = int(self.replies.sum())


def by_generate(work: Workload, model: Any, tokenizer: Any) -> None:
    """Play all conversations turn by turn with `generate`."""
    rows = [list(prompt) for prompt in work.prompts]
    for turn in range(work.turns):
        width = max(map(len, rows))
        padding = [width - len(row) for row in rows]
        inputs = torch.tensor(
            [[tokenizer.pad_token_id] * pad + row for pad, row in zip(padding, rows, strict=True)]
        )
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        longest = int(work.replies[:, turn].max())
        output = model.generate(
            inputs, attention_mask=mask, do_sample=True, top_k=0, min_new_tokens=longest, max_new_tokens=longest,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        logp_TBV = torch.stack(output.logits).log_softmax(-1)
        said_BT = output.sequences[:, width:]
        logp_TBV.gather(-1, said_BT.T[:, :, None])
        for index, row in enumerate(rows):
            row += said_BT[index, : work.replies[index, turn]].tolist() + work.observations[index][turn]


def by_engine(work: Workload, model: Any, tokenizer: Any, *, keep: bool = True) -> tuple[Ids, list[Any]]:
    """Play all conversations with the engine, each at its own pace; without `keep`, caches last one turn."""
    engine = HFEngine(model, tokenizer, slots=work.count)
    rows = [list(prompt) for prompt in work.prompts]
    said = []

    def ask(index: int, turn: int) -> Request:
        size = int(work.replies[index, turn])
        sampling = SamplingParams(max_new_tokens=size, min_new_tokens=size)
        slot = str(index) if keep else ""
        return Request(f"{index}/{turn}", tuple(rows[index]), sampling, 1000 * index + turn, slot=slot)

    engine.submit([ask(index, 0) for index in range(work.count)])
    left = work.count
    while left:
        for done in engine.poll():
            index, turn = map(int, done.key.split("/"))
            assert done.action is not None
            said.append((index, len(rows[index]), done.action))
            rows[index] += [*done.action.token_ids, *work.observations[index][turn]]
            if turn + 1 < work.turns:
                engine.submit([ask(index, turn + 1)])
            else:
                left -= 1
    return rows, said


def _compare(work: Workload, model: Any, tokenizer: Any, repeats: int) -> list[dict[str, Any]]:
    ways: dict[str, Callable[[], Any]] = {
        "generate, from the start each turn": lambda: by_generate(work, model, tokenizer),
        "engine, caches kept": lambda: by_engine(work, model, tokenizer),
        "engine, caches dropped each turn": lambda: by_engine(work, model, tokenizer, keep=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append(time.process_time() - started)
    return [
        {
            "replies": "ragged" if work.ragged else "equal",
            "way": name,
            "cpu_s": statistics.median(values),
            "tokens_per_cpu_s": work.useful / statistics.median(values),
        }
        for name, values in seconds.items()
    ]


def _steps(model: Any, tokenizer: Any, options: argparse.Namespace) -> dict[str, float]:
    """CPU milliseconds of one decode step: the engine's, and a bare forward pass with a rectangular cache."""
    rows, length, steps = options.conversations, options.prompt, 40
    source = np.random.default_rng(0)
    prompts = source.integers(0, 256, (rows, length))

    def engine_seconds(new: int) -> float:
        engine = HFEngine(model, tokenizer, slots=rows)
        sampling = SamplingParams(max_new_tokens=new, min_new_tokens=new)
        engine.submit([Request(str(i), p.tolist(), sampling, i) for i, p in enumerate(prompts)])
        started = time.process_time()
        while engine.poll():
            pass
        return time.process_time() - started

    def bare_seconds() -> float:
        cache = DynamicCache()
        with torch.no_grad():
            model(torch.from_numpy(prompts), **{cache_name(model): cache}, logits_to_keep=1)
            started = time.process_time()
            for _ in range(steps):
                model(torch.ones(rows, 1, dtype=torch.long), **{cache_name(model): cache}, logits_to_keep=1)
            return time.process_time() - started

    own = [engine_seconds(steps + 2) - engine_seconds(2) for _ in range(options.repeats)]
    bare = [bare_seconds() for _ in range(options.repeats)]
    return {
        "engine": 1000 * statistics.median(own) / steps,
        "forward_only": 1000 * statistics.median(bare) / steps,
    }


def _largest_error(work: Workload, model: Any, tokenizer: Any) -> float:
    """Compare the engine's log-probs with forward passes over the finished rows."""
    rows, said = by_engine(work, model, tokenizer)
    worst = 0.0
    tables = []
    absent = vocabulary_of(tokenizer, model.config.vocab_size).absent(model.config.vocab_size)
    with torch.no_grad():
        for row in rows:
            logits_TV = model(torch.tensor([row])).logits[0]
            logits_TV[:, absent] = float("-inf")  # ids without a token
            logits_TV[:, tokenizer.eos_token_id] = float("-inf")  # banned by min_new_tokens
            tables.append(logits_TV.log_softmax(-1))
    for index, start, action in said:
        at = range(start - 1, start - 1 + len(action.token_ids))
        wanted_T = tables[index][at, list(action.token_ids)]
        worst = max(worst, float((wanted_T - torch.tensor(action.logprobs)).abs().max()))
    return worst


def _print(record: dict[str, Any]) -> None:
    print(f"{record['parameters'] / 1e6:.2f}M parameters, load {record['load']:.1f}\n")
    print("| replies | way | CPU s | sampled tokens / CPU s |\n|---|---|---|---|")
    for row in record["rows"]:
        print(f"| {row['replies']} | {row['way']} | {row['cpu_s']:.2f} | {row['tokens_per_cpu_s']:.0f} |")
    step = record["step_ms"]
    print(f"\ndecode step: engine {step['engine']:.2f} ms, forward pass alone {step['forward_only']:.2f} ms")
    print(f"largest log-prob error: {record['largest_logprob_error']:.1e}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4, help="query heads; half as many hold keys and values")
    parser.add_argument("--vocab", type=int, default=600)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=100, help="mean tokens of the first prompt")
    parser.add_argument("--observation", type=int, default=20, help="mean new tokens per turn")
    parser.add_argument("--reply", type=int, default=8, help="mean tokens of a reply")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
