"""The run directory: what was asked, what happened, line by line, in a form that survives kill -9.

- `config.yaml`: the resolved configuration; itself a valid input.
- `versions.json`: what the run stands on (panel, policy, packages); written once.
- `episodes.jsonl`: one finished episode a line, in any order; reproducible to the byte once sorted.
- `timings.jsonl`: wall seconds and whatever else is not reproducible.
- `metrics.jsonl`: numbers by training step.

Lines are only ever appended and each is flushed. Opening for resume cuts off a torn last line; otherwise reading is
strict. Leaves out numbers computed from records (`report`) and checkpoints (`train`).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import orjson
import yaml

from .errors import CorruptData, MissingData, UsageError
from .types import Trajectory, trajectory_from_dict

try:
    import fcntl
except (
    ImportError
):  # pragma: no cover - Windows has no advisory locks; two writers are then the user's own fault
    fcntl = None  # type: ignore[assignment]

SCHEMA = 1
"""Number of the record layout, on every line of episodes.jsonl."""
EPISODES = "episodes.jsonl"
TIMINGS, METRICS = "timings.jsonl", "metrics.jsonl"
CONFIG, VERSIONS = "config.yaml", "versions.json"

Key = tuple[str, int]
"""(task id, repeat): what a run plays once."""

_FIELDS = tuple(item.name for item in fields(Trajectory) if item.name != "seconds")
_ABSENT = "(not set)"


def encode_episode(trajectory: Trajectory) -> bytes:
    """Write an episode as one line of episodes.jsonl, newline left out."""
    # orjson writes the nested records itself, several times faster than dataclasses.asdict would copy them.
    record = {"schema": SCHEMA} | {name: getattr(trajectory, name) for name in _FIELDS}
    return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)


def decode_episode(record: Mapping[str, Any]) -> Trajectory:
    """Rebuild an episode from its parsed line.

    Raises: ValueError: another schema, or keys are missing or unknown.
    """
    values = dict(record)
    schema = values.pop("schema", None)
    if schema != SCHEMA:
        raise ValueError(f"schema {schema!r}, this release reads {SCHEMA}")
    try:
        return trajectory_from_dict(values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an episode: {type(error).__name__}: {error}") from error


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


def read_episodes(path: Path) -> list[Trajectory]:
    """Read an episodes.jsonl (or the one in a run folder), in file order.

    An errored episode that was played again is on record twice; only the later one is returned.

    Raises: MissingData: no such file. CorruptData: a broken line, or an episode recorded twice; names it.
    """
    file = path / EPISODES if path.is_dir() else path
    if not file.exists():
        raise MissingData(f"no episodes at {file}; expected a run folder or an episodes.jsonl")
    found: dict[Key, Trajectory] = {}
    for number, value in read_lines(file):
        try:
            episode = decode_episode(value)
        except ValueError as error:
            raise CorruptData(f"{file} line {number}: {error}") from error
        key = (episode.task, episode.repeat)
        earlier = found.pop(key, None)
        if earlier is not None and earlier.ok:
            raise CorruptData(
                f"{file} line {number} repeats task {episode.task!r} (repeat {episode.repeat}), on record already"
            )
        found[key] = episode
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall seconds by episode; wall seconds and what the engine used in all sittings of the run together."""

    seconds: Mapping[Key, float]
    wall: float
    usage: Mapping[str, float] = field(default_factory=dict)


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


