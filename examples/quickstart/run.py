"""The quickstart: evaluate the ready-made policies, then make a teacher and a student and distil one into the other.

Everything is generated on the spot and runs on a laptop CPU; every step is a plain `agentbench` command, printed as it
is run. Usage: python run.py [--output runs/quickstart]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from make_base import make_base  # noqa: E402

PANEL = "alfworld/mini@1"


def agentbench(*arguments: str, quiet: bool = False) -> None:
    """Run one command of the CLI in a process of its own and stop with its exit code when it fails."""
    print(f"\n$ agentbench {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "agentbench", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)


def success(run: Path) -> str:
    """Success of an evaluation with its interval, as text."""
    found = json.loads((run / "summary.json").read_text())["overall"]["success"]
    return f"{found['value']:6.1%}   [{found['low']:.1%}, {found['high']:.1%}]   n={found['n']}"


def train(name: str, output: Path, *overrides: str) -> None:
    """Train by one of the configurations beside this file, inside the output folder; on two cores if there are two."""
    processes = ("--num-processes", "2") if (os.cpu_count() or 1) > 1 else ()
    agentbench("train", str(HERE / f"{name}.yaml"), f"output_dir={output / name}", *overrides, *processes)


def main(output: Path) -> None:
    """Run all steps; the output folder is made anew."""
    began = time.monotonic()
    if output.exists():
        shutil.rmtree(output)
    for policy in ("null", "random", "expert"):
        agentbench("eval", "--panel", PANEL, "--policy", policy, "--output", str(output / policy), quiet=True)
        print(f"{policy:8} {success(output / policy)}")

    print("\nA small model from nothing (tokenizer and random weights) ...", flush=True)
    make_base(output / "random")
    train("base", output, f"model_name_or_path={output / 'random'}")
    train("teacher", output, f"model_name_or_path={output / 'base' / 'checkpoint-50'}")
    teacher = output / "teacher" / "checkpoint-60"
    train("student", output, f"model_name_or_path={teacher}")
    student = output / "student" / "checkpoint-15"
    train("opd", output, f"model_name_or_path={student}", f"teachers.0.model_name_or_path={teacher}")

    print(f"\nSuccess on {PANEL} (128 generated games never trained on, sampled at temperature 1)")
    print(f"teacher              {success(output / 'teacher' / 'eval' / 'step-60')}")
    print(f"student              {success(output / 'opd' / 'eval' / 'step-0')}")
    print(f"student after OPD    {success(output / 'opd' / 'eval' / 'step-6')}")
    agentbench("compare", str(output / "opd" / "eval" / "step-0"), str(output / "opd" / "eval" / "step-6"))
    print(f"\nDone in {time.monotonic() - began:.0f} s. Look at:")
    print(f"  {output}/expert/report.md            the report of an evaluation")
    print(f"  {output}/opd/metrics.jsonl           every figure of the training run, a line per step")
    print(f"  {output}/opd/rollouts/               the collected episodes, turn by turn")
    print(f"  {output}/opd/checkpoint-6/          a plain Hugging Face folder; play it again:")
    print(
        f"  agentbench eval --panel {PANEL} --policy model --model {output}/opd/checkpoint-6 \\\n"
        "      --prompt agentbench.prompts:alfworld/transcript --max-new-tokens 12 --max-turns 20 --temperature 1 "
        "--output runs/again"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
    main(parser.parse_args().output)
