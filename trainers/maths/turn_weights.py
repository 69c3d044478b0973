"""Turn statistics and the weights that a trajectory's turns get in a distillation loss.

Owns: sums and means over the tokens of a turn, the spread of turn values back to tokens, disagreement and
uncertainty per turn, and the weightings: uniform, disagreement-uncertainty (T-DUR, per turn and per token) and
step-wise damping (SOD). All weights are detached and computed on the whole batch. Leaves out: what is weighted
(`advantages`, `divergences`) and how tokens are averaged (`losses`).
Letters: B rows, T tokens, N turns, M trajectories. `turn_BT` is the turn row of a token, -1 on context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError

from .turns import turn_mean, turn_sum

_MIN_RANGE = 1e-8


@dataclass(frozen=True)
class TurnStatistics:
    """Mean |log q - log p| and mean -log q over the tokens of each turn, and the number of tokens."""

    disagreement_N: Tensor
    uncertainty_N: Tensor
    tokens_N: Tensor


@dataclass(frozen=True)
class TurnWeights:
    """One weight per turn, and which trajectories the guards let through to be weighted at all."""

    weight_N: Tensor
    active_M: Tensor


@dataclass(frozen=True)
class DisagreementUncertainty:
    """Switches of T-DUR; the defaults are those of the published runs.

    min_turns: trajectories with fewer turns keep weight 1.
    min_gap: trajectories whose largest turn disagreement is smaller (nats) keep weight 1.
    smoothing: s replaces w by (1 - s) w + s.
    mean_preserving: rescale so that a trajectory's token-weighted mean weight is 1, ratios clipped to `bounds`.
    signal: which of the two statistics count.
    quantile: token-level variant only; surprisal above this quantile of the batch is cut.
    """

    min_turns: int = 3
    min_gap: float = 0.01
    smoothing: float = 0.0
    mean_preserving: bool = False
    bounds: tuple[float, float] = (0.5, 2.0)
    signal: Literal["both", "disagreement", "uncertainty"] = "both"
    quantile: float = 0.98

    def __post_init__(self) -> None:
        """Refuse switches that have no meaning."""
        low, high = self.bounds
        if not (0.0 <= self.smoothing <= 1.0 and 0.0 < self.quantile <= 1.0 and 0.0 < low <= 1.0 <= high):
            raise ConfigError(
                f"{self} is not usable; need smoothing in [0, 1], quantile in (0, 1], bounds around 1 and above 0"
            )
        if self.signal not in ("both", "disagreement", "uncertainty"):
            raise ConfigError(f"no signal {self.signal!r}; choose both, disagreement or uncertainty")


def turn_statistics(old_BT: Tensor, teacher_BT: Tensor, turn_BT: Tensor, n: int) -> TurnStatistics:
    """Measure how far student and teacher are apart in each turn, and how unsure the student was.

    Args:
        old_BT: student log-probability of the sampled token, fixed during the inner updates.
        teacher_BT: the teacher's.
        turn_BT: turn row of each token.
        n: number of turns.
    Source: d_k and h_k of ATOD, arXiv:2606.27814; d_k of SOD, arXiv:2605.07725.
    """
    old_BT, teacher_BT = old_BT.detach().double(), teacher_BT.detach().double()
    return TurnStatistics(
        turn_mean((old_BT - teacher_BT).abs(), turn_BT, n).float(),
        turn_mean(-old_BT, turn_BT, n).float(),
        turn_sum(torch.ones_like(old_BT), turn_BT, n).long(),
    )


def disagreement_uncertainty(
    turns: TurnStatistics, traj_N: Tensor, n_trajectories: int, config: DisagreementUncertainty
) -> TurnWeights:
    """Weight a turn by 1 - (1 - d)(1 - h), each statistic min-max normalised inside its trajectory (T-DUR).

    A statistic that is constant in a trajectory counts 0.5. Turns without tokens do not take part and get 0.

    Args:
        turns: from `turn_statistics`.
        traj_N: trajectory of each turn.
        n_trajectories: M.
        config: switches.
    Source: ATOD, arXiv:2606.27814; guards, smoothing and rescaling after a copy of the released trainer.
    """
    _check_turns(turns, traj_N)
    seen_N = turns.tokens_N > 0
    gap_N, surprise_N = turns.disagreement_N.double(), turns.uncertainty_N.double()
    count_M = torch.zeros(n_trajectories, dtype=torch.long, device=traj_N.device).index_add(
        0, traj_N, seen_N.long()
    )
    _, widest_M = _extremes(gap_N, traj_N, seen_N, n_trajectories)
    active_M = (count_M >= config.min_turns) & (widest_M >= config.min_gap)
    weight_N = _soft_or(
        _min_max(gap_N, traj_N, seen_N, n_trajectories),
        _min_max(surprise_N, traj_N, seen_N, n_trajectories),
        config,
    )
    if config.mean_preserving:
        weight_N = _mean_preserving(weight_N, turns.tokens_N, traj_N, n_trajectories, config.bounds)
    weight_N = torch.where(active_M[traj_N], weight_N, torch.ones_like(weight_N)).masked_fill(~seen_N, 0.0)
    return TurnWeights(weight_N.float(), active_M)


def token_disagreement_uncertainty(
    old_BT: Tensor,
    teacher_BT: Tensor,
    turn_BT: Tensor,
    config: DisagreementUncertainty,
    *,
    everyone: Callable[[Tensor], Tensor] = lambda x_X: x_X,
) -> Tensor:
    """Weight each token by the same soft OR, normalised over all action tokens of the batch; 0 on context.

    Surprisal is cut at its `config.quantile`; the guard of `min_gap` looks at the whole batch; `min_turns` and
    `mean_preserving` have no meaning here. `everyone` concatenates one process's values with those of its peers.

    Raises: ConfigError: `mean_preserving` is on.
    Source: token-level ablation of ATOD, arXiv:2606.27814.
    """
    if config.mean_preserving:
        raise ConfigError("mean_preserving is defined per turn; switch it off for the token-level variant")
    inside_BT = turn_BT >= 0
    old_X, teacher_X = old_BT.detach()[inside_BT].double(), teacher_BT.detach()[inside_BT].double()
    gap_X, surprise_X = (old_X - teacher_X).abs(), -old_X
    all_gap_Y, all_surprise_Y = everyone(gap_X), everyone(surprise_X).sort().values
    result_BT = torch.zeros_like(old_BT, dtype=torch.float32)
    if not all_gap_Y.numel():
        return result_BT
    if float(all_gap_Y.max()) < config.min_gap:
        return result_BT.masked_fill(inside_BT, 1.0)
    # sorted, not torch.quantile: that one refuses more than 16 million entries
    place = config.quantile * (len(all_surprise_Y) - 1)
    below, above = int(place), min(int(place) + 1, len(all_surprise_Y) - 1)
    cut = torch.lerp(all_surprise_Y[below], all_surprise_Y[above], place % 1.0)
    weight_X = _soft_or(
        _scale(gap_X, all_gap_Y), _scale(surprise_X.clamp(max=cut), all_surprise_Y.clamp(max=cut)), config
    )
    result_BT[inside_BT] = weight_X.float()
    return result_BT


def _scale(x_X: Tensor, all_Y: Tensor) -> Tensor:
    """Min-max by the range of all values."""
    # Departure: a constant statistic counts 0.5 as it does per turn; the released token variant lets it count 0.
    low, span = all_Y.min(), all_Y.max() - all_Y.min()
    return torch.full_like(x_X, 0.5) if span < _MIN_RANGE else (x_X - low) / span


def stepwise_damping(
    turns: TurnStatistics,
    traj_N: Tensor,
    index_N: Tensor,
    *,
    delta: float = 0.2,
    epsilon: float = 1e-6,
) -> Tensor:
    """Damp turns on which the teacher disagrees more than on the first: min((d_1 + e)/(d_k + e), 1 + delta).

    The paper multiplies the ratios of neighbouring turns, which is the same. Turns without tokens do not take part and
    get 0.

    Args:
        turns: from `turn_statistics`.
        traj_N: trajectory of each turn.
        index_N: position of the turn in its trajectory.
        delta: how far above 1 a weight may go.
        epsilon: keeps the ratio finite.
    Returns: float32 [N]; 1 on the first turn of each trajectory that has tokens.
    Source: SOD, arXiv:2605.07725.
    """
    _check_turns(turns, traj_N)
    if delta < 0.0 or not epsilon > 0.0:
        raise ConfigError(f"delta={delta}, epsilon={epsilon}; need delta >= 0 and epsilon > 0")
    gaps, trajs, indices = turns.disagreement_N.tolist(), traj_N.tolist(), index_N.tolist()
    first: dict[int, float] = {}
    weights = [0.0] * len(gaps)
    for row in sorted(torch.nonzero(turns.tokens_N)[:, 0].tolist(), key=lambda n: indices[n]):
        gap = gaps[row] + epsilon
        weights[row] = min(first.setdefault(trajs[row], gap) / gap, 1.0 + delta)
    return torch.tensor(weights, dtype=torch.float32, device=traj_N.device)


def _soft_or(gap_X: Tensor, surprise_X: Tensor, config: DisagreementUncertainty) -> Tensor:
    both_X = 1.0 - (1.0 - gap_X) * (1.0 - surprise_X)
    weight_X = {"both": both_X, "disagreement": gap_X, "uncertainty": surprise_X}[config.signal]
    return (1.0 - config.smoothing) * weight_X + config.smoothing


def _min_max(x_N: Tensor, bucket_N: Tensor, seen_N: Tensor, buckets: int) -> Tensor:
    low_M, high_M = _extremes(x_N, bucket_N, seen_N, buckets)
    span_N = (high_M - low_M)[bucket_N]
    constant_N = span_N < _MIN_RANGE
    return torch.where(constant_N, 0.5, (x_N - low_M[bucket_N]) / span_N.masked_fill(constant_N, 1.0))


def _extremes(x_N: Tensor, bucket_N: Tensor, seen_N: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    start_M = x_N.new_zeros(buckets)
    low_M, high_M = (
        start_M.scatter_reduce(0, bucket_N[seen_N], x_N[seen_N], reduce=how, include_self=False)
        for how in ("amin", "amax")
    )
    return low_M, high_M


def _mean_preserving(
    weight_N: Tensor, tokens_N: Tensor, traj_N: Tensor, n_trajectories: int, bounds: tuple[float, float]
) -> Tensor:
    """Divide by the token-weighted trajectory mean, clip, and divide by the new mean."""
    tokens_N = tokens_N.double()

    def relative(x_N: Tensor) -> Tensor:
        total_M, mass_M = (
            x_N.new_zeros(n_trajectories).index_add(0, traj_N, column_N)
            for column_N in (tokens_N, tokens_N * x_N)
        )
        return x_N / (mass_M / total_M.clamp(min=1)).clamp(min=_MIN_RANGE)[traj_N]

    return relative(relative(weight_N).clamp(*bounds))


def _check_turns(turns: TurnStatistics, traj_N: Tensor) -> None:
    if turns.disagreement_N.shape != traj_N.shape:
        raise UsageError(
            f"{tuple(turns.disagreement_N.shape)} turn statistics for {tuple(traj_N.shape)} turns"
        )
