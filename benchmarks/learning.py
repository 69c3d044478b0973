"""Sums up the learning comparison with the project's own report and comparison.

Success by method, step and seed, paired against the student, and the teacher's take-over curve. Reads the run folders
of `agentbench train examples/learning/*.yaml`; trains nothing.

Usage: python benchmarks/learning.py RUNS OUTPUT --student FOLDER --teacher FOLDER

RUNS holds one folder per run, named METHOD-SEED. Writes summary.json, table.md and success.png into OUTPUT.
"""

from __future__ import annotations

import argparse
import json
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
from agentbench.runs.curves import Cost, Curve, Point, read_curve
from agentbench.runs.curves_page import draw_curves, page
from agentbench.runs.sides import evaluations
from agentbench.runs.stats import Estimate, wilson
from agentbench.runs.summary import load_summary
from agentbench.runs.tables import markdown_table
from agentbench.types import SamplingParams, derive_seed

PROMPT = "agentbench.prompts:alfworld/transcript"
PANEL = "examples/learning/heldout.yaml"
TASKS, MAX_TURNS = 256, 20


def figures(run: Path) -> list[dict[str, Any]]:
    """Success at every evaluated step, paired with the student's at step 0."""
    folders = dict(evaluations(run))
    points = []
    for point in read_curve(run).points:
        row: dict[str, Any] = {
            "step": point.step,
            "student_tokens": point.cost.sampled,
            "n": point.value.n,
            "errors": sum(load_summary(folders[point.step]).errors.values()),
            "success": point.value.value,
            "low": point.value.low,
            "high": point.value.high,
        }
        if point.step:
            paired = compare_runs(folders[0], folders[point.step]).head
            row["gain"] = paired.difference.value
            row["gain_interval"] = [paired.difference.low, paired.difference.high]
            row["mcnemar_p"] = paired.p
        points.append(row)
    return points


def curves(summary: dict[str, Any]) -> list[Curve]:
    """The runs as `agentbench report` reads them from their folders, from the numbers that were kept of these."""
    found = []
    for name, rows in summary["curves"].items():
        method, _, seed = name.rpartition("-")
        points = tuple(
            Point(
                row["step"],
                Estimate(row["success"], row["low"], row["high"], row["n"]),
                None,
                Cost(sampled=row["student_tokens"]),
            )
            for row in rows
        )
        last = points[-1]
        found.append(
            Curve(Path(name), {"algorithm": method, "seed": int(seed)}, points, PANEL, last.step, last.cost)
        )
    return found


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


def table(summary: dict[str, Any]) -> str:
    """The page of `agentbench report`, every gain over the student, and the teacher's take-over."""
    gains = [
        (
            name,
            str(row["step"]),
            f"{100 * row['gain']:+.1f}",
            f"{100 * row['gain_interval'][0]:+.1f} – {100 * row['gain_interval'][1]:+.1f}",
            f"{row['mcnemar_p']:.1g}",
        )
        for name, rows in summary["curves"].items()
        for row in rows
        if "gain" in row
    ]
    after = [
        (
            f"{row['after']} turns",
            str(row["n"]),
            f"{100 * row['success']:.1f}",
            f"{100 * row['low']:.1f} – {100 * row['high']:.1f}",
        )
        for row in summary["take_over"]
    ]
    lines = [page(curves(summary)), "Against the student before the first step, game by game:", ""]
    lines += markdown_table(("run", "step", "gain", "95 % interval", "exact McNemar p"), gains)
    lines += ["", *markdown_table(("teacher takes over after", "n", "success", "95 % interval"), after)]
    return "\n".join(lines) + "\n"


def write(summary: dict[str, Any], output: Path) -> None:
    """Write the page and the picture of a summary."""
    (output / "table.md").write_text(table(summary))
    draw_curves(curves(summary), output / "success.png", over="tokens")


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
    takeover = take_over(options.student, options.teacher, [0, 2, 4, 8])
    summary = {"curves": {path.name: figures(path) for path in runs}, "take_over": takeover, **versions()}
    (options.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write(summary, options.output)
    print(table(summary))


if __name__ == "__main__":
    main()
