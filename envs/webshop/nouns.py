"""Which words of a title count as nouns when types are compared. Leaves out the comparison (`reward`).

The original asks spaCy's small English model. Where that is not installed, a word of letters only counts as a noun;
this changes about one reward in twenty-five, so the choice is part of every result.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from agentbench.errors import missing_dependency, unknown_name

MODEL = "en_core_web_sm"


class NounTest(Protocol):
    """Finds the nouns of a title."""

    name: str

    def nouns(self, title: str) -> tuple[str, ...]:
        """Return the nouns in lower case, repeats included."""
        ...


class LetterWords:
    name = "letters"

    def __init__(self) -> None:
        import spacy

        self._nlp = spacy.blank("en")
        self.nouns = lru_cache(1 << 14)(self._nouns)

    def _nouns(self, title: str) -> tuple[str, ...]:
        return tuple(t.text.lower() for t in self._nlp.tokenizer(title) if t.is_alpha)
