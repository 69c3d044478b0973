"""Keys and values of many conversations in one tensor per layer.

Row r, position p of a buffer belongs to token p of conversation r: rows start at position 0 and need no padding, so
a conversation's cache outlives its requests. Leaves out whose row is whose (`table`) and the model (`forward`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .sampler import IntArray

if TYPE_CHECKING:
    from torch import Tensor


class SlotCache:
    """The part of a `transformers` cache that decoders call, over buffers of fixed rows.

    Attributes:
        rows: conversations that fit.
        capacity: tokens that fit in each.
    """

    is_compileable = False
    is_initialized = True

    def __init__(self, rows: int, capacity: int) -> None:
        """Make an empty cache; buffers appear with the first `update` of each layer."""
        self.rows = rows
        self.capacity = capacity
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._write: Tensor | None = None
        self._read: slice | Tensor = slice(0, rows)
        self._width = 0
        self._query = 0

    def aim(self, write: Tensor, read: slice | Tensor, width: int, query: int) -> None:
        """Say where the next forward pass writes and what it reads.

        Args:
            write: [R * Q] flat positions row * capacity + position; `trash` for padding.
            read: the rows of the batch.
            width: number of positions that attention looks at.
            query: Q.
        """
        self._write, self._read, self._width, self._query = write, read, width, query

    @property
    def trash(self) -> int:
        """The flat position that padding is written to; nobody reads it."""
        return self.rows * self.capacity

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store keys and values [R, heads, Q, dim]; return all that this batch's rows hold [R, heads, width, dim]."""
        if layer_idx not in self._layers:
            self._layers[layer_idx] = (self._buffer(key), self._buffer(value))
        keys, values = self._layers[layer_idx]
        return self._exchange(keys, key), self._exchange(values, value)

    def _buffer(self, like: Tensor) -> Tensor:
        """Make one layer's buffer, flat: [rows * capacity + 1, heads * dim]."""
        return like.new_zeros(self.trash + 1, like.shape[1] * like.shape[3])

    def _exchange(self, buffer: Tensor, new: Tensor) -> Tensor:
        heads, dim = new.shape[1], new.shape[3]
        assert self._write is not None
        buffer.index_copy_(0, self._write, new.transpose(1, 2).reshape(-1, heads * dim))
        # a view where the rows lie together: reading the keys of a step in place is what makes it cheap
        held = buffer[: self.trash].view(self.rows, self.capacity, heads, dim)[:, : self._width]
        chosen = held[self._read] if isinstance(self._read, slice) else held.index_select(0, self._read)
        return chosen.transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before this forward pass, as a rectangular cache would count them."""
        return self._width - self._query

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Same as `get_seq_length`."""
        return self._width - self._query

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys."""
        return self._width, 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    @property
    def is_sliding(self) -> list[bool]:
        """No layer forgets."""
        return [False] * max(1, len(self._layers))

    def __len__(self) -> int:
        return len(self._layers)

    def move(self, source: IntArray, rows: int, capacity: int) -> None:
        """Keep the rows `source`, renumbered from 0, in buffers of another size; one layer at a time."""
        import torch

        old_trash, old_rows, old_capacity = self.trash, self.rows, self.capacity
        self.rows, self.capacity = rows, capacity
        shared = min(capacity, old_capacity)

        def moved(buffer: Tensor) -> Tensor:
            new = buffer.new_zeros(self.trash + 1, buffer.shape[1])
            index = torch.from_numpy(source).to(buffer.device)
            old = buffer[:old_trash].view(old_rows, old_capacity, -1)[:, :shared]
            new[: self.trash].view(rows, capacity, -1)[: len(source), :shared] = old.index_select(0, index)
            return new

        # layer by layer, so that old and new buffers never stand side by side for more than one of them
        for layer, (keys, values) in list(self._layers.items()):
            self._layers[layer] = (moved(keys), moved(values))

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` positions of one row to another."""
        for buffers in self._layers.values():
            for buffer in buffers:
                held = buffer[: self.trash].view(self.rows, self.capacity, -1)
                held[target, :tokens] = held[source, :tokens]

    def clear(self, row: int | None = None) -> None:
        """Set one row, or everything, to zero: masked positions must be finite, or they poison the sum."""
        for buffers in self._layers.values():
            for buffer in buffers:
                part = buffer if row is None else buffer[row * self.capacity : (row + 1) * self.capacity]
                part.zero_()

    def token_bytes(self) -> int:
        """Memory that one position of one row takes."""
        return sum(
            buffer.shape[1] * buffer.element_size() for buffers in self._layers.values() for buffer in buffers
        )
