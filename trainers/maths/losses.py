"""Token losses, unreduced, and the coefficients that turn them into one number.

Owns: importance ratios and their truncation, the clipped surrogate, the low-variance KL penalty, the weighting of
a distillation loss by turns, and reductions by name. A reduction is a coefficient per token computed once from the
whole batch, so that loss = sum(coefficient * token loss) does not depend on how rows are cut into micro-batches
or spread over processes. Leaves out: the divergences and advantages that enter, and the loop.
Letters: B rows, T tokens, N turns, M trajectories. `turn_BT` is the turn row of a token, -1 on context.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agentbench.errors import ConfigError


def importance_ratio(logp_BT: Tensor, old_BT: Tensor) -> Tensor:
    """Divide the current probability of each token by the one it had before the update; carries the gradient."""
    return (logp_BT - old_BT.detach()).exp()


def truncated_importance(old_BT: Tensor, behaviour_BT: Tensor, cap: float = 2.0) -> Tensor:
    """Correct for a sampler that differs from the trained policy: min(q_old / q_behaviour, cap), detached.

    Args:
        old_BT: the trainer's log-probability of the token before the update.
        behaviour_BT: the log-probability it was sampled with.
        cap: largest weight, at least 1.
    """
    if cap < 1.0:
        raise ConfigError(f"cap={cap} would shrink on-policy tokens; use at least 1")
    return (old_BT - behaviour_BT).detach().exp().clamp(max=cap)


def clipped_surrogate(
    ratio_BT: Tensor,
    advantage_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """Score each token by the pessimistic of the plain and the clipped ratio.

    Args:
        ratio_BT: current over old probability; 1 where on-policy.
        advantage_BT: what the token's ratio is multiplied with; treated as a constant.
        clip_low: the ratio counts no lower than 1 - clip_low.
        clip_high: and no higher than 1 + clip_high; the same as clip_low when left out.
        dual_clip: bound, above 1, on the ratio where the advantage is negative; None for the paper's form.
    Returns: [B, T], to be maximised; the caller multiplies by its token coefficients.
    Raises: ConfigError: a bound that is not usable.
    Source: PPO, arXiv:1707.06347, Eq. 7; two-sided bound, arXiv:1912.09729.
    """
    clip_high = clip_low if clip_high is None else clip_high
    if not (0.0 < clip_low <= 1.0 and clip_high > 0.0) or (dual_clip is not None and dual_clip <= 1.0):
        raise ConfigError(
            f"clip_low={clip_low}, clip_high={clip_high}, dual_clip={dual_clip}; "
            "need 0 < clip_low <= 1, clip_high > 0 and dual_clip > 1"
        )
    advantage_BT = advantage_BT.detach()
    clipped_BT = ratio_BT.clamp(1.0 - clip_low, 1.0 + clip_high)
    surrogate_BT = torch.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)
    if dual_clip is None:
        return surrogate_BT
    floor_BT = torch.maximum(surrogate_BT, dual_clip * advantage_BT)
    return torch.where(advantage_BT < 0, floor_BT, surrogate_BT)


def clipped_tokens(
    ratio_BT: Tensor, advantage_BT: Tensor, *, clip_low: float = 0.2, clip_high: float | None = None
) -> Tensor:
    """Mark tokens whose gradient the clip removes: ratio beyond the bound that their advantage pushes towards."""
    clip_high = clip_low if clip_high is None else clip_high
    above_BT = (ratio_BT > 1.0 + clip_high) & (advantage_BT > 0)
    return above_BT | ((ratio_BT < 1.0 - clip_low) & (advantage_BT < 0))


def low_variance_kl(
    logp_BT: Tensor,
    reference_BT: Tensor,
    *,
    log_ratio_limit: float | None = None,
    value_limit: float | None = None,
) -> Tensor:
    """Penalise distance from a reference policy by r - log r - 1 with r = reference / current (k3).

    Never negative; unbiased for KL(current || reference) on tokens drawn from the current policy.

    Args:
        logp_BT: log-prob under the current policy.
        reference_BT: under the reference; a constant.
        log_ratio_limit: log r is clamped to plus and minus this first; no gradient beyond.
        value_limit: and the value to at most this; no gradient beyond. The released code takes 20 and 10.
    """
    gap_BT = reference_BT.detach() - logp_BT
    if log_ratio_limit is not None:
        gap_BT = gap_BT.clamp(-log_ratio_limit, log_ratio_limit)
    value_BT = gap_BT.expm1() - gap_BT
    return value_BT if value_limit is None else value_BT.clamp(max=value_limit)
