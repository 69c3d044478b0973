"""BM25 over index terms, equal to Lucene's float32 scores bit for bit, in NumPy; in memory or mapped from disk.

Knows nothing of products or text: terms come from an analyzer, ties are broken by ranks the caller gives. Building an
index is `build`.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets import broken_file
from ...errors import CorruptData

K1 = 0.9
B = 0.4
"""Constants of Anserini, and so of the shop and of the field's BM25 baselines; Lucene's own are 1.2 and 0.75."""

DENSE_LIMIT = 1 << 15
"""Up to this many documents all are scored exactly; beyond, only those that a nearly exact sum does not rule out."""

BLOCK = 512
SMALL_BLOCK = 64
"""Documents whose best stands for them when a bound for the k best is sought; fewer where all are scored exactly."""

LEFT_OUT = 0.05
"""Share of the greatest possible score that terms left out of the first sums may have."""

_KNOWN_TERMS = 100_000
_WARM = 200

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def stored_length(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return document lengths as one byte remembers them.

    Args:
        lengths: terms per document.
    Returns: below 24 as it is; else 24 + (length - 24) with its four highest binary digits kept.
    Source: Lucene's SmallFloat.
    """
    excess = np.maximum(lengths - 24, 0)
    shift = np.maximum(np.frexp(excess.astype(np.float64))[1] - 4, 0)
    kept: NDArray[np.int64] = np.minimum(lengths, 24) + ((excess >> shift) << shift)
    return kept


def inverse_norm(lengths: NDArray[np.int64], average: float, k1: float = K1, b: float = B) -> Floats:
    """Return 1 / (k1 * (1 - b + b * length / average)) in float32 at each step, as Lucene caches it."""
    relative = np.float32(b) * stored_length(lengths).astype(np.float32) / np.float32(average)
    with np.errstate(
        divide="ignore"
    ):  # k1 = 0 counts no repeats: infinite, and every part is the weight itself
        result: Floats = np.float32(1) / (np.float32(k1) * ((np.float32(1) - np.float32(b)) + relative))
    return result


