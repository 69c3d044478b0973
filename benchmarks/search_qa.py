"""Measures the Search-QA environment: turns a second by concurrency, making a world, its share of a training step.

    python benchmarks/search_qa.py                                    # the generated encyclopaedia
    python benchmarks/search_qa.py --split supported                  # public questions over the imported corpus
    python benchmarks/search_qa.py --train CONFIG.yaml                # also: time in the environment of a training run

An episode is the expert's: one search for each passage, then the answer; BM25 runs in the same process. Rates are over
wall time, with the CPU seconds beside them: a busy machine slows the first, not the second. Answers that retrievers
keep are dropped before each round, so every search is carried out. `--output FILE` keeps the figures as JSON, with
command and versions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentbench.env import EnvSpec, StepReturn
from agentbench.envs.search_qa.corpora import forget_retrievers
from agentbench.envs.search_qa.env import SPEC, SearchQAEnv
from agentbench.envs.search_qa.world.encyclopaedia import World
from agentbench.machine import versions
from agentbench.policies.ready import ExpertPolicy
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes

Figures = dict[str, Any]


class Timed(SearchQAEnv):
    """An env that adds up the seconds of its steps, over all instances."""

    lock = threading.Lock()
    steps: list[float] = []  # noqa: RUF012

    def step(self, action: str) -> StepReturn:
        """Carry out a command, and note how long it took."""
        began = time.perf_counter()
        found = super().step(action)
        with self.lock:
            Timed.steps.append(time.perf_counter() - began)
        return found


def measure_turns(split: str, episodes: int, concurrency: int, repeats: int) -> Figures:
    """Play expert episodes; the median of `repeats` rounds counts."""
    spec: EnvSpec = replace(SPEC, make=Timed)
    tasks = list(SPEC.tasks(split)[:episodes])
    rates, cpu, steps = [], [], []
    for round_ in range(repeats + 1):
        Timed.steps = []
        forget_retrievers()
        wall, used = time.perf_counter(), time.process_time()
        played = list(
            run_episodes((Episode(spec, task, 0) for task in tasks), ExpertPolicy(), concurrency=concurrency)
        )
        wall, used = time.perf_counter() - wall, time.process_time() - used
        turns = sum(len(item.turns) for item in played)
        if not all(item.success for item in played):
            raise SystemExit("the expert failed; these figures would mean nothing")
        if round_:  # the first round warms the caches
            rates.append(turns / wall)
            cpu.append(used / turns * 1e3)
            steps += Timed.steps
    steps.sort()
    return {
        "split": split, "episodes": len(tasks), "turns": turns, "concurrency": concurrency, "rounds": repeats,
        "turns_per_second": statistics.median(rates), "lowest": min(rates), "highest": max(rates),
        "cpu_ms_per_turn": statistics.median(cpu),
        "step_ms_p50": 1e3 * steps[len(steps) // 2], "step_ms_p99": 1e3 * steps[int(0.99 * len(steps))],
    }  # fmt: skip


def measure_world(make: str) -> Figures:
    """Time the making of a world of 5,000 passages, its index included, and of its first 128 questions."""
    began = time.process_time()
    world = World(make, 1001)
    made = time.process_time()
    world.questions(128)
    return {
        "make": make, "passages": len(world.pages), "cpu_seconds": made - began,
        "questions": 128, "questions_cpu_seconds": time.process_time() - made,
    }  # fmt: skip


def measure_training(config: Path, overrides: list[str]) -> Figures:
    """Train by a configuration and tell which share of the wall time was spent inside the environment's steps."""
    from agentbench.envs.search_qa import env as module
    from agentbench.training.config import read_config
    from agentbench.training.loop import train

    Timed.steps = []
    module.SPEC = replace(SPEC, make=Timed)
    began = time.perf_counter()
    train(read_config(config, overrides), report=print)
    wall = time.perf_counter() - began
    return {"config": str(config), "overrides": overrides, "wall_seconds": wall, "steps": len(Timed.steps),
            "environment_seconds": sum(Timed.steps), "share": sum(Timed.steps) / wall}  # fmt: skip


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", default="mini-test")
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument(
        "--train", type=Path, help="training configuration whose time in the environment is measured"
    )
    parser.add_argument("--override", nargs="*", default=[], help="key=value for --train")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    figures: Figures = {
        "command": " ".join(["python", *sys.argv]),
        "versions": versions(),
        "world": measure_world("mini"),
    }
    print(json.dumps(figures["world"]))
    figures["turns"] = []
    for concurrency in options.concurrency:
        row = measure_turns(options.split, options.episodes, concurrency, options.repeats)
        figures["turns"].append(row)
        print(
            f"{concurrency:3} at once: {row['turns_per_second']:7,.0f} turns/s ({row['lowest']:,.0f} to "
            f"{row['highest']:,.0f}), {row['cpu_ms_per_turn']:.3f} ms CPU a turn, step p50 {row['step_ms_p50']:.2f}, "
            f"p99 {row['step_ms_p99']:.2f} ms"
        )
    if options.train:
        figures["training"] = measure_training(options.train, options.override)
        print(json.dumps(figures["training"]))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
