"""What is reported of a step, measured from the tensors that an update hands over once.

An algorithm passes its tensors by name to `Algorithm.report`; what each name means as a figure stands here, so that the
algorithm's file shows the algorithm. Leaves out how figures of several processes are combined (`meters`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..batch.tables import Batch
from ..maths.advantages import Standardised
from ..student.student import Scores
from .meters import Meters

_BY_DEPTH = {"weight": "turn_weight", "divergence": "teacher_distance"}
"""Columns whose mean is also reported by depth in the episode, and the name they have there."""

_NAMES = {"weight": "turn_weight", "divergence": "teacher_gap"}
"""Columns whose figure has another name than the annotation."""

_SILENT = frozenset({"advantage", "disagreement", "uncertainty"})
"""Columns that are annotations only."""


def measure_episodes(meters: Meters, batch: Batch) -> None:
    """Figures of the episodes themselves, whatever is learnt from them."""
    meters.total("episodes", len(batch.ids_M))
    meters.total("episode_errors", float((~batch.ok_M).sum()))
    meters.mean("episode_error_share", ~batch.ok_M)
    meters.mean("reward", batch.score_M, batch.ok_M)
    meters.mean("success", batch.success_M, batch.ok_M & ~batch.success_M.isnan())
    meters.total("trained_tokens", float(batch.mask_BT.sum()))
    lengths_M = torch.bincount(batch.traj_N, minlength=len(batch.ids_M))
    meters.mean("turns_per_episode", lengths_M, batch.ok_M)
    meters.mean("truncated_share", batch.truncated_N, batch.ok_M[batch.traj_N])


def measure_student(meters: Meters, batch: Batch, old: Scores, *, comparable: bool) -> None:
    """The student before the update: its entropy, and how far the engine's log-probs are from the trainer's.

    Args:
        meters: receives the figures.
        batch: of this process.
        old: the student's scores, of all trained tokens or of some rows.
        comparable: whether the engine's log-probs are of the distribution that the trainer sees.
    """
    mask_BT = batch.mask_BT if old.rows_B is None else batch.mask_BT & old.rows_B[:, None]
    meters.mean("entropy", old.entropy_BT, mask_BT)
    if comparable:
        gap_BT = old.logp_BT - batch.behaviour_BT
        meters.mean("engine_gap", gap_BT.abs(), mask_BT)
        meters.top("engine_gap_max", gap_BT.abs(), mask_BT)
        meters.mean("engine_ratio", gap_BT.exp(), mask_BT)  # raw importance ratio, before any update
        meters.top("engine_ratio_max", gap_BT.exp(), mask_BT)


def measure_teacher(meters: Meters, batch: Batch, old: Scores, teacher_BT: Tensor) -> None:
    """The gap between student and teacher on the sampled tokens."""
    mask_BT, gap_BT = batch.mask_BT, old.logp_BT - teacher_BT
    meters.mean("teacher_gap", gap_BT, mask_BT)
    meters.mean("teacher_preferred_share", gap_BT < 0, mask_BT)
    meters.mean("teacher_distance", gap_BT.abs(), mask_BT)
    meters.by_depth("teacher_distance", gap_BT.abs(), batch)


def measure_groups(meters: Meters, batch: Batch, episode: Standardised) -> None:
    """How many groups teach nothing, and the size of the episode advantages."""
    meters.mean("zero_variance_share", 1.0 * episode.flat / max(1, episode.buckets))
    meters.mean("episode_advantage", episode.value_X.abs(), batch.ok_M[batch.traj_N])


def measure_columns(meters: Meters, batch: Batch, columns: Mapping[str, Tensor]) -> None:
    """Token columns [B, T] that become annotations of turns; turn columns [N] have no figure of their own."""
    for name, x in columns.items():
        if name in _SILENT or x.ndim != 2:
            continue
        meters.mean(_NAMES.get(name, name), x, batch.mask_BT)
        if name in _BY_DEPTH:
            meters.by_depth(_BY_DEPTH[name], x, batch)


def measure_figures(meters: Meters, batch: Batch, figures: Mapping[str, float | Tensor]) -> None:
    """An algorithm's own figures: numbers as they are, token tensors [B, T] by their mean over trained tokens."""
    for name, x in figures.items():
        token_table = isinstance(x, Tensor) and x.shape == batch.tokens_BT.shape
        meters.mean(name, x, batch.mask_BT if token_table else None)
