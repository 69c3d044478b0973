"""A retriever behind HTTP: finds out which dialect the server speaks, and tells every fault from an answer.

Faults are repeated with growing pauses and then raised as `EnvFailure`, never handed on as text. All threads share one
breaker: while the server is down one of them asks now and then, the others wait, and once it has been down for long
they fail at once. Leaves out gathering queries and keeping answers (`batching`).
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from ..config import MOST_SECONDS
from ..engines.settings import checked_url
from ..errors import EnvFailure, UsageError
from .connections import Connections, Unanswered
from .contract import Hit, Refused, check_k, clean_query
from .dialects import DIALECTS, Dialect

_T = TypeVar("_T")
LARGEST_BATCH = 256
SERVICE = "agentbench-retriever"
PROBES = ("the capital of France", "who wrote Hamlet")

_HEALTH_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_SIDE_BY_SIDE = 16
_SHOWN = 200
_PATHS = ("/retrieve", "/batch_search", "/search")


@dataclass(eq=False)
class _Trouble(Exception):
    """An attempt that failed and may be repeated; `status` is 0 where there was no whole answer."""

    message: str
    status: int = 0


class ClientRetriever:
    """Asks a server; see `Retriever`.

    Attributes:
        dialect: the one the server speaks.
    """

    name = "client"

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float = 30.0,
        tries: int = 5,
        patience: float = 60.0,
        largest_batch: int = LARGEST_BATCH,
        probe_seconds: float = 5.0,
    ) -> None:
        """Connect, and find out the dialect.

        Args:
            base_url: such as http://127.0.0.1:8000, with or without the path of a dialect.
            timeout: seconds for one attempt.
            tries: attempts for one request.
            patience: seconds for one request in all, and for how long a server that is down is waited for.
            largest_batch: queries in one request.
            probe_seconds: how often a server that is down is asked.
        Raises: UsageError: a value makes no sense, nothing answers there, or nothing that speaks a dialect.
        """
        base_url = checked_url(base_url)
        for path in _PATHS:
            base_url = base_url.removesuffix(path)
        waits = (timeout, patience, probe_seconds)
        if not all(0 < seconds <= MOST_SECONDS for seconds in waits) or min(tries, largest_batch) < 1:
            raise UsageError(
                f"timeout, patience and probe_seconds must be positive, at most {MOST_SECONDS:g}, tries and "
                f"largest_batch at least 1; got {timeout}, {patience}, {probe_seconds}, {tries} and {largest_batch}"
            )
        self.base_url = base_url
        self._timeout, self._tries, self._patience = timeout, tries, patience
        self._largest = largest_batch
        self._breaker = Breaker(patience, probe_seconds)
        self._connections = Connections(base_url, kept=_SIDE_BY_SIDE)
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE, "retrieval")
        try:
            self.dialect, self._digest = self._introduce()
        except BaseException:
            self.close()
            raise

    @property
    def digest(self) -> str:
        """The server's own, else a fingerprint of what it answers to two fixed queries."""
        return self._digest

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Find the best passages for each query; see `Retriever.search`."""
        check_k(k)
        texts = [clean_query(query) for query in queries]
        size = self._largest if self.dialect.many else 1
        pieces = [texts[start : start + size] for start in range(0, len(texts), size)]
        if len(pieces) == 1:
            return self._ask(pieces[0], k)
        answers = self._pool.map(lambda piece: self._ask(piece, k), pieces)
        return [hits for lists in answers for hits in lists]

    def close(self) -> None:
        """Drop the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._connections.close()

    def _ask(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        dialect = self.dialect

        def read(answer: Any) -> list[list[Hit]]:
            self._check_index(answer)
            return [hits[:k] for hits in dialect.read(answer, len(queries))]

        return self._persist("POST", dialect.path, dialect.body(queries, k), read)

    def _check_index(self, answer: Any) -> None:
        index = answer.get("index") if isinstance(answer, dict) else None
        if isinstance(index, str) and index != self._digest:
            raise EnvFailure(
                f"{self.base_url} now answers from another index ({index[:12]} instead of {self._digest[:12]}); "
                "serve the old corpus again, or start a new run"
            )

    # --- attempts ---

    def _persist(self, method: str, path: str, body: Any, read: Callable[[Any], _T]) -> _T:
        """Repeat an attempt until it gives an answer, or patience ends."""
        until = time.monotonic() + self._patience
        for attempt in range(1, self._tries + 1):
            self._breaker.admit(until)
            try:
                value = self._attempt(method, path, body, read, until)
            except _Trouble as trouble:
                self._breaker.failed(f"{self.base_url}{path}: {trouble.message}")
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
                if attempt == self._tries or time.monotonic() + pause >= until:
                    kind = Refused if trouble.status == 500 else EnvFailure
                    where = f"{self.base_url}{path} gave no usable answer in {attempt} attempts"
                    raise kind(f"{where}; the last: {trouble.message}") from None
                time.sleep(pause)
            except Refused:
                self._breaker.answered()
                raise
            else:
                self._breaker.answered()
                return value
        raise AssertionError("unreachable")

    def _attempt(self, method: str, path: str, body: Any, read: Callable[[Any], _T], until: float) -> _T:
        seconds = max(0.1, min(self._timeout, until - time.monotonic()))
        status, data = self._exchange(method, path, body, seconds)
        if status in (408, 425, 429) or status >= 500:
            raise _Trouble(f"status {status}: {_words(data)}", status)
        if status != 200:
            raise Refused(f"{self.base_url}{path} answered {status}: {_words(data)}")
        try:
            return read(_json(data))
        except (ValueError, RecursionError) as error:
            raise _Trouble(f"malformed answer: {error}"[:_SHOWN]) from error

    def _exchange(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, bytes]:
        try:
            return self._connections.exchange(method, path, body, seconds)
        except Unanswered as error:
            raise _Trouble(str(error)[:_SHOWN]) from error

    # --- finding out who answers ---

    def _introduce(self) -> tuple[Dialect, str]:
        """Find the dialect, and what the index is called."""
        until, pause, index = time.monotonic() + self._patience, _FIRST_PAUSE, None
        for attempt in range(1, self._tries + 1):
            reasons: list[str] = []
            try:
                index = self._health()
                for dialect in DIALECTS:
                    found = self._try(dialect, reasons)
                    if found is not None:
                        return dialect, index or _fingerprint(dialect, found)
                passing = not all(_is_final(reason) for reason in reasons)
            except _Trouble as trouble:
                reasons, passing = [trouble.message], True
            if not passing or attempt == self._tries or time.monotonic() + pause > until:
                break
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise UsageError(
            f"no retriever answers at {self.base_url} ({'; '.join(dict.fromkeys(reasons))}); "
            "start one with: agentbench serve retriever --corpus FILE, or correct base_url"
        )

    def _health(self) -> str | None:
        """The index of a server that tells; None for others. Raises `_Trouble` where nobody answers."""
        status, data = self._exchange("GET", "/health", None, min(self._timeout, _HEALTH_SECONDS))
        if status in (502, 503, 504):
            raise _Trouble(f"status {status}: {_words(data)}")
        try:
            answer = _json(data)
        except (ValueError, RecursionError):
            return None
        ours = status == 200 and isinstance(answer, dict) and answer.get("service") == SERVICE
        return str(answer["index"]) if ours and answer.get("index") else None

    def _try(self, dialect: Dialect, reasons: list[str]) -> list[list[Hit]] | None:
        """Ask the probes in a dialect; None, and the reason noted, where it is not understood."""
        probes = PROBES if dialect.many else PROBES[:1]
        status, data = self._exchange("POST", dialect.path, dialect.body(probes, 3), self._timeout)
        if status == 200:
            try:
                return dialect.read(_json(data), len(probes))
            except (ValueError, RecursionError) as error:
                reason = f"malformed answer: {error}"[:_SHOWN]
        else:
            reason = f"status {status}: {_words(data)}"
        reasons.append(f"{dialect.path} {reason}")
        if status in (502, 503, 504):
            raise _Trouble(reason)
        return None


class Breaker:
    """Keeps callers from a server that is down; shared by all threads of a client."""

    def __init__(self, patience: float, probe_seconds: float, limit: int = 5) -> None:
        """Bind limits.

        Args:
            patience: seconds after which callers no longer wait for a server that is down.
            probe_seconds: seconds between two attempts while it is down.
            limit: failures in a row from which it counts as down.
        """
        self._patience, self._probe_seconds, self._limit = patience, probe_seconds, limit
        self._changed = threading.Condition()
        self._failures = 0
        self._last = ""
        self._down_since: float | None = None
        self._next_probe = 0.0

    def admit(self, until: float) -> None:
        """Return when the caller may ask.

        Raises: EnvFailure: the server is down, and has been for long or stays so until `until`.
        """
        with self._changed:
            while self._down_since is not None:
                now = time.monotonic()
                if now >= self._next_probe:  # this caller finds out for all
                    self._next_probe = now + self._probe_seconds
                    return
                down = now - self._down_since
                if now >= until or down > self._patience:
                    raise EnvFailure(
                        f"the retriever has been down for {down:.0f} s; the last failure: {self._last}"
                    )
                self._changed.wait(min(self._next_probe, until) - now)

    def failed(self, message: str) -> None:
        """Count a failure."""
        with self._changed:
            self._failures += 1
            self._last = message
            if self._failures >= self._limit and self._down_since is None:
                self._down_since = time.monotonic()
                self._next_probe = self._down_since + self._probe_seconds

    def answered(self) -> None:
        """The server works: let everybody through."""
        with self._changed:
            self._failures, self._down_since = 0, None
            self._changed.notify_all()


def _is_final(reason: str) -> bool:
    """Whether asking again would give the same: refusals do, but for those of a server that is not ready."""
    status = reason.partition(" ")[2]
    return status.startswith("status 4") and not status.startswith(("status 408", "status 425", "status 429"))


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # takes escapes of lone surrogates, and NaN, which the readers refuse


def _words(data: bytes) -> str:
    return " ".join(data.decode("utf-8", "replace").split())[:_SHOWN]


def _fingerprint(dialect: Dialect, lists: list[list[Hit]]) -> str:
    found = [[[hit.passage.id, hit.passage.title, hit.passage.text] for hit in hits] for hits in lists]
    return hashlib.sha256(json.dumps(["client", dialect.name, found]).encode()).hexdigest()
