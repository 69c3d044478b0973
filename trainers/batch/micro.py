"""Micro-batches: rows of a batch that fit a token budget. Leaves out the tables (`tables`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .tables import Batch


@dataclass(frozen=True)
class Micro:
    """A few rows of a batch, cut to their own width.

    Attributes:
        tokens_BT: int64 on the device; at least two tokens wide.
        at: (row, column) in the batch of each trained token, in row order.
        local: (row, column) of the same tokens in `tokens_BT`, on the device.
    """

    tokens_BT: Tensor
    at: tuple[Tensor, Tensor]
    local: tuple[Tensor, Tensor]

    @property
    def token_X(self) -> Tensor:
        """Ids of the trained tokens."""
        return self.tokens_BT[self.local]

    def on(self, device: torch.device) -> Micro:
        """The same on a device."""
        row_X, column_X = self.local
        return Micro(self.tokens_BT.to(device), self.at, (row_X.to(device), column_X.to(device)))

    def pick(self, x_BT: Tensor) -> Tensor:
        """Take a token column of the batch at the trained tokens, on the device."""
        return x_BT[self.at].to(self.tokens_BT.device)

    def only(self, where_X: Tensor) -> Micro:
        """The same rows with some of the trained tokens; `where_X` is on the device."""
        here_X = where_X.to(self.at[0].device)
        return Micro(
            self.tokens_BT,
            at=(self.at[0][here_X], self.at[1][here_X]),
            local=(self.local[0][where_X], self.local[1][where_X]),
        )

    def place(self, x_X: Tensor, into_BT: Tensor) -> None:
        """Write values of the trained tokens into a token column of the batch."""
        into_BT[self.at] = x_X.detach().to(device=into_BT.device, dtype=into_BT.dtype)


def micro_batches(
    batch: Batch, budget: int, device: torch.device | str = "cpu", rows_B: Tensor | None = None
) -> list[Micro]:
    """Pack rows into micro-batches of at most `budget` tokens, padding included.

    Rows of like length go together, the longest first, so that the peak of memory comes at once. A row above the
    budget makes a micro-batch of its own.

    Args:
        batch: the tables.
        budget: tokens.
        device: where the tokens go.
        rows_B: rows to pack; None packs all.
    """
    rows = torch.arange(len(batch.length_B)) if rows_B is None else rows_B
    order = rows[torch.argsort(batch.length_B[rows], descending=True, stable=True)]
    micros, at = [], 0
    while at < len(order):
        width = max(int(batch.length_B[order[at]]), 2)
        count = max(1, budget // width)
        micros.append(_micro(batch, order[at : at + count], width, device))
        at += count
    return micros


def _micro(batch: Batch, rows_B: Tensor, width: int, device: torch.device | str) -> Micro:
    turn_BT = batch.turn_BT[rows_B, :width]
    row_X, column_X = (turn_BT >= 0).nonzero(as_tuple=True)
    return Micro(
        batch.tokens_BT[rows_B, :width].to(device),
        at=(rows_B[row_X], column_X),
        local=(row_X.to(device), column_X.to(device)),
    )


def idle_micro(pad_id: int, device: torch.device | str = "cpu") -> Micro:
    """A micro-batch that trains nothing: what a process runs while others still have work."""
    empty = torch.zeros(0, dtype=torch.long)
    tokens_BT = torch.full((1, 2), pad_id, dtype=torch.long, device=device)
    return Micro(tokens_BT, (empty, empty), (empty.to(device), empty.to(device)))
