"""ALFWorld's tasks: the official splits as imported files, and the generated ones as they are drawn.

Owns task ids, the import and the check of the files, and loading one game by its id. Leaves out the file format
(`store`), reading what the user has (`sources`) and playing.

Task ids: official "<task folder>/<trial>@<hash>", generated "<preset>/<task type>/<seed>", with "@<hash>" in the test
splits. The hash is of the game file's bytes; a game that does not match its id is refused.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from agentbench.datasets import Dataset, ImportReport, Progress, Source, dataset_dir, missing_data
from agentbench.errors import CorruptData, UnknownName, UsageError, unknown_name

from ..generate.generate import PRESETS, TASK_TYPES, game_for, task_ids
from ..play.pddl import UnsupportedGame
from ..play.session import Game
from .sources import GAME, SPLITS, Found, scan
from .store import ROOT, Entry, Index, Writer, content_hash, read_index

NAME = "alfworld"
OFFICIAL = {"train": 3553, "valid_seen": 140, "valid_unseen": 134, "valid_train": 200}
"""Games that AlfredTWEnv collects in each official split."""

JOINED = {"valid": ("valid_seen", "valid_unseen")}
"""Splits that are others one after the other."""

GENERATED = {"train": 6000, "valid": 480, "test": 128}
"""Games listed per generated split; ids of "train" and "valid" go on for ever, `game_for` takes any seed."""

_KEPT = ("pddl_params", "scene")


@dataclass(frozen=True, slots=True)
class Content:
    """A game as loaded, not yet compiled.

    Attributes:
        id: task id.
        game: bytes of the game file.
        task_type: one of the six task types.
        path: "json_2.1.1/<split>/<task folder>/<trial>/game.tw-pddl", or "generated/<id>/game.tw-pddl".
    """

    id: str
    game: bytes
    task_type: str
    path: str


def generated_splits() -> tuple[str, ...]:
    """Names of the splits that need no files: "mini-train" and so on."""
    return tuple(f"{preset}-{split}" for preset in PRESETS for split in GENERATED)


def tasks(split: str) -> tuple[str, ...]:
    """Ordered task ids of a split.

    Raises: UnknownName: no such split. MissingData: its files were not imported.
    """
    if split in SPLITS:
        return tuple(_index(split).entries)
    if split in JOINED:
        return tuple(task for part in JOINED[split] for task in tasks(part))
    if split not in generated_splits():
        raise unknown_name("split of alfworld", split, (*generated_splits(), *SPLITS, *JOINED))
    return _generated_ids(*split.split("-"))


def load(task_id: str) -> Content:
    """Load one game.

    Raises:
        UnknownName: there is no such game. MissingData: no official games were imported.
        CorruptData: the stored game is damaged. UsageError: the generator no longer makes the game of this id.
    """
    if task_id.split("/")[0] in PRESETS:
        return _generated(task_id)
    present = [index for split in SPLITS if (index := read_index(dataset_dir(NAME), split))]
    for index in present:
        if (entry := index.entries.get(task_id)) is not None:
            path = f"{ROOT}/{index.split}/{entry.key}/{GAME}"
            return Content(task_id, index.read(entry), entry.task_type, path)
    if not present and "@" in task_id:
        raise missing_data(NAME, f"the game {task_id!r}")
    raise UnknownName(_no_such_game(task_id, present))


def _index(split: str) -> Index:
    index = read_index(dataset_dir(NAME), split)
    if index is None:
        raise missing_data(NAME, f"split {split!r} of alfworld")
    return index


def _no_such_game(task_id: str, present: list[Index]) -> str:
    key = task_id.partition("@")[0]
    for index in present:
        for other in index.entries.values():
            if other.key == key:
                return f"the game {key} is here as {other.id}, not as {task_id}: another release of the game files"
    examples = ["mini/pick_and_place_simple/0", *(next(iter(index.entries), "") for index in present[:1])]
    return f"no ALFWorld task {task_id!r}; ids look like {' or '.join(map(repr, examples))}"


# --- generated games ---


@lru_cache(maxsize=32)
def _generated_ids(preset: str, split: str) -> tuple[str, ...]:
    ids = task_ids(preset, split, GENERATED[split])
    if split == "test":  # what panels freeze carries its content's hash
        return tuple(f"{task_id}@{content_hash(_draw(task_id)[0])}" for task_id in ids)
    return tuple(ids)


@lru_cache(maxsize=512)
def _draw(task_id: str) -> tuple[bytes, str]:
    """Generate a game: the bytes of its file, and its task type."""
    drawn = game_for(task_id)
    task_type = drawn.pop("traj_data")["task_type"]
    return json.dumps(drawn).encode(), task_type


def _generated(task_id: str) -> Content:
    bare, at, expected = task_id.partition("@")
    try:
        game, task_type = _draw(bare)
    except UsageError as error:
        raise UnknownName(str(error)) from error
    if at and (seen := content_hash(game)) != expected:
        raise UsageError(
            f"this release generates {bare}@{seen}, not {task_id}; play the panel version made for this release"
        )
    return Content(task_id, game, task_type, f"generated/{bare}/{GAME}")


# --- official games: import and check ---


def import_dir(src: Path, dest: Path, progress: Progress) -> ImportReport:
    """Read every official game under `src` into one store per split in `dest`; see `agentbench.datasets`.

    As AlfredTWEnv does, takes the games that have a traj_data.json of a known task type and `solvable: true`.

    Raises: CorruptData: names the archive or game that is broken.
    """
    skipped: Counter[str] = Counter()
    trajs: dict[tuple[str, str], dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        writers: dict[str, Writer] = {}
        for number, found in enumerate(scan(src)):
            progress(number, 0, found.origin)
            where = (found.split, found.key)
            if found.name != GAME:
                trajs[where] = _traj(found)
            elif reason := _unfit(found):
                skipped[f"{found.split}: {reason}"] += 1
            else:
                if found.split not in writers:
                    writers[found.split] = stack.enter_context(Writer(dest, found.split))
                _add(writers[found.split], found)
        counts = {}
        for split in sorted(writers, key=SPLITS.index):
            chosen = list(_complete(writers[split], trajs, skipped))
            writers[split].finish(iter(chosen))
            counts[split] = len(chosen)
    return ImportReport(
        counts, notes=[*_sizes(counts), *(f"{what}: {n} skipped" for what, n in sorted(skipped.items()))]
    )


def _add(writer: Writer, found: Found) -> None:
    earlier = writer.entries.get(found.key)
    if earlier is None:
        writer.add(found.key, found.content)
    elif earlier.sha256[:12] != content_hash(found.content):
        raise CorruptData(
            f"{found.origin}: the game {found.key} was found before with other content; the folder mixes releases of "
            "the game files, import one at a time"
        )


def _traj(found: Found) -> dict[str, Any]:
    data = _json(found)
    kept = {key: data[key] for key in _KEPT if key in data}
    if isinstance(
        kept.get("scene"), dict
    ):  # the official file keeps object poses here, which weigh more than the game
        kept["scene"] = {
            key: kept["scene"][key] for key in ("floor_plan", "scene_num") if key in kept["scene"]
        }
    return {"task_type": data.get("task_type"), **kept}


def _unfit(found: Found) -> str:
    """Say why AlfredTWEnv would not take this game, or "" when it would; refuse what no engine can read."""
    data = _json(found)
    if "solvable" not in data:
        return "without 'solvable'"
    if not data["solvable"]:
        return "not solvable"
    with contextlib.suppress(UnsupportedGame):  # sound, but only the reference engine plays it
        Game.from_json(data, found.origin)
    return ""


def _json(found: Found) -> dict[str, Any]:
    try:
        data = orjson.loads(found.content)
    except ValueError as error:
        raise CorruptData(f"{found.origin} is not JSON ({error}); nothing was imported") from error
    if not isinstance(data, dict):
        raise CorruptData(
            f"{found.origin} holds a {type(data).__name__}, not a JSON object; nothing was imported"
        )
    return data


def _complete(
    writer: Writer, trajs: dict[tuple[str, str], dict[str, Any]], skipped: Counter[str]
) -> Iterator[Entry]:
    for key, entry in writer.entries.items():
        traj = dict(trajs.get((writer.split, key), {}))
        task_type = traj.pop("task_type", None)
        if task_type in TASK_TYPES:
            yield replace(entry, task_type=task_type, traj=traj)
        else:
            reason = "without traj_data.json" if task_type is None else f"of task type {task_type}"
            skipped[f"{writer.split}: {reason}"] += 1


def _sizes(counts: dict[str, int]) -> list[str]:
    return [
        f"{split}: {n} of {OFFICIAL[split]} official games"
        for split, n in counts.items()
        if n != OFFICIAL[split]
    ]


def verify(folder: Path, progress: Progress) -> ImportReport:
    """Hash every stored game again; names those that are missing or changed."""
    counts: dict[str, int] = {}
    problems: list[str] = []
    everywhere: Counter[str] = Counter()
    for split in SPLITS:
        try:
            index = read_index(folder, split)
        except CorruptData as error:
            problems.append(str(error))
            continue
        if index is None:
            continue
        counts[split] = 0
        for number, entry in enumerate(index.entries.values()):
            progress(number, len(index.entries), split)
            everywhere[entry.key] += 1
            try:
                index.read(entry)
                counts[split] += 1
            except CorruptData as error:
                problems.append(str(error))
    problems += [f"{key} is in more than one split" for key, times in everywhere.items() if times > 1]
    return ImportReport(counts, notes=_sizes(counts), problems=problems)


_RELEASES = "https://github.com/alfworld/alfworld/releases/download"

# The release pages state no digests. These were recorded by several independent public projects that downloaded the
# files and agree on size and sha256 (36,507,267 and 72,018,818 bytes); a file that differs is refused, not used.
DATASET = Dataset(
    id=NAME,
    version="json_2.1.3",
    description="ALFWorld's text games: 3,553 train, 140 valid_seen, 134 valid_unseen, 200 valid_train",
    licence="MIT (alfworld)",
    sources=(
        Source(
            f"{_RELEASES}/0.4.2/json_2.1.3_tw-pddl.zip",
            "5df77ea759f2211a4106082839ddbbb790f1ba4e7d097ed732cf453f72aa36cf",
            "json_2.1.3_tw-pddl.zip",
        ),
        Source(
            f"{_RELEASES}/0.2.2/json_2.1.1_json.zip",
            "25171f16e20ad7b048c47275c45b0babf3aa1cbab29cec97387922350a9844bc",
            "json_2.1.1_json.zip",
        ),
    ),
    import_dir=import_dir,
    verify=verify,
)
"""The plug-in for `agentbench data`."""
