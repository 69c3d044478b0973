"""Landlock: access to files by a list of places, for processes without any privilege."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from . import kernel

_EXECUTE, _WRITE, _READ, _READ_DIR = 1, 2, 4, 8
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ
# Rights by ABI: 1 has 13 of them, 2 adds linking, 3 truncation, 5 device ioctl.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_O_PATH = getattr(os, "O_PATH", 0x200000)


def abi() -> int:
    """Version of the running kernel's Landlock.

    Raises: OSError: it has none, or it is switched off.
    """
    return kernel.syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def restrict(readable: Iterable[str], devices: Iterable[str]) -> int:
    """Let this process and its children read the listed folders and files, and use the devices, for good.

    What older versions leave open (truncation, sockets, signals) is closed by the filter of system calls.

    Returns: the ABI used.
    Raises: OSError: Landlock is missing.
    """
    version = abi()
    handled = _RIGHTS[min(version, 5)]
    network = 3 if version >= 4 else 0  # bind and connect
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals
    attributes = struct.pack("<QQQ", handled, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = kernel.syscall(
        "landlock_create_ruleset",
        ctypes.create_string_buffer(attributes, 24),
        ctypes.c_size_t(size),
        ctypes.c_uint32(0),
    )
    for path in readable:
        _allow(ruleset, path, _READ | _READ_DIR | _EXECUTE)
    for path in devices:
        _allow(ruleset, path, _READ | _WRITE)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.syscall("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)
    return version


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there cannot be read
        return
    if not os.path.isdir(path):
        rights &= _FILE_RIGHTS
    rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, place), 12)
    try:
        kernel.syscall("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
    finally:
        os.close(place)
