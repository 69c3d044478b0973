"""The filter of system calls: what is not listed is refused with EPERM, so that a program sees an exception.

A program may not fork, execute, open sockets or signal anyone but itself; that makes its limits exact.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from . import kernel

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH = 0, 4
_CLONE_THREAD = 0x00010000
_NAMESPACES = 0x7E020000
_X32 = 0x40000000

SPECIAL = ("clone", "clone3", "kill", "tgkill", "prlimit64", "ioctl", "prctl", "fcntl")
"""Calls that are allowed with some arguments only."""

TESTER_ONLY = ("recvmsg",)

_IOCTL = (0x5401, 0x5450, 0x5451)  # TCGETS, FIONCLEX, FIOCLEX
_PRCTL = (15, 16)  # the name of a thread
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. F_SETOWN is left out: with it signals reach others.
_FCNTL = (0, 1, 2, 3, 4, 1030)

Instruction = tuple[int, int, int, int]


class Filter:
    """A program for the kernel, built once; only the process id is filled in for each fork."""

    def __init__(self, *, tester: bool = False) -> None:
        """Build the program of this machine; a tester may also receive descriptors."""
        self._pid_places: list[int] = []
        self._code: list[Instruction] = []
        self._build(tester)
        self.size = len(self._code)
        packed = b"".join(struct.pack("<HBBI", *each) for each in self._code)
        self._buffer = ctypes.create_string_buffer(packed, len(packed))
        self._program = struct.pack("<H6xQ", self.size, ctypes.addressof(self._buffer))

    def enter(self, pid: int) -> None:
        """Put this process, whose id is `pid`, under the filter for good; `no_new_privs` must be set.

        Raises: OSError: the kernel has no filters.
        """
        for place in self._pid_places:
            struct.pack_into("<I", self._buffer, place * 8 + 4, pid)
        program = ctypes.create_string_buffer(self._program, len(self._program))
        zero = ctypes.c_ulong(0)
        kernel.check(
            kernel._libc.prctl(ctypes.c_int(kernel.PR_SET_SECCOMP), ctypes.c_ulong(2), program, zero, zero),
            "seccomp",
        )

    def _build(self, tester: bool) -> None:
        column, arch = kernel.MACHINES[kernel.machine()]
        self._add(_LOAD, _ARCH)
        self._add(_JUMP_EQ, arch, 1, 0)
        self._add(_RETURN, _KILL)
        self._add(_LOAD, _NR)
        if column == 0:
            self._add(_JUMP_GE, _X32, 0, 1)
            self._add(_RETURN, _KILL)
        for name, numbers in kernel.NUMBERS.items():
            call = numbers[column]
            if call is None or (name in TESTER_ONLY and not tester):
                continue
            body = self._special(name)
            self._add(_JUMP_EQ, call, 0, len(body))
            for place, each in enumerate(body):
                if name in ("kill", "tgkill") and each[0] == _JUMP_EQ and place == 1:
                    self._pid_places.append(len(self._code))
                self._code.append(each)
        self._add(_RETURN, _ERRNO | errno.EPERM)

    def _add(self, code: int, value: int, then: int = 0, otherwise: int = 0) -> None:
        self._code.append((code, then, otherwise, value))

    def _special(self, name: str) -> list[Instruction]:
        refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
        allow = (_RETURN, 0, 0, _ALLOW)
        if name == "clone":  # threads only
            return [
                (_LOAD, 0, 0, _argument(0)),
                (_JUMP_SET, 2, 0, _NAMESPACES),
                (_JUMP_SET, 0, 1, _CLONE_THREAD),
                allow,
                refuse,
            ]
        if name == "clone3":  # its flags are out of sight; the C library falls back to clone
            return [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
        if name in ("kill", "tgkill"):
            return [
                (_LOAD, 0, 0, _argument(0)),
                (_JUMP_EQ, 0, 1, 0),  # the process's own id is filled in
                allow,
                refuse,
            ]
        if name == "prlimit64":  # reading alone: the new limit is a null pointer
            return [
                (_LOAD, 0, 0, _argument(2)),
                (_JUMP_EQ, 0, 3, 0),
                (_LOAD, 0, 0, _argument(2) + 4),
                (_JUMP_EQ, 0, 1, 0),
                allow,
                refuse,
            ]
        choices = {"ioctl": _IOCTL, "fcntl": _FCNTL, "prctl": _PRCTL}.get(name)
        if choices is None:
            return [allow]
        start = [(_LOAD, 0, 0, _argument(0 if name == "prctl" else 1))]
        tests = [(_JUMP_EQ, len(choices) - place, 0, value) for place, value in enumerate(choices)]
        return [*start, *tests, refuse, allow]


def _argument(place: int) -> int:
    """Offset of the low word of an argument; both machines are little-endian."""
    return 16 + 8 * place
