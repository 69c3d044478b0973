"""Finds games in whatever a user has: tar and zip archives, or an unpacked json_2.1.1 tree. Judges no game.

Archives are read as a stream and never unpacked to disk, so a member's name cannot lead anywhere.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agentbench.errors import CorruptData

SPLITS = ("train", "valid_seen", "valid_unseen", "valid_train")
"""Official splits, as the folders of json_2.1.1 name them."""

MOST_BYTES = 64 << 20
"""Far above the largest game file there is (about 1 MiB)."""

GAME, TRAJ = "game.tw-pddl", "traj_data.json"

_ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".zip")
_MEMBER = re.compile(
    rf"(?:.*/)?(?P<split>{'|'.join(SPLITS)})/(?P<key>[\w-]+/[\w-]+)/(?P<name>{re.escape(GAME)}|{re.escape(TRAJ)})"
)


@dataclass(frozen=True, slots=True)
class Found:
    """One file of a game.

    Attributes:
        split: official split.
        key: "<task folder>/<trial>".
        name: `GAME` or `TRAJ`.
        content: its bytes.
        origin: archive and member, or path, for messages.
    """

    split: str
    key: str
    name: str
    content: bytes
    origin: str


def scan(source: Path) -> Iterator[Found]:
    """Yield the game files of an archive, or of a folder's archives and of the tree under it.

    AlfredTWEnv takes no game with "movable" or "Sliced" in its path, so neither does this.

    Raises: CorruptData: names the archive that is broken.
    """
    if source.is_file():
        yield from _archive(source)
        return
    if not source.is_dir():
        raise CorruptData(
            f"{source} is neither a folder nor a file that can be read to its end; nothing was imported"
        )
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name.endswith(_ARCHIVES):
            yield from _archive(path)
    for path in sorted([*source.rglob(GAME), *source.rglob(TRAJ)]):
        if (found := _match(path.as_posix())) is not None:
            if not path.is_file():  # reading a pipe would wait for ever
                raise CorruptData(f"{path} is no file; nothing was imported")
            try:
                with path.open("rb") as file:
                    content = _content(file)
            except OSError as error:
                raise CorruptData(f"{path} cannot be read ({error}); nothing was imported") from error
            yield Found(*found, content, str(path))


def _match(path: str) -> tuple[str, str, str] | None:
    found = _MEMBER.fullmatch(path)
    if found is None or "movable" in found["key"] or "Sliced" in found["key"]:
        return None
    return found["split"], found["key"], found["name"]


def _archive(path: Path) -> Iterator[Found]:
    try:
        yield from _zip(path) if path.name.endswith(".zip") else _tar(path)
    except (
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        zipfile.BadZipFile,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,  # an encrypted zip
        ValueError,
    ) as error:
        raise CorruptData(
            f"{path} is broken ({type(error).__name__}: {error}); nothing was imported. Get the file again."
        ) from error


def _zip(path: Path) -> Iterator[Found]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if (found := _match(name)) is not None:
                with archive.open(name) as file:
                    yield Found(*found, _content(file), f"{path}:{name}")


def _tar(path: Path) -> Iterator[Found]:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if not member.isfile() or (found := _match(member.name)) is None:
                continue
            file = archive.extractfile(member)
            assert file is not None
            yield Found(*found, _content(file), f"{path}:{member.name}")


def _content(file: IO[bytes]) -> bytes:
    """Read one game file; a member that unpacks to more than a game can be is a broken or hostile archive.

    Raises: OSError: it is larger than `MOST_BYTES`.
    """
    content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(f"a game file of more than {MOST_BYTES >> 20} MiB")
    return content
