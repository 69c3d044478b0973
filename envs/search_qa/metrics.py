"""How an answer is scored against the golds: exact match, token F1 and cover, as the field computes them.

An answer that was never given is scored 0, whatever the golds. Leaves out which text is the answer (`env`).
Source: the SQuAD normal form, with Search-R1's and FlashRAG's rules for what surrounds it.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_CLOSED = ("yes", "no", "noanswer")


def normal_form(text: str) -> str:
    """Lower-case, delete ASCII punctuation, turn the articles into spaces, collapse white space; in this order."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _all(golds: Sequence[str] | str) -> Sequence[str]:
    """A bare string is one gold, not a sequence of letters."""
    return [golds] if isinstance(golds, str) else golds


def exact_match(prediction: str, golds: Sequence[str] | str) -> float:
    """1.0 if the normal forms of the prediction and of any gold are equal, else 0.0."""
    given = normal_form(prediction)
    return float(any(given == normal_form(gold) for gold in _all(golds)))


def cover(prediction: str, golds: Sequence[str] | str) -> float:
    """1.0 if the normal form of any gold is a substring of the prediction's, word boundaries or not; else 0.0.

    A gold whose normal form is empty is covered by everything, as in the references.
    """
    given = normal_form(prediction)
    return float(any(normal_form(gold) in given for gold in _all(golds)))


def f1(prediction: str, golds: Sequence[str] | str) -> float:
    """The best token-multiset F1 over the golds; 0.0 against yes, no or noanswer unless the normal forms are equal."""
    given = normal_form(prediction)
    return max((_f1(given, normal_form(gold)) for gold in _all(golds)), default=0.0)


def _f1(given: str, gold: str) -> float:
    if given != gold and (given in _CLOSED or gold in _CLOSED):
        return 0.0
    said, wanted = given.split(), gold.split()
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """The three scores of one answer, each in [0, 1]."""

    em: float = 0.0
    f1: float = 0.0
    cover: float = 0.0


def score(prediction: str | None, golds: Sequence[str] | str) -> Scores:
    """Score an answer; None, no answer at all, scores 0 even where a gold has an empty normal form."""
    if prediction is None:
        return Scores()
    return Scores(exact_match(prediction, golds), f1(prediction, golds), cover(prediction, golds))
