"""The clipped surrogate as every policy method here uses it: settings, objective and figures.

Leaves out where advantages come from (each algorithm's file) and the formulas (`losses`).
"""

from __future__ import annotations

from pydantic import Field, model_validator
from torch import Tensor

from agentbench.config import Section

from .base import Algorithm, Descent
from .batch.tables import Batch
from .figures.meters import Meters
from .maths.advantages import GroupStats, Standardised, group_centred
from .maths.losses import (
    clipped_surrogate,
    clipped_tokens,
    importance_ratio,
    low_variance_kl,
    truncated_importance,
)
from .maths.reductions import Reduction
from .objectives import TokenObjective
from .student.student import Scores


class SurrogateConfig(Section):
    """Keys of every method that follows a policy gradient.

    Attributes:
        clip: half-width of the trusted ratio interval; None does not clip.
        clip_high: upper half-width where it differs.
        importance_cap: weight tokens by min(trainer probability / engine probability, cap), for engines of lower
            precision; None leaves them.
        reduction: how tokens are averaged.
    """

    clip: float | None = Field(default=0.2, gt=0, le=1)
    clip_high: float | None = Field(default=None, gt=0)
    importance_cap: float | None = Field(default=None, ge=1)
    reduction: Reduction = "token_mean"

    @model_validator(mode="after")
    def _clip_is_on(self) -> SurrogateConfig:
        if self.clip is None and self.clip_high is not None:
            raise ValueError("clip_high is set but clip is off")
        return self


def descend_surrogate(
    algorithm: Algorithm,
    settings: SurrogateConfig,
    batch: Batch,
    old: Scores,
    advantage_BT: Tensor,
    *,
    step: int,
    meters: Meters,
    reference_BT: Tensor | None = None,
    ref_kl_coef: float = 0.0,
) -> Descent:
    """Raise the clipped surrogate of these advantages.

    Args:
        algorithm: whose student learns.
        settings: of the surrogate.
        batch: of this process.
        old: the student's scores before the update.
        advantage_BT: constant; 0 on context.
        step: of the run.
        meters: receives ratio figures.
        reference_BT: log-probs of the policy to stay near.
        ref_kl_coef: weight of that penalty.
    """
    penalised = reference_BT is not None and ref_kl_coef > 0.0
    if settings.importance_cap is not None:
        advantage_BT = advantage_BT * truncated_importance(
            old.logp_BT, batch.behaviour_BT, settings.importance_cap
        )

    def loss(logp_X: Tensor, old_X: Tensor, advantage_X: Tensor, *reference_X: Tensor) -> Tensor:
        ratio_X = importance_ratio(logp_X, old_X)
        if settings.clip is None:
            loss_X = -ratio_X * advantage_X
        else:
            loss_X = -clipped_surrogate(
                ratio_X, advantage_X, clip_low=settings.clip, clip_high=settings.clip_high
            )
        return loss_X + ref_kl_coef * low_variance_kl(logp_X, reference_X[0]) if reference_X else loss_X

    columns = (
        old.logp_BT,
        advantage_BT,
        *((reference_BT,) if penalised and reference_BT is not None else ()),
    )
    descent = algorithm.descend(batch, TokenObjective(loss, columns), reduction=settings.reduction, step=step)
    _figures(meters, settings, batch, old, advantage_BT, descent.columns["logp"])
    return descent


def _figures(
    meters: Meters,
    settings: SurrogateConfig,
    batch: Batch,
    old: Scores,
    advantage_BT: Tensor,
    logp_BT: Tensor,
) -> None:
    mask_BT = batch.mask_BT
    log_ratio_BT = logp_BT - old.logp_BT
    ratio_BT = log_ratio_BT.exp()
    meters.mean("ratio_mean", ratio_BT, mask_BT)
    meters.top("ratio_max", ratio_BT, mask_BT)
    meters.mean("policy_kl", ratio_BT - 1.0 - log_ratio_BT, mask_BT)  # k3 of old against current
    if settings.clip is not None:
        clipped_BT = clipped_tokens(
            ratio_BT, advantage_BT, clip_low=settings.clip, clip_high=settings.clip_high
        )
        meters.mean("clip_share", clipped_BT, mask_BT)


class EpisodeAdvantageConfig(SurrogateConfig):
    """Keys of every method with a group-relative episode advantage.

    Attributes:
        group_stats: "turn": mean and std over all turns of the group, so longer episodes weigh more (the frameworks
            and the published runs); "trajectory": every episode counts once (the papers' formula).
        divide_by_std: off leaves the distance from the mean.
    """

    group_stats: GroupStats = "turn"
    divide_by_std: bool = True


def measure_groups(meters: Meters, episode: Standardised, batch: Batch) -> None:
    """Report how many groups teach nothing, and the size of the advantages."""
    meters.mean("zero_variance_share", 1.0 * episode.flat / max(1, episode.buckets))
    meters.mean("episode_advantage", episode.value_X.abs(), batch.ok_M[batch.traj_N])


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
