"""The clipped surrogate as every policy method here uses it: settings, objective and figures.

Leaves out where advantages come from (each algorithm's file) and the formulas (`losses`).
"""

from __future__ import annotations

from pydantic import Field, model_validator
from torch import Tensor

from agentbench.config import Section
from agentbench.errors import UsageError
from agentbench.training.config import TrainConfig

from .base import Algorithm, Descent
from .batch import Batch
from .losses import (
    Reduction,
    clipped_surrogate,
    clipped_tokens,
    importance_ratio,
    low_variance_kl,
    truncated_importance,
)
from .meters import Meters
from .objectives import TokenObjective
from .student import Scores


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


def require_comparable(run: TrainConfig, settings: SurrogateConfig) -> None:
    """Refuse importance weights where engine and trainer speak of different distributions."""
    rollout = run.rollout
    if settings.importance_cap is not None and (rollout.guided or rollout.top_p != 1.0 or rollout.top_k != 0):
        raise UsageError(
            "trainer.importance_cap compares the probabilities of trainer and engine, but the engine's are those of a "
            f"truncated distribution (rollout.top_p {rollout.top_p}, top_k {rollout.top_k}, guided {rollout.guided}); "
            "set top_p: 1.0, top_k: 0 and guided: false, or leave importance_cap out"
        )


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
