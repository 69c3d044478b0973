"""Guided choice by whole replies: each choice by the mean log-prob of its tokens, and one drawn among them.

Token by token, the choice that begins with the likeliest token wins, however unlikely it is as a whole. Leaves out the
running batch (`batch`) and choices taken token by token (`sampler`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...models.vocabulary import Vocabulary
from .forward import Forward
from .sampler import IntArray, existing_logits, uniforms

if TYPE_CHECKING:
    from torch import Tensor

Choices = Sequence[Sequence[int]]
Floats = npt.NDArray[np.float64]

_ENTRIES = 2**26
"""Logits [rows, tokens, vocabulary] that are looked at together."""


def weigh(
    forward: Forward,
    tokens: IntArray,
    rows: IntArray,
    starts: IntArray,
    choices_R: Sequence[Choices],
    logits_RV: Tensor,
    vocabulary: Vocabulary,
) -> list[Floats]:
    """Score the choices of some rows, one choice of each row at a time behind the prompt that the row holds.

    Args:
        forward: computes logits; holds the rows' prompts.
        tokens: what each row says; the places behind the prompts are written over.
        rows: to be scored, ascending [R].
        starts: where their prompts end [R].
        choices_R: of each row; none is empty.
        logits_RV: after the prompts.
        vocabulary: ids that exist.
    Returns: for each row the mean log-prob in nats, at temperature 1, of each choice's tokens.
    """
    first_RV = existing_logits(logits_RV.float(), vocabulary).log_softmax(-1)
    sums = [first_RV[at, [choice[0] for choice in choices]].tolist() for at, choices in enumerate(choices_R)]
    width = max(len(choice) for choices in choices_R for choice in choices)
    few = max(1, _ENTRIES // (width * logits_RV.shape[-1]))
    for index in range(max(map(len, choices_R))):
        # the first token is scored already: what is left to feed is all but the last
        fed = [at for at, choices in enumerate(choices_R) if index < len(choices) and len(choices[index]) > 1]
        for begin in range(0, len(fed), few):
            part = fed[begin : begin + few]
            said = [choices_R[at][index] for at in part]
            found = _score(forward, tokens, rows[part], starts[part], said, vocabulary)
            for at, logp in zip(part, found, strict=True):
                sums[at][index] += logp
    return [
        np.array([total / len(choice) for total, choice in zip(row, choices, strict=True)])
        for row, choices in zip(sums, choices_R, strict=True)
    ]


def _score(
    forward: Forward,
    tokens: IntArray,
    rows: IntArray,
    starts: IntArray,
    said: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
) -> list[float]:
    """Sum the log-probs of all tokens but the first of one reply for each row."""
    lengths = np.array([len(reply) - 1 for reply in said])
    for row, start, reply in zip(rows, starts, said, strict=True):
        tokens[row, start : start + len(reply) - 1] = reply[:-1]
    last = int(lengths.max())
    logits_RTV = forward.extend(tokens, rows, starts, starts + lengths, last)
    sums = []
    for row_TV, reply in zip(logits_RTV, said, strict=True):
        logp_TV = existing_logits(row_TV[last - len(reply) + 1 :].float(), vocabulary).log_softmax(-1)
        sums.append(float(logp_TV[range(len(reply) - 1), list(reply[1:])].double().sum()))
    return sums


def draw(scores: Floats, temperature: float, seed: int) -> tuple[int, float]:
    """Draw one choice, greedily at 0; returns its index and its log-prob among the choices (greedy: at 1)."""
    logits = scores / (temperature or 1.0)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    if temperature == 0:
        at = int(scores.argmax())
    else:
        mass = probs.cumsum()
        uniform = uniforms(np.array([seed % 2**64], np.uint64), np.zeros(1, np.int64))[0]
        at = min(int(np.searchsorted(mass, uniform * mass[-1], side="right")), len(probs) - 1)
    return at, float(np.log(probs[at]))
