"""The process that holds tests and expected values, calls the program's functions in the other process, and judges.

It stands for many programs; each has names of its own. The program's process has no channel to the host's verdict.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import os
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from . import compare, plain, wire

_HOST = 3
_SHOWN = 2_000
_ERRORS = {
    value.__name__: value
    for value in vars(builtins).values()
    if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, AssertionError)
}


class OverLimit(BaseException):
    """The program used up the processor time of one test."""


class Broken(BaseException):
    """The program is gone, or what it sent is no value; the message says which."""


class FromProgram(Exception):
    """An exception of the program that has no builtin kind."""


def serve() -> None:
    """Judge job after job until the host hangs up."""
    # All three named: else they would be asked for by calls that the filter refuses.
    host = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=_HOST)
    while True:
        # The order comes with the channel to the program; what is longer than a packet follows as a frame.
        data, fds, _, _ = socket.recv_fds(host, 4, 1)
        if not data:
            os._exit(0)
        job = plain.loads(wire.receive(_HOST))
        random.seed(0)
        sys.setrecursionlimit(10_000)
        calls = Calls(fds[0], int.from_bytes(data, "little"), job["call_seconds"])
        try:
            results = judge(job, calls)
        finally:
            os.close(fds[0])
        wire.send(_HOST, _encode(results))


def _encode(results: list[dict[str, Any]]) -> bytes:
    try:
        return plain.dumps(results)
    except plain.NotPlain as error:
        return plain.dumps([{"verdict": "runtime_error", "error": _own("NotPlain", str(error))}])


class Calls:
    """The functions of the program, called from here; one at a time, in order."""

    def __init__(self, fd: int, pid: int, seconds: float) -> None:
        """Take the channel, the program's process and the limit of each test."""
        self.fd = fd
        self.clock = (~pid << 3) | 2  # all threads of that process
        self.seconds = seconds
        self.poll = select.poll()
        self.poll.register(fd, select.POLLIN)
        self.start = 0.0
        self.failure: Mapping[str, Any] | None = None
        self.last: tuple[str, Any] | None = None
        self.arrays = False

    def cpu(self) -> float:
        """Processor seconds of the program so far; what was seen last once it is gone."""
        with contextlib.suppress(OSError):
            self.seen = time.clock_gettime(self.clock)
        return self.seen

    seen = 0.0

    def begin(self) -> None:
        """Start the clock of a test."""
        self.start = self.cpu()
        self.failure = None
        self.last = None

    def raw(self, name: str, arguments: Any, keywords: Any = None) -> Any:
        """Send packed arguments, wait, and return the packed value.

        Raises: OverLimit, Broken: the program cannot go on. Exception: the program's, as its builtin kind.
        """
        request = {"f": name, "a": arguments}
        if keywords:
            request["k"] = keywords
        try:
            wire.send(self.fd, plain.dumps(request))
            while not self.poll.poll(max(20.0, 1e3 * (self.seconds - self.cpu() + self.start))):
                if self.cpu() - self.start > self.seconds:
                    raise OverLimit
            answer = plain.loads(wire.receive(self.fd))
        except (wire.Gone, OSError):
            raise Broken("left before the tests were done") from None
        except plain.NotPlain as error:
            raise Broken(f"sent what is no value: {error}") from None
        if type(answer) is dict and "v" in answer:
            return answer["v"]
        failure = answer.get("e") if type(answer) is dict else None
        if type(failure) is not dict or {type(failure.get(key)) for key in ("name", "base", "message")} != {
            str
        }:
            raise Broken("sent what is no value")
        self.failure = failure
        kind = _ERRORS.get(failure["base"], FromProgram)
        try:
            raised: Exception = kind(failure["message"])
        except TypeError:  # UnicodeDecodeError and the like want more
            raised = FromProgram(failure["message"])
        raise raised

    def __call__(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Call with values."""
        packed = plain.pack(arguments)
        value = self.raw(name, packed, plain.pack(keywords) if keywords else None)
        try:
            value = plain.unpack(value, arrays=self.arrays)
        except plain.NotPlain as error:
            raise Broken(f"sent what is no value: {error}") from None
        self.last = (name, value)
        return value

    def proxy(self, name: str) -> Callable[..., Any]:
        """A function that stands for the program's function of that name."""

        def function(*arguments: Any, **keywords: Any) -> Any:
            return self(name, *arguments, **keywords)

        function.__name__ = function.__qualname__ = name
        return function


def judge(job: Mapping[str, Any], calls: Calls) -> list[dict[str, Any]]:
    """Run every test of a job, or up to the first that fails where it says so; one result each."""
    results: list[dict[str, Any]] = []
    tests = _KINDS[job["kind"]](job, calls)
    while True:
        try:
            test = next(tests, None)
        except Exception as error:
            return [
                {"verdict": "infrastructure", "error": _own("", f"the task's set-up failed: {error!r:.300}")}
            ]
        if test is None:
            break
        calls.begin()
        result = _one(test, calls)
        result["cpu"] = round(calls.cpu() - calls.start, 4)
        results.append(result)
        if result.pop("over", False) or (job["stop"] and result["verdict"] != "passed"):
            break
    if not results:  # nothing to ask, but wait until the program has loaded or failed to
        with contextlib.suppress(Exception, OverLimit, Broken):
            calls.begin()
            calls.raw("__name__", [])
    return results


def _one(test: Callable[[], dict[str, Any]], calls: Calls) -> dict[str, Any]:
    try:
        return test()
    except OverLimit:
        return {"verdict": "time_limit", "over": True}
    except Broken as error:
        return {"verdict": "runtime_error", "over": True, "error": _own("", str(error))}
    except AssertionError as error:
        return _with_last({"verdict": "wrong_answer", "message": _text(error)}, calls)
    except BaseException as error:
        if calls.failure is not None:
            memory = calls.failure["name"] == "MemoryError"
            return {"verdict": "memory_limit" if memory else "runtime_error", "error": dict(calls.failure)}
        result = {"verdict": "wrong_answer", "message": f"{type(error).__name__}: {_text(error)}"}
        return _with_last(result, calls)


def _with_last(result: dict[str, Any], calls: Calls) -> dict[str, Any]:
    if calls.last is not None:
        result["got"] = shown(calls.last[1])
    return result


def _asserts(job: Mapping[str, Any], calls: Calls) -> Any:
    """Test texts: the set-up first, then the names of the program, then each text."""
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    for text in job["setup"]:
        exec(_compiled(text), names)
    for name in job["names"]:
        names[name] = calls.proxy(name)
    for text in job["tests"]:
        yield lambda text=text: _passes(exec, _compiled(text), names)


def _within(job: Mapping[str, Any], calls: Calls) -> Any:
    """Test texts that need classes of the program: each goes into its process, and a fresh nonce must come back."""
    for text in job["tests"]:
        yield lambda text=text: _inside("\n".join([*job["setup"], text]), calls)


def _inside(text: str, calls: Calls) -> dict[str, Any]:
    nonce = os.urandom(16).hex()
    try:
        answer = calls.raw("", [text, nonce])
    except Exception:
        if calls.failure is not None and calls.failure["name"] == "AssertionError":
            return {"verdict": "wrong_answer", "message": calls.failure["message"]}
        raise
    if answer != nonce:
        raise Broken("sent what is no value")
    return {"verdict": "passed"}


def _calls(job: Mapping[str, Any], calls: Calls) -> Any:
    """Argument lists with expected values; without expected values, what was returned is told."""
    rule = _rule(job["rule"], calls)
    expected = job.get("expected")
    for place, arguments in enumerate(job["inputs"]):
        wanted = None if expected is None else [expected[place]]
        yield lambda arguments=arguments, wanted=wanted: _call(job["entry"], arguments, wanted, rule, calls)


_KINDS = {"asserts": _asserts, "within": _within, "calls": _calls}


def _call(entry: str, arguments: Any, wanted: Any, rule: Any, calls: Calls) -> dict[str, Any]:
    packed = calls.raw(entry, arguments)
    if wanted is None:
        return {"verdict": "passed", "value": packed}
    try:
        got = plain.unpack(packed, arrays=calls.arrays)
    except plain.NotPlain as error:
        raise Broken(f"sent what is no value: {error}") from None
    values = plain.unpack(wanted[0], arrays=calls.arrays)
    if rule(got, values, plain.unpack(arguments)):
        return {"verdict": "passed"}
    return {"verdict": "wrong_answer", "got": shown(got), "expected": shown(values)}


def _rule(rule: Mapping[str, Any], calls: Calls) -> Any:
    if rule["name"] == "evalplus":
        calls.arrays = rule["compatible"]
        return compare.EvalPlus(
            rule["dataset"], rule["entry_point"], rule["atol"], compatible=rule["compatible"]
        )
    if rule["name"] == "lcb":
        return lambda got, expected, arguments: compare.lcb_call_equal(got, expected)
    return lambda got, expected, arguments: compare.equal(got, expected)


def _passes(run: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    run(*arguments)
    return {"verdict": "passed"}


_known: dict[str, Any] = {}


def _compiled(text: str) -> Any:
    """Compile a test text, once for all programs that it judges."""
    if text not in _known:
        if len(_known) >= 4096:
            _known.clear()
        _known[text] = compile(ast.parse(text), "<tests>", "exec", dont_inherit=True)
    return _known[text]


def shown(value: Any) -> str:
    """Write a plain value down, cut in the middle; what cannot be written is named."""
    try:
        text = repr(value)
    except (ValueError, RecursionError, MemoryError) as error:
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    return text if len(text) <= _SHOWN else text[: _SHOWN // 2] + "\0" + text[-_SHOWN // 2 :]


def _text(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except Exception:
        return ""


def _own(name: str, message: str) -> dict[str, Any]:
    return {"name": name, "base": name, "message": message, "frames": []}
