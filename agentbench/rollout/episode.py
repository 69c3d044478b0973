"""One episode to run: what it plays, where it starts, what it may use, and how its start is rebuilt.

Leaves out the running of many (`rollout`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..env import EnvSpec, Info, TextEnv
from ..errors import ContractError, UsageError
from ..types import Authors, Trajectory


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
        authors: hand-overs (first turn, author name), see `RolloutPlan.authors`.
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
        max_turns: None takes the episode's, else the env's own limit.
        max_tokens: sampled tokens per episode; None is unlimited.
        step_seconds: wall time of one env step.
        episode_seconds: wall time of one episode.
        retries: how often an episode with an infrastructure failure is run again before it is recorded.
    """

    max_turns: int | None = None
    max_tokens: int | None = None
    step_seconds: float | None = None
    episode_seconds: float | None = None
    retries: int = 1


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
