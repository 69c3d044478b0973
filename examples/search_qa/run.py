"""Search-QA from nothing on a CPU: a tokenizer and a random model, a base, a teacher, an early student, then OPD.

Everything is generated on the spot. Training and test worlds share no name, so what is learnt is searching and reading.
Usage: python run.py [--output runs/search_qa] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from make_base import make_base

HERE = Path(__file__).parent


def train(name: str, output: Path, seed: int, *overrides: str) -> list[dict[str, float]]:
    """Train by one of the configurations beside this file; returns the metrics of all steps."""
    panel = () if name in ("base", "student") else (f"eval.panel={HERE / 'heldout.yaml'}",)
    words = [
        "train",
        str(HERE / f"{name}.yaml"),
        f"output_dir={output / name}",
        f"seed={seed}",
        *panel,
        *overrides,
    ]
    print(f"\n$ agentbench {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "agentbench", *words], check=True)
    return [json.loads(line) for line in (output / name / "metrics.jsonl").read_text().splitlines()]


def main(output: Path, seed: int) -> None:
    """Run all steps."""
    make_base(output / "random", seed=seed)
    train("base", output, seed, f"model_name_or_path={output}/random")
    base = f"model_name_or_path={output}/base/checkpoint-36"
    teacher = train("teacher", output, seed, base)[-1]
    train("student", output, seed + 1, base)
    opd = train(
        "opd",
        output,
        seed,
        f"model_name_or_path={output}/student/checkpoint-5",
        f"teachers.0.model_name_or_path={output}/teacher/checkpoint-100",
    )
    print("\nExact match on 512 questions about held-out entities, sampled at temperature 1")
    for name, line in (("teacher", teacher), ("student", opd[0]), ("student after OPD", opd[-1])):
        print(f"{name:18} {line['eval/success']:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/search_qa"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.output, arguments.seed)
