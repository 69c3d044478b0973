"""The run directory: what was asked, what happened, line by line, in a form that survives kill -9.

- `config.yaml`: the resolved configuration; itself a valid input.
- `versions.json`: what the run stands on (panel, policy, packages); written once.
- `episodes.jsonl`: one finished episode a line, in any order; reproducible to the byte once sorted.
- `timings.jsonl`: wall seconds and whatever else is not reproducible.
- `metrics.jsonl`: numbers by training step.

Lines are only ever appended and each is flushed. Opening for resume cuts off a torn last line; otherwise reading is
strict. Leaves out numbers computed from records (`report`) and checkpoints (`training`).
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from ..config import MOST_SECONDS, read_mapping
from ..errors import CorruptData, MissingData, UsageError
from ..foreign import shortened
from ..types import Trajectory
from .episodes import EPISODES, Key, taken_line
from .files import Lines, encode_json, read_json, read_lines, refuse_devices, write_whole
from .resume import ABSENT, FACTS, PINNED_BECAUSE, changes, is_free, pinned

TIMINGS, METRICS = "timings.jsonl", "metrics.jsonl"
CONFIG, VERSIONS = "config.yaml", "versions.json"


_TOLD = ("python", "packages", "code", "env")
"""Parts of versions.json that may be others on resume; the record says so."""
_MOST_USED = 1e18
_NEW_FACTS = ("played", "played.panel_options", "options", "terms", "tasks")
"""Parts of versions.json that runs of earlier releases lack."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall seconds by episode; wall seconds and what the engine used in all sittings of the run together."""

    seconds: Mapping[Key, float]
    wall: float
    usage: Mapping[str, float] = field(default_factory=dict)


class RunFolder:
    """A run directory open for writing; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed: list[tuple[str, Any, Any]] = []
        self._started, self._appended = time.monotonic(), False
        self.episodes = Lines(path / EPISODES)
        try:
            self.timings = Lines(path / TIMINGS)
        except BaseException:
            self.episodes.close()
            raise

    @classmethod
    def open(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        free: Iterable[str] = (),
    ) -> RunFolder:
        """Start a run folder, or go on with one.

        Args:
            path: the folder; made when absent. With `resume` it may also be new.
            config: resolved configuration of plain values, written to config.yaml.
            resume: continue what is on record there.
            free: patterns of dotted keys that may change on resume because they move no result, see `resume`.
        Raises: UsageError: the folder is in use without `resume`, or was made with another configuration.
        """
        changed = check_output(path, config, resume=resume, free=free)
        if not (path / CONFIG).exists():
            path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            write_whole(path / CONFIG, text.encode())
        run = cls(path)
        run.changed = changed
        return run

    def fix_versions(self, versions: Mapping[str, Any], *, binding: tuple[str, ...] = ()) -> None:
        """Write versions.json, or on resume check that the `binding` parts are still the same.

        Raises: UsageError: a binding part has changed; names its key.
        """
        fix_versions(self.path, versions, binding=binding, changed=self.changed)

    def append(self, trajectory: Trajectory, usage: Mapping[str, float] | None = None) -> None:
        """Record one finished episode, and what the engine has used in this sitting so far."""
        # The timing first: whatever the moment of a kill, every recorded episode has its timing.
        at = time.monotonic() - self._started
        key = {"task": trajectory.task, "repeat": trajectory.repeat}
        first = {} if self._appended else {"first": True}
        used = {"usage": dict(usage)} if usage else {}
        self.timings.append({**key, "seconds": trajectory.seconds, "at": at, **first, **used})
        self._appended = True
        self.episodes.append(taken_line(trajectory))

    def close(self) -> None:
        """Close the files once they are on the disk, which also releases their locks."""
        for lines in (self.episodes, self.timings):
            with contextlib.suppress(OSError):  # what could not be written was told when it was tried
                lines.sync()
            lines.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def fix_versions(
    path: Path,
    versions: Mapping[str, Any],
    *,
    binding: tuple[str, ...] = (),
    changed: Iterable[tuple[str, Any, Any]] = (),
) -> None:
    """Write versions.json of a run folder, or on resume check that its `binding` parts are still the same.

    What may change on resume and did (`changed`, and facts that follow from it) is added under "resumed".

    Raises: UsageError: a binding part has changed; names its key.
    """
    file = path / VERSIONS
    if not file.exists():
        write_whole(file, encode_json(dict(versions)))
        return
    old, new = read_json(file), _plain(versions)
    sitting = [*changed, *check_versions(path, versions, binding=binding)]
    for part in _TOLD:
        if part in old:
            sitting += changes(old[part], new.get(part), part)
    if sitting:
        added = {key: {"was": was, "is": now} for key, was, now in sitting}
        earlier = old.get("resumed", [])
        write_whole(
            file, encode_json({**old, "resumed": [*(earlier if isinstance(earlier, list) else []), added]})
        )


def check_versions(
    path: Path, versions: Mapping[str, Any], *, binding: tuple[str, ...]
) -> list[tuple[str, Any, Any]]:
    """Check, without touching anything, that `binding` parts are those of a run folder's versions.json, if it has one.

    Returns: what differs and may, because it follows from free keys.
    Raises: UsageError: a binding part has changed; names its key.
    """
    if not (path / VERSIONS).exists():
        return []
    old, new, free = read_json(path / VERSIONS), _plain(versions), []
    for part in binding:
        if part in old or part not in _NEW_FACTS:
            found = list(changes(old.get(part), new.get(part), part))
            found = [item for item in found if not (item[0] in _NEW_FACTS and item[1] == ABSENT)]
            for difference in pinned(found, FACTS):
                raise UsageError(_resume_refused(path, *difference))
            free += [item for item in found if is_free(item[0], FACTS)]
    return free


def _plain(versions: Mapping[str, Any]) -> dict[str, Any]:
    """Through JSON, so that tuples and numpy numbers compare like what was read."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(dict(versions), option=orjson.OPT_SERIALIZE_NUMPY))
    return found


