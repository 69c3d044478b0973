"""Frames on a stream socket: four bytes of length, then JSON. Uses nothing that a program could have replaced."""

from __future__ import annotations

import os
import struct

from .plain import MAX_BYTES, NotPlain

_SIZE = struct.Struct("<I")
_read, _write = os.read, os.write
_pack, _unpack = _SIZE.pack, _SIZE.unpack


class Gone(Exception):
    """The other side has closed the channel."""


def send(fd: int, data: bytes) -> None:
    """Write one frame.

    Raises: OSError: the other side is gone.
    """
    rest = memoryview(_pack(len(data)) + data)
    while rest:
        rest = rest[_write(fd, rest) :]


def receive(fd: int) -> bytes:
    """Read one frame.

    Raises: Gone: the channel was closed. NotPlain: no such frame can be.
    """
    (size,) = _unpack(_exactly(fd, 4))
    if size > MAX_BYTES:
        raise NotPlain(f"a frame of {size} bytes, more than {MAX_BYTES}")
    return _exactly(fd, size)


def _exactly(fd: int, size: int) -> bytes:
    first = _read(fd, min(size, 1 << 20)) if size else b""
    if len(first) == size:
        return first
    parts, left = [first], size - len(first)
    while left:
        if not parts[-1]:
            raise Gone
        parts.append(_read(fd, min(left, 1 << 20)))
        left -= len(parts[-1])
    return b"".join(parts)
