"""Retrievers by name, as configurations ask for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import UsageError, unknown_name
from .contract import Retriever

KINDS = ("bm25", "dense", "client")


def open_retriever(kind: str = "bm25", **settings: Any) -> Retriever:
    """Open a retriever.

    Args:
        kind: "bm25" (settings: corpus=FILE or Passages, k1, b, folder, processes), "dense" (corpus, encoder, index...)
            or "client" (base_url, timeout...).
        settings: passed on; see the classes.
    Raises: UnknownName: no such kind. UsageError: a setting is missing, unknown or wrong. MissingData, CorruptData.
    """
    if kind not in KINDS:
        raise unknown_name("retriever", kind, KINDS)
    opener = _opener(kind)
    try:
        inspect.signature(opener).bind(**settings)
    except TypeError as error:
        known = ", ".join(inspect.signature(opener).parameters)
        raise UsageError(f"retriever {kind!r}: {error}; its settings are {known}") from error
    return opener(**settings)


def _opener(kind: str) -> Callable[..., Retriever]:
    if kind == "bm25":
        from .bm25.retriever import open_bm25

        return open_bm25
    if kind == "client":
        from .client import ClientRetriever

        return ClientRetriever
    from .dense import open_dense

    return open_dense
