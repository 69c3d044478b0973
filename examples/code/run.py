"""Programs from nothing on a CPU: a tokenizer and a random model, a student of mixed programs, a teacher, then OPD.

Everything is generated on the spot. Each model writes one program for each of the 256 held-out tasks of code/mini@1,
and the students before and after distillation are compared task by task. A second call goes on where the first was
stopped. Usage: python run.py [--output runs/code] [--seed 0]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

from agentbench.envs.code.dataset import find_task, tasks
from agentbench.models.tiny import make_model, make_tokenizer

HERE = Path(__file__).parent


def task_texts(count: int) -> list[str]:
    """Statements and reference programs of training tasks, as the prompt and the expert write them."""
    texts = []
    for name in tasks("mini-train")[:count]:
        task = find_task(name)
        texts += [task.statement.split("\nExamples:")[0], f"```python\n{task.reference.strip()}\n```"]
    return texts


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
        command("train", str(config), f"output_dir={output / name}", f"seed={seed}", *overrides, *going_on)
    return last


def evaluate(model: Path, run: Path, turns: int = 1) -> None:
    """Write programs for the held-out tasks, sampled at temperature 1: one each, or more where the tests complain."""
    options = ["--policy", "model", "--model", str(model), "--prompt", "agentbench.prompts:code/transcript"]
    options += ["--temperature", "1.0", "--max-new-tokens", "64", "--concurrency", "64", "--output", str(run)]
    options += ["--max-turns", str(turns), "--env-option", f"max_turns={turns}"]
    options += ["--resume"] if run.exists() else []
    command("eval", "--panel", "code/mini@1", *options)


def main(output: Path, seed: int) -> None:
    """Run all steps."""
    base = output / "random"
    if not base.is_dir():
        tokenizer = make_tokenizer(base, task_texts(2048), vocab_size=640)
        make_model(base, tokenizer, hidden=96, layers=3, seed=seed, max_position=1024)
    student = train("student", output, seed, f"model_name_or_path={base}")
    teacher = train("teacher", output, seed, f"model_name_or_path={student}")
    teaching = (f"model_name_or_path={student}", f"teachers.0.model_name_or_path={teacher}")
    distilled = train("opd", output, seed, *teaching)
    for name, model in (("teacher", teacher), ("student", student), ("opd", distilled)):
        evaluate(model, output / f"eval-{name}")
    evaluate(distilled, output / "eval-opd-3-turns", turns=3)
    command("compare", *(str(output / f"eval-{name}") for name in ("student", "opd", "teacher")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/code"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.output, arguments.seed)
