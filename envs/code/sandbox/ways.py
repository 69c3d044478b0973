"""Which way of isolation this machine offers: each is tried and proven by a program, or refused with a reason.

`root`: namespaces and another user id. `user`: the same inside a user namespace. `landlock`: a list of readable
places. All have the filter of system calls and limits. `unsafe` has none but limits, and must be asked for.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentbench.errors import UsageError, unknown_name

from .inside import kernel, plain
from .layout import boot_settings
from .limits import Limits, SandboxFailure
from .run import run_tests
from .worker import Worker

WAYS = ("root", "user", "landlock")
"""In the order in which they are tried."""

ISOLATIONS = ("auto", *WAYS, "unsafe")

_PROBE = Path(__file__).parent / "inside" / "probe.py"


class NoIsolation(UsageError):
    """No way of isolation holds on this machine."""


@dataclass(frozen=True)
class Sandbox:
    """What a sandbox is made of.

    Attributes:
        isolation: "auto", one of `WAYS`, or "unsafe".
        python: interpreter that runs programs; None is this process's own.
        packages: allowed besides the standard library.
    """

    isolation: str = "auto"
    python: str | None = None
    packages: tuple[str, ...] = ("numpy",)


@dataclass(frozen=True)
class Proof:
    """A way that was tried: `reason` says why it does not hold; "" when it does."""

    way: str
    reason: str
    facts: dict[str, Any] = field(default_factory=dict, hash=False)


def open_worker(sandbox: Sandbox, way: str, *, preload: bool = False) -> Worker:
    """Start a worker in one way and let the self-test prove it.

    Args:
        sandbox: what it is made of.
        way: one of `WAYS` or "unsafe".
        preload: load the allowed packages before the first fork.
    Raises: SandboxFailure: it does not start, or the self-test met a surprise.
    """
    python = sandbox.python or sys.executable
    worker = Worker(boot_settings(way, python, sandbox.packages, preload=preload))
    if way == "unsafe":
        return worker
    try:
        found = _self_test(worker, sandbox.packages if preload else ())
    except BaseException:
        worker.close()
        raise
    if found:
        worker.close()
        raise SandboxFailure("the self-test " + "; ".join(found))
    return worker


def _self_test(worker: Worker, packages: Sequence[str]) -> list[str]:
    numbers = {name: kernel.number(name) for name in ("clone", "ptrace")}
    job = {"mode": "calls", "code": _probe_text(), "prelude": False, "solution_class": False}
    with _canary() as canary:
        arguments = plain.pack([canary, str(Path.home()), list(packages), numbers])
        tests = {
            "kind": "calls",
            "entry": "surprises",
            "inputs": [arguments],
            "expected": None,
            "rule": {"name": "equal"},
            "stop": True,
        }
        outcome = run_tests(worker, job, tests, Limits(cpu=20, call_cpu=20, idle=20))
    if not outcome.results or "value" not in outcome.results[0]:
        told = outcome.results[0].get("error", {}) if outcome.results else {}
        load = outcome.load or {}
        words = told.get("message") or load.get("message") or outcome.reason or f"status {outcome.status}"
        return [f"did not come to its end: {words}"]
    return [str(each) for each in plain.unpack(outcome.results[0]["value"])]


@lru_cache(maxsize=1)
def _probe_text() -> str:
    return _PROBE.read_text(encoding="utf-8")


@contextmanager
def _canary() -> Iterator[str]:
    """A file that everybody on the host may read and write; no program may."""
    with tempfile.TemporaryDirectory(prefix="agentbench-canary-") as folder:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "canary")
        with open(path, "w", encoding="utf-8") as file:
            file.write("canary")
        os.chmod(path, 0o666)
        yield path


def prove(sandbox: Sandbox, way: str) -> Proof:
    """Try one way, packages included."""
    try:
        worker = open_worker(sandbox, way, preload=bool(sandbox.packages))
    except SandboxFailure as error:
        return Proof(way, str(error))
    facts = {key: worker.facts[key] for key in ("python", "packages", "abi", "clamped")}
    worker.close()
    return Proof(way, "", facts)


@lru_cache(maxsize=8)
def _choose(sandbox: Sandbox, pid: int) -> Proof:
    if sandbox.isolation == "unsafe":
        return prove(sandbox, "unsafe")
    tried = []
    for way in WAYS if sandbox.isolation == "auto" else (sandbox.isolation,):
        proof = prove(sandbox, way)
        if not proof.reason:
            return proof
        tried.append(f"{way}: {proof.reason}")
    raise NoIsolation(
        f"no isolation holds here, so no program is run ({'; '.join(tried)}). Allow user namespaces or Landlock "
        "(a kernel from 5.13 on, a default container), or accept that programs can do whatever you can: "
        "--unsafe-no-sandbox"
    )


def choose(sandbox: Sandbox) -> Proof:
    """Find the first way that holds; asked once per process.

    Raises: NoIsolation: none does; the message says what was tried and what to do. UnknownName: no such way.
    """
    if sandbox.isolation not in ISOLATIONS:
        raise unknown_name("isolation", sandbox.isolation, ISOLATIONS)
    if sandbox.isolation == "unsafe":
        return replace(_choose(sandbox, os.getpid()), way="unsafe")
    if not sys.platform.startswith("linux"):
        raise NoIsolation(
            f"programs are isolated on Linux only, and this is {sys.platform}; run in a container, or accept that "
            "programs can do whatever you can: --unsafe-no-sandbox"
        )
    return _choose(sandbox, os.getpid())


def survey(sandbox: Sandbox) -> list[Proof]:
    """Try every way, for `doctor`."""
    if not sys.platform.startswith("linux"):
        return [Proof(way, f"needs Linux, this is {sys.platform}") for way in WAYS]
    return [prove(sandbox, way) for way in WAYS]
