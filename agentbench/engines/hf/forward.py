"""The forward pass of a continuously changing batch: feeds new tokens of some rows, returns the logits after the last.

`CachedForward` keeps keys and values in slots and works with every decoder of `transformers` that hands them to a
cache object and takes a 4-dimensional mask; `obstacle` and `probe` find those that do not, and `FullForward` serves
them without a cache. Leaves out scheduling (`batch`) and sampling (`sampler`).
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...models.positions import rescaling
from .cache import SlotCache
from .sampler import IntArray

if TYPE_CHECKING:
    from torch import Tensor

KEY_STEP = 32
"""Attention looks at a multiple of this many positions, so that its sums depend less on how long batch mates are."""

MIN_TOKENS = 4
"""Smallest number of tokens in one forward pass, and what longer pieces are a multiple of: matrix products of fewer
rows take other code paths on CPU, whose last bits differ. It narrows the differences between widths and does not end
them: with AVX-512 kernels log-probs still move by some 5e-7 nats, so nothing may rely on equal bits."""

_FULL_TOKENS = 4096
_FULL_LOGITS = 2**26
"""Most logits of one plain forward pass: [rows, positions that any row wants, vocabulary]."""


class Forward(Protocol):
    """Computes the logits that follow the last token of some rows.

    Attributes:
        keeps: whether tokens fed once need not be fed again.
    """

    keeps: bool

    def extend(
        self, tokens: IntArray, rows: IntArray, starts: IntArray, ends: IntArray, last: int = 1
    ) -> Tensor:
        """Feed `tokens[row, start:end]` for each row (ascending); return the logits after the `last` ones [R, last, V].

        What stands before the first token of a short row is anything.
        """
        ...

    def move(self, source: IntArray, rows: int, capacity: int) -> None:
        """Keep the rows `source`, renumbered from 0, with room for `rows` rows of `capacity` tokens."""
        ...

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Give row `target` the first `tokens` tokens of row `source`."""
        ...

    def clear(self, row: int) -> None:
        """Overwrite a row whose numbers may be broken."""
        ...

    def reset(self) -> None:
        """Give back all memory, also after a `move` that raised."""
        ...


