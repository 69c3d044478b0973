"""Benchmark files on disk: where they live, how they get there, whether they are whole. Knows no benchmark.

A benchmark offers its files as a `Dataset` through the entry-point group `agentbench.datasets`::

    [project.entry-points."agentbench.datasets"]
    alfworld = "agentbench.envs.alfworld.games.catalog:DATASET"

    DATASET = Dataset(id="alfworld", version="json_2.1.1", sources=(Source(url, sha256, filename), ...),
                      import_dir=import_dir, verify=verify)

`import_dir(src, dest, progress)` reads a folder (or file) that the user has, or the folder of finished
downloads, and fills `dest`, an empty folder on the same disk as the data root. It raises CorruptData naming
the file when something is broken; then nothing of the new import is kept and an older one is untouched.
`verify(folder, progress)` checks an imported folder. Both return a `ImportReport`. The env finds its files at
`dataset_dir("alfworld")`.

Leaves out reading the files: that is the env's own business.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ContractError, CorruptData, MissingData, UsageError
from .registry import load

Progress = Callable[[int, int, str], None]
"""`progress(done, total, what)`; `total` is 0 while unknown, `what` names the file or stage."""

MANIFEST = ".agentbench.json"
DIGESTS = ".digests.json"
_BLOCK, _BLOCKS = 4096, 256


@dataclass(frozen=True)
class Source:
    """One published file.

    Attributes:
        url: where to download it.
        sha256: hex digest; "" when none is known, then only `import_dir` checks (and a note says so).
        filename: name in the download folder.
    """

    url: str
    sha256: str
    filename: str


@dataclass(frozen=True)
class ImportReport:
    """What an import or a verification found.

    Attributes:
        counts: items by stratum, such as {"train": 3553, "valid_seen": 140}.
        notes: worth saying but in order, such as "valid_unseen: 68 of 134 official games".
        problems: broken or missing files, by name; `data verify` exits with 1 when there are any.
    """

    counts: Mapping[str, int]
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Dataset:
    """Files of one benchmark as a plug-in; the module docstring says what the callables must do."""

    id: str
    version: str
    import_dir: Callable[[Path, Path, Progress], ImportReport]
    verify: Callable[[Path, Progress], ImportReport]
    sources: Sequence[Source] = ()
    description: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Installed:
    """A dataset as found on disk; `manifest` is {} when it is not there."""

    id: str
    folder: Path
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def present(self) -> bool:
        """Whether the files were imported."""
        return bool(self.manifest)


def silent(done: int, total: int, what: str) -> None:
    """Ignore progress."""


def data_root() -> Path:
    """Return the folder of all benchmark files: $AGENTBENCH_DATA, else the platform's cache folder."""
    return _data_root(*(os.environ.get(name) for name in ("AGENTBENCH_DATA", "XDG_CACHE_HOME", "HOME")))


@functools.lru_cache(maxsize=8)
def _data_root(override: str | None, *_environment: str | None) -> Path:
    """Answer for these values of the environment; envs ask at every reset."""
    if override:
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("agentbench", appauthor=False)) / "data"


def dataset_dir(name: str) -> Path:
    """Return where the files of dataset `name` are or would be; does not look."""
    return data_root() / name


def dataset(name: str) -> Dataset:
    """Load a dataset plug-in; `registry.names("datasets")` lists them.

    Raises: UnknownName: no such plug-in. ContractError: the entry point holds something else.
    """
    found = load("datasets", name)
    if not isinstance(found, Dataset):
        raise ContractError(f"dataset plug-in {name!r} must be a Dataset, got {type(found).__name__}")
    return found


def installed(name: str) -> Installed:
    """Tell whether dataset `name` is on disk, and what its import recorded."""
    folder = dataset_dir(name)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        manifest = {}
    except ValueError as error:
        raise CorruptData(
            f"{folder / MANIFEST} is not JSON ({error}); run: agentbench data import {name} DIR --replace"
        ) from error
    return Installed(name, folder, manifest)


def missing_data(name: str, what: str) -> MissingData:
    """Build the error for absent files of dataset `name`; says how to get them."""
    return MissingData(
        f"{what} not found under {dataset_dir(name)}; run: agentbench data fetch {name}, or with the files "
        f"on disk: agentbench data import {name} DIR"
    )


def file_digest(path: Path) -> str:
    """Hash a file by its size and up to 256 evenly spaced blocks of 4 KiB; one of a MiB or less is hashed whole.

    A file that was cut, zeroed or exchanged is told at once, however large it is; a flipped byte of a large one is for
    `data verify` to find.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _BLOCKS * _BLOCK:
            digest.update(file.read())
        else:
            for number in range(_BLOCKS):
                file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def write_digests(folder: Path) -> None:
    """Remember every file of a folder in `DIGESTS`, for `broken_file`."""
    found = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / DIGESTS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def broken_file(folder: Path) -> str:
    """Name a file that is not as `write_digests` saw it; "" when all are, or in a folder of an earlier release."""
    try:
        known = json.loads((folder / DIGESTS).read_bytes())
        for name, digest in dict(known).items():
            if not (folder / name).is_file() or file_digest(folder / name) != digest:
                return str(name)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, TypeError):
        return DIGESTS
    return ""


def import_data(
    item: Dataset, src: Path, *, replace: bool = False, progress: Progress = silent
) -> ImportReport:
    """Take files already on disk; the new folder appears whole or not at all.

    Args:
        item: whose files.
        src: folder or archive the user has.
        replace: exchange an earlier import for this one.
        progress: told how far the import is.
    Raises: MissingData: `src` does not exist. UsageError: imported already. CorruptData: a file is broken.
    """
    if not src.exists():
        raise MissingData(f"cannot import {item.id}: {src} does not exist")
    target = dataset_dir(item.id)
    if target.exists() and any(target.iterdir()) and not replace:
        raise UsageError(
            f"{item.id} is already at {target}; --replace exchanges all of it, data verify checks it. Several archives "
            "are imported together: give the folder that holds them"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    staging = Path(tempfile.mkdtemp(prefix=f"{_staged(item.id)}{os.getpid()}-", dir=target.parent))
    try:
        report = item.import_dir(src, staging, progress)
        if not sum(report.counts.values()):
            raise MissingData(f"{src} holds no files of {item.id} {item.version}; nothing was imported")
        manifest = {"dataset": item.id, "version": item.version, "source": str(src.absolute())}
        (staging / MANIFEST).write_text(json.dumps({**manifest, **_plain(report)}, indent=1) + "\n")
        staging.chmod(0o755)
        _swap(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return report


def _plain(report: ImportReport) -> dict[str, Any]:
    return {"counts": dict(report.counts), "notes": list(report.notes), "problems": list(report.problems)}


def _staged(name: str) -> str:
    """How the folders begin that this machine's imports fill; the process follows."""
    return f".{name}-import-{platform.node()}-"