def check_output(
    path: Path, config: Mapping[str, Any], *, resume: bool = False, free: Iterable[str] = ()
) -> list[tuple[str, Any, Any]]:
    """Refuse, without touching anything, a folder that `RunFolder.open` would refuse.

    Returns: the free keys that differ from the run on record, with both values.
    Raises: UsageError: the folder is in use without `resume`, or was made with another configuration.
    """
    if not str(path) or "\0" in str(path):
        raise UsageError(f"output {str(path)!r} is no name of a folder")
    if path.exists() and not path.is_dir():
        raise UsageError(f"output {path} is a file; give a folder")
    if not path.is_dir() or not any(path.iterdir()):
        return []
    if not resume:
        raise UsageError(f"output folder {path} is not empty; --resume goes on with it, or choose another")
    if (path / CONFIG).exists():
        found = list(changes(run_config(path), config))
        for difference in pinned(found, free):
            raise UsageError(_resume_refused(path, *difference))
        return [item for item in found if item[0] != "output_dir"]  # which folder it is, everybody can see
    if any((path / name).exists() for name in (EPISODES, METRICS)):
        raise UsageError(f"cannot resume {path}: it has records but no {CONFIG}")
    return []


def run_config(path: Path) -> dict[str, Any]:
    """Read config.yaml of a run folder.

    Raises: MissingData: there is none. CorruptData: not YAML, or a pipe or device.
    """
    file = path / CONFIG
    if not file.exists():
        raise MissingData(f"{path} is no run folder: it has no {CONFIG}")
    refuse_devices(file)
    return read_mapping(file, "the configuration", CorruptData)


def is_training(folder: Path) -> bool:
    """Whether a folder holds a training run."""
    return (folder / METRICS).is_file() or (folder / "eval").is_dir()


def training_home(run: Path) -> Path | None:
    """The training run that an evaluation was made by, TRAINING/eval/step-N; None of another evaluation."""
    inside = run.resolve()
    return (
        inside.parent.parent if inside.parent.name == "eval" and is_training(inside.parent.parent) else None
    )


def read_timings(path: Path) -> Timings:
    """Read wall times from a run folder; empty when they were not kept."""
    seconds: dict[Key, float] = {}
    usage: Counter[str] = Counter()
    sitting: dict[str, float] = {}
    wall = last = 0.0
    for number, line in read_lines(path / TIMINGS):
        try:
            key, took, at = (
                (str(line["task"]), int(line["repeat"])),
                measured(line["seconds"]),
                measured(line["at"]),
            )
            used = {str(name): measured(value, _MOST_USED) for name, value in line.get("usage", {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorruptData(
                f"{path / TIMINGS} line {number} is no timing of an episode ({type(error).__name__}: {error})"
            ) from error
        seconds[key] = took
        wall += at if line.get("first") else at - last  # the clock starts anew with each sitting
        last = at
        if line.get("first"):
            usage.update(sitting)
        sitting = used
    usage.update(sitting)
    return Timings(seconds, wall, dict(usage))


def measured(value: Any, most: float = MOST_SECONDS) -> float:
    """A wall time, or another measure that adds up, as a run writes it: "nan" or 1e308 would spoil every sum.

    Raises: ValueError: it is no number from 0 to `most`.
    """
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError(f"{shortened(value)} is no number from 0 to {most:g}")
    return float(value)


def _resume_refused(path: Path, key: str, old: Any, new: Any) -> str:
    was, now, why = shortened(old), shortened(new), PINNED_BECAUSE.get(key, "")
    return (
        f"cannot resume {path}: {key} was {was} and is now {now}{why}; use the same value or another folder"
    )
