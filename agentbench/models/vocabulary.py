"""Which token ids exist: the one answer that engines, trainers, teachers and request checks share.

A head often has more rows than the tokenizer has tokens (it is padded to a multiple of 64 or 128), a tokenizer may
leave out ids in the middle, and it may have a token that the model has no row for. An id exists where the tokenizer has
a token *and* the model a row. All others are never sampled, never normalised over, and refused in prompts. Plain numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError

BoolArray = npt.NDArray[np.bool_]

_STRANGERS = 0.01
"""Share of a tokenizer's own tokens (not added ones) that may lack a row before the two cannot belong together."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids of one tokenizer that one model has rows for.

    Attributes:
        exists: bool [width]; the last entry is True, so `width` is one more than the largest id that exists.
    """

    exists: BoolArray

    @property
    def width(self) -> int:
        """One more than the largest id that exists; logits are cut here."""
        return len(self.exists)

    @property
    def count(self) -> int:
        """How many ids exist."""
        return int(self.exists.sum())

    @cached_property
    def holes(self) -> npt.NDArray[np.int64]:
        """Ids below `width` that do not exist."""
        return np.flatnonzero(~self.exists)

    def absent(self, rows: int) -> npt.NDArray[np.int64]:
        """Ids of a head of `rows` rows that do not exist: the holes and the padding."""
        return np.concatenate([self.holes, np.arange(self.width, max(rows, self.width))])

    def has(self, token_ids: Any) -> BoolArray:
        """Whether each of these ids exists."""
        ids = np.asarray(token_ids, np.int64)
        inside = (ids >= 0) & (ids < self.width)
        return inside & self.exists[np.where(inside, ids, 0)]


def vocabulary_of(tokenizer: Any, rows: int | None, name: str = "the model") -> Vocabulary:
    """Find the ids that exist.

    Args:
        tokenizer: anything with `get_vocab()` (token to id) or a length.
        rows: of the model's embedding and head, the smaller one; None where no model is at hand.
        name: of the model, for the error.
    Raises: UsageError: more than a few of the tokenizer's own tokens have no row, so it belongs to another model.
    """
    ids, added = _ids(tokenizer), _added(tokenizer)
    rows = int(ids.max()) + 1 if rows is None else rows
    without = np.setdiff1d(ids[ids >= rows], added)
    if without.size > _STRANGERS * len(ids) or not (ids < rows).any():
        raise UsageError(
            f"the tokenizer has {len(ids)} tokens, but model {name!r} embeds only {rows}; they do not belong together"
        )
    exists = np.zeros(rows, np.bool_)
    exists[ids[ids < rows]] = True
    return Vocabulary(exists[: int(np.flatnonzero(exists)[-1]) + 1])


def embedded_rows(model: Any) -> int:
    """Ids that a transformers model can both read and predict: rows of its embedding or head, whichever has fewer."""
    found = [int(model.get_input_embeddings().weight.shape[0])]
    head = model.get_output_embeddings()
    if head is not None and getattr(head, "weight", None) is not None:
        found.append(int(head.weight.shape[0]))
    return min(found)


def _ids(tokenizer: Any) -> npt.NDArray[np.int64]:
    """Every id of a tokenizer, added tokens included, ascending."""
    table = getattr(tokenizer, "get_vocab", None)
    found = set(range(len(tokenizer))) if table is None else {int(index) for index in table().values()}
    found |= {int(index) for index in getattr(tokenizer, "added_tokens_decoder", None) or ()}
    return np.array(sorted(found), np.int64)


def _added(tokenizer: Any) -> npt.NDArray[np.int64]:
    return np.array(sorted(map(int, getattr(tokenizer, "added_tokens_decoder", None) or ())), np.int64)
