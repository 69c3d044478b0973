"""Corridor: a toy that a random policy sometimes solves and a tiny model can learn in seconds.

A row of rooms with a coloured door at each end; the task names the colour to leave by. Opening the other door ends
the episode without success. Owns rules, tasks and expert; leaves out everything a real benchmark needs files for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium

from agentbench.env import EnvSpec, Info, StepReturn, TextEnv, as_text, named_task, register_gymnasium
from agentbench.errors import UnknownName, UsageError, unknown_name

COLOURS = ("red", "blue", "green", "yellow", "white", "black")
ROOMS = range(3, 8)
COMMANDS = ("go left", "go right", "open door")

_TASK = re.compile(r"(\d)-(\d)-([a-z]+)-([a-z]+)-(left|right)")
# Shares of 10: the splits are disjoint, and a task never changes its split when the grid grows.
_SPLITS = {"train": range(0, 7), "valid": range(7, 8), "test": range(8, 10)}


@dataclass(frozen=True)
class Task:
    """What a task id says: `rooms`, first room, colours of both ends, and the end to leave by."""

    rooms: int
    start: int
    left: str
    right: str
    exit: str

    @property
    def id(self) -> str:
        """The task as its id, "5-2-red-blue-right"."""
        return f"{self.rooms}-{self.start}-{self.left}-{self.right}-{self.exit}"

    @property
    def goal_room(self) -> int:
        """The room whose door is the exit."""
        return 1 if self.exit == "left" else self.rooms

    @classmethod
    def parse(cls, task_id: str) -> Task:
        """Read a task id.

        Raises: UnknownName: there is no such corridor.
        """
        found = _TASK.fullmatch(task_id)
        if found:
            rooms, start, left, right, end = found.groups()
            task = cls(int(rooms), int(start), left, right, end)
            if task in _grid():
                return task
        raise UnknownName(
            f"no corridor task {task_id!r}; ids look like '5-2-red-blue-right', see tasks('train')"
        )


@lru_cache(maxsize=1)
def _grid() -> frozenset[Task]:
    """All tasks: the start is an inner room, so that both doors are at least one step away."""
    return frozenset(
        Task(rooms, start, left, right, end)
        for rooms in ROOMS
        for start in range(2, rooms)
        for left in COLOURS
        for right in COLOURS
        if left != right
        for end in ("left", "right")
    )


def tasks(split: str) -> list[str]:
    """Ordered task ids of "train", "valid" or "test"; the order is by hash, so that any prefix is mixed."""
    return list(_tasks(split))


@lru_cache(maxsize=len(_SPLITS))
def _tasks(split: str) -> tuple[str, ...]:
    if split not in _SPLITS:
        raise unknown_name("split of corridor", split, _SPLITS)

    def digests() -> Iterator[tuple[int, str]]:
        for task in _grid():
            digest = int(hashlib.sha256(task.id.encode()).hexdigest(), 16)
            if digest % 10 in _SPLITS[split]:
                yield digest, task.id

    return tuple(task_id for _, task_id in sorted(digests()))


class CorridorEnv(TextEnv):
    """Walk to the named door and open it."""

    can_snapshot: ClassVar[bool] = True

    def __init__(self, split: str = "train", *, render_mode: str | None = None) -> None:
        """Draw tasks from `split` when `reset` names none."""
        super().__init__(COMMANDS, render_mode=render_mode)
        self._tasks = _tasks(split)
        self._task: Task | None = None
        self._room = 0
        self._done = False
        self._observation = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Start in the task's first room."""
        super().reset(seed=seed)
        task_id = named_task(options)
        if task_id is None:
            task_id = self._tasks[int(self.np_random.integers(len(self._tasks)))]
        self._task = Task.parse(task_id)
        self._room = self._task.start
        self._done = False
        self._observation = self._describe(self._task)
        return self._observation, self._info(self._task)

    def step(self, action: str) -> StepReturn:
        """Carry out one of `COMMANDS`; anything else changes nothing."""
        if self._task is None or self._done:
            raise gymnasium.error.ResetNeeded(
                "the corridor episode is over or never began; call reset() first"
            )
        task, command = self._task, as_text(action).strip().lower()
        text = ""
        if command == "open door":
            if self._room in (1, task.rooms):
                self._done = True
                text = "You are out." if self._solved(task) else "That was the wrong door."
            else:
                text = "There is no door here. "
        elif command in COMMANDS:
            room = self._room + (1 if command == "go right" else -1)
            self._room = min(max(room, 1), task.rooms)
            text = "" if self._room == room else "A wall. "
        else:
            text = "Nothing happens. "
        self._observation = text if self._done else text + self._describe(task)
        reward = float(self._solved(task))
        return self._observation, reward, self._done, False, self._info(task)

    def render(self) -> str:
        return self._observation

    def snapshot(self) -> Any:
        """Return (task id, room, done, observation)."""
        if self._task is None:
            raise gymnasium.error.ResetNeeded("no corridor episode to snapshot; call reset() first")
        return self._task.id, self._room, self._done, self._observation

    def restore(self, snapshot: Any) -> tuple[str, Info]:
        task_id, self._room, self._done, self._observation = snapshot
        self._task = Task.parse(task_id)
        return self._observation, self._info(self._task)

    @property
    def corridor(self) -> Task:
        """The task being played."""
        if self._task is None:
            raise gymnasium.error.ResetNeeded("no corridor was begun; call reset() first")
        return self._task

    def way_to(self, *, right: bool) -> str:
        """The first command of a shortest way through one of the doors, for experts."""
        if self._room == (self.corridor.rooms if right else 1):
            return "open door"
        return "go right" if right else "go left"

    def _solved(self, task: Task) -> bool:
        return self._done and self._room == task.goal_room

    def _describe(self, task: Task) -> str:
        goal = task.left if task.exit == "left" else task.right
        return (
            f"Room {self._room} of {task.rooms}. The {task.left} door is left, "
            f"the {task.right} door is right. Leave by the {goal} door."
        )

    def _info(self, task: Task) -> Info:
        solved = self._solved(task)
        return {
            "task": task.id,
            "admissible": [] if self._done else list(COMMANDS),
            "success": solved,
            "score": float(solved),
            "task_type": "near" if abs(task.goal_room - task.start) < 3 else "far",
        }


class CorridorExpert:
    """Takes a shortest way out from any state."""

    def __init__(self, env: TextEnv) -> None:
        """Bind to a corridor, wrapped or not."""
        inner = env.unwrapped
        if not isinstance(inner, CorridorEnv):
            raise UsageError(f"the corridor expert plays corridors only, got {type(inner).__name__}")
        self.env = inner

    def act(self) -> str:
        return self.env.way_to(right=self.env.corridor.exit == "right")


class CorridorDecoy(CorridorExpert):
    """Leaves by the wrong door; there is only one, so the seed changes nothing."""

    def __init__(self, env: TextEnv, seed: int) -> None:
        """Bind to a corridor, wrapped or not."""
        super().__init__(env)

    def act(self) -> str:
        return self.env.way_to(right=self.env.corridor.exit == "left")


SPEC = EnvSpec(
    id="corridor",
    gym_id="agentbench/Corridor-v1",
    make=CorridorEnv,
    splits=tuple(_SPLITS),
    tasks=tasks,
    prompt="agentbench.prompts:corridor/react",
    parser="tags:30",
    max_turns=12,
    invalid_penalty=0.1,
    expert=CorridorExpert,
    decoy=CorridorDecoy,
)
"""The plug-in."""

register_gymnasium(SPEC, "agentbench.envs.corridor:CorridorEnv")
