"""The shop's search: BM25 over products, and the original's special queries. Leaves out result pages (`pages`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from agentbench.retrieval.bm25.analyzer import analyze
from agentbench.retrieval.bm25.index import Bm25Index

from .catalog import Catalog

RESULTS = 50
MAX_TERMS = 1024
"""Lucene refuses queries of more distinct terms."""

_CACHED_QUERIES = 8192


class RefusedQuery(Exception):
    """The original crashes on this query; sessions answer it like any other impossible action."""


class ProductSearch:
    """Finds products for the words of a query."""

    def __init__(self, catalog: Catalog, index: Bm25Index) -> None:
        """Bind a catalogue and the index over its documents, numbered alike."""
        self.catalog = catalog
        self.index = index
        self._ranked = lru_cache(maxsize=_CACHED_QUERIES)(self._rank)

    def find(self, words: Sequence[str], seed: str) -> Sequence[int]:
        """Return the products found, best first.

        Args:
            words: the query, lower case, split at single spaces.
            seed: decides what a random query (`<r>`) draws.
        Returns: product numbers; at most 50, except for category and query look-ups, which are not cut.
        Raises: RefusedQuery: the original ends with an exception here.
        """
        if words[0] == "<r>":
            places = range(len(self.catalog))
            return random.Random(seed).sample(places, min(RESULTS, len(places)))
        if words[0] == "<a>":
            raise RefusedQuery("look-up by attribute is broken in the original")
        if words[0] == "<c>":
            if len(words) == 1:
                raise RefusedQuery("<c> needs a category")
            return self.catalog.members("category", words[1].strip())
        if words[0] == "<q>":
            return self.catalog.members("query", " ".join(words[1:]).strip())
        return self._ranked(" ".join(words))

    def _rank(self, query: str) -> Sequence[int]:
        terms = analyze(query)
        if len(set(terms)) > MAX_TERMS:
            raise RefusedQuery(f"more than {MAX_TERMS} distinct terms")
        return tuple(self.index.search(terms, RESULTS)[0].tolist())
