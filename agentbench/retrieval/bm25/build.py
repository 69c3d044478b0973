"""Building a `Bm25Index`, in memory or on disk with memory that does not grow with the collection.

Terms are numbered as they appear; every few thousand documents the postings so far are counted and put aside as a
block; at the end all blocks are dealt out to the final arrays, whose sizes are then known.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets import write_digests
from .index import K1, B, Bm25Index, inverse_norm

BLOCK_TERMS = 1 << 22
"""Postings are put aside after this many terms: 4 million, about 100 MB while they are counted."""

Block = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
Allocate = Callable[[str, int, Any], NDArray[Any]]


def build_index(
    documents: Iterable[Sequence[str]],
    rank: NDArray[np.int32] | Callable[[], NDArray[np.int32]],
    directory: Path | None = None,
    *,
    k1: float = K1,
    b: float = B,
) -> Bm25Index:
    """Build an index from analysed documents.

    Args:
        documents: index terms of each document, in the order of their numbers.
        rank: int32 [D], order in which equal scores are listed, or what returns it once all documents are read.
        directory: where to write the index; None keeps it in memory.
        k1: how much repeats of a term count, >= 0.
        b: how much long documents lose, 0 to 1.
    Returns: the index; opened from disk if a directory was given.
    """
    if directory is None:
        return _Builder(None, k1, b).build(documents, rank)
    blocks = directory / "blocks"
    shutil.rmtree(directory, ignore_errors=True)
    blocks.mkdir(parents=True)
    _Builder(directory, k1, b).build(documents, rank)
    shutil.rmtree(blocks)
    write_digests(directory)
    return Bm25Index.open(directory)


class _Builder:
    """Collects terms, then writes the arrays of the index."""

    def __init__(self, directory: Path | None, k1: float, b: float) -> None:
        self.directory, self.k1, self.b = directory, k1, b
        self.numbers: dict[str, int] = {}
        self.lengths = array("q")
        self.blocks: list[Block | Path] = []

    def build(
        self, documents: Iterable[Sequence[str]], rank: NDArray[np.int32] | Callable[[], NDArray[np.int32]]
    ) -> Bm25Index:
        """Read all documents and return the index."""
        self._read(documents)
        lengths = np.frombuffer(self.lengths, np.int64)
        with_terms = int(np.count_nonzero(lengths))
        average = float(lengths.sum() / with_terms) if with_terms else 1.0
        spellings = sorted(self.numbers, key=str.encode)
        relabel = np.empty(len(spellings), np.int64)  # number in order of appearance -> number in byte order
        relabel[[self.numbers[term] for term in spellings]] = np.arange(len(spellings))
        vocabulary = [term.encode() for term in spellings]
        arrays: dict[str, Any] = {
            "vocabulary": np.frombuffer(b"".join(vocabulary), np.uint8),
            "term_start": _starts(np.array([len(term) for term in vocabulary], np.int64)),
            "rank": (rank() if callable(rank) else rank).astype(np.int32),
        }
        arrays |= self._postings(relabel, inverse_norm(lengths, average, self.k1, self.b))
        if self.directory is not None:
            for name in ("vocabulary", "term_start", "rank", "posting_start", "ceiling"):
                np.save(self.directory / f"{name}.npy", arrays[name])
            np.save(self.directory / "documents.npy", np.int64(with_terms))
        return Bm25Index(documents=with_terms, **arrays)

    def _read(self, documents: Iterable[Sequence[str]]) -> None:
        """Number the terms and put blocks of counted postings aside."""
        pending: list[int] = []
        first = 0
        for terms in documents:
            pending.extend([self.numbers.setdefault(term, len(self.numbers)) for term in terms])
            self.lengths.append(len(terms))
            if len(pending) >= BLOCK_TERMS:
                self._put_aside(pending, first)
                pending, first = [], len(self.lengths)
        self._put_aside(pending, first)

    def _put_aside(self, terms: list[int], first: int) -> None:
        """Count the terms of documents `first` and later into (term, document, frequency) postings."""
        docs = np.repeat(np.arange(first, len(self.lengths)), self.lengths[first:])
        pairs, counts = np.unique(np.array(terms, np.int64) << 32 | docs, return_counts=True)
        block = (
            (pairs >> 32).astype(np.int32),
            (pairs & 0xFFFFFFFF).astype(np.int32),
            counts.astype(np.int32),
        )
        if self.directory is None:
            self.blocks.append(block)
        else:
            path = self.directory / "blocks" / f"{len(self.blocks)}.npy"
            np.save(path, np.stack(block))
            self.blocks.append(path)

    def _each_block(self) -> Iterator[Block]:
        for block in self.blocks:
            yield tuple(np.load(block)) if isinstance(block, Path) else block

    def _allocate(self, name: str, size: int, dtype: Any) -> NDArray[Any]:
        if self.directory is None:
            return np.zeros(size, dtype)
        path = self.directory / f"{name}.npy"
        if size == 0:  # nothing to map
            np.save(path, np.zeros(0, dtype))
            return np.zeros(0, dtype)
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(size,))

    def _postings(self, relabel: NDArray[np.int64], inverse: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Deal the blocks out to posting lists; blocks come in document order, so lists end up ascending."""
        frequency = np.zeros(len(relabel), np.int64)
        for term, _, _ in self._each_block():
            frequency += np.bincount(relabel[term], minlength=len(relabel))
        start = _starts(frequency)
        docs = self._allocate("docs", int(start[-1]), np.int32)
        saturation = self._allocate("saturation", int(start[-1]), np.float32)
        ceiling = np.ones(len(relabel), np.float32)
        filled = start[:-1].copy()
        for old_term, doc, count in self._each_block():
            term = relabel[old_term]
            order = np.argsort(term, kind="stable")
            term, doc, count = term[order], doc[order], count[order]
            first = np.flatnonzero(np.diff(term, prepend=-1))
            run = np.diff(first, append=len(term))
            place = filled[term] + np.arange(len(term)) - np.repeat(first, run)
            value = np.float32(1) + count.astype(np.float32) * inverse[doc]
            docs[place], saturation[place] = doc, value
            if len(first):
                ceiling[term[first]] = np.maximum(ceiling[term[first]], np.maximum.reduceat(value, first))
            filled[term[first]] += run
        return {"posting_start": start, "docs": docs, "saturation": saturation, "ceiling": ceiling}


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
