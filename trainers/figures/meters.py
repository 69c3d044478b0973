"""Figures of one update: means over all processes, worst cases, and the teacher's gap by depth in the episode.

Leaves out their interpretation (`alarms`) and where they are written (`agentbench.training.loop`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.tables import Batch
from ..student.processes import Processes

DEPTHS = (0, 4, 8, 16, 32)
"""First turns of the depth ranges in which the teacher's gap is reported; the last range is open."""


class Meters:
    """Collects sums and counts by name; equal for every split into processes."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self._tops: dict[str, float] = {}

    def mean(self, name: str, x: Tensor | float, where: Tensor | None = None) -> None:
        """Add values to a mean; `where` picks the entries that count."""
        x = torch.as_tensor(x, dtype=torch.float64)
        x = x.reshape(-1) if where is None else x[where]
        total, count = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (total + float(x.sum()), count + x.numel())

    def total(self, name: str, value: float) -> None:
        """Add to a sum."""
        self._sums["+" + name] = (self._sums.get("+" + name, (0.0, 0.0))[0] + value, 1.0)

    def top(self, name: str, x: Tensor, where: Tensor) -> None:
        """Keep the largest value."""
        if bool(where.any()):
            self._tops[name] = max(self._tops.get(name, float("-inf")), float(x[where].max()))

    def by_depth(self, name: str, x_BT: Tensor, batch: Batch) -> None:
        """Add token values to one mean per depth range, by the turn they belong to."""
        mask_BT = batch.mask_BT
        x_X, turn_X = x_BT[mask_BT], batch.index_N[batch.turn_BT[mask_BT]]
        for first, end in zip(DEPTHS, (*DEPTHS[1:], None), strict=True):
            inside_X = (turn_X >= first) & (turn_X < (1 << 62 if end is None else end))
            label = f"{name}/turn_{first}+" if end is None else f"{name}/turn_{first}-{end - 1}"
            if bool(inside_X.any()):
                self.mean(label, x_X[inside_X])

    def result(self, team: Processes) -> dict[str, float]:
        """Combine all processes; names in alphabetical order."""
        sums: dict[str, tuple[float, float]] = {}
        tops: dict[str, float] = {}
        for theirs, highest in team.gather([(self._sums, self._tops)]):
            for name, (total, count) in theirs.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + total, before[1] + count)
            for name, value in highest.items():
                tops[name] = max(tops.get(name, float("-inf")), value)
        result = dict(tops)
        for name, (total, count) in sums.items():
            if name.startswith("+"):
                result[name[1:]] = total
            elif count:
                result[name] = total / count
        return dict(sorted(result.items()))
