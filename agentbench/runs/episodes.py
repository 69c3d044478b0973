"""A trajectory as one line of JSON, and back. Leaves out the folder that holds the lines (`folder`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson

from ..errors import CorruptData, MissingData
from ..types import Action, Trajectory, trajectory_from_dict
from .files import read_lines

SCHEMA = 2
"""Number of the record layout, on every line of episodes.jsonl; 1 is read too."""

EPISODES = "episodes.jsonl"

Key = tuple[str, int]
"""(task id, repeat): what a run plays once."""

_FIELDS = tuple(item.name for item in fields(Trajectory) if item.name != "seconds")


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
    if schema not in (1, SCHEMA):
        raise ValueError(f"schema {schema!r}, this release reads 1 and {SCHEMA}")
    try:
        if schema == 1:
            values["turns"] = [_from_schema_1(turn) for turn in values["turns"]]
        return trajectory_from_dict(values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an episode: {type(error).__name__}: {error}") from error


def _from_schema_1(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Take the rollout's own facts out of the env's info, where schema 1 kept them."""
    info = dict(turn["info"])
    ids = info.pop("label_ids", None)
    said = info.pop("label", None)
    label = Action(said or "", tuple(ids), (0.0,) * len(ids), author="expert") if ids else None
    facts = {"invalid": info.pop("invalid", ""), "penalty": info.pop("penalty", 0.0)}
    return {**turn, **facts, "label": dataclasses.asdict(label) if label else None, "info": info}


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
