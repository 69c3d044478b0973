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

from agentbench.errors import CorruptData

SPLITS = ("train", "valid_seen", "valid_unseen", "valid_train")
"""Official splits, as the folders of json_2.1.1 name them."""

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
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name.endswith(_ARCHIVES):
            yield from _archive(path)
    for path in sorted([*source.rglob(GAME), *source.rglob(TRAJ)]):
        if (found := _match(path.as_posix())) is not None:
            yield Found(*found, path.read_bytes(), str(path))


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
    ) as error:
        raise CorruptData(
            f"{path} is broken ({type(error).__name__}: {error}); nothing was imported. Get the file again."
        ) from error


def _zip(path: Path) -> Iterator[Found]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if (found := _match(name)) is not None:
                yield Found(*found, archive.read(name), f"{path}:{name}")


def _tar(path: Path) -> Iterator[Found]:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            if not member.isfile() or (found := _match(member.name)) is None:
                continue
            file = archive.extractfile(member)
            assert file is not None
            yield Found(*found, file.read(), f"{path}:{member.name}")
