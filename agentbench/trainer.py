"""The trainer contract: what an algorithm offers to the loop in `agentbench.training.loop`. Holds no tensors.

Leaves out the loop itself (collect, update, publish, evaluate, save, resume) and all maths (`agentbench.trainers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .policy import Policy
from .types import Group, RolloutPlan


@dataclass(frozen=True, slots=True)
class Update:
    """What one update did.

    Attributes:
        metrics: name -> number, written to metrics.jsonl.
        turn_columns: column -> {(trajectory id, turn index): value}; become turn annotations in the records.
        notes: name -> {(trajectory id, turn index): text that a teacher read and the student did not}; become turn
            notes in the records.
    """

    metrics: Mapping[str, float]
    turn_columns: Mapping[str, Mapping[tuple[str, int], float]] = field(default_factory=dict)
    notes: Mapping[str, Mapping[tuple[str, int], str]] = field(default_factory=dict)


class Team(Protocol):
    """The processes that share a run's work, seen from one of them; all of them make the same calls in the same order.

    Attributes:
        index: which of the `count` processes this is; 0 writes the files.
    """

    index: int
    count: int

    def collect(self, items: list[Any]) -> list[Any]:
        """Concatenate plain values over all processes, in order of process; on process 0 only, [] elsewhere."""
        ...

    def wait(self) -> None:
        """Let all processes catch up; returns at once when there is one."""
        ...

    def any(self, flag: bool) -> bool:
        """Tell every process whether any of them raised the flag."""
        ...


class Alone:
    """The team of a run in one process."""

    index = 0
    count = 1

    def collect(self, items: list[Any]) -> list[Any]:
        return items

    def wait(self) -> None:
        return

    def any(self, flag: bool) -> bool:
        return flag


class Trainer(Protocol):
    """One algorithm with its student, teachers and optimizer.

    Attributes:
        tokenizer: the student's; prompts are rendered with it.
    """

    tokenizer: Any

    @property
    def team(self) -> Team:
        """The processes that train together."""
        ...

    def plan(self, step: int) -> RolloutPlan:
        """Say which episodes step `step` needs."""
        ...

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Learn from the collected groups."""
        ...

    def weights(self) -> Iterable[tuple[str, Any]]:
        """Name and tensor of every student weight, for the engine."""
        ...

    def score_tokens(self, token_ids: Sequence[int]) -> list[float]:
        """Log-prob in nats, at temperature 1, of each token but the first; every process calls this at once."""
        ...

    def save(self, folder: Path) -> None:
        """Write the student as a plain Hugging Face folder plus optimizer and trainer state."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, to the bit."""
        ...


@dataclass(frozen=True)
class TrainerSpec:
    """One algorithm as a plug-in (entry-point group `agentbench.trainers`).

    Attributes:
        id: plug-in name: "atod".
        config: pydantic model of the algorithm's own keys (`extra="forbid"`).
        build: makes the trainer from the run's configuration and the algorithm's settings; usually the class itself.
        needs: subset of {"teacher", "expert", "speaker"}; a run without teacher or expert is refused, and so are
            teachers nobody needs, and speakers (`teachers.speaker`) nobody listens to.
        replays: whether it may use `rollout.recordings`; for others the key is an error.
        authors: makes further authors that the algorithm's plans name, from the trainer and the run's `Voice` (see
            `agentbench.training.authors`): name -> policy. A name of the table ("student", "expert" ...) is taken.
        ignores: dotted keys of TrainConfig that the algorithm does not use; setting one is an error.
        paper: where the algorithm comes from.
        refuse: raises UsageError where the run's configuration and the algorithm's settings cannot work together;
            called before anything is loaded.
        presets: name -> values of the run's configuration (top-level keys and `trainer`, `rollout` sections) that
            `preset: NAME` puts under the file's own: "paper", "released".
        reference: (run's configuration, settings, groups) -> gradient of the first update's loss by parameter name,
            worked out plainly in float64, for `agentbench check-objective`; NotImplementedError names a setting that
            it does not cover. None: the algorithm has none.
    """

    id: str
    config: type[Any]
    build: Callable[[Any, Any], Trainer]
    needs: frozenset[str] = frozenset()
    ignores: frozenset[str] = frozenset()
    paper: str = ""
    refuse: Callable[[Any, Any], None] | None = None
    replays: bool = False
    authors: Callable[[Any, Any], Mapping[str, Policy]] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: Callable[..., Any] | None = None
