"""TCOD: on-policy distillation under a temporal curriculum. The student's part of an episode grows by the step.

Early in training a long episode is mostly states that the teacher has never been in. Forward, the student acts for its
first k turns only. Backward, a recorded success is replayed up to its last turns, which the student plays; then ever
earlier. Source: TCOD, arXiv:2604.24005, forward to backward and backward to forward. Leaves out making the recordings
(`agentbench eval`) and replaying them (`agentbench.policies.demonstrations`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from agentbench.errors import ConfigError
from agentbench.registry import env_spec
from agentbench.runs.recordings import read_recordings
from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import REPLAY, Authors, Group, RolloutPlan

from .maths.reductions import Reduction
from .preconditions import require_sampled_distillation
from .references import sampled
from .surrogate import SampledDistillation, SampledDistillationConfig


class TcodConfig(SampledDistillationConfig):
    """Keys of `tcod`, beside those of the surrogate.

    Attributes:
        direction: "forward": episodes end after k(n) turns; "backward": successes of `rollout.recordings` are replayed
            up to k(n) turns before their end, and tasks without one are played in full.
        first_turns: k_start, turns of an episode at the first step (forward only).
        steps_per_turn: eta, steps after which the student plays one turn more; the released code takes 4 to 6.
        coef: multiplies the advantage.
        clip: off, since one update per batch is on-policy.
        reduction: mean over a trajectory's tokens, then over trajectories, as released.
    """

    direction: Literal["forward", "backward"] = "forward"
    first_turns: int = Field(default=1, ge=1)
    steps_per_turn: int = Field(default=2, ge=1)
    coef: float = Field(default=1.0, gt=0)
    clip: float | None = Field(default=None, gt=0, le=1)
    reduction: Reduction = "trajectory_mean"

    @model_validator(mode="after")
    def _used(self) -> TcodConfig:
        if self.direction == "backward" and "first_turns" in self.model_fields_set:
            raise ValueError("'first_turns' is used by direction 'forward' only; remove it")
        return self


class Tcod(SampledDistillation):
    """On-policy distillation on a part of the episode that grows; see `TcodConfig`."""

    settings: TcodConfig

    def __init__(self, run: TrainConfig, settings: TcodConfig) -> None:
        refuse(run, settings)
        super().__init__(run, settings)
        self.lengths: dict[str, int] = {}  # task -> turns L of its recorded success
        if run.rollout.recordings is not None:
            recorded = read_recordings(run.rollout.recordings, env_spec(run.env.name).id)
            self.lengths = {task: len(item.turns) for task, item in recorded.items() if item.success}

    def horizon(self, step: int) -> int:
        """k(n) = k_start + floor(n / eta)."""
        return self.settings.first_turns + step // self.settings.steps_per_turn

    def hand_over(self, length: int, step: int) -> Authors:
        """Replay up to turn max(0, (L - 1) - floor(n / eta)), then the student."""
        turn = max(0, (length - 1) - step // self.settings.steps_per_turn)
        return ((0, REPLAY), (turn, "student")) if turn else ((0, "student"),)

    def plan(self, step: int) -> RolloutPlan:
        """Episodes by the student that end after k(n) turns, or begin k(n) turns before a recorded success."""
        plan, k = super().plan(step), self.horizon(step)
        if self.settings.direction == "backward":
            # Departure: tasks without a recorded success are played in full, as the released code does.
            return replace(
                plan, tasks={task: self.hand_over(length, step) for task, length in self.lengths.items()}
            )
        # None is the env's own limit, which the rollout knows: a horizon beyond it changes nothing
        return replace(plan, max_turns=k if plan.max_turns is None else min(k, plan.max_turns))

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Sampled reverse KL as advantage, on every turn that the student played; replayed turns are context."""
        batch = self.collate(groups)
        old = self.student.score(batch)  # log q(y_t)
        teacher_BT = self.teacher.score(batch).logp_BT  # log p(y_t)
        # A_t = c (log p - log q)
        advantage_BT = self.settings.coef * self.gap(teacher_BT, old.logp_BT, batch.turn_BT)
        descent = self.ascend(batch, old, advantage_BT, step=step)
        return self.report(
            step,
            batch,
            descent,
            old=old,
            teacher_BT=teacher_BT,
            columns={"advantage": advantage_BT},
            figures=self._figures(groups, step),
        )

    def _figures(self, groups: Sequence[Group], step: int) -> dict[str, float | Tensor]:
        if self.settings.direction == "forward":
            return {"horizon": float(self.horizon(step))}
        members = [member for group in groups for member in group.members if member.ok]
        replayed_M = [sum(turn.action.author == REPLAY for turn in member.turns) for member in members]
        return {
            "replayed_turns": torch.tensor(replayed_M, dtype=torch.float64),
            "replayed_share": 1.0 * (torch.tensor(replayed_M) > 0),  # of episodes
        }


def refuse(run: TrainConfig, settings: TcodConfig) -> None:
    """Refuse what cannot work, before a model is loaded."""
    require_sampled_distillation(run, settings)
    if settings.direction == "backward" and run.rollout.recordings is None:
        raise ConfigError(
            "trainer.direction 'backward' replays recorded successes; record some (agentbench eval --policy model or "
            "expert, --repeats 10 for the best of ten tries) and name them in rollout.recordings"
        )
    if settings.direction == "forward" and run.rollout.recordings is not None:
        raise ConfigError("rollout.recordings is used by trainer.direction 'backward' only; remove it")


SPEC = TrainerSpec(
    id="tcod",
    reference=sampled.tcod,
    config=TcodConfig,
    build=Tcod,
    refuse=refuse,
    needs=frozenset({"teacher"}),
    replays=True,
    paper="TCOD, arXiv:2604.24005",
    presets={
        "paper": {"trainer": {"first_turns": 1, "steps_per_turn": 2}},
        "released": {"trainer": {"first_turns": 1, "steps_per_turn": 6, "reduction": "trajectory_mean"}},
    },
)
