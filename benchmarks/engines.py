"""Compares the engines hf and vllm: the same prompts, rollouts at several widths, and the parts of a training step.

    OMP_NUM_THREADS=1 python benchmarks/engines.py --model FOLDER --teacher FOLDER --output results/engines

Sampling: one batch of prompts, and conversations that grow, on a random model made on the spot (`--hidden`).
Rollout: episodes of generated households, played by `--model`. Training: ATOD steps with `--model` and `--teacher`.
Every way runs once unmeasured, then ways alternate; figures are medians. CPU seconds are of this process,
in which both engines compute everything. Leaves out whether the engines are right (`tests/vllm`) and start-up, which is
given by itself.
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

from agentbench.config import validate
from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.engine import Engine, Request
from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.policies.model import ModelPolicy
from agentbench.registry import engine_factory, env_spec
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes
from agentbench.training.config import TrainConfig
from agentbench.types import SamplingParams, derive_seed

ENGINES = ("hf", "vllm")
PROMPT = "agentbench.prompts:alfworld/transcript"
MAX_TURNS, MAX_NEW_TOKENS = 20, 12


def measured(act: Callable[[], int]) -> dict[str, float]:
    """Run something that returns how many tokens it sampled; CPU and wall seconds and rates."""
    cpu, wall = time.process_time(), time.monotonic()
    tokens = act()
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {
        "tokens": tokens,
        "cpu_s": cpu,
        "wall_s": wall,
        "tokens_per_cpu_s": tokens / cpu,
        "tokens_per_s": tokens / wall,
    }


def alternate(ways: dict[str, Callable[[], int]], repeats: int) -> dict[str, dict[str, float]]:
    """Medians of each way's figures; the first round warms up and is not counted."""
    rounds = [{name: measured(way) for name, way in ways.items()} for _ in range(repeats + 1)][1:]
    return {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]}
        for name in ways
    }


# --- sampling -------------------------------------------------------------------------------------------------------


def batch(engine: Engine, options: argparse.Namespace, seed: int = 0) -> int:
    """`--prompts` prompts of 32 to 96 tokens, replies of 1 to twice `--reply` tokens, all at once."""
    source = np.random.default_rng(seed)
    requests = []
    for index in range(options.prompts):
        size = int(source.integers(1, 2 * options.reply + 1))
        sampling = SamplingParams(max_new_tokens=size, min_new_tokens=size)
        ids = source.integers(0, 256, source.integers(32, 97)).tolist()
        requests.append(Request(str(index), ids, sampling, index))
    engine.submit(requests)
    return drain(engine)


def conversations(engine: Engine, options: argparse.Namespace, seed: int = 0) -> int:
    """`--prompts` conversations of 6 turns: 100 tokens, then 30 new ones a turn; replies of 12."""
    source = np.random.default_rng(seed)
    sampling = SamplingParams(max_new_tokens=12, min_new_tokens=12)
    rows = [source.integers(0, 256, 100).tolist() for _ in range(options.prompts)]
    more = source.integers(0, 256, (options.prompts, 6, 30)).tolist()

    def ask(index: int, turn: int) -> Request:
        return Request(f"{index}/{turn}", list(rows[index]), sampling, 6 * index + turn, slot=str(index))

    engine.submit([ask(index, 0) for index in range(options.prompts)])
    tokens = 0
    while done := engine.poll():
        for completion in done:
            index, turn = map(int, completion.key.split("/"))
            assert completion.action is not None
            tokens += len(completion.action.token_ids)
            rows[index] += [*completion.action.token_ids, *more[index][turn]]
            if turn < 5:
                engine.submit([ask(index, turn + 1)])
            else:
                engine.release(str(index))
    return tokens


def drain(engine: Engine) -> int:
    """Poll until nothing is left; returns the tokens sampled."""
    tokens = 0
    while done := engine.poll():
        for completion in done:
            assert completion.action is not None, completion.failure
            tokens += len(completion.action.token_ids)
    return tokens


