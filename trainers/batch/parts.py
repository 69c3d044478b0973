"""Which rows of a step go into which optimizer step. Leaves out micro-batches (`micro`), which change no result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agentbench.training.config import TrainConfig
from agentbench.types import derive_seed

from .tables import Batch

Gather = Callable[[list[Any]], list[Any]]
"""Concatenates plain values over all processes, the same on each."""


def rows_of_updates(batch: Batch, run: TrainConfig, step: int, gather: Gather) -> list[Tensor]:
    """Rows of each optimizer step, in a seeded order that no split into processes changes.

    Args:
        batch: of this process.
        run: says how a step is cut: not at all, into `updates_per_step` or by `rows_per_update`.
        step: each has an order of its own.
        gather: the team's.
    Returns: as many tensors of row numbers on every process; some may be empty.
    """
    if run.rows_per_update is not None:
        return _by_rows(batch, run, run.rows_per_update, step, gather)
    if run.updates_per_step == 1:
        return [torch.arange(len(batch.tokens_BT))]
    return _by_trajectories(batch, run, step, gather)


def _by_trajectories(batch: Batch, run: TrainConfig, step: int, gather: Gather) -> list[Tensor]:
    # Departure: the frameworks shuffle turn rows; a trajectory in two updates would be averaged twice.
    parts, traj_B = run.updates_per_step, batch.traj_B
    rows_M = torch.bincount(traj_B, minlength=len(batch.ids_M)).tolist()
    mine = [
        (derive_seed(run.seed, "part", step, key), key, rows)
        for key, rows in zip(batch.ids_M, rows_M, strict=True)
        if rows
    ]
    everyone = sorted(gather(mine))
    total, before, part_of = sum(rows for *_, rows in everyone), 0, {}
    for _, key, rows in everyone:
        part_of[key] = before * parts // total
        before += rows
    part_B = torch.tensor([part_of[batch.ids_M[m]] for m in traj_B.tolist()], dtype=torch.long)
    return [(part_B == part).nonzero()[:, 0] for part in range(parts)]


def _by_rows(batch: Batch, run: TrainConfig, rows: int, step: int, gather: Gather) -> list[Tensor]:
    """Mini-batches of so many rows, as the frameworks cut a step; the last takes what is left."""
    last_B = batch.turn_BT.amax(dim=1)  # a row's last turn is its own
    keys = zip(batch.traj_B.tolist(), batch.index_N[last_B].tolist(), strict=True)
    mine = [(derive_seed(run.seed, "row", step, batch.ids_M[m], at), batch.ids_M[m], at) for m, at in keys]
    everyone = sorted(gather(mine))
    part_of = {(key, at): place // rows for place, (_, key, at) in enumerate(everyone)}
    part_B = torch.tensor([part_of[key, at] for _, key, at in mine], dtype=torch.long)
    return [(part_B == part).nonzero()[:, 0] for part in range(-(-len(everyone) // rows))]
