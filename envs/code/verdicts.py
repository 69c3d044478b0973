"""Verdicts: what they are called, and which cause wins when a program fails in several ways at once."""

from __future__ import annotations

import os
import signal
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from .sandbox import Outcome

_REMEMBERED = 8192

VERDICTS = (
    "passed",
    "wrong_answer",
    "runtime_error",
    "time_limit",
    "memory_limit",
    "output_limit",
    "syntax_error",
    "no_code",
    "infrastructure",
)


@dataclass(frozen=True)
class TestResult:
    """One test: `got` and `expected` as texts, "" where they do not apply; NUL marks where they were cut.

    `cpu` in processor seconds; `rss` in bytes, 0 where the tests share a process.
    """

    __test__ = False

    verdict: str
    cpu: float = 0.0
    got: str = ""
    expected: str = ""
    message: str = ""
    error: Mapping[str, Any] | None = None
    rss: int = 0


@dataclass(frozen=True)
class Verdict:
    """A program's verdict on a list of tests.

    Attributes:
        verdict: one of `VERDICTS`.
        reason: in one line.
        tests: one result each, up to where judging stopped; `total` is how many there were.
        judging: how it came about.
        cpu: processor seconds; rss: bytes, the largest of its processes.
    """

    verdict: str
    reason: str = ""
    tests: tuple[TestResult, ...] = ()
    total: int = 0
    judging: str = ""
    cpu: float = 0.0
    rss: int = 0
    stdout: str = ""
    stderr: str = ""
    error: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> int:
        """Tests that passed."""
        return sum(test.verdict == "passed" for test in self.tests)


def cause(outcome: Outcome) -> tuple[str, str, Mapping[str, Any] | None] | None:
    """Say why a program failed before any answer was looked at: (verdict, reason, error); None when it did not.

    Order: sandbox broken, too much printed, time, loading, death.
    """
    if outcome.stopped == "infrastructure":
        return "infrastructure", outcome.reason, None
    if outcome.stopped == "output_limit":
        return "output_limit", outcome.reason, None
    signalled = (
        os.WTERMSIG(outcome.status) if outcome.status is not None and os.WIFSIGNALED(outcome.status) else 0
    )
    if outcome.stopped in ("time_limit", "idle") or signalled == signal.SIGXCPU:
        return "time_limit", outcome.reason or "used up its processor time", None
    if outcome.load is not None:
        return loading(outcome.load)
    if outcome.stopped != "tests" and signalled:
        return "runtime_error", death(outcome), None
    return None


def death(outcome: Outcome) -> str:
    """Name the signal that a program died of; "" when it did not, or when the judge sent it."""
    if outcome.status is None or not os.WIFSIGNALED(outcome.status):
        return ""
    number = os.WTERMSIG(outcome.status)
    if number == signal.SIGKILL and outcome.stopped:
        return ""
    return f"killed by signal {number} ({_signal_name(number)})"


def loading(error: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    """Verdict of a program that raised at its top level."""
    name = str(error.get("name"))
    if error.get("syntax"):
        return "syntax_error", told(error), error
    if name == "MemoryError":
        return "memory_limit", told(error), error
    if error.get("left"):
        return "runtime_error", "left before the tests were done", error
    return "runtime_error", told(error), error


def told(error: Mapping[str, Any]) -> str:
    """An error in one line."""
    name, message = str(error.get("name", "")), str(error.get("message", ""))
    return f"{name}: {message}" if name and message else name or message


def first_failure(tests: Sequence[TestResult]) -> TestResult | None:
    """The first test that did not pass."""
    return next((test for test in tests if test.verdict != "passed"), None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "real-time"


class Remembered:
    """Verdicts already known, by task, program, tests and sandbox; shared by all envs of a process."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, ...], Verdict] = OrderedDict()
        self._lock = Lock()

    def find(self, key: tuple[str, ...]) -> Verdict | None:
        """A verdict given before; None when there was none."""
        with self._lock:
            return self._known.get(key)

    def keep(self, key: tuple[str, ...], verdict: Verdict) -> None:
        """Remember a verdict; the oldest is forgotten."""
        with self._lock:
            self._known[key] = verdict
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
