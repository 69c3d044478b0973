"""How token losses become one number: which tokens count, and by how much."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError

from .turns import per_token, turn_sum

Reduction = Literal["token_mean", "trajectory_mean", "turn_mean", "turn_sum", "turn_balanced"]


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
    balance: float = 1.0,
) -> Tensor:
    """Turn a reduction into one coefficient per token, from the whole batch and before it is cut.

    - "token_mean": every token counts the same.
    - "trajectory_mean": mean over a trajectory's tokens, then over trajectories.
    - "turn_mean": mean over a turn's tokens, then over all turns of the batch.
    - "turn_sum": mean over a turn's tokens, summed over a trajectory's turns, then mean over trajectories.
    - "turn_balanced": mean over a turn's tokens, then over a trajectory's turns, then over trajectories; `balance`
      blends it with "trajectory_mean". Source: TurnOPD, arXiv:2607.05804: (1 - alpha) L_token + alpha L_turn.

    Args:
        kind: which reduction.
        turn_BT: turn row of each token, -1 on context and padding.
        traj_N: trajectory of each turn.
        ok_M: False where the infrastructure broke the episode: its tokens count nowhere.
        keep_BT: tokens to count among the action tokens (special-token masks, entropy filters); None for all.
        denominator: sum of `reduction_denominator` over all processes; None when this batch is everything. A
            trajectory must not be spread over processes.
        balance: alpha of "turn_balanced", in [0, 1]: 0 is "trajectory_mean", 1 lets every turn of an episode count the
            same; the other reductions ignore it.
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
    if kind == "turn_balanced":
        counted_N = (token_N > 0).to(token_N)
        turns_N = _per_trajectory(counted_N, traj_N, len(ok_M))[traj_N].clamp(min=1)
        tokens_N = _per_trajectory(token_N, traj_N, len(ok_M))[traj_N].clamp(min=1)
        share_N = (1.0 - balance) / tokens_N + balance * share_N / turns_N  # (1 - a)/(sum_k n_k) + a/(M n_k)
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