class RunFolder:
    """A run directory open for writing; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started, self._appended = time.monotonic(), False
        self.episodes = Lines(path / EPISODES)
        self.timings = Lines(path / TIMINGS)

    @classmethod
    def open(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        free: frozenset[str] = frozenset(),
    ) -> RunFolder:
        """Start a run folder, or go on with one.

        Args:
            path: the folder; made when absent. With `resume` it may also be new.
            config: resolved configuration of plain values, written to config.yaml.
            resume: continue what is on record there.
            free: top-level keys that may change on resume because they move no result.
        Raises: UsageError: the folder is in use without `resume`, or was made with another configuration.
        """
        check_output(path, config, resume=resume, free=free)
        if not (path / CONFIG).exists():
            path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            write_whole(path / CONFIG, text.encode())
        return cls(path)

    def fix_versions(self, versions: Mapping[str, Any], *, binding: tuple[str, ...] = ()) -> None:
        """Write versions.json, or on resume check that the `binding` parts are still the same.

        Raises: UsageError: a binding part has changed; names its key.
        """
        file = self.path / VERSIONS
        if not file.exists():
            write_whole(file, encode_json(dict(versions)))
            return
        old = read_json(file)
        # Through JSON, so that tuples and numpy numbers compare like what was read.
        new = orjson.loads(orjson.dumps(dict(versions), option=orjson.OPT_SERIALIZE_NUMPY))
        for part in binding:
            difference = first_difference(old.get(part), new.get(part), part)
            if difference is not None:
                raise UsageError(_resume_refused(self.path, *difference))

    def append(self, trajectory: Trajectory, usage: Mapping[str, float] | None = None) -> None:
        """Record one finished episode, and what the engine has used in this sitting so far."""
        # The timing first: whatever the moment of a kill, every recorded episode has its timing.
        at = time.monotonic() - self._started
        key = {"task": trajectory.task, "repeat": trajectory.repeat}
        first = {} if self._appended else {"first": True}
        used = {"usage": dict(usage)} if usage else {}
        self.timings.append({**key, "seconds": trajectory.seconds, "at": at, **first, **used})
        self._appended = True
        self.episodes.append(encode_episode(trajectory))

    def close(self) -> None:
        """Close the files, which also releases their locks."""
        self.episodes.close()
        self.timings.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_output(
    path: Path, config: Mapping[str, Any], *, resume: bool = False, free: frozenset[str] = frozenset()
) -> None:
    """Refuse, without touching anything, a folder that `RunFolder.open` would refuse.

    Raises: UsageError: the folder is in use without `resume`, or was made with another configuration.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"output {path} is a file; give a folder")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not resume:
        raise UsageError(f"output folder {path} is not empty; --resume goes on with it, or choose another")
    if (path / CONFIG).exists():
        _require_same(read_config(path), config, path, free)
    elif any((path / name).exists() for name in (EPISODES, METRICS)):
        raise UsageError(f"cannot resume {path}: it has records but no {CONFIG}")


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml of a run folder.

    Raises: MissingData: there is none. CorruptData: not YAML.
    """
    file = path / CONFIG
    if not file.exists():
        raise MissingData(f"{path} is no run folder: it has no {CONFIG}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise CorruptData(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    return dict(values or {})


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


def read_timings(path: Path) -> Timings:
    """Read wall times from a run folder; empty when they were not kept."""
    seconds: dict[Key, float] = {}
    usage: Counter[str] = Counter()
    sitting: dict[str, float] = {}
    wall = last = 0.0
    for number, line in read_lines(path / TIMINGS):
        try:
            seconds[line["task"], line["repeat"]] = line["seconds"]
            at = line["at"]
        except KeyError as error:
            raise CorruptData(f"{path / TIMINGS} line {number} lacks {error}") from error
        wall += at if line.get("first") else at - last  # the clock starts anew with each sitting
        last = at
        if line.get("first"):
            usage.update(sitting)
        sitting = line.get("usage", {})
    usage.update(sitting)
    return Timings(seconds, wall, dict(usage))


def first_difference(old: Any, new: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """Find the first place where two nested values differ: (dotted key, old, new); None when equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            dotted = f"{where}.{key}" if where else str(key)
            found = first_difference(old.get(key, _ABSENT), new.get(key, _ABSENT), dotted)
            if found is not None:
                return found
        return None
    return None if old == new else (where, old, new)


def _require_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path, free: frozenset[str]) -> None:
    left, right = ({key: value for key, value in item.items() if key not in free} for item in (old, new))
    difference = first_difference(left, right)
    if difference is not None:
        raise UsageError(_resume_refused(path, *difference))


def _resume_refused(path: Path, key: str, old: Any, new: Any) -> str:
    return f"cannot resume {path}: {key} was {old!r} and is now {new!r}; use the same value or another folder"
