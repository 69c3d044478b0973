"""Draws the next token of many rows at once, each row by its own settings and its own seed.

One uniform number per token comes from a counter-based generator (seed, position) and is pushed through the inverse
of the cumulative distribution, so a row's token does not depend on which rows it is computed with. Leaves out models
and caches (see `hf`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ...models.vocabulary import Vocabulary
from ...types import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

IntArray = npt.NDArray[np.int64]
_Array = TypeVar("_Array", bound=npt.NDArray[Any])


def moved(array: _Array, source: IntArray, rows: int) -> _Array:
    """Make a table of `rows` rows whose first ones are `array[source]` and whose others are zero."""
    table = np.zeros((rows, *array.shape[1:]), array.dtype)
    table[: len(source)] = array[source]
    return cast("_Array", table)


_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    for shift, factor in _MIX:
        state = (state ^ (state >> shift)) * factor
    return state ^ (state >> np.uint64(31))


def uniforms(seeds: npt.NDArray[np.uint64], positions: IntArray) -> npt.NDArray[np.float64]:
    """Draw one number in (0, 1) for each (seed, position).

    Args:
        seeds: [R] of each request.
        positions: [R] index of the token in its reply.
    Returns: float64 [R]; odd multiples of 2^-49, so neither 0 nor 1 and exact.
    Source: SplitMix64 (Steele, Lea, Flood 2014), whose n-th output is a hash of seed + n * gamma; the seed is hashed
        once first, so that neighbouring seeds do not start neighbouring streams.
    """
    bits = _mix(_mix(seeds + _GAMMA) + (positions.astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return ((bits >> np.uint64(16)).astype(np.float64) + 0.5) * 2.0**-48


@dataclass(frozen=True, slots=True)
class RowSettings:
    """Sampling settings of the rows of one batch, one entry per row [R].

    Attributes:
        seed: of the request.
        position: index of the token to draw in its reply.
        temperature: 0 is greedy.
        top_p: 1 keeps all.
        top_k: 0 keeps all.
        min_tokens: end tokens are not allowed before this position.
        max_tokens: the reply is cut at this length.
    """

    seed: npt.NDArray[np.uint64]
    position: IntArray
    temperature: npt.NDArray[np.float64]
    top_p: npt.NDArray[np.float64]
    top_k: IntArray
    min_tokens: IntArray
    max_tokens: IntArray

    @classmethod
    def empty(cls, rows: int) -> RowSettings:
        """Make a table of `rows` rows, to be filled with `put`."""
        return cls(
            seed=np.zeros(rows, np.uint64),
            position=np.zeros(rows, np.int64),
            temperature=np.zeros(rows),
            top_p=np.zeros(rows),
            top_k=np.zeros(rows, np.int64),
            min_tokens=np.zeros(rows, np.int64),
            max_tokens=np.zeros(rows, np.int64),
        )

    def put(self, row: int, sampling: SamplingParams, seed: int, max_tokens: int) -> None:
        """Set one row for a new request whose reply has room for `max_tokens`."""
        self.seed[row] = seed % 2**64
        self.position[row] = 0
        self.temperature[row] = sampling.temperature
        self.top_p[row] = sampling.top_p
        self.top_k[row] = sampling.top_k
        self.min_tokens[row] = sampling.min_new_tokens
        self.max_tokens[row] = max_tokens

    def take(self, rows: IntArray, size: int | None = None) -> RowSettings:
        """Copy some rows into a table of their own, with room for `size` rows."""
        size = len(rows) if size is None else size
        return RowSettings(*(moved(getattr(self, name), rows, size) for name in self.__slots__))


def sample_rows(
    logits_RV: Tensor,
    settings: RowSettings,
    *,
    end_ids: Tensor,
    allowed_RV: Tensor | None = None,
    guided_R: npt.NDArray[np.bool_] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Restrictions come in this order: guided choice or the ban of end tokens, temperature, top-k, top-p.

    Args:
        logits_RV: the model's logits; not changed.
        settings: of these rows.
        end_ids: tokens that end a reply, banned before `min_tokens`.
        allowed_RV: bool; what guided choice allows, all true for free rows. None when all rows are free.
        guided_R: which rows are guided; `min_tokens` does not apply to them.
    Returns: ids int64 [R], and log-probs float32 [R] in nats under the distribution sampled from. Greedy rows have no
        such distribution: they get the log-prob at temperature 1 without top-k and top-p. A row whose logits are not
        finite gets NaN.
    """
    import torch

    greedy_R = settings.temperature == 0
    logits_RV = _restrict(logits_RV.float(), settings, end_ids, allowed_RV, guided_R)
    if not ((settings.temperature == 1) | greedy_R).all():
        divisor_R = np.where(greedy_R, 1.0, settings.temperature)
        logits_RV = logits_RV / _tensor(divisor_R, logits_RV).float()[:, None]
    filtered_R = ~greedy_R & ((settings.top_k > 0) | (settings.top_p < 1))
    if filtered_R.any():
        rows = _tensor(np.flatnonzero(filtered_R), logits_RV)
        kept = _filter(logits_RV[rows], settings.top_k[filtered_R], settings.top_p[filtered_R])
        logits_RV = logits_RV.index_copy(0, rows, kept)
    prob_RV = torch.softmax(logits_RV, dim=-1)
    if greedy_R.all():
        ids_R = logits_RV.argmax(-1)
    else:
        ids_R = _inverse_cdf(prob_RV, uniforms(settings.seed, settings.position))
        if greedy_R.any():
            ids_R = torch.where(_tensor(greedy_R, logits_RV), logits_RV.argmax(-1), ids_R)
    return ids_R, prob_RV.gather(-1, ids_R[:, None])[:, 0].log()


