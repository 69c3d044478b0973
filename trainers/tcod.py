"""TCOD: on-policy distillation under a temporal curriculum. Episodes are short at first and grow by the step.

Early in training a long episode is mostly states that the teacher has never been in; so the student first acts for its
first k turns only, and learns on all of them. Source: TCOD, arXiv:2604.24005, forward to backward. Leaves out the
curriculum from the back, which replays recorded successes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from agentbench.trainer import TrainerSpec, Update
from agentbench.training.config import TrainConfig
from agentbench.types import Group, RolloutPlan

from .maths.advantages import sampled_distillation
from .maths.reductions import Reduction
from .preconditions import require_comparable, require_one_teacher, require_plain_sampling
from .references import sampled
from .surrogate import PolicyGradient, SurrogateConfig
from .teachers.open import open_teacher


class TcodConfig(SurrogateConfig):
    """Keys of `tcod`, beside those of the surrogate.

    Attributes:
        first_turns: k_start, turns of an episode at the first step.
        steps_per_turn: eta, steps after which episodes get one turn longer; the released code takes 4 to 6.
        coef: multiplies the advantage.
        gap_clip: bound on the absolute log-ratio of a sampled token; None leaves it free.
        clip: off, since one update per batch is on-policy.
        reduction: mean over a trajectory's tokens, then over trajectories, as released.
    """

    first_turns: int = Field(default=1, ge=1)
    steps_per_turn: int = Field(default=2, ge=1)
    coef: float = Field(default=1.0, gt=0)
    gap_clip: float | None = Field(default=None, gt=0)
    clip: float | None = Field(default=None, gt=0, le=1)
    reduction: Reduction = "trajectory_mean"


class Tcod(PolicyGradient):
    """On-policy distillation on episodes that grow; see `TcodConfig`."""

    settings: TcodConfig

    def __init__(self, run: TrainConfig, settings: TcodConfig) -> None:
        require_one_teacher(run)
        require_plain_sampling(run)
        require_comparable(run, settings.importance_cap)
        super().__init__(run)
        self.settings = settings
        self.teacher = open_teacher(run.teachers[0], self.student)

    def horizon(self, step: int) -> int:
        """k(n) = k_start + floor(n / eta)."""
        return self.settings.first_turns + step // self.settings.steps_per_turn

    def plan(self, step: int) -> RolloutPlan:
        """Whole episodes by the student, ended after k(n) turns."""
        plan, k = super().plan(step), self.horizon(step)
        # None is the env's own limit, which the rollout knows: a horizon beyond it changes nothing
        return replace(plan, max_turns=k if plan.max_turns is None else min(k, plan.max_turns))

    def update(self, groups: Sequence[Group], step: int) -> Update:
        """Sampled reverse KL as advantage, on every turn that was played."""
        batch = self.collate(groups)
        old = self.student.score(batch)  # log q(y_t)
        teacher_BT = self.teacher.score(batch).logp_BT  # log p(y_t)
        gap_BT = sampled_distillation(teacher_BT, old.logp_BT, batch.turn_BT, clip=self.settings.gap_clip)
        advantage_BT = self.settings.coef * gap_BT  # A_t = log p - log q
        descent = self.ascend(batch, old, advantage_BT, step=step)
        return self.report(
            step,
            batch,
            descent,
            old=old,
            teacher_BT=teacher_BT,
            columns={"advantage": advantage_BT},
            figures={"horizon": float(self.horizon(step))},
        )


SPEC = TrainerSpec(
    id="tcod",
    reference=sampled.tcod,
    config=TcodConfig,
    build=Tcod,
    needs=frozenset({"teacher"}),
    paper="TCOD, arXiv:2604.24005",
    presets={
        "paper": {"trainer": {"first_turns": 1, "steps_per_turn": 2}},
        "released": {"trainer": {"first_turns": 1, "steps_per_turn": 6, "reduction": "trajectory_mean"}},
    },
)
