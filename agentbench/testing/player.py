"""Plays an env for the conformance kit, and checks type and value of whatever it returns on the way.

Leaves out the checks that take more than one call to see (`checks`).
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ..env import INFO_KEYS, EnvSpec, Info, TextEnv

NONSENSE = (
    "",
    " ",
    "\n",
    "look\nlook",
    "nothing",
    "LOOK",
    "привет 你好 🤖",
    "\x00\x07",
    "<action>look</action>",
    "{{ observation }} %s %d {0}",
    "go to " * 1700,
    "x" * 10_000,
)
"""Actions that no env may choke on."""

_KINDS = {"task": str, "admissible": list, "success": bool, "score": float, "task_type": str}
assert _KINDS.keys() == INFO_KEYS.keys()


class Broken(Exception):
    """A promise was broken; the message says which and how."""


class Skip(Exception):
    """A check does not apply to this env."""


def require(holds: bool, otherwise: str) -> None:
    """Raise `Broken(otherwise)` unless the promise holds."""
    if not holds:
        raise Broken(otherwise)


def short(text: str) -> str:
    """Quote a text, cut to what fits into a message."""
    return repr(text if len(text) <= 60 else text[:60] + "…")


@dataclass(frozen=True)
class Moment:
    """All that one reset, restore or step shows."""

    observation: str
    info: Info
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self.terminated or self.truncated


class EnvPlayer:
    """Plays one task of one env."""

    def __init__(self, spec: EnvSpec, task: str, *, seed: int, steps: int, options: dict[str, Any]) -> None:
        """Remember what to play; an empty `task` is filled in by the check of tasks."""
        self.spec = spec
        self.task = task
        self.seed = seed
        self.steps = steps
        self.options = options
        self.name = ""
        self.tasks = 3

    def on(self, task: str) -> EnvPlayer:
        """The same player on another task."""
        other = EnvPlayer(self.spec, task, seed=self.seed, steps=self.steps, options=self.options)
        other.name, other.tasks = self.name, self.tasks
        return other

    def make(self) -> TextEnv:
        env = self.spec.make(**self.options)
        require(isinstance(env, TextEnv), f"make() must return a TextEnv, got {type(env).__name__}")
        return env

    def start(self, env: TextEnv) -> Moment:
        """Reset to the task."""
        moment = self.moment("reset()", env.reset(seed=self.seed, options={"task": self.task}))
        seen = moment.info["task"]
        require(seen == self.task, f"reset to task {self.task!r}, but info['task'] is {seen!r}")
        return moment

    def step(self, env: TextEnv, action: str) -> Moment:
        """Give one command."""
        where = f"step({short(action)})"
        moment = self.moment(where, env.step(action))
        seen = moment.info["task"]
        require(seen == self.task, f"info['task'] must stay {self.task!r}, {where} made it {seen!r}")
        return moment

    def play(self, env: TextEnv, actions: Sequence[str]) -> list[Moment]:
        """Reset and give the commands; the moments are copies that the env cannot reach."""
        return [copy.deepcopy(self.start(env)), *self.go_on(env, actions)]

    def go_on(self, env: TextEnv, actions: Sequence[str]) -> list[Moment]:
        """Give the commands without a reset; the moments are copies that the env cannot reach."""
        return [copy.deepcopy(self.step(env, action)) for action in actions]

    def script(self) -> list[str]:
        """Draw mixed commands, mostly admissible ones; ends early where the episode does."""
        draw = random.Random(self.seed)
        env = self.make()
        now = self.start(env)
        actions: list[str] = []
        while len(actions) < self.steps and not now.over:
            admissible = now.info["admissible"]
            actions.append(draw.choice(admissible if admissible and draw.random() < 0.8 else NONSENSE))
            now = self.step(env, actions[-1])
        return actions

    def solve(self, env: TextEnv) -> tuple[Moment, float]:
        """Let the expert play to the end; gives the last moment and the sum of the rewards."""
        if self.spec.expert is None:
            raise Skip("the env has no expert")
        expert = self.spec.expert(env)
        total = 0.0
        commands: list[str] = []
        while len(commands) < self.spec.max_turns:
            commands.append(expert.act())
            now = self.step(env, commands[-1])
            total += now.reward
            if now.over:
                return now, total
        raise Broken(
            f"the expert is not done after {self.spec.max_turns} turns; it ended with {commands[-3:]}"
        )

    def moment(self, where: str, returned: Any) -> Moment:
        """Check what `reset`, `restore` or `step` returned."""
        size = 5 if where.startswith("step") else 2
        whole = isinstance(returned, tuple) and len(returned) == size
        require(whole, f"{where} must return a tuple of {size} values, got {short(repr(returned))}")
        observation, info = returned[0], returned[-1]
        kind = type(observation).__name__
        require(isinstance(observation, str), f"{where} must return text as observation, got {kind}")
        try:
            observation.encode()
        except UnicodeEncodeError as error:
            raise Broken(f"the observation of {where} is no valid Unicode: {error}") from None
        self._check_info(where, info)
        if size == 2:
            return Moment(observation, info)
        reward, terminated, truncated = returned[1:4]
        finite = isinstance(reward, int | float) and math.isfinite(reward)
        require(finite, f"the reward of {where} must be a finite number, got {reward!r}")
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            require(isinstance(value, bool), f"{name} of {where} must be a bool, got {value!r}")
        return Moment(observation, info, float(reward), terminated, truncated)

    def _check_info(self, where: str, info: Any) -> None:
        require(isinstance(info, dict), f"info of {where} must be a dict, got {type(info).__name__}")
        for key, kind in _KINDS.items():
            require(key in info, f"info of {where} lacks the key {key!r} ({INFO_KEYS[key]})")
            seen = type(info[key])
            require(seen is kind, f"info[{key!r}] of {where} must be {kind.__name__}, got {seen.__name__}")
        score, success, commands = info["score"], info["success"], info["admissible"]
        require(0.0 <= score <= 1.0, f"score of {where} must lie in [0, 1], got {score}")
        if self.spec.metric == "success":
            agree = success == (score == 1.0)
            require(agree, f"success is {success} but score is {score} after {where}")
        for command in commands:
            clean = isinstance(command, str) and command != "" and command.strip() == command
            require(clean, f"admissible command {command!r} after {where} is not text without outer blanks")
        require(len(set(commands)) == len(commands), f"admissible commands after {where} repeat: {commands}")
        try:
            back = orjson.loads(
                orjson.dumps(info)
            )  # as records are written: no NaN, no integer beyond 64 bits
        except (TypeError, ValueError, RecursionError) as error:
            raise Broken(f"info of {where} must hold JSON values only: {error}") from None
        require(
            back == info,
            f"info of {where} changes in a JSON round trip: NaN, tuples, or keys that are no str?",
        )
