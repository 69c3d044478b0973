"""What a sampled decision costs in step mode (OPAD), beside whole episodes: seconds, sampled tokens, env steps.

The quickstart's student plays generated ALFWorld games. Whole episodes make every turn a decision; step mode plays
roots (by the student, by the expert, or as recorded), restores states drawn from them and samples a decision in each.
Usage: python benchmarks/opad_cost.py OUTPUT [--tasks 16] [--members 4] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentbench.config import validate
from agentbench.machine import versions
from agentbench.policies.ready import ExpertPolicy
from agentbench.policy import Decision, Policy, View
from agentbench.registry import env_spec, open_engine
from agentbench.rollout.collect import Stage, collect
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes
from agentbench.runs.episodes import encode_episode
from agentbench.training.authors import build_stage
from agentbench.training.config import TrainConfig
from agentbench.types import REPLAY, RolloutPlan

STUDENT = Path(__file__).parent.parent / "examples" / "quickstart" / "start" / "student"
ROOTS = {"onpolicy": "student", "reference": "expert", "replay": REPLAY}


class Counting(Policy):
    """Counts the turns and tokens that a policy says, roots included."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.turns, self.tokens = policy, 0, 0

    @property
    def info(self) -> dict[str, Any]:
        return self.policy.info

    def submit(self, views: Sequence[View]) -> None:
        self.policy.submit(views)

    def poll(self) -> list[tuple[str, Decision]]:
        ready = self.policy.poll()
        self.turns += len(ready)
        self.tokens += sum(len(decision.action.token_ids) for _, decision in ready)
        return ready

    def forget(self, key: str) -> None:
        self.policy.forget(key)


class Speaker:
    """As much of a trainer as a stage reads."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer


def make_stage(folder: Path, tasks: int) -> tuple[Stage, list[str]]:
    """The student, the expert and the expert's recordings on the first training games."""
    spec = env_spec("alfworld")
    names = list(spec.tasks("mini-train")[:tasks])
    recorded = run_episodes([Episode(spec, name, 1, max_turns=20) for name in names], ExpertPolicy())
    (folder / "episodes.jsonl").write_bytes(b"".join(encode_episode(item) + b"\n" for item in recorded))
    values = {
        "algorithm": "opad",
        "output_dir": "unused",
        "model_name_or_path": str(STUDENT),
        "env": {"name": "alfworld", "split": "mini-train", "prompt": "alfworld/transcript", "max_turns": 20},
        "rollout": {"max_new_tokens": 12, "recordings": str(folder)},
    }
    config = validate(TrainConfig, values)
    engine: Any = open_engine("hf", str(STUDENT), {})
    trainer: Any = Speaker(engine.tokenizer)
    stage = build_stage(config, spec, trainer, engine)
    return replace(stage, policies={**stage.policies, "student": Counting(stage.policies["student"])}), names


def measure(stage: Stage, names: list[str], plan: RolloutPlan, step: int) -> dict[str, float]:
    """Run a plan and count what the student decided where it is trained."""
    student = stage.policies["student"]
    assert isinstance(student, Counting)
    student.turns, student.tokens, began = 0, 0, time.perf_counter()
    groups = collect(plan, stage, names, step)
    seconds = time.perf_counter() - began
    members = [(member, group.anchor) for group in groups for member in group.members]
    decisions = sum(len(member.turns) - anchor for member, anchor in members)
    return {
        "decisions": decisions,
        "ms_per_decision": 1000 * seconds / decisions,
        "turns_sampled_per_decision": student.turns / decisions,
        "tokens_sampled_per_decision": student.tokens / decisions,
        "turns_before_decision": sum(anchor for _, anchor in members) / len(members),
    }


def plans(groups: int, members: int) -> Mapping[str, RolloutPlan]:
    """Whole episodes, and decisions in four states of each root."""
    found = {"whole episodes": RolloutPlan(groups, members)}
    for prefix, author in ROOTS.items():
        roots = (((0, author),),)
        found[f"decisions, {prefix}"] = RolloutPlan(
            groups, members, "step", "uniform", roots=roots, anchors_per_root=4, steps_per_member=1
        )
    return found


def main(output: Path, tasks: int, members: int, rounds: int) -> None:
    """Measure every plan in turn, `rounds` times, after a warm-up; write the medians."""
    output.mkdir(parents=True, exist_ok=True)
    stage, names = make_stage(output, tasks)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in plans(1, 1)}
    for step in range(rounds + 1):
        for name, plan in plans(tasks, members).items():
            found = measure(stage, names, plan, step)
            if step:
                seen[name].append(found)
    table = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in seen.items()
    }
    (output / "episodes.jsonl").unlink()
    facts = {"tasks": tasks, "members": members, "rounds": rounds, "versions": versions()}
    (output / "cost.json").write_text(json.dumps({"plans": table, **facts}, indent=1) + "\n")
    for name, row in table.items():
        print(f"{name:22} " + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.output, arguments.tasks, arguments.members, arguments.rounds)