@dataclass(frozen=True, eq=False)
class Bm25Index:
    """Postings of a document collection.

    Attributes:
        vocabulary: all terms in UTF-8, sorted by bytes, end to end.
        term_start: int64 [V + 1], where each term begins.
        posting_start: int64 [V + 1], where the postings of each term begin.
        docs: int32 [P], documents of each posting, ascending within a term.
        saturation: float32 [P], 1 + tf * inverse norm.
        ceiling: float32 [V], greatest saturation of each term, an upper bound for skipping.
        rank: int32 [D], order in which equal scores are listed.
        documents: number of documents that have a term at all.
    """

    vocabulary: NDArray[np.uint8]
    term_start: NDArray[np.int64]
    posting_start: NDArray[np.int64]
    docs: Ints
    saturation: Floats
    ceiling: Floats
    rank: Ints
    documents: int
    _known: dict[str, _Clause | None] = field(default_factory=dict, repr=False)

    ARRAYS = ("vocabulary", "term_start", "posting_start", "docs", "saturation", "ceiling", "rank")

    @classmethod
    def open(cls, directory: Path) -> Bm25Index:
        """Map an index that `build` wrote; pages are shared between processes.

        Raises: CorruptData: a file is missing or broken.
        """
        try:
            arrays: dict[str, Any] = {
                name: np.load(directory / f"{name}.npy", mmap_mode="r").view(np.ndarray)
                for name in cls.ARRAYS
            }
            documents = int(np.load(directory / "documents.npy"))
            if problem := broken_file(directory) or _misfit(arrays):
                raise ValueError(f"{problem} is not as it was written")
        except (OSError, ValueError, TypeError, EOFError, IndexError) as error:
            raise CorruptData(
                f"search index {directory} cannot be read ({error}); import its files again with --replace"
            ) from error
        return cls(documents=documents, **arrays)

    def __getstate__(self) -> dict[str, Any]:
        """Leave caches out of pickles."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_single", "_spelling")}
        return {**kept, "_known": {}}

    def _look_up(self, term: str) -> _Clause | None:
        """Return the clause of a term that occurs once in the query; None if no document has it."""
        if term in (known := self._known):
            with contextlib.suppress(KeyError):  # another thread may have cleared the table in between
                return known[term]
        if len(known) > _KNOWN_TERMS:
            known.clear()
        clause = known[term] = self._find(term)
        return clause

    def _find(self, term: str) -> _Clause | None:
        place = self._bisect(term.encode())
        if place < 0:
            return None
        start, end = int(self.posting_start[place]), int(self.posting_start[place + 1])
        idf = _idf(end - start, self.documents)
        return _Clause(idf, start, end, float(idf - idf / self.ceiling[place]))

    def _bisect(self, term: bytes) -> int:
        """Find a term's number, -1 if there is none; a table of all would take longer to make than it saves."""
        text, start = self._spelling
        low, high = 0, len(start) - 1
        while low < high:
            middle = (low + high) // 2
            if text[start[middle] : start[middle + 1]].tobytes() < term:
                low = middle + 1
            else:
                high = middle
        return low if low + 1 < len(start) and text[start[low] : start[low + 1]] == term else -1

    @cached_property
    def _spelling(self) -> tuple[memoryview, memoryview]:
        """Vocabulary and its offsets as buffers, whose items are found several times faster than those of arrays."""
        return self.vocabulary.data, self.term_start.data

    @property
    def _is_small(self) -> bool:
        return len(self.rank) <= DENSE_LIMIT

    def search(self, terms: Sequence[str], k: int) -> tuple[Ints, Floats]:
        """Return the k best documents.

        Args:
            terms: analysed query; repeats count.
            k: how many at most, > 0.
        Returns: documents and their scores, best first, equal scores by rank.
        """
        query = self._query(terms)
        if not query:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        if self._is_small:
            sums = self._score_all(query)
            found = np.flatnonzero(sums >= max(self._least(sums, k, SMALL_BLOCK), 1e-30)).astype(np.int32)
            scores = sums[found].astype(np.float32)
        else:
            found = self._contenders(query, k)
            scores = self._score_some(query, found)
        if len(found) > k:
            keep = scores >= _kth_largest(scores, k)  # ties at the edge stay, their ranks decide
            found, scores = found[keep], scores[keep]
        order = np.lexsort((self.rank[found], -scores))[:k]
        return found[order], scores[order]

    def hits(self, terms: Sequence[str]) -> int:
        """Count the documents with at least one of the terms."""
        query = self._query(terms)
        return int(np.count_nonzero(self._score_all(query))) if query else 0

    def _query(self, terms: Sequence[str]) -> list[_Clause]:
        """Look the terms up, in order of first appearance; unknown ones score nothing."""
        clauses = []
        for term, count in Counter(terms).items():
            clause = self._look_up(term)
            if clause is not None and count > 1:  # w = count in query * idf
                weight = np.float32(count) * clause.weight
                clause = _Clause(weight, clause.start, clause.end, count * clause.ceiling, count)
            if clause is not None:
                clauses.append(clause)
        return clauses

    def _part(self, clause: _Clause, chosen: slice | NDArray[np.intp]) -> Floats:
        """Return w - w / (1 + tf * inv), float32 at each step."""
        part: Floats = clause.weight - clause.weight / self.saturation[clause.start : clause.end][chosen]
        return part

    @cached_property
    def _single(self) -> Floats:
        """Contributions of all postings to a query that has their term once."""
        frequency = np.diff(self.posting_start)
        idf = np.array([_idf(count, self.documents) for count in frequency.tolist()], np.float32)
        weight = np.repeat(idf, frequency)
        return weight - weight / self.saturation

    def _score_all(self, query: list[_Clause]) -> NDArray[np.float64]:
        """Return the sums of all documents, in query order; 0 for those without any of the terms."""
        docs = np.concatenate([self.docs[clause.start : clause.end] for clause in query])
        used = (
            len(self._known) > _WARM
        )  # the table of all contributions is not worth its time for the first queries
        parts = np.concatenate(
            [
                self._single[clause.start : clause.end]
                if used and clause.count == 1
                else self._part(clause, slice(None))
                for clause in query
            ]
        )
        sums = np.zeros(len(self.rank))
        np.add.at(sums, docs, parts.astype(np.float64))
        return sums

    def _score_some(self, query: list[_Clause], found: Ints) -> Floats:
        """Score the documents `found` (ascending), summing in double in query order, rounded to float32."""
        sums = np.zeros(len(found))
        for clause in query:
            at, present = self._places(clause, found)
            sums[present] += self._part(clause, at[present])
        return sums.astype(np.float32)

    def _places(self, clause: _Clause, found: Ints) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Find documents in a posting list: where they would be, and whether they are there."""
        docs = self.docs[clause.start : clause.end]
        at = np.minimum(np.searchsorted(docs, found), len(docs) - 1)
        return at, docs[at] == found

    def _contenders(self, query: list[_Clause], k: int) -> Ints:
        """Find all documents that may be among the k best, ascending, by sums that are only nearly exact.

        Terms that can hardly add anything (the most frequent ones) are left out of the sums and allowed for instead.
        The k-th best sum is bounded from below by the k-th best of the blocks' best, which saves sorting.
        """
        ordered = sorted(query, key=lambda clause: -clause.ceiling)
        room = sum(clause.ceiling for clause in ordered) * LEFT_OUT
        kept, left = len(ordered), 0.0
        while kept > 1 and left + ordered[kept - 1].ceiling <= room:
            kept -= 1
            left += ordered[kept].ceiling
        sums = np.zeros(len(self.rank), np.float32)
        self._add(ordered[:kept], sums)
        least = self._least(sums, k, BLOCK) - left
        if least <= 0 and left:  # documents that have nothing but terms left out may be among the best
            self._add(ordered[kept:], sums)
            least = self._least(sums, k, BLOCK)
        return np.flatnonzero(sums >= max(least, 1e-30)).astype(np.int32)  # without any term a sum is 0

    def _add(self, query: list[_Clause], sums: Floats) -> None:
        """Add contributions in float32, which loses the last bits."""
        for clause in query:
            part = np.divide(-clause.weight, self.saturation[clause.start : clause.end])
            part += clause.weight
            np.add.at(sums, self.docs[clause.start : clause.end], part)

    def _least(self, sums: NDArray[Any], k: int, block: int) -> float:
        """Return a sum that at least k documents reach, with room for rounding; 0 if there are none."""
        blocks = np.maximum.reduceat(sums, np.arange(0, len(sums), block))
        return _kth_largest(blocks, k) * (1 - 1e-5) if len(blocks) >= k else 0.0


@dataclass(frozen=True, slots=True)
class _Clause:
    """One query term: weight, posting range, and the most it can add to a score."""

    weight: np.float32
    start: int
    end: int
    ceiling: float
    count: int = 1


def _misfit(arrays: dict[str, Any]) -> str:
    """Name an array whose length does not follow from the others'; "" when all fit."""
    terms = len(arrays["ceiling"])
    fits = {
        "term_start": len(arrays["term_start"]) == terms + 1,
        "posting_start": len(arrays["posting_start"]) == terms + 1,
        "vocabulary": len(arrays["vocabulary"]) == int(arrays["term_start"][-1]),
        "docs": len(arrays["docs"]) == int(arrays["posting_start"][-1]),
        "saturation": len(arrays["saturation"]) == int(arrays["posting_start"][-1]),
    }
    return next((name for name, fit in fits.items() if not fit), "")


def _idf(frequency: int, documents: int) -> np.float32:
    """Return ln(1 + (N - df + 0.5) / (df + 0.5)), rounded to float32."""
    return np.float32(math.log(1 + (documents - frequency + 0.5) / (frequency + 0.5)))


def _kth_largest(values: NDArray[Any], k: int) -> float:
    return float(np.partition(values, len(values) - k)[len(values) - k])
