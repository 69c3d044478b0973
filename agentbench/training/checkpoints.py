"""The checkpoints of a run: found, sealed, appearing whole, checked before they are used, pruned.

A checkpoint holds `checksums.json`, written last: the sha256 of every other file. Whatever a kill, a power cut, a full
disk or a slip of the hand does to it afterwards is seen before anything is loaded, and refused with the next step.
Leaves out what the files are (the trainer's).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import AgentBenchError, CorruptData, UsageError
from ..foreign import printable
from ..runs.files import disk_refused, encode_json, read_json, sync_entry, sync_folder, write_whole

CHECKSUMS = "checksums.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints of a run, oldest first."""
    found = [(_CHECKPOINT.match(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match.group(1)), path) for match, path in found if match and path.is_dir())


def newest(folder: Path) -> tuple[int, Path] | None:
    """The checkpoint a run goes on from, checked file by file; None when there is none.

    Raises: CorruptData: it is damaged; names what is, and the newest older one that is whole.
    """
    found = checkpoints(folder)
    if not found:
        return None
    with next_step(found):
        require_whole(found[-1][1])
    return found[-1]


@contextlib.contextmanager
def next_step(found: Sequence[tuple[int, Path]]) -> Iterator[None]:
    """Add to a refusal of the newest checkpoint what can be done about it.

    Args:
        found: all checkpoints of the run, oldest first.
    """
    try:
        yield
    except CorruptData as error:
        if "to go on from" in str(error):
            raise
        whole = next((path for _, path in reversed(found[:-1]) if not damage(path)), None)
        advice = (
            f"{whole.name} is whole: remove {found[-1][1].name} to go on from it"
            if whole
            else "no older checkpoint of this run is whole: start anew in another folder"
        )
        raise CorruptData(f"{error}; {advice}") from error


def require_whole(folder: Path) -> None:
    """Check every file of a checkpoint against its checksums; one of an earlier release has none and passes.

    Raises: CorruptData: names the first file that is missing or has changed.
    """
    if problem := damage(folder):
        raise CorruptData(f"checkpoint {str(folder)!r} is damaged: {problem}")


def damage(folder: Path) -> str:
    """Say what is wrong with a checkpoint; "" when nothing is, or when it has no checksums."""
    if not (folder / CHECKSUMS).exists():
        return ""
    try:
        known = read_json(folder / CHECKSUMS)
        for name, expected in known.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if _sha256(path) != expected:
                return f"{name} is not what was written ({path.stat().st_size} bytes)"
    except (CorruptData, OSError) as error:
        return printable(str(error), 300)
    return "" if known else f"{CHECKSUMS} is empty"


def seal(folder: Path) -> None:
    """Write the checksums of a finished checkpoint, and wait until all of it is on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    digests = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    write_whole(folder / CHECKSUMS, encode_json(digests))
    sync_folder(folder)


def put_in_place(partial: Path, final: Path) -> None:
    """Let a sealed checkpoint appear under its own name, in one go."""
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    sync_entry(final.parent)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one line that a checkpoint could not be written, whatever the library that wrote it raised.

    Raises: UsageError: the disk refused; the checkpoints before it are intact.
    """
    try:
        yield
    except AgentBenchError:
        raise
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        if not _is_of_the_disk(error):
            raise
        told = disk_refused(OSError(0, printable(str(error), 200), str(folder)))
        raise UsageError(f"checkpoint not written: {told}") from error


def prune(folder: Path, limit: int | None, best: int | None) -> None:
    """Remove all but the newest `limit` checkpoints of a run and the best one; None keeps all."""
    if limit is not None:
        for step, path in checkpoints(folder)[:-limit]:
            if step != best:
                shutil.rmtree(path)


def _is_of_the_disk(error: Exception) -> bool:
    words = (
        "no space left",
        "os error",
        "i/o error",
        "enforce fail",
        "inline_container",
        "disk",
        "permission denied",
    )
    return any(word in str(error).lower() for word in words)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
