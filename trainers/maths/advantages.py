"""Advantages: how much better a trajectory, a turn or a token did than expected.

Owns: group-centred episode advantages (two conventions for the group's statistics), step advantages of turns
that share an anchor state, and the sampled-token distillation advantage. Everything is detached and computed in
float64 on the whole batch, before it is cut into micro-batches. Leaves out: mixing (each algorithm's file),
turn weights (`turn_weights`), the surrogate they enter (`losses`).

Trajectories that the infrastructure broke (`ok_M` False) enter no statistic and get advantage 0.
Letters: B rows, T tokens, N turns, M trajectories, X any sample axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError

GroupStats = Literal["trajectory", "turn"]
Singleton = Literal["raw", "zero"]
EPSILON = 1e-6


@dataclass(frozen=True)
class Standardised:
    """Scores standardised inside their buckets, with what a log needs to know about the buckets.

    `flat_X` marks samples of buckets of two or more members that all scored the same: they teach nothing.
    `buckets`, `flat` and `singletons` count buckets with at least one healthy member, and those of them that
    are flat or have one member.
    """

    value_X: Tensor
    flat_X: Tensor
    buckets: int
    flat: int
    singletons: int


def standardise(
    score_X: Tensor,
    bucket_X: Tensor,
    ok_X: Tensor,
    *,
    divide_by_std: bool = True,
    singleton: Singleton = "raw",
) -> Standardised:
    """Centre scores inside buckets and divide by (unbiased std + 1e-6).

    Args:
        score_X: what to compare, any float dtype.
        bucket_X: int64 bucket id of each sample; ids need not be dense.
        ok_X: bool; False samples count nowhere and get 0.
        divide_by_std: False keeps the plain distance from the mean.
        singleton: a bucket of one keeps its score (mean 0, std 1) with "raw", gets 0 with "zero".
    Returns: `value_X` float32 on the device of score_X.
    """
    _check_same_length(score_X=score_X, bucket_X=bucket_X, ok_X=ok_X)
    if score_X.numel() == 0:
        return Standardised(score_X.float(), ok_X.bool(), 0, 0, 0)
    ok_X, score_X64 = ok_X.bool(), score_X.detach().double().masked_fill(~ok_X.bool(), 0.0)
    ids, row_X = torch.unique(bucket_X, return_inverse=True)
    zeros_G = score_X64.new_zeros(len(ids))
    count_G = zeros_G.index_add(0, row_X, ok_X.double())
    mean_G = zeros_G.index_add(0, row_X, score_X64) / count_G.clamp(min=1)
    centred_X = (score_X64 - mean_G[row_X]).masked_fill(~ok_X, 0.0)
    std_G = (zeros_G.index_add(0, row_X, centred_X**2) / (count_G - 1).clamp(min=1)).sqrt()
    flat_G = (count_G > 1) & _all_equal(score_X64, row_X, ok_X, len(ids))
    value_X = centred_X / (std_G[row_X] + EPSILON) if divide_by_std else centred_X
    alone_X = (count_G == 1)[row_X] & ok_X
    # a lone member: mean 0 and std 1, as the frameworks have it
    lone_X = score_X64 / (1.0 + EPSILON if divide_by_std else 1.0)
    value_X = torch.where(alone_X, lone_X if singleton == "raw" else torch.zeros_like(lone_X), value_X)
    # exact zero: the rounding error of a mean divided by 1e-6 is not an advantage
    value_X = value_X.masked_fill(flat_G[row_X], 0.0)
    return Standardised(
        value_X.float(),
        flat_G[row_X] & ok_X,
        buckets=int((count_G > 0).sum()),
        flat=int(flat_G.sum()),
        singletons=int((count_G == 1).sum()),
    )


def group_centred(
    score_M: Tensor,
    group_M: Tensor,
    ok_M: Tensor,
    traj_N: Tensor,
    *,
    stats: GroupStats = "turn",
    divide_by_std: bool = True,
    penalty_N: Tensor | None = None,
) -> Standardised:
    """Compare each trajectory's score with its group's (GRPO), one value per turn.

    Args:
        score_M: episode score.
        group_M: group of each trajectory (same task, or same task and anchor state).
        ok_M: False where the infrastructure broke the episode.
        traj_N: trajectory of each turn.
        stats: "trajectory" counts every trajectory once (the papers' formula); "turn" takes mean and std over
            all turns of the group, so longer episodes weigh more (verl-agent, and so the published runs).
        divide_by_std: False for the mean-only variant.
        penalty_N: subtracted from a turn's own score before the statistics (invalid actions); "turn" only.
    Returns: per turn; broadcast to tokens with `turns.per_token`. The one survivor of a group whose other members
        broke gets 0: there is nothing left to compare it with. A group that was sampled as one keeps its score.
    Raises: ConfigError: unknown `stats`, or a penalty that the trajectory convention has no place for.
    """
    if stats not in get_args(GroupStats):
        raise ConfigError(f"no group statistics {stats!r}; choose one of {', '.join(get_args(GroupStats))}")
    alone_N = _survivors(group_M, ok_M)[traj_N]
    if stats == "turn":
        score_N = score_M[traj_N] if penalty_N is None else score_M[traj_N] - penalty_N
        per_N = standardise(score_N, group_M[traj_N], ok_M[traj_N], divide_by_std=divide_by_std)
        return replace(per_N, value_X=per_N.value_X.masked_fill(alone_N, 0.0))
    if penalty_N is not None:
        raise ConfigError("penalty_N needs stats='turn'; with stats='trajectory' subtract it from score_M")
    per_M = standardise(score_M, group_M, ok_M, divide_by_std=divide_by_std)
    value_N = per_M.value_X[traj_N].masked_fill(alone_N, 0.0)
    return replace(per_M, value_X=value_N, flat_X=per_M.flat_X[traj_N])


def _survivors(group_M: Tensor, ok_M: Tensor) -> Tensor:
    """Mark the sound episodes that are the last of a larger group; bool [M]."""
    ids, row_M = torch.unique(group_M, return_inverse=True)
    sampled_G = torch.bincount(row_M, minlength=len(ids))
    sound_G = torch.bincount(row_M[ok_M.bool()], minlength=len(ids))
    return ((sampled_G > 1) & (sound_G == 1))[row_M] & ok_M.bool()


def discounted_returns(reward_N: Tensor, traj_N: Tensor, index_N: Tensor, gamma: float) -> Tensor:
    """Sum each turn's reward and all later ones of its trajectory, discounted by gamma per turn.

    Args:
        reward_N: reward of the turn, env unit.
        traj_N: trajectory of each turn, in any order.
        index_N: position of the turn in its trajectory; compared only inside a trajectory.
        gamma: discount in [0, 1].
    """
    if not 0.0 <= gamma <= 1.0:
        raise ConfigError(f"gamma={gamma} must lie in [0, 1]")
    _check_same_length(reward_N=reward_N, traj_N=traj_N, index_N=index_N)
    rewards, trajs, indices = (x.tolist() for x in (reward_N.double(), traj_N, index_N))
    running: dict[int, float] = {}
    result_N = [0.0] * len(rewards)
    for row in sorted(range(len(rewards)), key=lambda n: -indices[n]):
        result_N[row] = running[trajs[row]] = rewards[row] + gamma * running.get(trajs[row], 0.0)
    return torch.tensor(result_N, dtype=torch.float64, device=reward_N.device)


def step_centred(
    reward_N: Tensor,
    traj_N: Tensor,
    index_N: Tensor,
    anchor_N: Tensor,
    group_M: Tensor,
    ok_M: Tensor,
    *,
    gamma: float = 0.95,
    divide_by_std: bool = False,
) -> Standardised:
    """Compare the discounted return of turns of one group that started from the same observation.

    Args:
        reward_N: reward of the turn, env unit.
        traj_N: trajectory of each turn.
        index_N: position of the turn in its trajectory.
        anchor_N: int64 id of the turn's raw observation; equal ids mean identical text.
        group_M: group of each trajectory; anchors are never compared across groups.
        ok_M: False where the infrastructure broke the episode.
        gamma: discount per turn.
        divide_by_std: the second of the two published normalisations.
    Returns: per turn; 0 for a state visited once.
    Source: GiGPO, arXiv:2505.10978.
    """
    _check_same_length(reward_N=reward_N, anchor_N=anchor_N)
    returns_N = discounted_returns(reward_N, traj_N, index_N, gamma)
    pairs_N2 = torch.stack([group_M[traj_N], anchor_N], dim=1)
    _, bucket_N = torch.unique(pairs_N2, dim=0, return_inverse=True)
    return standardise(returns_N, bucket_N, ok_M[traj_N], divide_by_std=divide_by_std, singleton="zero")


def sampled_distillation(
    teacher_BT: Tensor, old_BT: Tensor, turn_BT: Tensor, *, clip: float | None = None
) -> Tensor:
    """Credit each sampled token with log p(y) - log q_old(y), detached; 0 on context.

    Args:
        teacher_BT: the teacher's log-probability of the token.
        old_BT: the student's, under the policy that is fixed during the inner updates.
        turn_BT: turn row of each token, -1 on context and padding.
        clip: bound on the absolute log-ratio; None leaves it free.
    Source: on-policy distillation (Thinking Machines, 2025); discount 0, each token its own term.
    """
    if clip is not None and not clip > 0.0:
        raise ConfigError(f"clip={clip} must be positive; leave it out for none")
    gap_BT = (teacher_BT - old_BT).detach().masked_fill(turn_BT < 0, 0.0)
    return gap_BT if clip is None else gap_BT.clamp(-clip, clip)


def _all_equal(score_X: Tensor, row_X: Tensor, ok_X: Tensor, buckets: int) -> Tensor:
    start_G = score_X.new_full((buckets,), 0.0)
    low_G, high_G = (
        start_G.scatter_reduce(0, row_X[ok_X], score_X[ok_X], reduce=how, include_self=False)
        for how in ("amin", "amax")
    )
    return low_G == high_G


def _check_same_length(**columns: Tensor) -> None:
    if len({column.shape for column in columns.values()}) != 1:
        shapes = ", ".join(f"{name} {tuple(column.shape)}" for name, column in columns.items())
        raise UsageError(f"columns of one table differ in length: {shapes}")
