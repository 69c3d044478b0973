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
    opener: Callable[..., Retriever]
    if kind == "bm25":
        from .bm25.retriever import open_bm25 as opener
    elif kind == "client":
        from .client import ClientRetriever

        opener = ClientRetriever
    else:
        from .dense import open_dense as opener
    try:
        inspect.signature(opener).bind(**settings)
    except TypeError as error:
        known = ", ".join(inspect.signature(opener).parameters)
        raise UsageError(f"retriever {kind!r}: {error}; its settings are {known}") from error
    return opener(**settings)
