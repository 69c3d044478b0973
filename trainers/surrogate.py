"""What methods that follow a policy gradient share: settings, the clipped surrogate, group-relative episode advantages.

Leaves out how each algorithm makes its advantages (its own file) and the formulas (`maths`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from agentbench.config import Section
from agentbench.training.config import TeacherConfig, TrainConfig

from .base import Algorithm, Descent
from .batch.tables import Batch
from .maths.advantages import GroupStats, Standardised, group_centred, sampled_distillation
from .maths.losses import (
    clipped_surrogate,
    clipped_tokens,
    importance_ratio,
    low_variance_kl,
    truncated_importance,
)
from .maths.reductions import Reduction
from .maths.schedules import Measured, ScheduleConfig, from_config
from .objectives import Mixed, Objective, TokenObjective
from .student.student import Scores
from .teachers.local import LocalTeacher
from .teachers.open import open_teacher

RELEASED: dict[str, Any] = {
    "rows_per_update": 256,
    "trainer": {
        "group_stats": "turn",
        "reduction": "token_mean",
        "dual_clip": 3.0,
        "entropy_coef": 0.001,
        "ref_kl_coef": 0.01,
        "ref_kl_log_ratio_limit": 20.0,
        "ref_kl_limit": 10.0,
    },
}
"""Preset of the group methods that share verl-agent's released code: its update, on episode advantages."""


class SurrogateConfig(Section):
    """Keys of every method that follows a policy gradient.

    Attributes:
        clip: half-width of the trusted ratio interval; None does not clip.
        clip_high: upper half-width where it differs.
        dual_clip: bound on the ratio where the advantage is negative, above 1 (the released code takes 3).
        entropy_coef: weight of an entropy bonus, the mean entropy of the trained tokens (released: 0.001).
        importance_cap: weight tokens by min(trainer probability / engine probability, cap), for engines of lower
            precision; None leaves them.
        reduction: how tokens are averaged.
        balance: alpha of the reduction "turn_balanced", a schedule: 0 is "trajectory_mean", 1 lets every turn of an
            episode count the same.
    """

    clip: float | None = Field(default=0.2, gt=0, le=1)
    clip_high: float | None = Field(default=None, gt=0)
    dual_clip: float | None = Field(default=None, gt=1)
    entropy_coef: float = Field(default=0.0, ge=0)
    importance_cap: float | None = Field(default=None, ge=1)
    reduction: Reduction = "token_mean"
    balance: ScheduleConfig = 1.0

    @model_validator(mode="after")
    def _clip_is_on(self) -> SurrogateConfig:
        if self.reduction != "turn_balanced" and "balance" in self.model_fields_set:
            raise ValueError(f"'balance' is used by reduction 'turn_balanced' only; it is {self.reduction!r}")
        if isinstance(from_config(self.balance), Measured):
            raise ValueError("'balance' follows the step alone; a measured schedule is not allowed")
        for key in ("clip_high", "dual_clip"):
            if self.clip is None and getattr(self, key) is not None:
                raise ValueError(f"{key} is set but clip is off")
        return self


@dataclass(frozen=True)
class Term:
    """A loss that is added to the surrogate's, with the same coefficients.

    Attributes:
        loss: (logp_X, *columns) -> loss_X, unreduced, to be minimised.
        columns: token columns of the batch that it reads.
    """

    loss: Callable[..., Tensor]
    columns: tuple[Tensor, ...] = ()


class PolicyGradient(Algorithm):
    """Base of the methods that follow a policy gradient: `ascend` raises the clipped surrogate of their advantages."""

    settings: SurrogateConfig

    def balance(self, step: int) -> float:
        """Alpha of "turn_balanced" at this step, kept within [0, 1]."""
        return min(1.0, max(0.0, from_config(self.settings.balance)(step)))

    def ascend(
        self,
        batch: Batch,
        old: Scores,
        advantage_BT: Tensor,
        *,
        step: int,
        imitated_BT: Tensor | None = None,
        beside: Sequence[Term] = (),
    ) -> Descent:
        """Raise the clipped surrogate.

        Args:
            batch: of this process.
            old: the student's scores before the update.
            advantage_BT: constant; 0 on context.
            step: of the run.
            imitated_BT: where not 0, tokens of another author: weight of their cross-entropy, which stands in the place
                of the surrogate.
            beside: what else is minimised.
        Source: PPO, arXiv:1707.06347, Eq. 7.
        """
        settings = self.settings
        if settings.importance_cap is not None:
            advantage_BT = advantage_BT * truncated_importance(
                old.logp_BT, batch.behaviour_BT, settings.importance_cap
            )

        def loss(logp_X: Tensor, old_X: Tensor, advantage_X: Tensor, *others: Tensor) -> Tensor:
            ratio_X = importance_ratio(logp_X, old_X)
            if settings.clip is None:
                loss_X = -ratio_X * advantage_X
            else:
                loss_X = -clipped_surrogate(
                    ratio_X,
                    advantage_X,
                    clip_low=settings.clip,
                    clip_high=settings.clip_high,
                    dual_clip=settings.dual_clip,
                )
            for term in beside:
                loss_X = loss_X + term.loss(logp_X, *others[: len(term.columns)])
                others = others[len(term.columns) :]
            return loss_X

        columns = (column for term in beside for column in term.columns)
        objective: Objective = TokenObjective(
            loss, (old.logp_BT, advantage_BT, *columns), settings.entropy_coef
        )
        if imitated_BT is not None and bool(imitated_BT.any()):
            objective = Mixed(objective, TokenObjective(_cross_entropy, (imitated_BT,)), imitated_BT != 0)
        descent = self.descend(
            batch, objective, reduction=settings.reduction, step=step, balance=self.balance(step)
        )
        self._measure_ratio(descent, batch, old, advantage_BT)
        return descent

    def _measure_ratio(self, descent: Descent, batch: Batch, old: Scores, advantage_BT: Tensor) -> None:
        meters, mask_BT, clip = descent.meters, batch.mask_BT, self.settings.clip
        log_ratio_BT = descent.columns["logp"] - old.logp_BT
        ratio_BT = log_ratio_BT.exp()
        meters.mean("ratio_mean", ratio_BT, mask_BT)
        meters.top("ratio_max", ratio_BT, mask_BT)
        meters.mean("policy_kl", ratio_BT - 1.0 - log_ratio_BT, mask_BT)  # k3 of old against current
        if clip is not None:
            clipped_BT = clipped_tokens(
                ratio_BT, advantage_BT, clip_low=clip, clip_high=self.settings.clip_high
            )
            meters.mean("clip_share", clipped_BT, mask_BT)


