"""Sums up the learning comparison.

Success by method, step and seed, paired against the student, and the teacher's take-over curve. Reads the run folders
of `agentbench train examples/learning/*.yaml`; trains nothing.

Usage: python benchmarks/learning.py RUNS OUTPUT --student FOLDER --teacher FOLDER

RUNS holds one folder per run, named METHOD-SEED. Writes summary.json, table.md and success.png into OUTPUT.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.engines.hf.engine import build
from agentbench.machine import versions
from agentbench.policies.model import ModelPolicy
from agentbench.registry import env_spec
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes
from agentbench.runs.compare import compare_runs
from agentbench.runs.episodes import read_episodes
from agentbench.runs.stats import wilson
from agentbench.types import SamplingParams, derive_seed

PROMPT = "agentbench.prompts:alfworld/transcript"
TASKS, MAX_TURNS = 256, 20


def evaluations(run: Path) -> list[tuple[int, Path]]:
    """Evaluated steps of a run, in order."""
    return sorted((int(path.name.removeprefix("step-")), path) for path in (run / "eval").iterdir())


def student_tokens(run: Path, steps: int) -> int:
    """Tokens the student had sampled in the first `steps` steps of training."""
    total = 0
    for step in range(steps):
        for item in read_episodes(run / "rollouts" / f"step-{step:06d}.jsonl"):
            total += sum(len(turn.action.token_ids) for turn in item.turns)
    return total


def curve(run: Path) -> list[dict[str, Any]]:
    """Success at every evaluated step, paired with the student's at step 0."""
    steps = evaluations(run)
    first = steps[0][1]
    points = []
    for step, folder in steps:
        episodes = read_episodes(folder)
        good = [item for item in episodes if item.ok]
        rate = wilson(sum(bool(item.success) for item in good), len(good))
        point: dict[str, Any] = {
            "step": step,
            "student_tokens": student_tokens(run, step),
            "n": len(good),
            "errors": len(episodes) - len(good),
            "success": rate.value,
            "low": rate.low,
            "high": rate.high,
        }
        if step:
            paired = compare_runs(first, folder).success
            assert paired is not None
            point["gain"] = paired.difference.value
            point["gain_interval"] = [paired.difference.low, paired.difference.high]
            point["mcnemar_p"] = paired.p
        points.append(point)
    return points


def take_over(student: Path, teacher: Path, turns: list[int]) -> list[dict[str, Any]]:
    """Success when the teacher takes over after k turns of the student."""
    spec = env_spec("alfworld")
    prompt = load_prompt(PROMPT)
    parser = get_parser(prompt.parser or spec.parser)

    def policy(folder: Path, author: str) -> ModelPolicy:
        engine = build(str(folder))
        renderer = Renderer(engine.tokenizer, prompt, history=0, max_turns=MAX_TURNS)
        return ModelPolicy(engine, renderer, parser, SamplingParams(1.0, max_new_tokens=12), author=author)

    policies = {"student": policy(student, "student"), "teacher": policy(teacher, "teacher")}
    points = []
    for k in turns:
        authors = ((0, "student"), (k, "teacher")) if k else ((0, "teacher"),)
        episodes = [
            Episode(spec, task, derive_seed(0, "take-over", task), authors=authors, max_turns=MAX_TURNS + k)
            for task in spec.tasks("mini-valid")[:TASKS]
        ]
        wins = [bool(item.success) for item in run_episodes(episodes, policies, concurrency=64)]
        rate = wilson(sum(wins), len(wins))
        points.append({"after": k, "success": rate.value, "low": rate.low, "high": rate.high, "n": rate.n})
    return points


def table(curves: dict[str, list[dict[str, Any]]]) -> str:
    """The curves as a table, one row per run and step."""
    lines = [
        "| run | step | student tokens | n | errors | success | 95 % interval | gain | 95 % interval | McNemar p |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, points in sorted(curves.items()):
        for point in points:
            gain = ("–", "–", "–")
            if "gain" in point:
                low, high = point["gain_interval"]
                gain = (f"{point['gain']:+.1%}", f"{low:+.1%} … {high:+.1%}", f"{point['mcnemar_p']:.1g}")
            lines.append(
                f"| {name} | {point['step']} | {point['student_tokens']:,} | {point['n']} | {point['errors']} | "
                f"{point['success']:.1%} | {point['low']:.1%} – {point['high']:.1%} | {' | '.join(gain)} |"
            )
    return "\n".join(lines) + "\n"


def plot(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Success against student tokens, one line per run, one colour per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    by_method: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for name, points in sorted(curves.items()):
        by_method[name.rpartition("-")[0]].append(points)
    for number, (method, runs) in enumerate(sorted(by_method.items())):
        for index, points in enumerate(runs):
            tokens = [point["student_tokens"] / 1000 for point in points]
            rates = [100 * point["success"] for point in points]
            axes.plot(tokens, rates, marker="o", color=f"C{number}", label=method if index == 0 else None)
    axes.set(
        xlabel="tokens sampled by the student in training (thousands)", ylabel="success on held-out games (%)"
    )
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the runs and write the summary."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("runs", type=Path)
    arguments.add_argument("output", type=Path)
    arguments.add_argument("--student", type=Path, required=True)
    arguments.add_argument("--teacher", type=Path, required=True)
    options = arguments.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    runs = sorted(path for path in options.runs.iterdir() if (path / "eval").is_dir())
    curves = {path.name: curve(path) for path in runs}
    takeover = take_over(options.student, options.teacher, [0, 2, 4, 8])
    summary = {"curves": curves, "take_over": takeover, **versions()}
    (options.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    text = table(curves) + "\n| teacher takes over after | n | success | 95 % interval |\n|---|---|---|---|\n"
    for point in takeover:
        interval = f"{point['low']:.1%} – {point['high']:.1%}"
        text += f"| {point['after']} turns | {point['n']} | {point['success']:.1%} | {interval} |\n"
    (options.output / "table.md").write_text(text)
    plot(curves, options.output / "success.png")
    print(text)


if __name__ == "__main__":
    main()
