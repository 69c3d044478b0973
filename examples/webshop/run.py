"""WebShop from nothing on a CPU: a base model, a teacher, a student that shops badly, then OPD, ATOD and GRPO.

Shops, goals and demonstrations are generated on the spot; 128 goals of a shop never trained in are the measure.
Usage: python run.py [--output runs/webshop] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from make_base import make_base

HERE = Path(__file__).parent
METHODS = ("opd", "atod", "grpo")


def train(name: str, output: Path, *overrides: str) -> list[dict[str, float]]:
    """Train by one of the configurations beside this file; returns the metrics of all steps."""
    words = ["train", str(HERE / f"{name}.yaml"), f"output_dir={output / name}", *overrides]
    print(f"\n$ agentbench {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "agentbench", *words], check=True)
    return [json.loads(line) for line in (output / name / "metrics.jsonl").read_text().splitlines()]


def main(output: Path, seed: int) -> None:
    """Run all steps."""
    made = make_base(output / "random")
    train("base", output, f"model_name_or_path={made}")
    train("teacher", output, f"model_name_or_path={output}/base/checkpoint-80")
    taught = train("teacher-2", output, f"model_name_or_path={output}/teacher/checkpoint-200")
    train("student", output, f"model_name_or_path={output}/teacher-2/checkpoint-400")
    rows = {"teacher": taught[-1]}
    for method in METHODS:
        overrides = [f"model_name_or_path={output}/student/checkpoint-20", f"seed={seed}"]
        if method != "grpo":
            overrides.append(f"teachers.0.model_name_or_path={output}/teacher-2/checkpoint-400")
        lines = train(method, output, *overrides)
        rows |= {"student": lines[0], f"student after {method}": lines[-1]}
    print("\nOn 200 goals of a generated shop never trained in, sampled at temperature 1")
    for name, line in rows.items():
        print(f"{name:18} score {line['eval/score']:.3f}  success {line['eval/success']:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/webshop"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.output, arguments.seed)
