"""WebShop from nothing on a CPU: a tokenizer and a random model, a cloned teacher, an early student, then OPD.

Everything is generated on the spot. It shows that nothing in training is particular to one environment; models of this
size and schooling do not learn to shop: watch the distance to the teacher fall, not the score rise.
Usage: python run.py [--output runs/webshop]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.policies.ready import ExpertPolicy
from agentbench.registry import env_spec
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes

HERE = Path(__file__).parent


def shop_texts(tasks: int) -> list[str]:
    """Instructions, pages and actions of the expert on generated training goals."""
    spec = env_spec("webshop")
    episodes = (Episode(spec, task, 0) for task in spec.tasks("mini-train")[:tasks])
    texts = []
    for item in run_episodes(episodes, ExpertPolicy()):
        for turn in item.turns:
            texts += [turn.observation.replace("' [SEP] '", " | "), turn.env_action or ""]
    return texts


def train(name: str, output: Path, *overrides: str) -> list[dict[str, float]]:
    """Train by one of the configurations beside this file; returns the metrics of all steps."""
    words = ["train", str(HERE / f"{name}.yaml"), f"output_dir={output / name}", *overrides]
    print(f"\n$ agentbench {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "agentbench", *words], check=True)
    return [json.loads(line) for line in (output / name / "metrics.jsonl").read_text().splitlines()]


def main(output: Path) -> None:
    """Run all steps."""
    base = output / "random"
    tokenizer = make_tokenizer(base, shop_texts(400), vocab_size=2000)
    make_model(base, tokenizer, hidden=96, layers=3, seed=0, max_position=4096)
    teacher = train("teacher", output, f"model_name_or_path={base}")[-1]
    train("student", output, f"model_name_or_path={base}")
    opd = train(
        "opd",
        output,
        f"model_name_or_path={output}/student/checkpoint-12",
        f"teachers.0.model_name_or_path={output}/teacher/checkpoint-40",
    )
    print("\nOn webshop/mini@1 (128 generated goals never trained on, sampled at temperature 1)")
    for name, line in (("teacher", teacher), ("student", opd[0]), ("student after OPD", opd[-1])):
        print(f"{name:18} score {line['eval/score']:.3f}  success {line['eval/success']:.1%}")
    gaps = [line["teacher_gap"] for line in opd if "teacher_gap" in line]
    print("reverse KL to the teacher, nats a token, by step:", " ".join(f"{gap:.3f}" for gap in gaps))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/webshop"))
    main(parser.parse_args().output)
