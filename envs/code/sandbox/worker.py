"""The host's side of one worker: starts the zygote, orders forks, keeps the tester. Leaves out what a fork does."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .layout import INSIDE
from .limits import TESTER, Limits, SandboxFailure

START_SECONDS = 120.0


class Worker:
    """One sandbox. Not thread-safe: one program at a time."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Start the zygote and wait until it says that it is ready.

        Args:
            settings: of `layout.boot_settings`.
        Raises: SandboxFailure: it could not start; the message says why.
        """
        self.way = settings["way"]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from inside.boot import main; main()"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-B",
                "-c",
                code,
                INSIDE,
                json.dumps({**settings, "control": theirs.fileno()}),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={},
            cwd="/",
        )
        theirs.close()
        self.control = ours
        self.served = 0
        self._tester: socket.socket | None = None
        self._extra_threads = _threads_of_user() if self.way in ("landlock", "unsafe") and os.geteuid() else 0
        self.facts = self._wait_ready()

    def _wait_ready(self) -> dict[str, Any]:
        self.control.settimeout(START_SECONDS)
        try:
            data = self.control.recv(65536)
        except OSError:
            data = b""
        message = json.loads(data) if data else {"ready": False, "error": ""}
        if not message.pop("ready"):
            error = message["error"] or self._last_words() or "the sandbox's first process died"
            self.close()
            raise SandboxFailure(error)
        self.control.settimeout(START_SECONDS)
        return dict(message)

    def _last_words(self) -> str:
        self.process.kill()
        text = self.process.communicate()[1].decode(errors="replace").strip()
        return text.splitlines()[-1] if text else ""

    @property
    def pid(self) -> int:
        """The first process of the worker, on the host."""
        return self.process.pid

    def close(self) -> None:
        """End the zygote and everything that it started."""
        self.control.close()
        if self._tester is not None:
            self._tester.close()
            self._tester = None
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            _kill_tree(self.process.pid)
            self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()

    def memory(self) -> int:
        """Resident bytes of the processes that outlive a program; pages that they share count for each."""
        return sum(_resident(pid) for pid in _tree(self.process.pid))

    # --- forks ---

    def fork(self, role: str, fds: Sequence[int], limits: Mapping[str, int]) -> None:
        """Order a fork with these descriptors as 0, 1, 2, ..."""
        order = json.dumps({"op": "fork", "role": role, "limits": limits}).encode()
        try:
            socket.send_fds(self.control, [order], list(fds))
        except OSError as error:
            raise SandboxFailure(f"the zygote is gone: {error}") from error

    def kill(self, role: str) -> None:
        """Order the end of a fork; its exit is told as any other."""
        try:
            self.control.send(json.dumps({"op": "kill", "role": role}).encode())
        except OSError as error:
            raise SandboxFailure(f"the zygote is gone: {error}") from error

    def news(self) -> dict[str, Any]:
        """Read one message of the zygote."""
        try:
            data = self.control.recv(65536)
        except OSError as error:
            raise SandboxFailure(f"the zygote does not answer: {error}") from error
        if not data:
            raise SandboxFailure("the zygote died")
        return dict(json.loads(data))

    def tester(self) -> socket.socket:
        """The standing tester; starts one where there is none."""
        if self._tester is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            null = os.open(os.devnull, os.O_RDWR)
            try:
                limits = {**TESTER, "nproc": 64 + self._extra_threads}
                self.fork("test", [null, null, null, theirs.fileno()], limits)
            finally:
                os.close(null)
                theirs.close()
            ours.settimeout(START_SECONDS)
            self.tester_pid, _ = hello(ours)
            self._tester = ours
        return self._tester

    def drop_tester(self) -> None:
        """End the tester, which may hang; the next job gets a new one."""
        if self._tester is not None:
            self._tester.close()
            self._tester = None
            self.kill("test")

    def rlimits(self, limits: Limits) -> dict[str, int]:
        """Limits of a program in this worker."""
        return limits.rlimits(self._extra_threads)


def hello(channel: socket.socket) -> tuple[int, int]:
    """Read a fork's first words: its process id on the host, and in its own numbering.

    Raises: SandboxFailure: it died before it could speak.
    """
    try:
        data, ancillary, _, _ = channel.recvmsg(4, socket.CMSG_SPACE(12))
    except OSError as error:
        raise SandboxFailure(f"a fork does not answer: {error}") from error
    if len(data) != 4 or not ancillary:
        raise SandboxFailure("a fork died before it could start")
    return struct.unpack("iII", ancillary[0][2])[0], int.from_bytes(data, "little")


def _threads_of_user() -> int:
    """Threads that this user runs already: the kernel counts them all where there is no namespace."""
    own, total = os.getuid(), 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}").st_uid == own:
                    total += len(os.listdir(f"/proc/{entry}/task"))
            except OSError:
                continue
    return total + 256


def _tree(pid: int) -> list[int]:
    """A process and what descends from it, children first."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(each) for each in file.read().split()]
    except (OSError, ValueError):
        children = []
    return [*(each for child in children for each in _tree(child)), pid]


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _kill_tree(pid: int) -> None:
    """Kill a process and what descends from it."""
    for each in _tree(pid):
        try:
            os.kill(each, signal.SIGKILL)
        except OSError:
            continue
