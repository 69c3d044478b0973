"""Keeps the books of the cache: which row belongs to which conversation, and which tokens it holds.

Plain numpy. Leaves out keys and values themselves (`cache`) and the order in which requests run (`hf`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .sampler import IntArray, moved


class SlotTable:
    """Rows of the cache by conversation.

    Attributes:
        tokens: int64 [rows, capacity], what each row says.
        known: [rows] number of valid tokens in `tokens`.
        length: [rows] how many of them have keys and values in the cache; never more than `known`.
        logprobs: float32 [rows, capacity] of the sampled ones among them.
        busy: [rows] a request is running there.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.tokens = np.zeros((rows, capacity), np.int64)
        self.logprobs = np.zeros((rows, capacity), np.float32)
        self.known = np.zeros(rows, np.int64)
        self.length = np.zeros(rows, np.int64)
        self.busy = np.zeros(rows, np.bool_)
        self._used = np.zeros(rows, np.int64)
        self._names: list[str | None] = [None] * rows
        self._clock = 0

    @property
    def rows(self) -> int:
        return len(self.known)

    @property
    def capacity(self) -> int:
        """Tokens that fit in a row."""
        return int(self.tokens.shape[1])

    def find(self, slot: str) -> int | None:
        """Row of a conversation; None when it has none ("" never has)."""
        return self._names.index(slot) if slot and slot in self._names else None

    def acquire(self, slot: str, *, evict: bool) -> int | None:
        """Take an idle row for a request: the conversation's own, an empty one, or the least recently used.

        Args:
            slot: the conversation; "" for one that will not go on.
            evict: whether another conversation may lose its row.
        Returns: the row, now busy, or None when there is none to be had.
        """
        row = self.find(slot)
        if row is None:
            idle = np.flatnonzero(~self.busy)
            empty = [int(i) for i in idle if self._names[i] is None]
            if not empty and not (evict and idle.size):
                return None
            row = empty[0] if empty else int(idle[self._used[idle].argmin()])
            self.drop(row)
            self._names[row] = slot or None
        self.busy[row] = True
        self._touch(row)
        return row

    def begin(self, row: int, prompt: IntArray) -> None:
        """Put a prompt on a row, keeping the longest common prefix that the cache already holds.

        At least the last token is left to be computed, since its logits are needed.
        """
        limit = min(int(self.length[row]), len(prompt) - 1)
        differs = np.flatnonzero(self.tokens[row, :limit] != prompt[:limit])
        kept = int(differs[0]) if differs.size else limit
        self.tokens[row, : len(prompt)] = prompt
        self.known[row] = len(prompt)
        self.length[row] = kept

    def donor(self, row: int) -> tuple[int, int]:
        """Find the other row that holds the longest beginning of what `row` says; returns it and that length."""
        size = int(self.known[row])
        same = (self.tokens[:, :size] == self.tokens[row, :size]).cumprod(-1).sum(-1)
        shared = np.minimum(np.minimum(same, self.length), size - 1)
        shared[row] = 0
        best = int(shared.argmax())
        return best, int(shared[best])

    def finish(self, row: int) -> None:
        """Make a row idle; it is emptied at once when its conversation will not go on."""
        self.busy[row] = False
        self._touch(row)
        if self._names[row] is None:
            self.drop(row)

    def drop(self, row: int) -> None:
        """Forget what a row holds and whose it was; it stays busy if it was."""
        self._names[row] = None
        self.known[row] = self.length[row] = 0

    def release(self, slot: str) -> None:
        """Forget a conversation; a running request is finished first."""
        row = self.find(slot)
        if row is not None and self.busy[row]:
            self._names[row] = None
        elif row is not None:
            self.drop(row)

    def by_worth(self, busy: Sequence[int]) -> list[int]:
        """All rows, those to lose last first: `busy` in the given order, then idle ones by their last use."""
        idle = [row for row in range(self.rows) if self._names[row] is not None and not self.busy[row]]
        return [*busy, *sorted(idle, key=lambda row: -int(self._used[row]))]

    def move(self, source: IntArray, rows: int, capacity: int) -> None:
        """Keep the rows `source`, renumbered from 0, in a table of `rows` rows of `capacity` tokens."""
        wide = max(0, capacity - self.capacity)
        self.tokens = np.pad(moved(self.tokens, source, rows), ((0, 0), (0, wide)))
        self.logprobs = np.pad(moved(self.logprobs, source, rows), ((0, 0), (0, wide)))
        self.known = moved(self.known, source, rows)
        self.length = moved(self.length, source, rows)
        self.busy = moved(self.busy, source, rows)
        self._used = moved(self._used, source, rows)
        self._names = [self._names[i] for i in source] + [None] * (rows - len(source))

    def _touch(self, row: int) -> None:
        self._clock += 1
        self._used[row] = self._clock
