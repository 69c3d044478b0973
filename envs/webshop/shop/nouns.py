"""Which words of a title count as nouns when types are compared. Leaves out the comparison (`reward`).

The original asks spaCy's small English model. Where that is not installed, a word of letters only counts as a noun;
this changes about one reward in twenty-five, so the choice is part of every result.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any, Protocol

from agentbench.errors import MissingDependency, unknown_name

from .letterwords import letter_words

MODEL = "en_core_web_sm"


class NounTest(Protocol):
    """Finds the nouns of a title."""

    name: str

    def nouns(self, title: str) -> tuple[str, ...]:
        """Return the nouns in lower case, repeats included."""
        ...


class LetterWords:
    """The stand-in: every token of letters only is a noun, with the tokens of spaCy's rules for English."""

    name = "letters"

    def __init__(self) -> None:
        """Remember the titles asked for."""
        self.nouns = lru_cache(maxsize=1 << 15)(self._nouns)

    def _nouns(self, title: str) -> tuple[str, ...]:
        return tuple(word.lower() for word in letter_words(title))


class ModelNouns:
    """The original's test: tokens that spaCy's small English model tags as nouns or proper nouns."""

    name = "spacy"

    def __init__(self) -> None:
        """Load the model.

        Raises: MissingDependency: spaCy or its model is not installed.
        """
        if not model_installed():
            raise MissingDependency(
                f"the noun test 'spacy' needs spaCy and its model {MODEL}; run: pip install spacy && python -m spacy "
                f"download {MODEL}, or take --env-option nouns=letters"
            )
        import spacy

        self._model: Any = spacy.load(MODEL)
        self.name = f"spacy:{MODEL}-{self._model.meta['version']}"
        self.nouns = lru_cache(maxsize=1 << 15)(self._nouns)

    def _nouns(self, title: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in self._model(title) if token.pos_ in ("NOUN", "PROPN"))


def model_installed() -> bool:
    """Tell whether spaCy and its small English model are there, without importing them."""
    return all(importlib.util.find_spec(name) is not None for name in ("spacy", MODEL))


@lru_cache(maxsize=4)
def noun_test(name: str = "auto") -> NounTest:
    """Return a noun test.

    Args:
        name: "spacy" (the original's), "letters" (the stand-in) or "auto" (spaCy's if its model is installed).
    Raises: MissingDependency: "spacy" without its model. UnknownName: another name.
    """
    if name not in ("auto", "spacy", "letters"):
        raise unknown_name("noun test", name, ("auto", "spacy", "letters"))
    if name == "spacy" or (name == "auto" and model_installed()):
        return ModelNouns()
    return LetterWords()
