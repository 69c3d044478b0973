"""Tries a model with and without the kept cache, and says whether the two speak alike.

What a model is refused for is a wrong answer, not a rounded one. In bfloat16 two right ways to compute the same logits
differ more than some wrong ones do, so no fixed limit tells them apart. Three things are therefore measured on the same
ordinary text: how far the cached results lie from plain ones, how far plain results lie from each other when only
rounding differs, and, as a negative control, how far they move when one early token is exchanged: the least that a
faulty cache does. Leaves out what can be read from the configuration (`forward.obstacle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .forward import CachedForward, FullForward
from .sampler import IntArray

if TYPE_CHECKING:
    from torch import Tensor

_TEXTS = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a drawer 3, and a shelf 1. "
    "Your task is to: put some soap on the countertop.",
    "The capital of France is Paris, and the river that runs through it is called the Seine. Many people walk along "
    "its banks in the evening.",
)
"""Ordinary sentences: ids that were never trained (the first of most vocabularies) show nothing but rounding."""

_TOKENS = 24
_LEAST_TOKENS = 6
_ROUNDING = 10.0
"""A right cache differs from a plain pass as much as plain passes differ from each other. Seen: 1 to 3 times."""
_SHARE = {"float32": 1e-6}
_LOW_SHARE = 0.01
"""Share of the control that is allowed where rounding seems to be less: kernels without a mask may all agree."""
_LARGEST_SHARE = 0.1
"""Never accepted above this share of the control. Seen in bfloat16: right caches below 0.005, wrong ones from 0.02."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was measured; divergences are KL in nats from plain forward passes.

    Attributes:
        token_bytes: memory that one kept token takes.
        cached: largest divergence of the cached results.
        rounding: largest divergence of plain results of the same tokens, computed in a padded batch under a mask.
        control: mean divergence of plain results after one early token was exchanged.
        limit: what `cached` may be at most.
    """

    token_bytes: int
    cached: float
    rounding: float
    control: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the cache may be kept."""
        return self.cached <= self.limit  # NaN does not

    def __str__(self) -> str:
        return (
            f"its answers move by {self.cached:.2g} nats when it is used ({self.limit:.2g} are allowed: rounding moves "
            f"them by {self.rounding:.2g}, one exchanged token by {self.control:.2g})"
        )


def compare(model: Any, tokenizer: Any, max_context: int) -> Agreement | None:
    """Play two short ragged conversations on a small cache, and the same without it.

    Args:
        model: in eval mode; gradients are off.
        tokenizer: its tokenizer.
        max_context: no more tokens than this are used.
    Returns: None when so few tokens fit that there is nothing to try.
    """
    longest = min(_TOKENS, max_context)
    if longest < _LEAST_TOKENS:
        return None
    tokens = _tokens(tokenizer, int(model.get_input_embeddings().num_embeddings), longest)
    cached, plain, masked = CachedForward(model), FullForward(model), FullForward(model, masked=True)
    both = np.array([0, 1])
    far, noise, control = [], [], []
    starts, stages = np.array([0, 0]), _ends(longest)
    for ends in stages:
        got = cached.extend(tokens, both, starts, ends)[:, -1]
        batched = masked.extend(tokens, both, np.array([0, 0]), ends)[:, -1]
        for row in both:
            want = _plain(plain, tokens, row, ends)
            far.append(_divergence(want, got[row]))
            noise.append(_divergence(want, batched[row]))
            if ends is stages[0] or ends is stages[-1]:
                changed = _exchanged(tokens, row, (1, int(ends[row]) // 2))
                moved = plain.extend(changed, both, np.array([0, 0]), ends[[row, row]])[:, -1]
                control += [_divergence(want, one) for one in moved]
        starts = ends
    largest, rounding, typical = float(np.max(far)), float(np.max(noise)), float(np.mean(control))
    share = _SHARE.get(str(model.dtype).removeprefix("torch."), _LOW_SHARE)
    limit = min(_LARGEST_SHARE * typical, max(_ROUNDING * rounding, share * typical))
    return Agreement(cached.cache.token_bytes(), largest, rounding, typical, limit)


def _ends(longest: int) -> list[IntArray]:
    """How far the two conversations have come after each forward pass: a prompt, a piece, one token, another turn."""
    shorter = max(3, longest * 2 // 3)
    steps = [(longest - 7, shorter - 7), (longest - 4, shorter - 6)] if shorter >= 9 else []
    steps += [(longest - 3, shorter - 2), (longest - 2, shorter - 1), (longest, shorter)]
    return [np.array(step) for step in steps]


def _tokens(tokenizer: Any, vocab: int, longest: int) -> IntArray:
    """Two rows of ids [2, longest] that differ everywhere: text, or ids from all over a vocabulary that has none."""
    known = min(vocab, len(tokenizer))
    rows = [list(tokenizer.encode(text, add_special_tokens=False))[:longest] for text in _TEXTS]
    if min(map(len, rows)) == longest and min(len(set(row)) for row in rows) > longest // 2:
        tokens = np.array(rows, np.int64)
        if tokens.max() < known and (tokens[0] != tokens[1]).any():
            same = tokens[0] == tokens[1]
            tokens[1, same] = (tokens[1, same] + known // 2) % known
            return tokens
    spread = np.arange(2 * longest, dtype=np.int64) * max(1, known // (2 * longest)) % known
    return spread.reshape(longest, 2).T.copy()


def _exchanged(tokens: IntArray, row: int, places: Sequence[int]) -> IntArray:
    """One copy of a row for each place, with the other row's token there."""
    changed = tokens[[row] * len(places)]
    for copy, place in enumerate(places):
        changed[copy, place] = tokens[1 - row, place]
    return changed


def _plain(forward: FullForward, tokens: IntArray, row: int, ends: IntArray) -> Tensor:
    return forward.extend(tokens, np.array([row]), np.array([0]), ends[row : row + 1])[0, -1]


def _divergence(want_V: Tensor, got_V: Tensor) -> float:
    """KL in nats, in float64: between right float32 results it is as small as 1e-15."""
    want_V, got_V = want_V.double().log_softmax(-1), got_V.double().log_softmax(-1)
    return float((want_V.exp() * (want_V - got_V)).sum().abs())
