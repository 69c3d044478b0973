"""A corpus on disk: one JSONL file and the offsets of its lines, both mapped. Leaves out searching.

A line holds {"id", "contents"} (title in quotes, newline, text) or {"id", "title", "text"}; other keys are ignored.
The first opening walks the file once, for its hash and its offsets, and puts both into the cache; they are found again
by path, size and times of the file, so that an edited corpus is walked anew. Nothing is ever loaded as a whole.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ..datasets import Progress, silent
from ..errors import CorruptData, MissingData, UsageError
from .contract import Passage, readable
from .store import cache_folder

_PIECE = 1 << 24
_BOM = b"\xef\xbb\xbf"
_SETTLED_SECONDS = 0.1
"""A file changed less than this before it was read may change again without a sign in its times."""

_FORM = 'a line needs "id", and "contents" or "title" and "text"'


class Passages:
    """A sequence of passages, in the order of their lines; may be pickled and used from any thread."""

    def __init__(
        self, data: Any, starts: NDArray[np.int64], digest: str, source: str, cache: Path | None = None
    ) -> None:
        """Bind bytes and the offsets of their lines [N + 1]; use `open` or `of`."""
        self._data, self._starts, self._cache = memoryview(data), starts, cache
        self.digest = digest
        self.source = source

    @classmethod
    def open(cls, path: str | Path, *, cache: Path | None = None, progress: Progress = silent) -> Passages:
        """Map a corpus.

        Args:
            path: a JSONL file, not packed.
            cache: folder for the offsets; None is `cache_folder()`.
            progress: told bytes while the file is walked for the first time.
        Raises: MissingData: no such file. CorruptData: it is packed, or not JSONL at its first line. UsageError: empty.
        """
        path = Path(path)
        try:
            key = _state(path)
        except OSError as error:
            raise MissingData(
                f"no corpus at {path}: {error.strerror}; name a JSONL file of passages"
            ) from error
        if not path.is_file():
            raise MissingData(f"no corpus at {path}: it is no file; name a JSONL file of passages")
        folder = (cache or cache_folder()) / "offsets" / _name(key)
        found = _stored(folder)
        if found is None:
            found = _walk(path, progress)
            if _state(path) != key:
                raise CorruptData(f"corpus {path} changed while it was read; try again once it is written")
            if time.time() - path.stat().st_ctime > _SETTLED_SECONDS:
                _store(folder, *found)
        starts, digest = found
        if len(starts) < 2:
            raise UsageError(f"corpus {path} holds no passages; {_FORM}")
        passages = cls(np.memmap(path, np.uint8, "r"), starts, digest, str(path), cache)
        passages[0]  # another file than a corpus is told here, not at the first search
        return passages

    @classmethod
    def of(cls, passages: Iterable[Passage]) -> Passages:
        """Hold passages in memory; the digest is that of the file `write_passages` would write."""
        data = b"".join(map(_line, passages))
        return cls(data, _starts(np.frombuffer(data, np.uint8)), hashlib.sha256(data).hexdigest(), "memory")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> Passage:
        """Read a passage.

        Raises: IndexError: there is none of this number. CorruptData: its line is broken.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"no passage {number}; there are {len(self)}")
        start, end = int(self._starts[number]), int(self._starts[number + 1])
        return _parse(bytes(self._data[start:end]), f"{self.source} passage {number + 1}")

    def __iter__(self) -> Iterator[Passage]:
        return (self[number] for number in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path of a file, the bytes of what is in memory."""
        if self.source == "memory":
            return _held, (bytes(self._data), self.digest)
        return _reopen, (self.source, self.digest, self._cache)


def _held(data: bytes, digest: str) -> Passages:
    return Passages(data, _starts(np.frombuffer(data, np.uint8)), digest, "memory")


def _reopen(source: str, digest: str, cache: Path | None) -> Passages:
    passages = Passages.open(source, cache=cache)
    if passages.digest != digest:
        raise CorruptData(f"corpus {source} is no longer the file it was; its hash was {digest}")
    return passages


def passage_of(value: Any) -> Passage:
    """Read a passage in any of the forms that corpora and servers have.

    Args:
        value: a mapping with `contents` or `content`, or with `title` and `text`; `id` may be missing.
    Returns: the passage; contents without a newline are a title without text.
    Raises: ValueError: it is none.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"a passage must be an object, got {type(value).__name__}")
    given = value.get("id")
    if isinstance(given, bool) or not isinstance(given, str | int | None):
        raise ValueError(f'"id" must be text or a whole number, got {given!r}')
    name = "" if given is None else readable(str(given))
    contents = value.get("contents", value.get("content"))
    if contents is not None:
        if not isinstance(contents, str):
            raise ValueError(f'"contents" must be text, got {type(contents).__name__}')
        title, _, text = readable(contents).partition("\n")
        return Passage(name, _unquoted(title.strip()), text)
    heading, body = value.get("title", ""), value.get("text")
    if not isinstance(heading, str) or not isinstance(body, str):
        raise ValueError(_FORM)
    return Passage(name, readable(heading), readable(body))


