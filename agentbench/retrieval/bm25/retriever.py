"""BM25 over passages: an index that is built once, named by a hash, and mapped by every process that wants it.

What is indexed is title, newline, text, as the field's BM25 baselines have it. Equal scores are listed by id as a
string (bytes of its UTF-8), as Anserini does. Leaves out scoring (`index`) and words (`analyzer`).
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...datasets import Progress, silent
from ...errors import CorruptData, EnvFailure, UsageError
from ..contract import Hit, Passage, check_k, clean_query
from ..passages import Passages
from ..store import alone, cache_folder
from . import analyzer
from .build import build_index
from .index import K1, B, Bm25Index

MAX_TERMS = 1024
"""Distinct terms of a query that count; Lucene refuses longer queries."""

_FORMAT = 1
_PIECE = 2000
_WIDEST_ID = 256


class Bm25Retriever:
    """Finds passages by their words; see `Retriever`."""

    name = "bm25"

    def __init__(self, passages: Passages, index: Bm25Index, digest: str) -> None:
        """Bind an index and the passages it numbers."""
        self.passages, self.index, self.digest = passages, index, digest

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find the best passages for each query; see `Retriever.search`."""
        check_k(k)
        return [self._find(query, k) for query in queries]

    def _find(self, query: str, k: int) -> list[Hit]:
        terms = analyzer.analyze(clean_query(query))
        if len(terms) > MAX_TERMS:
            kept = set(list(dict.fromkeys(terms))[:MAX_TERMS])
            terms = [term for term in terms if term in kept]
        found, scores = self.index.search(terms, k)
        try:
            return [
                Hit(self.passages[number], score)
                for number, score in zip(found.tolist(), scores.tolist(), strict=True)
            ]
        except CorruptData as error:
            raise EnvFailure(f"the corpus changed under its index: {error}") from error

    def close(self) -> None:
        """Do nothing: maps are given back with the object."""


def open_bm25(
    corpus: str | Path | Passages,
    *,
    k1: float = K1,
    b: float = B,
    folder: str | Path | None = None,
    processes: int = 1,
    progress: Progress = silent,
) -> Bm25Retriever:
    """Open the index of a corpus, building it the first time.

    Args:
        corpus: a JSONL file, or passages.
        k1: how much repeats of a word count, >= 0.
        b: how much long passages lose, 0 to 1.
        folder: where indexes are kept; None is `cache_folder()`, or memory for passages in memory.
        processes: that turn text into terms while building; more than one needs an importable main module.
        progress: told passages while building.
    Raises: UsageError: a value is out of range. MissingData, CorruptData: the corpus is absent or broken.
    """
    _check(k1, b, processes)
    home = None if folder is None else Path(folder)
    if isinstance(corpus, Passages):
        passages = corpus
        home = home or (None if passages.source == "memory" else cache_folder())
    else:
        home = home or cache_folder()
        passages = Passages.open(corpus, cache=home, progress=progress)
    digest = _digest(passages, k1, b)

    def build(directory: Path | None) -> Bm25Index:
        ids = _Ids(passages.source)
        terms = _terms(passages, ids, processes, progress)
        return build_index(terms, ids.rank, directory, k1=k1, b=b)

    if home is None:
        return Bm25Retriever(passages, build(None), digest)
    place = home / f"bm25-{digest[:32]}"
    index = _opened(place)
    if index is None:
        with alone(place):
            index = _opened(place)  # another process may have built it meanwhile
            if index is None:
                staging = Path(tempfile.mkdtemp(prefix=".bm25-", dir=home))
                try:
                    build(staging / "index")
                    shutil.rmtree(place, ignore_errors=True)  # broken, or it would have been opened
                    (staging / "index").rename(place)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
                index = Bm25Index.open(place)
    return Bm25Retriever(passages, index, digest)


