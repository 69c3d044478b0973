"""Token losses, unreduced, and the coefficients that turn them into one number.

Owns: importance ratios and their truncation, the clipped surrogate, the low-variance KL penalty, the weighting of
a distillation loss by turns, and reductions by name. A reduction is a coefficient per token computed once from the
whole batch, so that loss = sum(coefficient * token loss) does not depend on how rows are cut into micro-batches
or spread over processes. Leaves out: the divergences and advantages that enter, and the loop.
Letters: B rows, T tokens, N turns, M trajectories. `turn_BT` is the turn row of a token, -1 on context.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError

from .turn_weights import per_token, turn_sum

Reduction = Literal["token_mean", "trajectory_mean", "turn_mean", "turn_sum"]


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


def low_variance_kl(logp_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """Penalise distance from a reference policy by r - log r - 1 with r = reference / current (k3).

    Never negative; unbiased for KL(current || reference) on tokens drawn from the current policy.
    """
    gap_BT = reference_BT.detach() - logp_BT
    return gap_BT.expm1() - gap_BT


def weighted_distillation(divergence_BT: Tensor, weight_N: Tensor, turn_BT: Tensor) -> Tensor:
    """Multiply each token's divergence by its turn's weight; exactly 0 on context, whatever is stored there."""
    return divergence_BT.masked_fill(turn_BT < 0, 0.0) * per_token(weight_N.detach(), turn_BT)


def reduction_denominator(
    kind: Reduction, turn_BT: Tensor, traj_N: Tensor, ok_M: Tensor, *, keep_BT: Tensor | None = None
) -> float:
    """Count what a reduction divides by; add the counts of all processes before `token_coefficients`.

    Arguments as there. Turns and trajectories without a counted token are not counted.
    """
    _check_kind(kind)
    token_N = _counted_tokens(turn_BT, traj_N, ok_M, keep_BT)
    if kind == "token_mean":
        return float(token_N.sum())
    if kind == "turn_mean":
        return float((token_N > 0).sum())
    return float((_per_trajectory(token_N, traj_N, len(ok_M)) > 0).sum())


def token_coefficients(
    kind: Reduction,
    turn_BT: Tensor,
    traj_N: Tensor,
    ok_M: Tensor,
    *,
    keep_BT: Tensor | None = None,
    denominator: float | None = None,
) -> Tensor:
    """Turn a reduction into one coefficient per token, from the whole batch and before it is cut.

    - "token_mean": every token counts the same.
    - "trajectory_mean": mean over a trajectory's tokens, then over trajectories.
    - "turn_mean": mean over a turn's tokens, then over all turns of the batch.
    - "turn_sum": mean over a turn's tokens, summed over a trajectory's turns, then mean over trajectories.

    Args:
        kind: which reduction.
        turn_BT: turn row of each token, -1 on context and padding.
        traj_N: trajectory of each turn.
        ok_M: False where the infrastructure broke the episode: its tokens count nowhere.
        keep_BT: tokens to count among the action tokens (special-token masks, entropy filters); None for all.
        denominator: sum of `reduction_denominator` over all processes; None when this batch is everything. A
            trajectory must not be spread over processes.
    Returns: float32 [B, T]; 0 on every token that does not count.
    Raises: UsageError: nothing counts, so there is nothing to divide by. ConfigError: unknown reduction.
    """
    total = reduction_denominator(kind, turn_BT, traj_N, ok_M, keep_BT=keep_BT)
    total = total if denominator is None else denominator
    if total <= 0:
        raise UsageError(
            f"no token counts for {kind!r}: every turn is context, masked or in a broken episode; "
            "skip the update and count it"
        )
    token_N = _counted_tokens(turn_BT, traj_N, ok_M, keep_BT)
    if kind == "token_mean":
        share_N = torch.ones_like(token_N)
    elif kind == "trajectory_mean":
        share_N = 1.0 / _per_trajectory(token_N, traj_N, len(ok_M))[traj_N].clamp(min=1)
    else:
        share_N = 1.0 / token_N.clamp(min=1)
    share_N = torch.where(ok_M.bool()[traj_N], share_N / total, 0.0)
    coef_BT = per_token(share_N, turn_BT).float()
    return coef_BT if keep_BT is None else coef_BT * keep_BT


def _counted_tokens(turn_BT: Tensor, traj_N: Tensor, ok_M: Tensor, keep_BT: Tensor | None) -> Tensor:
    if keep_BT is not None and keep_BT.shape != turn_BT.shape:
        raise UsageError(f"keep_BT {tuple(keep_BT.shape)} and turn_BT {tuple(turn_BT.shape)} differ in shape")
    one_BT = torch.ones_like(turn_BT, dtype=torch.float64) if keep_BT is None else keep_BT.double()
    return turn_sum(one_BT, turn_BT, len(traj_N)) * ok_M.bool()[traj_N]


def _per_trajectory(token_N: Tensor, traj_N: Tensor, n_trajectories: int) -> Tensor:
    return token_N.new_zeros(n_trajectories).index_add(0, traj_N, token_N)


def _check_kind(kind: str) -> None:
    if kind not in get_args(Reduction):
        raise ConfigError(f"no reduction {kind!r}; choose one of {', '.join(get_args(Reduction))}")
