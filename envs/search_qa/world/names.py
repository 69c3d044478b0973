"""Invented words, each one a term of its own to a search index. Leaves out what they name (`entities`).

A word is a first and a second half, with a middle once all pairs are used. Halves are shared by all worlds, whole words
are not: a word belongs to one of `SHARES` groups by its hash, and a world draws from its own group only. So a model can
learn to spell in one world, and knows no name of another.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator

from agentbench.retrieval.bm25.analyzer import analyze

SHARES = 4
"""Groups of worlds without a name in common; a world's group is its seed modulo this."""

HEADS = tuple(
    onset + vowel
    for onset in (*"BDFGHKLMNPRSTVZ", "Br", "Dr", "Gr", "Kr", "Tr", "Vr", "Zw", "Pl", "Th")
    for vowel in "aeiou"
)
TAILS = tuple(
    onset + rime
    for onset in (*"bdgklmnrtvz", "dr")
    for rime in ("ark", "olm", "und", "orn", "ath", "isk", "elt", "umb", "irn", "osk")
)
MIDDLES = tuple(onset + vowel for onset in "lmnrtv" for vowel in "aeiou")


def group_of(word: str) -> int:
    """The group of worlds that may use a word."""
    return hashlib.blake2b(word.encode(), digest_size=2).digest()[0] % SHARES


def words(rng: random.Random, group: int, taken: Collection[str]) -> Iterator[str]:
    """Yield words of a group in an order drawn with `rng`, without end.

    Args:
        rng: decides the order.
        group: 0 to `SHARES` - 1.
        taken: index terms that no word may share.
    """
    used = set(taken)

    def fits(word: str) -> bool:
        if group_of(word) != group:
            return False
        terms = analyze(word)
        if len(terms) != 1 or terms[0] in used:
            return False
        used.add(terms[0])
        return True

    pairs = [head + tail for head in HEADS for tail in TAILS]
    rng.shuffle(pairs)
    yield from filter(fits, pairs)
    while True:
        word = rng.choice(HEADS) + "".join(rng.choices(MIDDLES, k=rng.randint(1, 2))) + rng.choice(TAILS)
        if fits(word):
            yield word
