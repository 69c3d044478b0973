"""The program of the self-test. Runs as any candidate does; `surprises` names everything that is not as it must be."""

import ctypes
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)


def refused(call: Callable[[], Any]) -> bool:
    """Whether a call fails."""
    try:
        result = call()
    except (OSError, ValueError):
        return True
    return isinstance(result, int) and result < 0


def surprises(canary: str, home: str, packages: list[str], numbers: dict[str, int]) -> list[str]:
    """Try what is forbidden and what is needed; names what came out otherwise."""
    found = []
    parent = os.getppid()

    def raised_limit() -> None:
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))

    forbidden = {
        "read a file of the host": lambda: open(canary).close(),
        "write a file of the host": lambda: open(canary, "a").close(),
        "create a file": lambda: open("/tmp/agentbench-probe", "w").close(),
        "list the home folder": lambda: os.listdir(home),
        "open a socket": lambda: socket.socket(),
        "open a unix socket": lambda: socket.socket(socket.AF_UNIX),
        "fork": lambda: libc.syscall(numbers["clone"], 17, None, None, None, None),
        "signal the parent": lambda: os.kill(parent, 0),
        "signal everybody": lambda: os.kill(-1, 0),
        "trace": lambda: libc.syscall(numbers["ptrace"], 0, 0, 0, 0),
        "leave a namespace": lambda: libc.unshare(0x10000000),
        "raise a limit": raised_limit,
        "execute": lambda: os.execv(
            "/proc/self/exe" if not os.path.exists(sys.executable) else sys.executable,
            ["python", "-c", "pass"],
        ),
    }
    for name, call in forbidden.items():
        if not refused(call):
            found.append("could " + name)
    ran: list[int] = []
    try:
        thread = threading.Thread(target=ran.append, args=(1,))
        thread.start()
        thread.join()
        block = bytearray(64 << 20)
        block[::4096] = b"x" * len(range(0, len(block), 4096))
    except (RuntimeError, MemoryError, OSError) as error:
        found.append(f"could not use a thread and 64 MiB: {error}")
    for name in packages:
        try:
            module = __import__(name)
            if name == "numpy":
                module.linalg.solve(module.eye(3) * 2, module.ones(3))
        except Exception as error:
            found.append(f"could not use {name}: {type(error).__name__}: {error}")
    return found
