"""One episode to run: what it plays, where it starts, what it may use, and how its start is rebuilt.

Leaves out the running of many (`rollout`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..env import EnvSpec, Info, TextEnv
from ..errors import ContractError, EngineDown, UsageError
from ..types import Authors, Failure, Trajectory


@dataclass(frozen=True, slots=True)
class Start:
    """Begin in the middle: at the start of turn `turn` of a recorded trajectory, after its earlier turns."""

    trajectory: Trajectory
    turn: int


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode to run.

    Attributes:
        seed: of the env, and of sampling unless `sampling_seed` is given; kept in the record.
        sampling_seed: of the authors; members of a group share `seed` and differ in this.
        authors: hand-overs (first turn, who acts), see `RolloutPlan.authors`.
        start: where to branch from; None begins at the beginning.
    """

    spec: EnvSpec
    task: str
    seed: int
    repeat: int = 0
    id: str = ""
    sampling_seed: int | None = None
    authors: Authors = ((0, "student"),)
    start: Start | None = None
    max_turns: int | None = None

    @property
    def key(self) -> str:
        """Unique name of the episode within its run."""
        return self.id or f"{self.spec.id}/{self.task}#{self.repeat}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an episode may use. Exceeding seconds is a failure of the infrastructure, turns and tokens are not.

    Attributes:
        max_turns: the smaller of this and the episode's own counts; None in both takes the env's.
        max_tokens: sampled tokens per episode; None is unlimited.
        step_seconds: wall time of one env step. With this or the next, env calls are made in threads and given up.
        episode_seconds: wall time of one episode, all tries and all waiting included.
        retries: how often an episode with an infrastructure failure is run again before it is recorded.
        give_up_after: the run stops when so many episodes in a row were broken by the engine without one usable answer
            in between; they are not handed out. None never stops.
    """

    max_turns: int | None = None
    max_tokens: int | None = None
    step_seconds: float | None = None
    episode_seconds: float | None = None
    retries: int = 1
    give_up_after: int | None = None

    def until(self, started: float, *, step: bool = False) -> float | None:
        """When the time of an episode is over, or that of a step which begins now; None: never."""
        ends = [] if self.episode_seconds is None else [started + self.episode_seconds]
        if step and self.step_seconds is not None:
            ends.append(time.monotonic() + self.step_seconds)
        return min(ends, default=None)

    def step_timeout(self) -> Failure:
        """A step took too long."""
        return Failure("StepTimeout", f"an env step took longer than {self.step_seconds} s", "env")

    def episode_timeout(self, where: Literal["env", "engine"]) -> Failure:
        """An episode took too long; `where` it was waited last."""
        return Failure("EpisodeTimeout", f"the episode took longer than {self.episode_seconds} s", where)

    def turns_of(self, episode: Episode) -> int:
        """Turns that an episode may take."""
        # A plan may want shorter episodes than the run allows (a curriculum, single decisions), never longer ones.
        limits = [limit for limit in (self.max_turns, episode.max_turns) if limit is not None]
        return min(limits, default=episode.spec.max_turns)


def engine_down(broken: Sequence[Trajectory]) -> EngineDown:
    """The error of a run whose last episodes were all broken by the engine."""
    last = broken[-1].error
    assert last is not None
    return EngineDown(
        f"{len(broken)} episodes in a row got no usable answer, the last for this reason: {last.message}; "
        "they are not on record, and the run stopped"
    )


def replay(env: TextEnv, observation: str, info: Info, start: Start) -> tuple[str, Info]:
    """Bring a freshly reset env to the start of a recorded turn, checking every observation on the way.

    Args:
        env: just reset to the trajectory's task and seed.
        observation: what that reset returned.
        info: what that reset returned.
        start: the recorded trajectory and the turn to stop before.
    Raises: ContractError: the env answered differently than on record; names the turn.
    """
    turns = start.trajectory.turns
    if not 0 <= start.turn <= len(turns):
        raise UsageError(
            f"trajectory {start.trajectory.id!r} has {len(turns)} turns; cannot start at {start.turn}"
        )
    for turn in turns[: start.turn]:
        if observation != turn.observation:
            raise ContractError(
                f"env {start.trajectory.env!r} is not deterministic: task {start.trajectory.task!r} shows another "
                f"observation at turn {turn.index} than on record"
            )
        observation, _, terminated, truncated, info = env.step(turn.env_action or "")
        if terminated or truncated:
            raise UsageError(
                f"trajectory {start.trajectory.id!r} ends at turn {turn.index}; it cannot be continued from there"
            )
    return observation, info