def sampling_part(options: argparse.Namespace) -> dict[str, Any]:
    """Both workloads in float32 and bfloat16."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(folder, ["any text"])
        make_model(
            folder, tokenizer, hidden=options.hidden, layers=options.layers, heads=options.hidden // 64,
            kv_heads=options.hidden // 128, vocab=4096, max_position=2048,
        )  # fmt: skip
        for dtype in ("float32", "bfloat16"):
            engines, start = {}, {}
            for name in ENGINES:
                began = time.monotonic()
                engines[name] = engine_factory(name)(folder, dtype=dtype, slots=options.prompts)
                start[name] = time.monotonic() - began
            found[dtype] = {"start_wall_s": start}
            for label, work in (("batch", batch), ("conversations", conversations)):
                ways = {name: lambda e=engine, w=work: w(e, options) for name, engine in engines.items()}
                found[dtype][label] = alternate(ways, options.repeats)
    return found


# --- rollout --------------------------------------------------------------------------------------------------------


def rollout_part(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second while so many episodes are played side by side."""
    engines = {name: engine_factory(name)(str(options.model), slots=64) for name in ENGINES}
    found = {}
    for width, episodes in ((1, 4), (8, 16), (64, 64)):
        ways = {name: lambda e=e, w=width, n=episodes: play(e, w, n) for name, e in engines.items()}
        found[str(width)] = {"episodes": episodes} | alternate(ways, options.repeats)
    return found


def play(engine: Engine, width: int, count: int) -> int:
    """Play the first `count` generated training games, `width` at a time; returns the tokens sampled."""
    spec, prompt = env_spec("alfworld"), load_prompt(PROMPT)
    renderer = Renderer(engine.tokenizer, prompt, history=spec.history, max_turns=MAX_TURNS)
    sampling = SamplingParams(max_new_tokens=MAX_NEW_TOKENS)
    policy = ModelPolicy(engine, renderer, get_parser(prompt.parser or spec.parser), sampling)
    tasks = spec.tasks("mini-train")[:count]
    episodes = (Episode(spec, task, derive_seed("benchmark", task), max_turns=MAX_TURNS) for task in tasks)
    tokens = 0
    for item in run_episodes(episodes, policy, concurrency=width):
        assert item.ok, item.error
        tokens += sum(len(turn.action.token_ids) for turn in item.turns)
    return tokens


# --- training -------------------------------------------------------------------------------------------------------


