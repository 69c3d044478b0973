"""The process that programs are forked from: modules loaded, isolation in force, no code or test ever in its memory.

It gets limits and descriptors from the host, forks, waits, and tells how a fork ended. What a fork shall do goes from
the host straight into the fork.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import io
import json
import os
import platform
import random
import resource
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from . import kernel, landlock, program, tester
from .seccomp import Filter

_MODULES = (
    "abc array ast atexit base64 bisect cmath collections.abc contextlib copy csv dataclasses datetime decimal "
    "difflib enum fractions functools hashlib heapq io itertools json linecache math numbers operator pprint queue "
    "random re statistics string struct textwrap threading time traceback types typing unicodedata weakref"
)
PRELOAD = tuple(_MODULES.split())
"""Modules that programs import most; each would cost a fork more than all the rest."""

_LIMITS = {
    "as": resource.RLIMIT_AS,
    "cpu": resource.RLIMIT_CPU,
    "fsize": resource.RLIMIT_FSIZE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
    "stack": resource.RLIMIT_STACK,
}


class Packages:
    """Finds the packages that are allowed by name, and nothing else beside them."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """Remember where they lie."""
        self.places = dict(places)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for the allowed names."""
        place = self.places.get(name)
        if path is not None or place is None:
            return None
        if place.endswith(".py"):
            return importlib.util.spec_from_file_location(name, place)
        return importlib.util.spec_from_file_location(
            name, os.path.join(place, "__init__.py"), submodule_search_locations=[place]
        )


def main() -> None:
    """Load, restrict, report, serve."""
    settings = json.loads(sys.argv[2])
    del sys.argv[1:]
    control = socket.socket(fileno=os.dup(settings["control"]))  # a low number, whatever the host's was
    os.close(settings["control"])
    try:
        facts = _prepare(settings)
        zygote = Zygote(control, settings["way"])
    except Exception as error:
        control.send(json.dumps({"ready": False, "error": f"{type(error).__name__}: {error}"}).encode())
        sys.exit(3)
    control.send(json.dumps({"ready": True, **facts}).encode())
    zygote.serve()


def _prepare(settings: Mapping[str, Any]) -> dict[str, Any]:
    own = settings["inside"]
    sys.path[:] = [place for place in sys.path if place not in ("", own)]
    sys.argv[:] = ["solution.py"]
    sys.orig_argv[:] = ["python3", "solution.py"]
    sys.meta_path.append(Packages(settings["packages"]))
    for name in PRELOAD:
        importlib.import_module(name)
    for name in ("exit", "quit"):  # site puts them there, and it was skipped
        setattr(builtins, name, _Leave(name))
    facts: dict[str, Any] = {"python": platform.python_version(), "packages": {}, "abi": 0}
    if settings["preload"]:
        for name in settings["packages"]:
            if not name.endswith(".libs"):
                module = importlib.import_module(name)
                facts["packages"][name] = str(getattr(module, "__version__", "?"))
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
    _open_streams()
    program.prepare()
    if settings["way"] != "unsafe":
        try:
            facts["abi"] = landlock.restrict(settings["readable"], settings["devices"])
        except OSError:
            if settings["way"] == "landlock":
                raise
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    facts["clamped"] = {
        name: hard for name, kind in _LIMITS.items() if (hard := resource.getrlimit(kind)[1]) != -1
    }
    gc.collect()
    gc.freeze()
    return facts


class _Leave:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Use {self.name}() or Ctrl-D (i.e. EOF) to exit"

    def __call__(self, code: object = None) -> None:
        raise SystemExit(code)


def _open_streams() -> None:
    """Make the standard streams over kinds of files that programs will find there; a fork puts its own in place."""
    reading, writing = os.pipe()
    nothing = os.open("/dev/null", os.O_RDONLY)
    for target, source in ((0, nothing), (1, writing), (2, writing)):
        os.dup2(source, target)
    for fd in (reading, writing, nothing):
        if fd > 2:
            os.close(fd)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    sys.__stdin__ = sys.stdin  # type: ignore[misc]
    for fd, name in ((1, "stdout"), (2, "stderr")):
        raw = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
        errors = "strict" if fd == 1 else "backslashreplace"
        stream = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=fd == 2)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


class Zygote:
    """Serves one host; has at most one program and one tester at a time."""

    def __init__(self, control: socket.socket, way: str) -> None:
        """Build the filters, which only get a number filled in later."""
        self.control = control
        self.filters = {} if way == "unsafe" else {"run": Filter(), "test": Filter(tester=True)}
        self.children: dict[int, str] = {}
        reading, self.wake = os.pipe()
        self.reading = reading
        os.set_blocking(reading, False)
        os.set_blocking(self.wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Carry out orders until the host is gone."""
        poll = select.poll()
        poll.register(self.control.fileno(), select.POLLIN)
        poll.register(self.reading, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self.reading in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.reading, 4096)
                self._reap()
            if self.control.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self.control, 65536, 8)
                if not data:
                    break
                self._obey(json.loads(data), fds)
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def _obey(self, order: Mapping[str, Any], fds: list[int]) -> None:
        if order["op"] == "kill":
            for pid, role in self.children.items():
                if role == order["role"]:
                    os.kill(pid, signal.SIGKILL)
            return
        role = order["role"]
        try:
            pid = os.fork()
        except OSError as error:
            self._say({"op": "exit", "role": role, "failed": str(error)})
            pid = -1
        if pid == 0:
            self._become(role, order, fds)
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self.children[pid] = role

    def _reap(self) -> None:
        while self.children:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            role = self.children.pop(pid, None)
            if role is not None:
                cpu = usage.ru_utime + usage.ru_stime
                self._say(
                    {"op": "exit", "role": role, "status": status, "cpu": cpu, "rss": usage.ru_maxrss << 10}
                )

    def _say(self, message: Mapping[str, Any]) -> None:
        try:
            self.control.send(json.dumps(message).encode())
        except OSError:
            os._exit(0)

    def _become(self, role: str, order: Mapping[str, Any], fds: list[int]) -> None:
        """Turn this fork into a program or a tester; never returns."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Descriptors arrive above the standard ones; 0, 1, 2 are streams, 3 and 4 channels.
            moved = [os.dup2(fd, 40 + place, inheritable=False) for place, fd in enumerate(fds)]
            for place, fd in enumerate(moved):
                os.dup2(fd, place, inheritable=False)
            os.closerange(len(moved), 64)
            pid = os.getpid()
            random.seed(0)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            for name, wanted in order["limits"].items():
                hard = resource.getrlimit(_LIMITS[name])[1]
                value = wanted if hard == -1 else min(wanted, hard)  # a cluster may allow less
                resource.setrlimit(_LIMITS[name], (value, value))
            if self.filters:
                self.filters[role].enter(pid)
            os.write(3, pid.to_bytes(4, "little"))
            (program.serve if role == "run" else tester.serve)()
        except BaseException:
            os._exit(70)
        os._exit(0)
