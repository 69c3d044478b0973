"""What a training step of each method costs beside OPD: seconds by phase, tokens by pass, all methods in one run.

Every method is set up as its file in examples/learning says (small models, generated ALFWorld households, 8 episodes of
a task), with the quickstart's student and teacher. The methods take turns, step by step in one process with one thread.
Seconds are of the processor, so that whatever else the machine does costs nobody anything. The first round warms up and
does not count; figures are medians.
Usage: python benchmarks/method_cost.py OUTPUT [--rounds 3] [--tasks 2] [--step 6] [--only opd,atod]
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from agentbench.machine import versions
from agentbench.registry import env_spec, open_engine, trainer_spec
from agentbench.rollout.collect import collect
from agentbench.trainers import base, mad_opd
from agentbench.trainers.student.hidden import HiddenHead
from agentbench.trainers.student.student import Student
from agentbench.trainers.teachers.local import ModelTeacher
from agentbench.training.authors import build_stage
from agentbench.training.config import TrainConfig, read_config
from agentbench.training.tasks import TaskOrder

ROOT = Path(__file__).parent.parent
START = ROOT / "examples" / "quickstart" / "start"
METHODS = (
    *("opd", "gkd", "lsm", "tcod", "guided-opd", "opad", "mad_opd", "mopd", "sdar"),
    *("atod", "sod", "grpo", "gigpo"),
)
PHASES = ("rollout", "debate", "teacher", "student scores", "learn", "publish", "other")
PASSES = ("sampled", "spoken", "teacher read", "student read", "learnt")


class Meter:
    """Seconds by phase, each without those of the phases inside it, and tokens by pass."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; the one around it stands still meanwhile."""
        self._lap()
        self._open.append(name)
        try:
            yield
        finally:
            self._lap()
            self._open.pop()

    def _lap(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @property
    def inside(self) -> str:
        """The phase that is running."""
        return self._open[-1] if self._open else ""


METER = Meter()


def timed(owner: Any, name: str, phase: str) -> None:
    """Let every call of a function or method count to a phase."""
    inner: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        with METER.phase(phase):
            return inner(*args, **kwargs)

    setattr(owner, name, outer)


def instrument() -> None:
    """Watch the passes of all trainers of this process."""
    timed(base.Algorithm, "descend", "learn")
    timed(Student, "score", "student scores")
    timed(ModelTeacher, "score", "teacher")
    timed(ModelTeacher, "linear_head", "teacher")
    timed(mad_opd, "hold_debates", "debate")
    forward = HiddenHead.forward

    def counted(self: HiddenHead, tokens_BT: torch.Tensor, *args: Any) -> Any:
        reading = {"teacher": "teacher read", "learn": "learnt"}.get(METER.inside, "student read")
        METER.tokens[reading] += tokens_BT.numel()
        return forward(self, tokens_BT, *args)

    HiddenHead.forward = counted  # type: ignore[method-assign]


def configuration(method: str, tasks: int) -> TrainConfig:
    """The example's with so many tasks a step and the quickstart's models; of two teachers, both are its one."""
    config = read_config(ROOT / "examples" / "learning" / f"{method}.yaml")
    own = ("student", "ema")
    teachers = tuple(
        t if t.backend in own else t.model_copy(update={"model_name_or_path": str(START / "teacher")})
        for t in config.teachers
    )
    rollout = config.rollout.model_copy(update={"tasks_per_step": tasks})
    changes = {"model_name_or_path": str(START / "student"), "teachers": teachers, "rollout": rollout}
    return config.model_copy(update=changes)


class Contestant:
    """One method, ready to take steps."""

    def __init__(self, method: str, tasks: int) -> None:
        self.config = configuration(method, tasks)
        spec = trainer_spec(self.config.algorithm)
        self.trainer: Any = spec.build(self.config, spec.config(**self.config.trainer))
        self.engine: Any = open_engine("hf", self.config.model_name_or_path, {"dtype": "float32"})
        env = env_spec(self.config.env.name)
        self.stage = build_stage(self.config, env, self.trainer, self.engine, spec.authors)
        self.order = TaskOrder(env.tasks(self.config.env.split), self.config.seed)

    def step(self, step: int) -> dict[str, Any]:
        """One step; returns its figures."""
        METER.seconds.clear()
        METER.tokens.clear()
        with METER.phase("rollout"):
            plan = self.trainer.plan(step)
            groups = collect(plan, self.stage, self.order.at(step, plan.groups), step)
        speakers = getattr(self.trainer, "speakers", [])
        before = sum(speaker.tokens for speaker in speakers)
        with METER.phase("other"):
            update = self.trainer.update(groups, step)
        with METER.phase("publish"):
            self.engine.load_weights(self.trainer.weights())
        turns = [
            turn for g in groups for m in g.members for turn in m.turns[g.anchor :] if turn.action.token_ids
        ]
        METER.tokens["sampled"] = sum(len(turn.action.token_ids) for turn in turns)
        METER.tokens["spoken"] = sum(speaker.tokens for speaker in speakers) - before
        return {
            "seconds": {name: METER.seconds[name] for name in PHASES},
            "tokens": {name: METER.tokens[name] for name in PASSES},
            "turns": len(turns),
            "updates": update.metrics.get("updates", 0.0),
        }


def middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of several steps."""
    found: dict[str, Any] = {
        part: {name: statistics.median(row[part][name] for row in rows) for name in rows[0][part]}
        for part in ("seconds", "tokens")
    }
    found["seconds"]["all"] = statistics.median(sum(row["seconds"].values()) for row in rows)
    return found | {name: statistics.median(row[name] for row in rows) for name in ("turns", "updates")}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: seconds beside the first method's, then tokens."""
    unit = next(iter(found.values()))["seconds"]["all"]
    lines = [
        f"| method | step, s | of {next(iter(found))}'s | {' | '.join(PHASES)} |",
        f"|---|--:|--:|{'--:|' * len(PHASES)}",
    ]
    for method, row in found.items():
        seconds = row["seconds"]
        parts = " | ".join(f"{seconds[name]:.2f}" if seconds[name] >= 0.005 else "–" for name in PHASES)
        lines.append(f"| {method} | {seconds['all']:.2f} | {seconds['all'] / unit:.2f} | {parts} |")
    lines += ["", f"| method | turns | {' | '.join(PASSES)} |", f"|---|--:|{'--:|' * len(PASSES)}"]
    for method, row in found.items():
        parts = " | ".join(f"{row['tokens'][name]:,.0f}" if row["tokens"][name] else "–" for name in PASSES)
        lines.append(f"| {method} | {row['turns']:,.0f} | {parts} |")
    return "\n".join(lines)


def main(output: Path, rounds: int, tasks: int, step: int, methods: list[str]) -> None:
    """Take turns, `rounds` times after a warm-up; write figures and table."""
    torch.set_num_threads(1)
    instrument()
    contestants = {method: Contestant(method, tasks) for method in methods}
    seen: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for number in range(rounds + 1):
        for method, contestant in contestants.items():
            figures = contestant.step(step + number)
            if number:
                seen[method].append(figures)
            print(number, method, f"{sum(figures['seconds'].values()):.1f} s", flush=True)
    found = {method: middle(rows) for method, rows in seen.items()}
    output.mkdir(parents=True, exist_ok=True)
    facts = {"rounds": rounds, "tasks": tasks, "first_step": step, "versions": versions(), "steps": seen}
    (output / "cost.json").write_text(json.dumps({"medians": found, **facts}, indent=1) + "\n")
    (output / "table.md").write_text(table(found) + "\n")
    print(table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=2, help="of a step, 8 episodes each")
    parser.add_argument("--step", type=int, default=6, help="of the schedules, in the first (warm-up) round")
    parser.add_argument("--only", default=",".join(METHODS), help="methods, the unit first")
    asked = parser.parse_args()
    main(asked.output, asked.rounds, asked.tasks, asked.step, asked.only.split(","))
