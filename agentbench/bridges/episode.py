"""One seat at an environment: episodes chosen by task, split and index, or seed, under the benchmark's own limits.

What an OpenEnv client, TRL or any other loop plays is a `Seat`; they differ in the wire only. Rewards are shares of
what the environment pays for success, so that 1.0 is success everywhere. Leaves out wires (`openenv`, `factory`) and
prompts, which are the other side's.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..dialogue.parse import Parser, get_parser
from ..env import EnvSpec, Info, TextEnv
from ..errors import AgentBenchError, ContractError, UsageError, unknown_name


class EpisodeOver(AgentBenchError):
    """There is no running episode to step: none was begun, or it has ended."""


@dataclass(frozen=True)
class Terms:
    """What is played, and under which limits.

    Attributes:
        spec: the benchmark.
        split: tasks that are drawn from where a reset names no split.
        options: keyword options of the env.
        max_turns: an episode ends after so many steps; None takes the benchmark's own limit.
        replies: steps are a model's replies, out of which the benchmark's parser reads the command; else they are
            commands.
    Raises: UnknownName: no such split. UsageError: a limit below 1.
    """

    spec: EnvSpec
    split: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    max_turns: int | None = None
    replies: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", self.spec.under(self.options))
        object.__setattr__(self, "split", self.split or self.spec.splits[0])
        self.tasks(self.split)
        if self.max_turns is not None and self.max_turns < 1:
            raise UsageError(f"max_turns must be at least 1, got {self.max_turns}")

    @property
    def limit(self) -> int:
        """Steps after which an episode ends."""
        return self.spec.max_turns if self.max_turns is None else self.max_turns

    def tasks(self, split: str) -> Sequence[str]:
        """Ordered task ids of a split.

        Raises: UnknownName: no such split. MissingData: its files are absent. UsageError: it is empty.
        """
        if split not in self.spec.splits:
            raise unknown_name(f"split of {self.spec.id}", split, self.spec.splits)
        tasks = self.spec.tasks(split)
        if not tasks:
            raise UsageError(f"split {split!r} of env {self.spec.id!r} has no tasks")
        return tasks

    def choose(self, task: str | None, split: str | None, index: int | None, seed: int | None) -> str:
        """Return the task that a reset means: the named one, that of a place in a split, or one drawn with the seed.

        Raises: UsageError: several are named, or none is at that place. UnknownName: no such split.
        """
        if task is not None:
            if split is not None or index is not None:
                raise UsageError("name a task by its id or by split and index, not both")
            return task
        tasks = self.tasks(split or self.split)
        if index is not None:
            if not 0 <= index < len(tasks):
                raise UsageError(
                    f"split {split or self.split!r} has {len(tasks)} tasks, index {index} is none of them"
                )
            return tasks[index]
        return tasks[random.Random(seed).randrange(len(tasks))]


@dataclass(frozen=True)
class Seen:
    """What a reset or step returned.

    Attributes:
        text: the observation.
        reward: share of what success pays; None on a reset.
        done: the episode is over, by the env or by the limit.
        info: the env's own.
        turn: steps so far.
        command: what was carried out; None on a reset and where a reply held no command.
    """

    text: str
    reward: float | None
    done: bool
    info: Info
    turn: int
    command: str | None = None


class Seat:
    """Plays one episode after another; not for several threads at once."""

    def __init__(self, terms: Terms) -> None:
        """Make the env."""
        self.terms = terms
        self.env: TextEnv = terms.spec.make(**terms.options)
        self.parser: Parser | None = get_parser(terms.spec.parser) if terms.replies else None
        self.episode_id = ""
        self.task = ""
        self.turn = 0
        self.moment: Seen | None = None

    def reset(
        self,
        *,
        seed: int | None = None,
        task: str | None = None,
        split: str | None = None,
        index: int | None = None,
        episode_id: str | None = None,
    ) -> Seen:
        """Begin an episode; see `Terms.choose`. What came before is gone, also when this fails.

        Args:
            seed: of the env, and of the draw where no task is named; None draws another task each time.
            task: task id.
            split: see `Terms.choose`.
            index: see `Terms.choose`.
            episode_id: kept in `episode_id`; None makes one.
        Raises: UsageError: no such task, or its files are absent.
        """
        self.moment, self.turn = None, 0
        self.task = self.terms.choose(task, split, index, seed)
        text, info = self.env.reset(seed=seed if seed is not None else 0, options={"task": self.task})
        self.episode_id = episode_id or uuid.uuid4().hex
        self.moment = Seen(text, None, False, info, 0)
        return self.moment

    def step(self, said: str) -> Seen:
        """Carry out a command, or what a reply means; whatever cannot be read is carried out as "".

        Raises: EpisodeOver: there is no running episode.
        """
        if self.moment is None:
            raise EpisodeOver("no episode has begun; reset first")
        if self.moment.done:
            raise EpisodeOver("the episode is over; reset first")
        command: str | None = said
        if self.parser is not None:
            command = self.parser.parse(said).command
        result: Any = self.env.step(command or "")
        if not isinstance(result, tuple) or len(result) != 5:
            raise ContractError(
                f"step of env {self.terms.spec.id!r} must return five values, got {result!r:.100}"
            )
        text, reward, terminated, truncated, info = result
        self.turn += 1
        done = bool(terminated or truncated or self.turn >= self.terms.limit)
        self.moment = Seen(text, float(reward) / self.terms.spec.reward_unit, done, info, self.turn, command)
        return self.moment

    def close(self) -> None:
        """Give back what the env holds."""
        self.moment = None
        self.env.close()
