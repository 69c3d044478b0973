"""Programs from nothing on a CPU: a tokenizer and a random model, a cloned teacher, an early student, then OPD.

Everything is generated on the spot. Each model writes one program for each of the 256 held-out tasks of code/mini@1,
and the students before and after distillation are compared task by task. Usage: python run.py [--output runs/code]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

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


def main(output: Path) -> None:
    """Run all steps."""
    base = output / "random"
    tokenizer = make_tokenizer(base, task_texts(2048), vocab_size=640)
    make_model(base, tokenizer, hidden=96, layers=3, seed=0, max_position=1024)
    for name in ("teacher", "student"):
        command(
            "train", str(HERE / f"{name}.yaml"), f"output_dir={output / name}", f"model_name_or_path={base}"
        )
    student, teacher = output / "student" / "checkpoint-8", output / "teacher" / "checkpoint-30"
    command(
        "train",
        str(HERE / "opd.yaml"),
        f"output_dir={output / 'opd'}",
        f"model_name_or_path={student}",
        f"teachers.0.model_name_or_path={teacher}",
    )
    for name, model in (
        ("teacher", teacher),
        ("student", student),
        ("opd", output / "opd" / "checkpoint-10"),
    ):
        options = [
            "--policy",
            "model",
            "--model",
            str(model),
            "--prompt",
            "agentbench.prompts:code/transcript",
        ]
        options += ["--temperature", "1.0", "--max-new-tokens", "64", "--concurrency", "64"]
        run = str(output / f"eval-{name}")
        command("eval", "--panel", "code/mini@1", *options, "--env-option", "max_turns=1", "--output", run)
    command("compare", str(output / "eval-student"), str(output / "eval-opd"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/code"))
    main(parser.parse_args().output)