def _sweep(target: Path) -> None:
    """Remove what imports left that were killed on this machine: folders that name a process which is no more."""
    for path in target.parent.glob(f"{_staged(target.name)}*-*"):
        process = path.name.removeprefix(_staged(target.name)).partition("-")[0]
        if process.isdigit() and Path("/proc/self").exists() and not Path("/proc", process).exists():
            shutil.rmtree(path, ignore_errors=True)


def _swap(staging: Path, target: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    if target.exists():
        target.rename(old / "was")
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def verify_data(item: Dataset, *, progress: Progress = silent) -> ImportReport:
    """Check the imported files of a dataset.

    Raises: MissingData: it was never imported.
    """
    found = installed(item.id)
    if not found.present:
        raise missing_data(item.id, f"dataset {item.id!r}")
    report = item.verify(found.folder, progress)
    gone = [name for name in found.manifest.get("counts", {}) if name not in report.counts]
    lost = [
        f"{name} was imported and is not there any more; run: agentbench data import {item.id} DIR --replace"
        for name in gone
        if not any(name in problem for problem in report.problems)
    ]
    return ImportReport(report.counts, report.notes, [*report.problems, *lost]) if lost else report


def fetch_data(
    item: Dataset, *, replace: bool = False, progress: Progress = silent, attempts: int = 5
) -> ImportReport:
    """Download every source (going on where an earlier try stopped), check it, import it.

    Args:
        item: what to fetch.
        replace: exchange an earlier import.
        progress: told bytes and stages.
        attempts: tries per file when the connection breaks; each goes on where the last one stopped.

    Raises:
        UsageError: no sources, imported already, or the server cannot be reached.
        CorruptData: wrong checksum.
    """
    if not item.sources:
        raise UsageError(
            f"dataset {item.id!r} has no published download; run: agentbench data import {item.id} DIR"
        )
    target = dataset_dir(item.id)
    if installed(item.id).present and not replace:
        raise UsageError(
            f"{item.id} is already at {target}; --replace fetches it again, data verify checks it"
        )
    folder = data_root() / "downloads" / item.id
    folder.mkdir(parents=True, exist_ok=True)
    unchecked = []
    for source in item.sources:
        download(source, folder, progress=progress, attempts=attempts)
        if not source.sha256:
            unchecked.append(f"{source.filename}: no published checksum, only its content was checked")
    report = import_data(item, folder, replace=replace, progress=progress)
    return dataclasses.replace(report, notes=[*report.notes, *unchecked])


def download(
    source: Source, folder: Path, *, progress: Progress = silent, attempts: int = 5, pause_s: float = 1.0
) -> Path:
    """Download one file to `folder`; a broken transfer leaves `NAME.part`, which the next call continues.

    Raises: CorruptData: the finished file has another checksum (it is deleted). UsageError: no connection.
    """
    import httpx

    done, part = folder / source.filename, folder / f"{source.filename}.part"
    if done.exists() and (not source.sha256 or _sha256(done) == source.sha256):
        return done
    with httpx.Client(follow_redirects=True, timeout=30.0) as client:
        for attempt in range(1, attempts + 1):
            try:
                for size, total in _transfer(client, source.url, part):
                    progress(size, total, source.filename)
                break
            except httpx.HTTPStatusError as error:
                raise UsageError(
                    f"{source.url} answered {error.response.status_code}; the part already there is kept. "
                    "With the file on disk use: agentbench data import"
                ) from error
            except httpx.TransportError as error:
                if attempt == attempts:
                    raise UsageError(
                        f"cannot download {source.url} ({type(error).__name__}: {error}); what has "
                        f"arrived is kept in {part}, run the same command again to go on"
                    ) from error
                time.sleep(pause_s * attempt)
    if source.sha256 and (seen := _sha256(part)) != source.sha256:
        part.unlink()
        raise CorruptData(
            f"{source.filename} from {source.url} is corrupt: sha256 {seen}, expected {source.sha256}; "
            "the file was deleted, run the same command again"
        )
    part.replace(done)
    return done


def _transfer(client: Any, url: str, part: Path) -> Iterator[tuple[int, int]]:
    have = part.stat().st_size if part.exists() else 0
    # Identity: a byte range of a compressed transfer would not continue the bytes on disk.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # nothing left to send: the part is complete or too long
            return
        response.raise_for_status()
        if response.status_code != 206:  # the server ignored the range and starts over
            have = 0
        total = have + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if have else "wb") as file:
            for block in response.iter_raw():  # no block size: bytes before a break would be lost
                file.write(block)
                have += len(block)
                yield have, total


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
