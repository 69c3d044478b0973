"""Append-only lines, whole files and JSON on disk, safe against a kill at any moment. Knows no episode."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from ..errors import CorruptData, MissingData, UsageError

try:
    import fcntl
except (
    ImportError
):  # pragma: no cover - Windows has no advisory locks; two writers are then the user's own fault
    fcntl = None  # type: ignore[assignment]


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, value) of a JSON lines file; nothing when it does not exist.

    Raises: CorruptData: a line is torn or no JSON object; names file and line.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                raise CorruptData(
                    f"{path} line {number} is torn (a run was killed there); continue it: --resume"
                )
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise CorruptData(f"{path} line {number} is not JSON: {error}") from error
            if not isinstance(value, dict):
                raise CorruptData(f"{path} line {number} holds {type(value).__name__}, expected an object")
            yield number, value


class Lines:
    """A JSON lines file open for appending; locked against a second writer, torn last line cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._file.close()
                raise UsageError(
                    f"{path} is being written by another process; wait for it or end it"
                ) from error
        _cut_torn_line(path)

    def append(self, line: bytes | Mapping[str, Any]) -> None:
        """Write one line and hand it to the operating system."""
        data = line if isinstance(line, bytes) else orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY)
        self._file.write(data + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file, which also releases the lock."""
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb+") as file:
        end, block = size, b""
        while end and b"\n" not in block:
            start = max(0, end - (1 << 16))
            file.seek(start)
            block = file.read(end - start)
            if b"\n" in block:
                end = start + block.rindex(b"\n") + 1
                break
            end = start
        if end != size:
            file.truncate(end)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises: MissingData or CorruptData, naming the file."""
    try:
        return dict(orjson.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise MissingData(f"no file {path}") from error
    except (orjson.JSONDecodeError, TypeError, ValueError) as error:
        raise CorruptData(f"{path} is no JSON object: {error}") from error


def encode_json(value: Any) -> bytes:
    """Write a value as indented JSON with a final newline."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, option=options | orjson.OPT_SERIALIZE_NUMPY)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one go, so that a kill leaves the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
