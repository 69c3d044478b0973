"""One retriever for many episodes: queries that come together are asked together, and none is asked twice.

The first query of a batch waits a few milliseconds for others; while a batch is under way the next one gathers. Answers
are kept under the retriever's digest, query and number, so none is ever given for another index.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import EnvFailure, UsageError
from .contract import Hit, Refused, Retriever, check_k, clean_query

_Answer = tuple[Hit, ...]


@dataclass(slots=True, eq=False)
class _Asked:
    """What one caller waits for."""

    queries: list[str]
    k: int
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[_Answer] = field(default_factory=list)
    failure: Exception | None = None


@dataclass(slots=True)
class Figures:
    """What was asked so far; `batches` reached the retriever, `found` queries did not have to."""

    queries: int = 0
    found: int = 0
    batches: int = 0
    largest: int = 0


class Batching:
    """A retriever in front of another one; see `Retriever`.

    Attributes:
        figures: counters, for records and tests.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        wait_ms: float | None = None,
        largest: int = 256,
        at_once: int | None = None,
        cached: int = 20_000,
    ) -> None:
        """Wrap a retriever; closing this one closes it.

        Args:
            retriever: the one that is asked.
            wait_ms: how long the first query of a batch waits for others; None is 5, and 0 for "bm25", which gains
                nothing by company.
            largest: queries in a batch.
            at_once: batches under way at one time; None is 1, 4 for "client" and any number for "bm25".
            cached: answers kept, the latest used; 0 keeps none.
        Raises: UsageError: a value makes no sense.
        """
        self.retriever, self.name = retriever, retriever.name
        if wait_ms is None:
            wait_ms = 0.0 if retriever.name == "bm25" else 5.0
        self._wait = wait_ms / 1000
        rooms = at_once if at_once is not None else {"bm25": 64, "client": 4}.get(retriever.name, 1)
        if self._wait < 0 or largest < 1 or rooms < 1 or cached < 0:
            raise UsageError(
                "wait_ms and cached must not be negative, largest and at_once at least 1; "
                f"got {wait_ms}, {cached}, {largest} and {at_once}"
            )
        self._largest, self._cached = largest, cached
        self._rooms = threading.BoundedSemaphore(rooms)
        self._lock = threading.Lock()
        self._full = threading.Condition(self._lock)
        self._pending: dict[int, list[_Asked]] = {}  # by k
        self._answers: OrderedDict[tuple[str, str, int], _Answer] = OrderedDict()
        self.figures = Figures()

    @property
    def digest(self) -> str:
        """That of the retriever."""
        return self.retriever.digest

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find the best passages for each query; see `Retriever.search`."""
        check_k(k)
        texts = [clean_query(query) for query in queries]
        known = self._recall(texts, k)
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        for start in range(0, len(missing), self._largest):
            piece = missing[start : start + self._largest]
            known.update(zip(piece, self._ask(piece, k), strict=True))
        return [list(known[text]) for text in texts]

    def close(self) -> None:
        """Close the retriever."""
        self.retriever.close()

    # --- answers kept ---

    def _recall(self, texts: list[str], k: int) -> dict[str, _Answer]:
        found, digest = {}, self.digest
        with self._lock:
            for text in texts:
                answer = self._answers.get((digest, text, k))
                if answer is not None:
                    self._answers.move_to_end((digest, text, k))
                    found[text] = answer
            self.figures.queries += len(texts)
            self.figures.found += sum(text in found for text in texts)
        return found

    def _keep(self, digest: str, k: int, answers: dict[str, _Answer]) -> None:
        if digest != self.digest or not self._cached:  # the index changed while it was asked
            return
        with self._lock:
            for text, answer in answers.items():
                self._answers[digest, text, k] = answer
            while len(self._answers) > self._cached:
                self._answers.popitem(last=False)

    # --- batches ---

    def _ask(self, queries: list[str], k: int) -> list[_Answer]:
        """Join a batch, or lead one."""
        mine = _Asked(queries, k)
        with self._lock:
            waiting = self._pending.setdefault(k, [])
            waiting.append(mine)
            leads = len(waiting) == 1
            if sum(len(asked.queries) for asked in waiting) >= self._largest:
                self._full.notify_all()
        if leads:
            self._lead(k)
        mine.done.wait()
        if mine.failure is not None:
            raise mine.failure
        return mine.answers

    def _lead(self, k: int) -> None:
        """Wait for company and for a room, then ask for all who came; whoever comes later leads the next batch."""
        batch: list[_Asked] = []
        try:
            if self._wait:
                self._gather(k, time.monotonic() + self._wait)
            with self._rooms:
                with self._lock:
                    batch = self._pending.pop(k)
                self._answer(batch, k)
        finally:
            if not batch:  # interrupted before the batch was taken
                with self._lock:
                    batch = self._pending.pop(k, [])
            for asked in batch:
                if not asked.answers and asked.failure is None:  # nobody may wait for ever
                    asked.failure = EnvFailure("the search was interrupted")
                asked.done.set()

    def _gather(self, k: int, until: float) -> None:
        with self._full:
            while sum(len(asked.queries) for asked in self._pending[k]) < self._largest:
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._full.wait(left)

    def _answer(self, batch: list[_Asked], k: int) -> None:
        texts = list(dict.fromkeys(query for asked in batch for query in asked.queries))
        try:
            known = {}
            for start in range(0, len(texts), self._largest):
                known.update(self._fetch(texts[start : start + self._largest], k))
            for asked in batch:
                asked.answers = [known[query] for query in asked.queries]
        except Refused as error:
            if len(batch) == 1:
                batch[0].failure = error
                return
            for asked in batch:  # what one caller asked may not harm the others
                self._answer([asked], k)
        except Exception as error:
            for asked in batch:  # one failure object for several threads would collect their tracebacks
                asked.failure = _again(error)

    def _fetch(self, texts: list[str], k: int) -> dict[str, _Answer]:
        digest = self.digest
        lists = self.retriever.search(texts, k)
        if len(lists) != len(texts):
            raise EnvFailure(f"retriever {self.name!r} gave {len(lists)} lists for {len(texts)} queries")
        found = {text: tuple(hits) for text, hits in zip(texts, lists, strict=True)}
        with self._lock:
            self.figures.batches += 1
            self.figures.largest = max(self.figures.largest, len(texts))
        self._keep(digest, k, found)
        return found


def _again(error: Exception) -> Exception:
    """A failure of the same kind and message; errors that cannot be made anew become `EnvFailure`."""
    try:
        copy = type(error)(*error.args)
    except TypeError:
        return EnvFailure(f"{type(error).__name__}: {error}")
    copy.__cause__ = error
    return copy
