"""One program in a worker: starts it, watches its clocks and channels, stops it, tells how it ended."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any

from .inside import plain, wire
from .limits import Limits, Outcome, SandboxFailure
from .worker import START_SECONDS, Worker, hello

_MIB = 1 << 20
_POLL_SECONDS = 0.05
_HEARD_PER_SECOND = 4 * _MIB
_TESTER_SECONDS = 5.0


def run_script(worker: Worker, job: Mapping[str, Any], stdin: bytes, limits: Limits) -> Outcome:
    """Run a program that reads its standard input and prints.

    Raises: SandboxFailure: the worker broke and must be closed.
    """
    with Run(worker, limits) as run:
        run.start(stdin=stdin)
        run.give(job)
        return run.watch()


def run_tests(worker: Worker, job: Mapping[str, Any], tests: Mapping[str, Any], limits: Limits) -> Outcome:
    """Load a program and let the tester call its functions.

    Raises: SandboxFailure: the worker broke and must be closed.
    """
    with Run(worker, limits) as run:
        run.start(calls=True)
        run.give(job)
        run.judge({**tests, "call_seconds": limits.call_cpu})
        return run.watch()


class Run:
    """One program from its fork to its last word."""

    def __init__(self, worker: Worker, limits: Limits) -> None:
        self.worker = worker
        self.limits = limits
        self.outcome = Outcome()
        self.pid = 0
        self.inner = b""
        self._words = b""
        self._heard = 0
        self._open: list[int] = []
        self._job: socket.socket | None = None
        self._calls: socket.socket | None = None
        self._judging = False

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        for fd in self._open:
            os.close(fd)
        for channel in (self._job, self._calls):
            if channel is not None:
                channel.close()

    def start(self, *, stdin: bytes | None = None, calls: bool = False) -> None:
        """Fork, and wait until the fork is under its limits and its filter."""
        self.worker.served += 1
        out, out_theirs = os.pipe()
        err, err_theirs = os.pipe()
        self.out, self.err = out, err
        self._open += [out, err]
        self._job, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._job.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        source = _input(stdin)
        fds = [source, out_theirs, err_theirs, theirs.fileno()]
        passed = [source, out_theirs, err_theirs]
        callee: socket.socket | None = None
        if calls:
            self._calls, callee = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            fds.append(callee.fileno())
        try:
            self.worker.fork("run", fds, self.worker.rlimits(self.limits))
        finally:
            for fd in passed:
                os.close(fd)
            theirs.close()
            if callee is not None:
                callee.close()
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        self._job.settimeout(START_SECONDS)
        self.pid, inner = hello(self._job)
        self.inner = inner.to_bytes(4, "little")
        self.began = time.monotonic()

    def give(self, job: Mapping[str, Any]) -> None:
        """Send the program's text into the fork."""
        assert self._job is not None
        self._job.settimeout(None)
        try:
            wire.send(self._job.fileno(), plain.dumps(job))
        except OSError as error:
            raise SandboxFailure(f"a fork died before it got its program: {error}") from error
        self._job.setblocking(False)

    def judge(self, tests: Mapping[str, Any]) -> None:
        """Hand the tester its end of the channel, and the tests."""
        assert self._calls is not None
        tester = self.worker.tester()
        try:
            socket.send_fds(tester, [self.inner], [self._calls.fileno()])
            tester.settimeout(None)
            wire.send(tester.fileno(), json.dumps(tests).encode())
        except OSError as error:
            self.worker.drop_tester()
            raise SandboxFailure(f"the tester is gone: {error}") from error
        self._calls.close()
        self._calls = None
        self._judging = True
        self._tester_cpu = _cpu(self.worker.tester_pid)
        self._tester_waited = _waited(self.worker.tester_pid)

    def watch(self) -> Outcome:
        """Read what comes until the program has ended and was reaped, stopping it where it must be."""
        outcome, limits = self.outcome, self.limits
        assert self._job is not None
        sources = {self.out: "out", self.err: "err", self._job.fileno(): "job"}
        control = self.worker.control.fileno()
        sources[control] = "control"
        if self._judging:
            sources[self.worker.tester().fileno()] = "tester"
        poll = select.poll()
        for fd in sources:
            poll.register(fd, select.POLLIN)
        exited = False
        while not exited or self._judging:
            for fd, _ in poll.poll(self._patience() * 1e3):
                kind = sources[fd]
                if kind == "control":
                    exited = self._exit(self.worker.news()) or exited
                elif not getattr(self, f"_read_{kind}")(fd):
                    poll.unregister(fd)
            if not exited:
                self._check_clocks()
            elif self._judging and time.monotonic() - self.began > limits.hard_wall:
                self._stop("infrastructure", "the tester did not answer")
                self._end_judging()
        while self._read_out(self.out) or self._read_err(self.err):
            continue
        self._read_rest()
        outcome.wall = time.monotonic() - self.began
        return outcome

    # --- channels: each tells whether there is more to come ---

    def _read_out(self, fd: int) -> bool:
        more, self.outcome.stdout = _drain(fd, self.outcome.stdout, self.limits.stdout)
        if len(self.outcome.stdout) > self.limits.stdout:
            self._stop("output_limit", f"printed more than {self.limits.stdout} bytes")
            return False
        return more

    def _read_err(self, fd: int) -> bool:
        # Beyond the limit it is read and forgotten, so that a program never waits for it.
        more, text = _drain(fd, self.outcome.stderr, 1 << 62)
        self._heard += len(text) - len(self.outcome.stderr)
        self.outcome.stderr = text[: self.limits.stderr]
        return more

    def _read_job(self, fd: int) -> bool:
        # The program holds the other end and may send half a frame: never wait for it.
        more, self._words = _drain(fd, self._words, _MIB)
        size = int.from_bytes(self._words[:4], "little")
        if len(self._words) < 4 or (len(self._words) < 4 + size <= _MIB):
            return more
        try:
            message = plain.loads(self._words[4 : 4 + size])
        except plain.NotPlain:
            return False
        if type(message) is dict:
            key = "end" if "end" in message else "load"
            failure = message.get(key)
            self.outcome.ended = key == "end"
            self.outcome.load = failure if type(failure) is dict and "name" in failure else None
        return False

    def _read_rest(self) -> None:
        assert self._job is not None
        if self.outcome.load is None and not self.outcome.ended:
            self._read_job(self._job.fileno())

    def _read_tester(self, fd: int) -> bool:
        try:
            results = plain.loads(wire.receive(fd))
        except (wire.Gone, OSError, plain.NotPlain):
            self._stop("infrastructure", "the tester died")
            self._end_judging()
            return False
        self.outcome.results = list(results)
        self._judging = False
        self._stop("tests", "")
        return False

    def _end_judging(self) -> None:
        self._judging = False
        self.worker.drop_tester()

    def _exit(self, message: Mapping[str, Any]) -> bool:
        if message["role"] != "run":
            return False
        if "failed" in message:
            raise SandboxFailure(f"the zygote could not fork: {message['failed']}")
        self.outcome.status = message["status"]
        self.outcome.cpu = message["cpu"]
        self.outcome.rss = message["rss"]
        killed = os.WIFSIGNALED(message["status"]) and os.WTERMSIG(message["status"]) == signal.SIGKILL
        if killed and not self.outcome.stopped and self.outcome.cpu >= self.limits.cpu:
            self.outcome.stopped = "time_limit"  # by the kernel, before the clock was read
        return True

    # --- clocks ---

    def _patience(self) -> float:
        """Seconds until something could be over: nobody looks before."""
        elapsed = time.monotonic() - self.began
        first = min(self.limits.cpu, self.limits.idle) - elapsed
        return first if first > _POLL_SECONDS else _POLL_SECONDS

    def _check_clocks(self) -> None:
        elapsed = time.monotonic() - self.began
        if elapsed < min(self.limits.cpu, self.limits.idle) or self.outcome.stopped:
            if elapsed > self.limits.hard_wall:
                raise SandboxFailure(f"no end after {elapsed:.0f} seconds")
            return
        cpu = _cpu(self.pid)
        if cpu > self.limits.cpu:
            self._stop("time_limit", f"used {cpu:.2f} processor seconds of {self.limits.cpu:g}")
        elif elapsed > self.limits.hard_wall:
            raise SandboxFailure(f"no end after {elapsed:.0f} seconds")
        elif (
            self._judging
            and (used := _cpu(self.worker.tester_pid) - self._tester_cpu) > self.limits.cpu + _TESTER_SECONDS
        ):
            self._stop("time_limit", f"its values kept the tests busy for {used:.0f} processor seconds")
            self._end_judging()
        else:
            others = self._heard / _HEARD_PER_SECOND  # it waited while this side read
            if self._judging:
                tester = self.worker.tester_pid
                others += _cpu(tester) - self._tester_cpu + _waited(tester) - self._tester_waited
            if elapsed - cpu - _waited(self.pid) - others > self.limits.idle:
                self._stop("idle", f"did nothing for {self.limits.idle:g} seconds")

    def _stop(self, why: str, reason: str) -> None:
        if not self.outcome.stopped or why == "infrastructure":
            self.outcome.stopped, self.outcome.reason = why, reason
        if self.outcome.status is None:
            self.worker.kill("run")


def _input(data: bytes | None) -> int:
    """A descriptor to read the data from: a file in memory, or nothing."""
    if data is None:
        return os.open(os.devnull, os.O_RDONLY)
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _drain(fd: int, kept: bytes, limit: int) -> tuple[bool, bytes]:
    """Read what is there; (there may be more, all that was read)."""
    parts = [kept]
    size = len(kept)
    while size <= limit:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True, b"".join(parts)
        except ConnectionResetError:  # the program died without reading what it was sent
            data = b""
        if not data:
            return False, b"".join(parts)
        parts.append(data)
        size += len(data)
        if len(parts) > 64:
            break
    return True, b"".join(parts)


def _cpu(pid: int) -> float:
    """Processor seconds of all threads of a process; infinite patience with one that is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _waited(pid: int) -> float:
    """Seconds that the threads of a process waited for a processor, as the scheduler counts them."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        pass
    return total / 1e9