class CachedForward:
    """Extends rows of a `SlotCache`."""

    keeps = True

    def __init__(self, model: Any) -> None:
        """Bind a model to a new, small cache."""
        self.model = model
        self.cache = SlotCache(MIN_TOKENS, KEY_STEP)
        self._keeps_logits = keeps_logits(model)
        self._cache_name = cache_name(model)

    def extend(
        self, tokens: IntArray, rows: IntArray, starts: IntArray, ends: IntArray, last: int = 1
    ) -> Tensor:
        """Feed the new tokens of each row, aligned at their ends, and return the logits after the last ones.

        Short rows are padded at the front; padding is written nowhere and looks at position 0 only. Rows are read in
        place where they lie close together (idle rows between them are carried along), else copied.
        """
        import torch

        query = int((ends - starts).max())
        if query > 1:
            query = -(-query // MIN_TOKENS) * MIN_TOKENS
        batch, read = self._batch(rows, query)
        at = batch.searchsorted(rows)
        start_B, end_B = np.full(len(batch), query), np.full(len(batch), query)
        start_B[at], end_B[at] = starts, ends
        # aligned at the ends, the last logits of all rows lie in one column: the head runs there and nowhere else
        position_BQ = end_B[:, None] - query + np.arange(query)
        real_BQ = position_BQ >= start_B[:, None]
        position_BQ = np.where(real_BQ, position_BQ, 0)
        # padding has to be written somewhere, since one index_copy writes the whole rectangle: to a spare position
        flat_BQ = np.where(real_BQ, batch[:, None] * self.cache.capacity + position_BQ, self.cache.trash)
        held = np.minimum(batch, len(tokens) - 1)  # spare rows of the cache are unknown to the caller
        token_BQ = np.where(real_BQ, tokens[held[:, None], position_BQ], 0)
        device = self.model.device
        packed = torch.from_numpy(np.stack([token_BQ, position_BQ, flat_BQ])).to(
            device
        )  # one transfer, not three
        width = min(self.cache.capacity, -(-int(ends.max()) // KEY_STEP) * KEY_STEP)
        self.cache.aim(
            packed[2].reshape(-1),
            slice(read.start, read.stop) if isinstance(read, range) else torch.from_numpy(read).to(device),
            width,
            query,
        )
        logits = self._logits(packed[0], packed[1], width, last)
        return logits if len(at) == len(batch) else logits[torch.from_numpy(at).to(device)]

    def _batch(self, rows: IntArray, query: int) -> tuple[IntArray, range | IntArray]:
        """Choose the rows to compute: a range when that costs little, else just `rows`; sorted in either case."""
        low, high = int(rows.min()), int(rows.max()) + 1
        if query == 1 and high - low < MIN_TOKENS:
            low = max(0, min(low, self.cache.rows - MIN_TOKENS))
            high = min(self.cache.rows, max(high, low + MIN_TOKENS))
        most = max(len(rows) * 3 // 2, MIN_TOKENS) if query == 1 else len(rows)
        if high - low <= most:
            return np.arange(low, high), range(low, high)
        batch = np.sort(rows)
        if query == 1 and len(batch) < MIN_TOKENS:
            others = np.setdiff1d(np.arange(self.cache.rows), batch)[: MIN_TOKENS - len(batch)]
            batch = np.sort(np.concatenate([batch, others]))
        return batch, batch

    def _logits(self, token_BQ: Tensor, position_BQ: Tensor, width: int, last: int) -> Tensor:
        import torch

        dtype = self.model.dtype
        # The mask's least value is finite, as everywhere in transformers: rows of -inf are NaN in some kernels.
        seen_BQK = torch.arange(width, device=token_BQ.device) <= position_BQ[:, :, None]
        mask_B1QK = torch.where(
            seen_BQK,
            torch.zeros((), dtype=dtype, device=token_BQ.device),
            torch.full((), torch.finfo(dtype).min, dtype=dtype, device=token_BQ.device),
        )[:, None]
        keep = max(last, -(-MIN_TOKENS // token_BQ.shape[0]))
        options = {"logits_to_keep": min(keep, token_BQ.shape[1])} if self._keeps_logits else {}
        output = self.model(
            input_ids=token_BQ,
            position_ids=position_BQ,
            attention_mask=mask_B1QK,
            use_cache=True,
            **{self._cache_name: self.cache},
            **options,
        )
        logits: Tensor = output.logits[:, -last:]
        return logits

    def move(self, source: IntArray, rows: int, capacity: int) -> None:
        """Resize the cache."""
        self.cache.move(source, max(rows, MIN_TOKENS), capacity)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the beginning of a row."""
        self.cache.copy(source, target, tokens)

    def clear(self, row: int) -> None:
        """Zero a row."""
        self.cache.clear(row)

    def reset(self) -> None:
        """Start with an empty cache."""
        self.cache = SlotCache(self.cache.rows, self.cache.capacity)


class FullForward:
    """Computes every row from its first token each time, as a plain call does: slow, and right for every causal model.

    Rows are padded behind their ends and nothing is said of masks or positions, for padding in front is not harmless
    everywhere: some models count positions in their own way, compress blocks of tokens, or carry a state through it.
    """

    keeps = False

    def __init__(self, model: Any, *, masked: bool = False) -> None:
        """Bind a model; with `masked` it is told of the padding, which changes kernels and rounding, no more."""
        self.model = model
        self._masked = masked
        self._keeps_logits = keeps_logits(model)
        self._rescaled = rescaling(model.config.get_text_config(decoder=True))

    def extend(
        self, tokens: IntArray, rows: IntArray, starts: IntArray, ends: IntArray, last: int = 1
    ) -> Tensor:
        """Run the whole rows, a few at a time where they are long or the vocabulary is large."""
        import torch

        vocab = int(self.model.get_input_embeddings().weight.shape[0])
        few = max(1, min(_FULL_TOKENS // int(ends.max()), math.isqrt(_FULL_LOGITS // (vocab * last))))
        parts = [
            side[start : start + few] for side in self._sides(ends) for start in range(0, len(side), few)
        ]
        logits = torch.cat([self._logits(tokens, rows[part], ends[part], last) for part in parts])
        back = np.argsort(np.concatenate(parts), kind="stable")
        return logits if (back[:-1] < back[1:]).all() else logits[torch.from_numpy(back).to(logits.device)]

    def _sides(self, ends: IntArray) -> list[IntArray]:
        """Rows that may share a call: a long one would rescale the positions of the short ones beside it."""
        if self._rescaled is None:
            return [np.arange(len(ends))]
        long = ends > self._rescaled.limit
        if self._rescaled.kind == "dynamic":  # each length has its own scale
            lengths = np.where(long, ends, 0)
            return [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        return [side for side in (np.flatnonzero(~long), np.flatnonzero(long)) if side.size]

    def _logits(self, tokens: IntArray, rows: IntArray, ends: IntArray, last: int) -> Tensor:
        """Run rows padded at the back; their last positions are computed in all of them, where the model can choose."""
        import torch

        width, device = int(ends.max()), self.model.device
        real_BT = np.arange(width) < ends[:, None]
        token_BT = np.where(real_BT, tokens[rows, :width], tokens[rows, :1])
        wanted_BL = np.maximum(ends[:, None] - last + np.arange(last), 0)
        kept = np.unique(wanted_BL) if self._keeps_logits else np.arange(width)
        output = self.model(
            input_ids=torch.from_numpy(token_BT).to(device),
            use_cache=False,
            **({"attention_mask": torch.from_numpy(real_BT).long().to(device)} if self._masked else {}),
            **({"logits_to_keep": torch.from_numpy(kept).to(device)} if self._keeps_logits else {}),
        )
        at_BL = torch.from_numpy(kept.searchsorted(wanted_BL)).to(device)
        logits: Tensor = output.logits[torch.arange(len(rows), device=device)[:, None], at_BL]
        return logits

    def move(self, source: IntArray, rows: int, capacity: int) -> None:
        return

    def copy(self, source: int, target: int, tokens: int) -> None:
        return

    def clear(self, row: int) -> None:
        return

    def reset(self) -> None:
        return


def keeps_logits(model: Any) -> bool:
    """Whether the model can be asked for the logits of the last tokens only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def cache_name(model: Any) -> str:
    """Under which name a model takes its cache: `cache` from transformers 5.24 on, before it `past_key_values`.

    The old name still works there, with a warning at every forward pass.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "cache" if "cache" in inspect.signature(type(inner).forward).parameters else "past_key_values"


def obstacle(config: Any, max_context: int) -> str:
    """Say why a model's cache cannot be kept in slots, as far as its configuration tells; "" when it can."""
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"its attention {config._attn_implementation!r} takes no full mask, as 'sdpa' and 'eager' do"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    odd = kinds - {"full_attention", "sliding_attention", "chunked_attention"}
    if odd:
        return f"it has layers of type {', '.join(sorted(odd))}"
    if (kinds != {"full_attention"} or not getattr(config, "layer_types", None)) and window:
        if max_context <= window:
            return ""
        return f"it forgets after {window} tokens (max_context={window} would do, it is {max_context})"
    rescaled = rescaling(config)
    if rescaled is not None and max_context > rescaled.limit:
        return (
            f"its rope_type is {rescaled.kind!r}, which rescales old positions after {rescaled.limit} tokens "
            f"(max_context={rescaled.limit} would do, it is {max_context})"
        )
    return ""
