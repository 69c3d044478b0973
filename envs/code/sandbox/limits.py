"""What a program may use, and how its end is told. Leaves out enforcing and watching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentbench.errors import EnvFailure

_MIB = 1 << 20


class SandboxFailure(EnvFailure):
    """The sandbox itself broke: no verdict about the program."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu: processor seconds of the whole program; `call_cpu` those of one test.
        idle: seconds in which it neither computes nor waits for a processor.
        memory: bytes of address space.
        stdout, stderr: bytes printed.
        threads: processes of the sandbox's user.
        wall: seconds after which the sandbox is held to be broken; None: 20 times `cpu`, plus 60.
    """

    cpu: float = 10.0
    call_cpu: float = 10.0
    idle: float = 5.0
    memory: int = 2048 * _MIB
    stdout: int = _MIB
    stderr: int = 65536
    threads: int = 64
    wall: float | None = None

    @property
    def hard_wall(self) -> float:
        """Seconds until the hard stop."""
        return 20 * self.cpu + 60 if self.wall is None else self.wall

    def rlimits(self, extra_threads: int) -> dict[str, int]:
        """The limits as the kernel takes them."""
        return {
            "as": self.memory,
            "cpu": int(self.cpu) + 3,  # a backstop: the clock stops programs earlier and more exactly
            "fsize": 0,
            "nofile": 64,
            "nproc": self.threads + extra_threads,
            "core": 0,
            "stack": 64 * _MIB,
        }


TESTER = {"as": 4096 * _MIB, "fsize": 0, "nofile": 64, "core": 0, "stack": 64 * _MIB}


@dataclass
class Outcome:
    """How one fork ended.

    Attributes:
        stopped: "" or why it was killed: time_limit, idle, output_limit, tests (its tests were over), infrastructure.
        status: wait status; None when it is not known.
        load: what went wrong while loading or running, as `inside.program.describe` tells; None when nothing did.
        ended: the program said that it came to its end.
        results: of the tester, one per test.
    """

    stopped: str = ""
    status: int | None = None
    cpu: float = 0.0
    rss: int = 0
    wall: float = 0.0
    stdout: bytes = b""
    stderr: bytes = b""
    load: Mapping[str, Any] | None = None
    ended: bool = False
    results: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
