"""Retrievers by name, as configurations ask for them; what takes long shows on a terminal."""

from __future__ import annotations

import contextlib
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..datasets import Progress, silent
from ..errors import UsageError, unknown_name
from .batching import Batching
from .contract import Retriever

KINDS = ("bm25", "dense", "client")


_SHOWN_AFTER_SECONDS = 1.0


def open_retriever(kind: str = "bm25", *, progress: Progress | None = None, **settings: Any) -> Retriever:
    """Open a retriever.

    Args:
        kind: "bm25" (settings: corpus=FILE or Passages, k1, b, folder, processes), "dense" (corpus, encoder, index...)
            or "client" (base_url, timeout...).
        progress: told how far an index is; None draws a bar on a terminal.
        settings: passed on; see `open_bm25`, `open_dense` and `ClientRetriever`.
    Raises: UnknownName: no such kind. UsageError: a setting is missing, unknown or wrong. MissingData, CorruptData.
    """
    if kind not in KINDS:
        raise unknown_name("retriever", kind, KINDS)
    opener = _opener(kind)
    parameters = inspect.signature(opener).parameters
    try:
        inspect.signature(opener).bind(**settings)
    except TypeError as error:
        known = ", ".join(name for name in parameters if name not in ("progress", "settings"))
        raise UsageError(f"retriever {kind!r}: {error}; its settings are {known}") from error
    if "progress" not in parameters:
        return opener(**settings)
    with contextlib.nullcontext(progress) if progress is not None else _bar() as told:
        return opener(**settings, progress=told)


def open_gathering(kind: str = "bm25", *, progress: Progress | None = None, **settings: Any) -> Batching:
    """Open a retriever for many episodes at a time: see `Batching`, whose defaults it has, and `open_retriever`."""
    return Batching(open_retriever(kind, progress=progress, **settings))


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    """Draw a bar for each stage that takes over a second, on a terminal alone."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    began: dict[str, float] = {}
    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(done: int, total: int, what: str) -> None:
            now = time.monotonic()
            if now - began.setdefault(what, now) < _SHOWN_AFTER_SECONDS:
                return
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total or None)

        yield show


def _opener(kind: str) -> Callable[..., Retriever]:
    if kind == "bm25":
        from .bm25.retriever import open_bm25

        return open_bm25
    if kind == "client":
        from .client import ClientRetriever

        return ClientRetriever
    from .dense import open_dense

    return open_dense
