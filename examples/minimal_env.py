"""A whole environment in one file: guess a number from the answers "higher" and "lower".

Try it without installing anything:

    agentbench env check examples/minimal_env.py:SPEC

To ship it, put the file and its prompt into your package and add to pyproject.toml:

    [project.entry-points."agentbench.envs"]
    hilo = "your_package.minimal_env:SPEC"
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium

from agentbench.env import EnvSpec, Info, StepReturn, TextEnv, register_gymnasium
from agentbench.errors import unknown_name

LIMIT = 16
SPLITS = {"train": range(1, 13), "test": range(13, LIMIT + 1)}


def tasks(split: str) -> Sequence[str]:
    """List the task ids of a split."""
    if split not in SPLITS:
        raise unknown_name("split of hilo", split, SPLITS)
    return [f"number-{number}" for number in SPLITS[split]]


class HiLoEnv(TextEnv):
    """The env thinks of a number; `guess N` is answered with higher, lower or right."""

    can_snapshot: ClassVar[bool] = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Think of the task's number."""
        super().reset(seed=seed)  # seeds self.np_random
        everything = [task for split in SPLITS for task in tasks(split)]
        drawn = everything[int(self.np_random.integers(len(everything)))]
        self.task = (options or {}).get("task", drawn)
        if self.task not in everything:
            raise unknown_name("task of hilo", self.task, everything)
        self.number = int(self.task.removeprefix("number-"))
        self.low, self.high, self.done = 1, LIMIT, False
        self.observation = f"I think of a number from 1 to {LIMIT}. Which one is it?"
        return self.observation, self._info()

    def step(self, action: str) -> StepReturn:
        """Answer a guess; whatever is no guess is answered too, never raised."""
        if getattr(self, "done", True):
            raise gymnasium.error.ResetNeeded("the episode is over or never began; call reset() first")
        if action not in self._info()["admissible"]:
            self.observation = f'Say "guess N" with N from {self.low} to {self.high}.'
        elif (guess := int(action.removeprefix("guess "))) == self.number:
            self.observation, self.done = "Right!", True
        elif guess < self.number:
            self.observation, self.low = f"It is higher than {guess}.", guess + 1
        else:
            self.observation, self.high = f"It is lower than {guess}.", guess - 1
        return self.observation, float(self.done), self.done, False, self._info()

    def snapshot(self) -> Any:
        """Return everything that changes."""
        return self.task, self.number, self.low, self.high, self.done, self.observation

    def restore(self, snapshot: Any) -> tuple[str, Info]:
        """Bring everything back that changes."""
        self.task, self.number, self.low, self.high, self.done, self.observation = snapshot
        return self.observation, self._info()

    def _info(self) -> Info:
        return {
            "task": self.task,
            "admissible": [f"guess {n}" for n in range(self.low, self.high + 1)],
            "success": self.done,
            "score": float(self.done),
            "task_type": "",
        }


class Halving:
    """The expert: guesses the middle of what is left."""

    def __init__(self, env: TextEnv) -> None:
        """Look over the env's shoulder."""
        inner = env.unwrapped
        assert isinstance(inner, HiLoEnv)
        self.env = inner

    def act(self) -> str:
        """Return the command to give now."""
        return f"guess {(self.env.low + self.env.high) // 2}"


SPEC = EnvSpec(
    id="hilo",
    gym_id="examples/HiLo-v1",
    make=HiLoEnv,
    splits=tuple(SPLITS),
    tasks=tasks,
    prompt=str(Path(__file__).with_name("minimal_prompt.yaml")),
    parser="tags:30",
    max_turns=8,
    expert=Halving,
)

register_gymnasium(SPEC, f"{__name__}:HiLoEnv")