def _check(k1: float, b: float, processes: int) -> None:
    if isinstance(k1, bool) or not isinstance(k1, int | float) or not 0 <= k1 < math.inf:
        raise UsageError(f"k1 must be a number of at least 0, got {k1!r}; the field's baselines have 0.9")
    if isinstance(b, bool) or not isinstance(b, int | float) or not 0 <= b <= 1:
        raise UsageError(f"b must be a number from 0 to 1, got {b!r}; the field's baselines have 0.4")
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise UsageError(f"processes must be a whole number of at least 1, got {processes!r}")


def _digest(passages: Passages, k1: float, b: float) -> str:
    facts = ["bm25", _FORMAT, analyzer.VERSION, passages.digest, float(k1), float(b)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _opened(place: Path) -> Bm25Index | None:
    """Open an index; None where there is none, or a broken one."""
    try:
        return Bm25Index.open(place)
    except CorruptData:
        return None


# --- reading a corpus for its index ---


class _Ids:
    """Ids as they are read, and in the end their order."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.pending: list[bytes] = []
        self.blocks: list[NDArray[np.bytes_]] = []

    def add(self, name: str) -> None:
        """Take the next passage's id."""
        encoded = name.encode()
        if len(encoded) > _WIDEST_ID or b"\0" in encoded:
            raise CorruptData(
                f"{self.source} holds an id of {len(encoded)} bytes; allowed are {_WIDEST_ID} and no NUL"
            )
        self.pending.append(encoded)
        if len(self.pending) >= 1 << 16:
            self._put_aside()

    def _put_aside(self) -> None:
        self.blocks.append(np.array(self.pending, np.bytes_))
        self.pending = []

    def rank(self) -> NDArray[np.int32]:
        """Return each passage's place in the order of ids.

        Raises: CorruptData: two passages have the same id.
        """
        self._put_aside()
        ids = np.concatenate(self.blocks)
        order = np.argsort(ids, kind="stable")
        twice = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
        if len(twice):
            first, second = int(order[twice[0]]), int(order[twice[0] + 1])
            raise CorruptData(
                f"{self.source} holds the id {ids[first].decode()!r} twice, as passages {first + 1} and {second + 1}; "
                "ids must differ"
            )
        rank = np.empty(len(ids), np.int32)
        rank[order] = np.arange(len(ids), dtype=np.int32)
        return rank


def _terms(passages: Passages, ids: _Ids, processes: int, progress: Progress) -> Iterator[list[str]]:
    """Yield the terms of each passage in order."""
    total, what = len(passages), "indexing " + os.path.basename(passages.source)
    pieces = [range(start, min(start + _PIECE, total)) for start in range(0, total, _PIECE)]
    done = 0
    for piece in _analysed(passages, pieces, processes):
        for name, terms in piece:
            ids.add(name)
            yield terms.split(" ") if terms else []
        done += len(piece)
        progress(done, total, what)


_Piece = list[tuple[str, str]]
"""Id and terms, separated by spaces, of some passages in a row."""


def _analysed(passages: Passages, pieces: list[range], processes: int) -> Iterator[_Piece]:
    if processes == 1 or len(pieces) == 1:
        yield from (_read(passages, piece) for piece in pieces)
        return
    # spawned, not forked: threads of torch and others do not survive a fork
    with multiprocessing.get_context("spawn").Pool(processes, _bind, (passages,)) as pool:
        yield from pool.imap(_read_bound, pieces)


def _read(passages: Passages, piece: range) -> _Piece:
    found = map(passages.__getitem__, piece)
    return [(passage.id, " ".join(analyzer.analyze(indexed(passage)))) for passage in found]


def indexed(passage: Passage) -> str:
    """The text whose words find a passage."""
    return f"{passage.title}\n{passage.text}"


_bound: list[Passages] = []


def _bind(passages: Passages) -> None:
    _bound[:] = [passages]


def _read_bound(piece: range) -> _Piece:
    return _read(_bound[0], piece)
