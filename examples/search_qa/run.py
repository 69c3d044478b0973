"""Search-QA from nothing on a CPU: a tokenizer and a random model, a base, a teacher, an early student, then OPD.

Everything is generated on the spot. Training and test worlds share no name, so what is learnt is searching and reading.
Teacher, student and distilled student answer the 512 held-out questions of heldout.yaml, and the two students are
compared question by question. A second call goes on where the first was stopped.
Usage: python run.py [--output runs/search_qa] [--seed 0]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import yaml
from make_base import make_base

HERE = Path(__file__).parent


def command(*words: str) -> None:
    """Run one command of agentbench, showing it."""
    print(f"\n$ agentbench {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "agentbench", *words], check=True)


def train(name: str, output: Path, seed: int, *overrides: str) -> Path:
    """Train by one of the configurations beside this file, unless that is done; returns the last checkpoint."""
    config = HERE / f"{name}.yaml"
    last = output / name / f"checkpoint-{yaml.safe_load(config.read_text())['max_steps']}"
    if not last.is_dir():
        going_on = ["--resume"] if any((output / name).glob("checkpoint-*")) else []
        words = [str(config), f"output_dir={output / name}", f"seed={seed}", *overrides]
        command("train", *words, *going_on)
    return last


def evaluate(model: Path, run: Path) -> None:
    """Answer the held-out questions, sampled at temperature 1."""
    options = [
        "--policy",
        "model",
        "--model",
        str(model),
        "--prompt",
        "agentbench.prompts:search_qa/transcript",
    ]
    options += ["--temperature", "1.0", "--max-new-tokens", "16", "--concurrency", "64", "--output", str(run)]
    command("eval", "--panel", str(HERE / "heldout.yaml"), *options, *(["--resume"] if run.exists() else []))


def main(output: Path, seed: int) -> None:
    """Run all steps."""
    if not (output / "random").is_dir():
        make_base(output / "random", seed=seed)
    base = train("base", output, seed, f"model_name_or_path={output}/random")
    teacher = train("teacher", output, seed, f"model_name_or_path={base}")
    student = train("student", output, seed + 1, f"model_name_or_path={base}")
    teaching = (f"model_name_or_path={student}", f"teachers.0.model_name_or_path={teacher}")
    distilled = train("opd", output, seed, *teaching)
    for name, model in (("teacher", teacher), ("student", student), ("opd", distilled)):
        evaluate(model, output / f"eval-{name}")
    command("compare", *(str(output / f"eval-{name}") for name in ("student", "opd", "teacher")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/search_qa"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.output, arguments.seed)