class SampledDistillationConfig(SurrogateConfig):
    """Keys of the methods that credit sampled tokens with a teacher's log p - log q.

    Attributes:
        gap_clip: bound on the absolute log-ratio of a sampled token; None leaves it free.
    """

    gap_clip: float | None = Field(default=None, gt=0)


class SampledDistillation(PolicyGradient):
    """Base of the methods that credit sampled tokens with one teacher's log p - log q."""

    settings: SampledDistillationConfig

    def __init__(self, run: TrainConfig, settings: SampledDistillationConfig) -> None:
        """Load student and teacher."""
        super().__init__(run)
        self.settings = settings
        self.teacher = open_teacher(run.teachers[0], self.student)

    def gap(self, teacher_BT: Tensor, old_BT: Tensor, turn_BT: Tensor) -> Tensor:
        """Log p - log q of the sampled tokens, a constant; 0 on context."""
        return sampled_distillation(teacher_BT, old_BT, turn_BT, clip=self.settings.gap_clip)


def _cross_entropy(logp_X: Tensor, weight_X: Tensor) -> Tensor:
    return -weight_X * logp_X


class EpisodeAdvantageConfig(SurrogateConfig):
    """Keys of every method with a group-relative episode advantage.

    Attributes:
        group_stats: "turn": mean and std over all turns of the group, so longer episodes weigh more (the frameworks
            and the published runs); "trajectory": every episode counts once (the papers' formula).
        divide_by_std: off leaves the distance from the mean.
    """

    group_stats: GroupStats = "turn"
    divide_by_std: bool = True


def episode_advantage(batch: Batch, settings: EpisodeAdvantageConfig) -> Standardised:
    """Compare each episode's reward with its group's, per turn.

    With group_stats "turn" the penalty of an invalid reply lowers its own turn only, as in verl-agent; with
    "trajectory" it is part of the episode's reward.
    """
    table = (batch.group_M, batch.ok_M, batch.traj_N)
    if settings.group_stats == "trajectory":
        return group_centred(batch.score_M, *table, stats="trajectory", divide_by_std=settings.divide_by_std)
    free_M = batch.score_M.index_add(0, batch.traj_N, batch.penalty_N)
    return group_centred(
        free_M, *table, stats="turn", divide_by_std=settings.divide_by_std, penalty_N=batch.penalty_N
    )


class ReferenceConfig(EpisodeAdvantageConfig):
    """Keys of the methods that may be held near the model they started from.

    Attributes:
        ref_kl_coef: weight of the penalty on leaving the initial model; 0 loads no reference.
        ref_kl_log_ratio_limit: clamp of the penalty's log-ratio (released: 20); beyond it there is no gradient.
        ref_kl_limit: clamp of the penalty of one token (released: 10).
    """

    ref_kl_coef: float = Field(default=0.01, ge=0)
    ref_kl_log_ratio_limit: float | None = Field(default=None, gt=0)
    ref_kl_limit: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _penalty_is_on(self) -> ReferenceConfig:
        for key in ("ref_kl_log_ratio_limit", "ref_kl_limit"):
            if self.ref_kl_coef == 0.0 and getattr(self, key) is not None:
                raise ValueError(f"{key} is set but ref_kl_coef is 0")
        return self


class Referenced(PolicyGradient):
    """Base of the methods that may be held near the model they started from."""

    settings: ReferenceConfig

    def __init__(self, run: TrainConfig, settings: ReferenceConfig) -> None:
        """Load the student, and its frozen initial copy where there is a penalty on leaving it."""
        super().__init__(run)
        self.settings = settings
        self.reference: LocalTeacher | None = None
        if settings.ref_kl_coef > 0.0:
            initial = TeacherConfig(model_name_or_path=run.model_name_or_path)
            self.reference = LocalTeacher(initial, self.student)

    def held(self, batch: Batch, old: Scores) -> tuple[list[Term], dict[str, Tensor]]:
        """The penalty on leaving the initial model, and how far the student is from it; empty where there is none.

        Source: GRPO, arXiv:2402.03300, Eq. 4.
        """
        if self.reference is None:
            return [], {}
        settings, reference_BT = self.settings, self.reference.score(batch).logp_BT

        def penalty(logp_X: Tensor, reference_X: Tensor) -> Tensor:
            limits = settings.ref_kl_log_ratio_limit, settings.ref_kl_limit
            distance_X = low_variance_kl(
                logp_X, reference_X, log_ratio_limit=limits[0], value_limit=limits[1]
            )
            return settings.ref_kl_coef * distance_X

        return [Term(penalty, (reference_BT,))], {"reference_kl": old.logp_BT - reference_BT}