class Stopwatch:
    """CPU seconds by label; wraps methods, and leaves out what an inner label counts."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def wrap(self, owner: Any, method: str, label: str) -> None:
        """Count the time spent in a method."""
        plain = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            self._inner.append(0.0)
            try:
                return plain(*args, **kwargs)
            finally:
                whole, inner = time.process_time() - began, self._inner.pop()
                self._inner[-1] += whole
                self.seconds[label] = self.seconds.get(label, 0.0) + whole - inner

        setattr(owner, method, timed)


def training_part(options: argparse.Namespace) -> dict[str, Any]:
    """Shares of CPU time of ATOD steps, all but the first, by engine."""
    from agentbench.engines.hf.engine import HFEngine
    from agentbench.engines.vllm.engine import VLLMEngine
    from agentbench.trainers.base import Algorithm
    from agentbench.trainers.student.student import Student
    from agentbench.trainers.teachers.local import LocalTeacher
    from agentbench.training import loop as loop

    watch = Stopwatch()
    for engine in (HFEngine, VLLMEngine):
        for method in ("submit", "poll", "release"):
            watch.wrap(engine, method, "engine")
    for scorer in (Student, LocalTeacher):
        watch.wrap(scorer, "score", "scoring")
    watch.wrap(Algorithm, "descend", "update")
    watch.wrap(loop, "publish", "publish")
    watch.wrap(loop, "collect", "environment")  # less what the engine takes inside
    watch.wrap(loop.Run, "step", "other")
    plain = loop.Run.step

    def first_step_uncounted(run: Any, step: int) -> Any:
        result = plain(run, step)
        if step == 0:
            watch.seconds.clear()
        return result

    loop.Run.step = first_step_uncounted
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ENGINES:
            watch.seconds.clear()
            config = atod_config(options, name, Path(folder) / name)
            loop.train(validate(TrainConfig, config), report=lambda line: None)
            total = sum(watch.seconds.values())
            found[name] = {
                "steps": options.steps - 1,
                "cpu_s": total,
                "shares": {label: seconds / total for label, seconds in watch.seconds.items()},
            }
    return found


def atod_config(options: argparse.Namespace, engine: str, output: Path) -> dict[str, Any]:
    """ATOD as in `examples/learning/atod.yaml`, without evaluation."""
    return {
        "algorithm": "atod",
        "output_dir": str(output),
        "model_name_or_path": str(options.model),
        "teachers": [{"model_name_or_path": str(options.teacher)}],
        "env": {"name": "alfworld", "split": "mini-train", "prompt": PROMPT, "max_turns": MAX_TURNS},
        "rollout": {"engine": engine, "tasks_per_step": 8, "group_size": 8, "max_new_tokens": MAX_NEW_TOKENS},
        "max_steps": options.steps,
        "updates_per_step": 2,
        "learning_rate": 1e-3,
        "save_steps": options.steps,
    }


# --- report ---------------------------------------------------------------------------------------------------------


def table(record: dict[str, Any]) -> str:
    """The figures as a Markdown document."""
    lines = ["| work | dtype | engine | tokens / CPU s | tokens / s | CPU s |", "|---|---|---|---|---|---|"]
    for dtype, found in record.get("sampling", {}).items():
        for label in ("batch", "conversations"):
            lines += [_row(label, dtype, name, found[label][name]) for name in ENGINES]
    for width, found in record.get("rollout", {}).items():
        label = f"{found['episodes']} episodes, {width} at a time"
        lines += [_row(label, "float32", name, found[name]) for name in ENGINES]
    if "training" in record:
        labels = list(record["training"]["hf"]["shares"])
        lines += [
            "",
            "| engine | CPU s a step | " + " | ".join(labels) + " |",
            "|---" * (len(labels) + 2) + "|",
        ]
        for name, found in record["training"].items():
            shares = " | ".join(f"{found['shares'].get(label, 0.0):.1%}" for label in labels)
            lines.append(f"| {name} | {found['cpu_s'] / found['steps']:.2f} | {shares} |")
    return "\n".join(lines) + "\n"


def _row(label: str, dtype: str, engine: str, figures: dict[str, float]) -> str:
    rates = f"{figures['tokens_per_cpu_s']:.0f} | {figures['tokens_per_s']:.0f} | {figures['cpu_s']:.2f}"
    return f"| {label} | {dtype} | {engine} | {rates} |"


def main() -> None:
    """Run all parts and write benchmark.json and table.md."""
    options = _options()
    import torch
    import vllm

    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "options": {
            key: value for key, value in vars(options).items() if key not in ("output", "model", "teacher")
        },
        "machine": f"{len(os.sched_getaffinity(0))} shared {platform.machine()} cores, no GPU, one thread",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: version(name) for name in ("torch", "transformers")} | {"vllm": vllm.__version__},
        "load_before": os.getloadavg()[0],
    }
    parts = {"sampling": sampling_part, "rollout": rollout_part, "training": training_part}
    for name in options.parts:
        record[name] = parts[name](options)
        print(table({name: record[name]}), flush=True)
    record["load_after"] = os.getloadavg()[0]
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "benchmark.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.output / "table.md").write_text(table(record))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="student folder, for rollout and training")
    parser.add_argument("--teacher", type=Path, required=True, help="teacher folder, for training")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["sampling", "rollout", "training"])
    parser.add_argument("--hidden", type=int, default=256, help="a multiple of 128")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--reply", type=int, default=32, help="mean tokens of a reply")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
