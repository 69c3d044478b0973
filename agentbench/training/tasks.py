"""Which tasks each training step plays."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..errors import UsageError
from ..types import derive_seed


class TaskOrder:
    """Which tasks each step plays: seeded shuffles of the split, one after the other, without end."""

    def __init__(self, tasks: Sequence[str], seed: int) -> None:
        if not tasks:
            raise UsageError("the split has no tasks to train on")
        self.tasks = list(tasks)
        self.seed = seed

    def at(self, first: int, count: int) -> list[str]:
        """Tasks number `first` to `first + count` of the endless order."""
        return [
            self._epoch(number // len(self.tasks))[number % len(self.tasks)]
            for number in range(first, first + count)
        ]

    def _epoch(self, epoch: int) -> list[str]:
        order = list(self.tasks)
        random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
        return order
