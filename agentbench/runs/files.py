"""Append-only lines, whole files and JSON on disk, safe against a kill at any moment. Knows no episode."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from ..errors import AgentBenchError, CorruptData, MissingData, UsageError
from ..foreign import shortened

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
    refuse_devices(path)
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


@contextlib.contextmanager
def as_written(where: Path) -> Iterator[None]:
    """Take what lies in a run folder for what our runs write; what breaks the reader is told of the folder.

    Raises: CorruptData: instead of the error that the odd value caused.
    """
    try:
        yield
    except AgentBenchError:  # some are ValueErrors, too
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CorruptData(
            f"{where} holds what no run of ours writes ({type(error).__name__}: {shortened(str(error))}); compare its "
            f"config.yaml and versions.json with another run's"
        ) from error


class Lines:
    """A JSON lines file open for appending; locked against a second writer, torn last line cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_devices(path)
        # Without a buffer: what a full disk refuses is not tried again when the file is closed.
        self._file = path.open("ab", buffering=0)
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
        left = memoryview(data + b"\n")
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise

    def sync(self) -> None:
        """Wait until what was written is on the disk, as a power cut asks for."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, which also releases the lock."""
        self._file.close()


def refuse_devices(path: Path) -> None:
    """Refuse what would keep a reader waiting, or never end.

    Raises: CorruptData: it is a pipe, a socket or a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise CorruptData(f"{path} is a pipe, a socket or a device, where a file is wanted")


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
    refuse_devices(path)
    try:
        value = orjson.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise TypeError(f"it holds {type(value).__name__}")
        return value
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingData(f"no file {path}") from error
    except (orjson.JSONDecodeError, TypeError, ValueError, OSError) as error:
        raise CorruptData(f"{path} is no JSON object: {error}") from error


def encode_json(value: Any) -> bytes:
    """Write a value as indented JSON with a final newline."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, option=options | orjson.OPT_SERIALIZE_NUMPY)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one go, so that a kill or a power cut leaves the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if error.filename is None or error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise


def sync_folder(folder: Path) -> None:
    """Wait until every file below a folder, and the folders' own entries, are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or path.is_dir():
            sync_entry(path)


def sync_entry(path: Path) -> None:
    """Wait until one file or folder is on the disk; file systems that cannot say so are believed."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def disk_refused(error: OSError) -> str:
    """Say in one line what the operating system refused, and where."""
    where = f" ({error.filename})" if error.filename else ""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{reason}{where}; what is on record is kept: make room, or mend what is named, and go on with --resume"