def existing_logits(logits_RV: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Cut padding rows off and give the holes no probability; before anything else is done with logits."""
    logits_RV = logits_RV[..., : vocabulary.width]
    holes = vocabulary.holes
    return logits_RV.index_fill(-1, _tensor(holes, logits_RV), float("-inf")) if holes.size else logits_RV


def _tensor(array: npt.NDArray[np.generic], like: Tensor) -> Tensor:
    import torch

    return torch.from_numpy(array).to(like.device)


def _restrict(
    logits_RV: Tensor,
    settings: RowSettings,
    end_ids: Tensor,
    allowed_RV: Tensor | None,
    guided_R: npt.NDArray[np.bool_] | None,
) -> Tensor:
    """Set what may not be sampled to -inf."""
    early_R = settings.position < settings.min_tokens
    if guided_R is not None:
        early_R = early_R & ~guided_R
    if early_R.any():
        logits_RV = logits_RV.clone()
        logits_RV[_tensor(np.flatnonzero(early_R), logits_RV)[:, None], end_ids] = float("-inf")
    if allowed_RV is not None:
        logits_RV = logits_RV.masked_fill(~allowed_RV, float("-inf"))
    return logits_RV


def _filter(logits_RV: Tensor, top_k: IntArray, top_p: npt.NDArray[np.float64]) -> Tensor:
    """Keep the k likeliest tokens, then of these the fewest that hold top_p of the mass, at least one."""
    import torch

    vocab = logits_RV.shape[-1]
    sorted_RV, order_RV = logits_RV.sort(dim=-1, descending=True, stable=True)
    limit_R = _tensor(np.where(top_k > 0, np.minimum(top_k, vocab), vocab), logits_RV)
    rank_V = torch.arange(vocab, device=logits_RV.device)
    sorted_RV = sorted_RV.masked_fill(rank_V >= limit_R[:, None], float("-inf"))
    mass_RV = sorted_RV.softmax(-1).cumsum(-1, dtype=torch.float64)
    before_RV = torch.nn.functional.pad(mass_RV[:, :-1], (1, 0))
    share_R = _tensor(np.where(top_p < 1, top_p, 2.0), logits_RV)
    drop_RV = (before_RV >= share_R[:, None]) & (rank_V > 0)
    sorted_RV = sorted_RV.masked_fill(drop_RV, float("-inf"))
    return torch.empty_like(sorted_RV).scatter_(-1, order_RV, sorted_RV)


def _inverse_cdf(prob_RV: Tensor, uniform_R: npt.NDArray[np.float64]) -> Tensor:
    """Find the first token whose cumulative probability exceeds the row's uniform number."""
    import torch

    mass_RV = prob_RV.cumsum(-1, dtype=torch.float64)
    target_R = _tensor(uniform_R, prob_RV) * mass_RV[:, -1]
    ids_R = torch.searchsorted(mass_RV, target_R[:, None], right=True)[:, 0]
    return ids_R.clamp_(max=prob_RV.shape[-1] - 1)  # only NaN rows reach the end


class ChoiceTable:
    """Tracks, for rows under guided choice, which choices the reply so far can still become.

    The choices of a row are a padded table, and a flag per choice says whether the reply agrees with it up to now:
    the same as walking a trie, but for all rows in a handful of operations.
    """

    def __init__(self, rows: int) -> None:
        """Make room for `rows` rows; the tables grow with what is put into them."""
        self.guided = np.zeros(rows, np.bool_)
        self._ids = np.full((rows, 0, 0), -1, np.int64)
        self._size = np.zeros((rows, 0), np.int64)
        self._alive = np.zeros((rows, 0), np.bool_)

    def put(self, row: int, choices: Sequence[Sequence[int]] | None) -> None:
        """Start a reply on `row`; None makes it free."""
        self.guided[row] = choices is not None
        if choices is None:
            return
        self._grow(len(choices), max(len(choice) for choice in choices))
        self._ids[row] = -1
        self._size[row] = 0
        for index, choice in enumerate(choices):
            self._ids[row, index, : len(choice)] = choice
            self._size[row, index] = len(choice)
        self._alive[row] = self._size[row] > 0

    def _grow(self, count: int, length: int) -> None:
        """Enlarge the tables to at least `count` choices of `length` ids."""
        more, longer = max(0, count - self._ids.shape[1]), max(0, length - self._ids.shape[2])
        self._ids = np.pad(self._ids, ((0, 0), (0, more), (0, longer)), constant_values=-1)
        self._size = np.pad(self._size, ((0, 0), (0, more)))
        self._alive = np.pad(self._alive, ((0, 0), (0, more)))

    def move(self, source: IntArray, rows: int) -> None:
        """Keep the rows `source`, renumbered from 0, in a table of `rows` rows."""
        self.guided = moved(self.guided, source, rows)
        self._ids = moved(self._ids, source, rows)
        self._size = moved(self._size, source, rows)
        self._alive = moved(self._alive, source, rows)

    def allowed(self, rows: IntArray, positions: IntArray, like_RV: Tensor) -> Tensor | None:
        """Say what each row may sample next: bool [R, V], or None when all rows are free."""
        import torch

        guided = np.flatnonzero(self.guided[rows])
        if not guided.size:
            return None
        at = rows[guided]
        next_ids = self._ids[at, :, positions[guided]]
        row_of, choice_of = np.nonzero(self._alive[at])
        allowed_RV = torch.zeros(like_RV.shape, dtype=torch.bool, device=like_RV.device)
        allowed_RV[_tensor(~self.guided[rows], like_RV)] = True
        at_next = _tensor(np.stack([guided[row_of], next_ids[row_of, choice_of]]), like_RV)
        allowed_RV[at_next[0], at_next[1]] = True
        return allowed_RV

    def advance(self, rows: IntArray, positions: IntArray, ids: IntArray) -> npt.NDArray[np.bool_]:
        """Take in what was sampled; returns which rows have completed a choice [R]."""
        done = np.zeros(len(rows), np.bool_)
        guided = np.flatnonzero(self.guided[rows])
        if guided.size:
            at = rows[guided]
            alive = self._alive[at] & (self._ids[at, :, positions[guided]] == ids[guided, None])
            self._alive[at] = alive
            done[guided] = (alive & (self._size[at] == positions[guided, None] + 1)).any(-1)
        return done
