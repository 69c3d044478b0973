"""One split of ALFWorld games on disk: a zip archive in the official layout, and an index that finds a game in it.

`<split>.zip` holds `json_2.1.1/<split>/<task folder>/<trial>/game.tw-pddl` with unaltered bytes, so that any zip tool
can take it apart again; `<split>.json` lists the games with their hashes and what else is worth knowing. A game is
read by its place in the file, without the archive's table of contents. Leaves out where games come from (`games`).
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import orjson

from agentbench.errors import CorruptData

FORMAT = 1
ROOT = "json_2.1.1"
HASH_DIGITS = 12
_LOCAL_HEADER = 30  # bytes of a zip member's own header before its name, as the zip format fixes it
# The zip format cannot say less than 1980; a fixed time keeps equal games equal bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def content_hash(game: bytes) -> str:
    """Return the first 12 hex digits of the sha256 of a game file's bytes: the part of a task id after "@"."""
    return hashlib.sha256(game).hexdigest()[:HASH_DIGITS]


@dataclass(frozen=True, slots=True)
class Entry:
    """One game in the index.

    Attributes:
        key: "<task folder>/<trial>".
        sha256: of the game file's bytes.
        offset: where its compressed bytes start in the zip.
        compressed: number of compressed bytes.
        task_type: one of the six task types.
        traj: what the game's traj_data.json says that is worth keeping (pddl_params, scene).
    """

    key: str
    sha256: str
    offset: int
    compressed: int
    task_type: str
    traj: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Task id: "<task folder>/<trial>@<first 12 hex digits of sha256>"."""
        return f"{self.key}@{self.sha256[:HASH_DIGITS]}"


@dataclass(frozen=True)
class Index:
    """The games of one split by task id, sorted by id."""

    split: str
    folder: Path
    entries: Mapping[str, Entry]

    def read(self, entry: Entry) -> bytes:
        """Read one game and check its hash.

        Raises: CorruptData: the archive is damaged or the game has changed.
        """
        path = self.folder / f"{self.split}.zip"
        try:
            with path.open("rb") as file:  # opened each time: a shared position would not survive a fork
                file.seek(entry.offset)
                game = zlib.decompress(file.read(entry.compressed), -zlib.MAX_WBITS)
        except (OSError, zlib.error) as error:
            raise _corrupt(f"{path}: cannot read the game {entry.key}: {error}") from error
        if (seen := hashlib.sha256(game).hexdigest()) != entry.sha256:
            raise _corrupt(
                f"{path}: the game {entry.key} has changed: sha256 {seen}, expected {entry.sha256}"
            )
        return game


class Writer:
    """Writes the games of one split; `finish` makes the index."""

    def __init__(self, folder: Path, split: str) -> None:
        """Start the archive `<folder>/<split>.zip`."""
        self.folder = folder
        self.split = split
        self.entries: dict[str, Entry] = {}
        self._zip = zipfile.ZipFile(folder / f"{split}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=6)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def add(self, key: str, game: bytes) -> None:
        """Append one game; `finish` fills in what its traj_data.json says."""
        info = zipfile.ZipInfo(f"{ROOT}/{self.split}/{key}/game.tw-pddl", _TIME)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        self._zip.writestr(info, game)
        offset = info.header_offset + _LOCAL_HEADER + len(info.filename.encode()) + len(info.extra)
        self.entries[key] = Entry(key, hashlib.sha256(game).hexdigest(), offset, info.compress_size, "")

    def finish(self, entries: Iterator[Entry]) -> None:
        """Write the index of the games that count and close the archive."""
        self._zip.close()
        games = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.id)]
        data = orjson.dumps({"format": FORMAT, "split": self.split, "games": games})
        (self.folder / f"{self.split}.json").write_bytes(data)


def read_index(folder: Path, split: str) -> Index | None:
    """Load the index of a split; None when the split is not there.

    Raises: CorruptData: the index cannot be read, or repeats a game.
    """
    path = folder / f"{split}.json"
    try:
        stamp = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _read_index(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=16)
def _read_index(path: Path, _modified_ns: int, _size: int) -> Index:
    try:
        data = orjson.loads(path.read_bytes())
        if data["format"] != FORMAT:
            raise _corrupt(f"{path} has format {data['format']!r}, this release reads {FORMAT}")
        listed = [Entry(**game) for game in data["games"]]
        split = str(data["split"])
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(f"{path} is no index of games ({type(error).__name__}: {error})") from error
    entries = {entry.id: entry for entry in listed}
    if len(entries) < len(listed):
        raise _corrupt(f"{path} lists {len(listed) - len(entries)} games twice")
    return Index(split, path.parent, MappingProxyType(entries))


def _corrupt(what: str) -> CorruptData:
    return CorruptData(f"{what}; run: agentbench data import alfworld DIR --replace")
