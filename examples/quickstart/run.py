"""The quickstart: ready-made policies, then a small student that is distilled from a teacher and trained on by reward.

Every step is a plain `agentbench` command, printed as it is run; all of it runs on a laptop CPU. Student and teacher
lie in start/ (0.4 M parameters each, made by the configurations in prepare/); --from-scratch makes them again first.

Usage: python run.py [--output runs/quickstart] [--from-scratch]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from make_base import make_base  # noqa: E402

PANEL = "alfworld/mini@1"
OPD_STEPS, ATOD_STEPS = 15, 20
STAGES = (("1-base", 100), ("2-teacher", 60), ("3-teacher", 120), ("4-teacher", 120), ("5-student", 30))
"""Configurations of prepare/, in order, and the steps of each; every one starts from the checkpoint before."""


def agentbench(*arguments: str, quiet: bool = False) -> None:
    """Run one command of the CLI in a process of its own and stop with its exit code when it fails."""
    print(f"\n$ agentbench {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "agentbench", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)


def train(config: Path, output: Path, *overrides: str) -> None:
    """Train by a configuration into a folder; on two processes where there are two cores."""
    processes = ("--num-processes", "2") if (os.cpu_count() or 1) > 1 else ()
    agentbench("train", str(config), f"output_dir={output}", *overrides, *processes)


def make_start(output: Path) -> tuple[Path, Path]:
    """Make student and teacher from nothing: a tokenizer, random weights, and five runs of supervised learning."""
    print("\nA small model from nothing ...", flush=True)
    model = make_base(output / "random")
    made = {}
    for name, steps in STAGES:
        train(HERE / "prepare" / f"{name}.yaml", output / name, f"model_name_or_path={model}")
        model = made[name] = output / name / f"checkpoint-{steps}"
    return made["5-student"], made["4-teacher"]


def check_start() -> tuple[Path, Path]:
    """The student and teacher that come with the project, if they are what was shipped."""
    start = HERE / "start"
    for line in (start / "SHA256SUMS").read_text().splitlines():
        wanted, name = line.split()
        if hashlib.sha256((start / name).read_bytes()).hexdigest() != wanted:
            raise SystemExit(f"{start / name} is not what was shipped; restore it, or use --from-scratch")
    return start / "student", start / "teacher"


def success(run: Path) -> dict[str, Any]:
    """Success of an evaluation with its interval."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())["overall"]["success"]
    return found


def said(found: dict[str, Any]) -> str:
    """A rate as text; never without its interval and n."""
    return f"{found['value']:6.1%}   [{found['low']:.1%}, {found['high']:.1%}]   n={found['n']}"


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the rates with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    values = [row["value"] for row in rows.values()]
    below = [row["value"] - row["low"] for row in rows.values()]
    above = [row["high"] - row["value"] for row in rows.values()]
    colours = ["#9aa5b1", "#4c78a8", "#f58518", "#cccccc"]
    axes.bar(list(rows), values, yerr=[below, above], capsize=5, color=colours[: len(rows)], width=0.6)
    for place, row in enumerate(rows.values()):
        axes.annotate(
            f"{row['value']:.0%}", (place, row["high"]), (0, 3), textcoords="offset points", ha="center"
        )
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    n = next(iter(rows.values()))["n"]
    axes.set_title(f"Success on {PANEL}: {n} games never trained on, 95 % intervals", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(output: Path, *, from_scratch: bool) -> None:
    """Run all steps; the output folder is made anew."""
    began = time.monotonic()
    if output.exists():
        shutil.rmtree(output)
    for policy in ("null", "random", "expert"):
        agentbench("eval", "--panel", PANEL, "--policy", policy, "--output", str(output / policy), quiet=True)
        print(f"{policy:8} {said(success(output / policy))}")
    student, teacher = make_start(output / "start") if from_scratch else check_start()

    taught = f"teachers.0.model_name_or_path={teacher}"
    train(HERE / "opd.yaml", output / "opd", f"model_name_or_path={student}", taught)
    opd = output / "opd" / f"checkpoint-{OPD_STEPS}"
    train(HERE / "atod.yaml", output / "atod", f"model_name_or_path={opd}", taught)
    agentbench(
        *("eval", "--panel", PANEL, "--policy", "model", "--model", str(teacher)),
        *("--concurrency", "64", "--output", str(output / "teacher")),
        quiet=True,
    )
    rows = {
        "student": success(output / "opd" / "eval" / "step-0"),
        "after OPD": success(output / "opd" / "eval" / f"step-{OPD_STEPS}"),
        "after ATOD": success(output / "atod" / "eval" / f"step-{ATOD_STEPS}"),
        "teacher": success(output / "teacher"),
    }
    print(f"\nSuccess on {PANEL} (generated games never trained on, sampled at temperature 1)")
    for name, row in rows.items():
        print(f"{name:12} {said(row)}")
    last = output / "atod" / "eval" / f"step-{ATOD_STEPS}"
    agentbench("compare", str(output / "opd" / "eval" / "step-0"), str(last))
    draw(rows, output / "success.png")
    print(f"\nDone in {time.monotonic() - began:.0f} s. Look at:")
    print(f"  {output}/success.png                 the picture")
    print(f"  {last}/report.md   the report of an evaluation")
    print(f"  {output}/atod/metrics.jsonl          every figure of a training run, a line per step")
    print(
        f"  {output}/atod/rollouts/              the collected episodes, turn by turn; as a page, with every token:"
    )
    print(f"  agentbench view {output}/atod -o {output}/atod.html")
    print("A checkpoint is a plain Hugging Face folder that knows how it was trained; play it again:")
    played = output / "atod" / f"checkpoint-{ATOD_STEPS}"
    print(f"  agentbench eval --panel {PANEL} --policy model --model {played} --output runs/again")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    parser.add_argument(
        "--from-scratch", action="store_true", help="make student and teacher again (10 minutes)"
    )
    options = parser.parse_args()
    main(options.output, from_scratch=options.from_scratch)
