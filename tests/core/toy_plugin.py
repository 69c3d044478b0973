"""An env for the tests of evaluation: task "tNN" is won by saying "win" 1 + NN % 3 times; options break it on demand.

Loaded by path ("toy_plugin.py:SPEC"), as a stranger's plug-in would be.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentbench.env import EnvSpec, Info, StepReturn, TextEnv
from agentbench.errors import CorruptData, MissingData

REFERENCE = f"{Path(__file__)}:SPEC"
TASKS = [f"t{number:02d}" for number in range(12)]


class ToyEnv(TextEnv):
    def __init__(self, corrupt: Sequence[str] = (), crash: Sequence[str] = (), pause: float = 0.0) -> None:
        super().__init__()
        self.corrupt, self.crash, self.pause = corrupt, crash, pause
        self.task, self.left, self.lost = "", 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        self.task = (options or {}).get("task", TASKS[0])
        if self.task in self.corrupt:
            raise CorruptData(f"game file {self.task}.json is not JSON")
        self.left, self.lost = 1 + int(self.task[1:]) % 3, False
        return f"{self.left} to go", self._info()

    def step(self, action: str) -> StepReturn:
        time.sleep(self.pause)
        if self.task in self.crash:
            raise RuntimeError("the toy broke")
        self.left -= action == "win"
        self.lost = action == "lose"
        return f"{self.left} to go", float(self.left == 0), self.left == 0 or self.lost, False, self._info()

    def _info(self) -> Info:
        done = 1.0 if self.left == 0 else 0.0
        kind = "odd" if int(self.task[1:]) % 2 else "even"
        return {
            "task": self.task,
            "admissible": ["win", "wait", "lose"],
            "success": bool(done),
            "score": done,
            "task_type": kind,
        }


class ToyExpert:
    def act(self) -> str:
        return "win"


def tasks(split: str) -> list[str]:
    if split == "absent":
        raise MissingData("toy files not found under /nowhere; run: agentbench data fetch toy")
    return {"all": TASKS, "few": TASKS[:4], "twice": ["t00", "t01", "t00"]}[split]


SPEC = EnvSpec(
    id="toy",
    gym_id="agentbench/Toy-v1",
    make=ToyEnv,
    splits=("all", "few", "twice", "absent"),
    tasks=tasks,
    prompt="agentbench.prompts:corridor/react",
    parser="tags:30",
    max_turns=5,
    expert=lambda env: ToyExpert(),
)


def write_panel(folder: Path, split: str = "all", **keys: Any) -> str:
    """Write a panel file of this env and return its path; `tasks` or else the first `count` ids."""
    import hashlib

    import yaml

    ids = (
        keys.get("tasks") or TASKS[: keys.setdefault("count", len(tasks(split)) if split != "absent" else 1)]
    )
    values = {
        "id": "toy/test@1",
        "env": REFERENCE,
        "split": split,
        "description": "Toy tasks.",
        "sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        **keys,
    }
    path = folder / f"panel-{split}-{len(list(folder.glob('panel-*')))}.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)