def read_passages(path: str | Path) -> Iterator[Passage]:
    """Read a JSONL file, packed (.gz) or not, passage by passage.

    Raises: MissingData: no such file. CorruptData: a line is broken; names it.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(_BOM) if number == 1 else line
                if line.strip():
                    yield _parse(line, f"{path} line {number}")
    except FileNotFoundError as error:
        raise MissingData(f"no corpus at {path}; name a JSONL file of passages") from error
    except (OSError, EOFError) as error:
        raise CorruptData(f"{path} cannot be read: {error}") from error


def write_passages(path: str | Path, passages: Iterable[Passage]) -> Path:
    """Write a corpus; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.writelines(map(_line, passages))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def _line(passage: Passage) -> bytes:
    fields = {"id": passage.id, "title": passage.title, "text": passage.text}
    return orjson.dumps(
        {key: readable(text) for key, text in fields.items()}, option=orjson.OPT_APPEND_NEWLINE
    )


def _parse(line: bytes, where: str) -> Passage:
    try:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = json.loads(line)  # takes escapes of lone surrogates, which some dumps hold
        passage = passage_of(value)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{where} is broken: {error}; {_FORM}") from error
    if not passage.id:
        raise CorruptData(f'{where} has no "id"; {_FORM}')
    return passage


def _unquoted(title: str) -> str:
    """Take one pair of quotes off: those of `contents`; a title's own stay."""
    return title[1:-1] if len(title) > 1 and title[0] == title[-1] == '"' else title


# --- offsets ---


def _walk(path: Path, progress: Progress) -> tuple[NDArray[np.int64], str]:
    """Hash a file and find its lines in one pass."""
    size, hasher, ends = path.stat().st_size, hashlib.sha256(), []
    with path.open("rb") as file:
        done = 0
        while piece := file.read(_PIECE):
            if not done and piece.startswith(b"\x1f\x8b"):
                raise CorruptData(f"corpus {path} is packed; unpack it first: gunzip -k {path}")
            hasher.update(piece)
            ends.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == 10) + done)
            done += len(piece)
            progress(done, size, f"reading {path.name}")
    if not size:
        return np.zeros(1, np.int64), hasher.hexdigest()
    return _starts(np.memmap(path, np.uint8, "r"), np.concatenate(ends)), hasher.hexdigest()


def _starts(data: NDArray[np.uint8], ends: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return where each line that is not blank begins, and the size [N + 1]; blank lines end the one before them."""
    ends = np.flatnonzero(data == 10) if ends is None else ends
    first = len(_BOM) if data[: len(_BOM)].tobytes() == _BOM else 0
    starts = np.concatenate(([first], ends + 1)).astype(np.int64)
    lengths = np.diff(np.append(starts, len(data)))
    short = np.flatnonzero(lengths <= 8)  # no passage is this short
    blank = [
        number for number in short.tolist() if not data[starts[number] :][: lengths[number]].tobytes().strip()
    ]
    return np.append(np.delete(starts, blank), len(data)).astype(np.int64)


def _state(path: Path) -> tuple[str, int, int, int, int]:
    """What tells a file from its earlier self; the change time cannot be set by hand."""
    state = path.stat()
    return (os.path.realpath(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _name(key: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:32]


def _stored(folder: Path) -> tuple[NDArray[np.int64], str] | None:
    try:
        starts = np.load(folder / "starts.npy", mmap_mode="r").view(np.ndarray)
        return starts, (folder / "sha256").read_text()
    except (OSError, ValueError):
        return None


def _store(folder: Path, starts: NDArray[np.int64], digest: str) -> None:
    """Keep what a walk found; a folder that cannot be written only costs another walk."""
    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".offsets-", dir=folder.parent))
        staging.chmod(0o755)
        np.save(staging / "starts.npy", starts)
        (staging / "sha256").write_text(digest)
        staging.rename(folder)  # fails where another process was quicker, whose files are as good
    except OSError:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
