"""Worlds by name, shared by all envs of a process: their passages, a retriever over them, and their questions.

A name reads <make><seed>: "mini2" is the world of make "mini" with seed 2. Leaves out how worlds are drawn.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from agentbench.errors import unknown_name
from agentbench.retrieval.contract import Passage, Retriever
from agentbench.retrieval.open import open_retriever
from agentbench.retrieval.passages import Passages

from .entities import draw_entities
from .pages import reserved_terms, write_pages
from .questions import HOPS, Asked, draw_questions


@dataclass(frozen=True, slots=True)
class Make:
    """How large worlds of a make are, and which questions are asked; `terse` worlds hold nothing but facts."""

    passages: int
    terse: bool = False
    hops: Sequence[int] = HOPS


MAKES = {
    "mini": Make(5000),
    "small": Make(570),
    "plain": Make(570, terse=True, hops=(1,)),
}
"""Makes of worlds: the panel's, one for tests, and one that small models can learn to read."""

_NAME = re.compile(r"([a-z]+)(\d+)")


class World:
    """One encyclopaedia; its questions are drawn as far as they are asked for, and never twice."""

    def __init__(self, make: str, seed: int) -> None:
        """Draw entities, write pages, index them."""
        self.name = f"{make}{seed}"
        size = MAKES[make]
        entities = draw_entities(seed, size.passages, terse=size.terse, reserved=reserved_terms())
        self.pages: list[Passage] = write_pages(entities, seed, size.passages, terse=size.terse)
        self.passages = Passages.of(self.pages)
        self.retriever: Retriever = open_retriever("bm25", corpus=self.passages)
        self._drawn: list[Asked] = []
        self._more: Iterator[Asked] = draw_questions(entities, self.pages, self.retriever, seed, size.hops)
        self._lock = threading.Lock()

    def questions(self, count: int) -> Sequence[Asked]:
        """The first `count` questions."""
        with self._lock:
            if count > len(self._drawn):
                self._drawn += islice(self._more, count - len(self._drawn))
            return self._drawn[:count]


def world(name: str) -> World:
    """Return a world by name, such as "mini2"; the last few are kept.

    Raises: UnknownName: no such make.
    """
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in MAKES:
        raise unknown_name("world of search-qa", name, [f"{make}0" for make in MAKES], "Any seed will do.")
    with _lock:
        return _world(found[1], int(found[2]))


_lock = threading.RLock()


@lru_cache(maxsize=40)
def _world(make: str, seed: int) -> World:
    return World(make, seed)
