"""A trajectory as one line of JSON, and back. Leaves out the folder that holds the lines (`folder`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson

from ..errors import ContractError, CorruptData, MissingData
from ..foreign import shortened
from ..types import (
    ENDS,
    FINISHES,
    NOTHING,
    PLACES,
    Action,
    Failure,
    Parent,
    Trajectory,
    Turn,
    trajectory_from_dict,
)
from .files import read_lines

SCHEMA = 2
"""Number of the record layout, on every line of episodes.jsonl; 1 is read too."""

EPISODES = "episodes.jsonl"

Key = tuple[str, int]
"""(task id, repeat): what a run plays once."""

_FIELDS = tuple(item.name for item in fields(Trajectory) if item.name not in ("seconds", "line"))


def encode_episode(trajectory: Trajectory) -> bytes:
    """Write an episode as one line of episodes.jsonl, newline left out."""
    # orjson writes the nested records itself, several times faster than dataclasses.asdict would copy them.
    record = {"schema": SCHEMA} | {name: getattr(trajectory, name) for name in _FIELDS}
    return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)


def with_line(trajectory: Trajectory) -> Trajectory:
    """Write an episode's line into it, so that whoever puts it on file need not write it again.

    Raises: TypeError: it holds what cannot be written.
    """
    object.__setattr__(trajectory, "line", encode_episode(trajectory))
    return trajectory


def taken_line(trajectory: Trajectory) -> bytes:
    """An episode's line, which leaves it: in memory it would be a second copy of what is on file."""
    line = trajectory.line or encode_episode(trajectory)
    object.__setattr__(trajectory, "line", None)
    return line


def decode_episode(record: Mapping[str, Any]) -> Trajectory:
    """Rebuild an episode from its parsed line.

    Raises: ValueError: another schema, or keys are missing or unknown.
    """
    values = dict(record)
    schema = values.pop("schema", None)
    if type(schema) is not int or schema not in (1, SCHEMA):
        raise ValueError(f"schema {schema!r}, this release reads 1 and {SCHEMA}")
    try:
        if schema == 1:
            values["turns"] = [_from_schema_1(turn) for turn in values["turns"]]
        _forms(values)
        episode = trajectory_from_dict(values)
    except (AttributeError, KeyError, TypeError, ValueError, ContractError) as error:
        raise ValueError(f"not an episode: {type(error).__name__}: {error}") from error
    _check(episode)
    return episode


_LIST, _RECORD = (list, tuple), (dict, type(None))


def _forms(values: Mapping[str, Any]) -> None:
    """Refuse what only looks empty: "" or 0 where a list, a record or null belongs.

    Raises: ValueError: names the field and what it holds.
    """
    _form(values, "turns", _LIST, "")
    _form(values, "error", _RECORD, "")
    _form(values, "parent", _RECORD, "")
    for number, turn in enumerate(values["turns"]):
        where = f"turns.{number}."
        _form(turn, "context_ids", _LIST, where)
        _form(turn, "label", _RECORD, where)
        for name in ("action", "label"):
            if turn.get(name):
                _form(turn[name], "token_ids", _LIST, f"{where}{name}.")
                _form(turn[name], "logprobs", _LIST, f"{where}{name}.")


def _form(record: Mapping[str, Any], name: str, kinds: tuple[type, ...], where: str) -> None:
    if name in record and not isinstance(record[name], kinds):
        raise ValueError(f"{where}{name} is {shortened(record[name])}")


_NUMBER, _TEXT = (int, float), (str,)
_EPISODE_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "env", "task", "task_type", "final_observation"), _TEXT),
    **{"seed": (int,), "repeat": (int,), "score": _NUMBER, "success": (bool, type(None))},
}
_TURN_KINDS: dict[str, tuple[type, ...]] = {
    **{"index": (int,), "observation": _TEXT, "env_action": (str, type(None)), "reward": _NUMBER},
    **{"fresh": (bool,), "invalid": _TEXT, "penalty": _NUMBER},
    **dict.fromkeys(("shown", "info", "annotations", "notes"), (dict,)),
}
_ACTION_KINDS: dict[str, tuple[type, ...]] = {"text": _TEXT, "author": _TEXT, "policy_version": (int,)}


def _check(episode: Trajectory) -> None:
    """Refuse values that no run of ours writes; JSON alone would let them through to the numbers.

    Raises: ValueError: names the field and what it holds.
    """
    _kinds(episode, _EPISODE_KINDS, "")
    _among(episode.end, ENDS, "end")
    if not 0 <= episode.score <= 1:
        raise ValueError(f"score is {episode.score}, it must lie in [0, 1]")
    if (episode.error is None) == (episode.end == "error"):
        raise ValueError(
            f"end is {episode.end!r} and error is {shortened(episode.error)}: one denies the other"
        )
    if episode.error is not None:
        _kinds(episode.error, dict.fromkeys(_names(Failure), _TEXT), "error.")
        _among(episode.error.where, PLACES, "error.where")
        if episode.success is not None:
            raise ValueError(f"success is {episode.success} although the episode broke")
    if episode.parent is not None:
        _kinds(episode.parent, dict(zip(_names(Parent), (_TEXT, (int,)), strict=True)), "parent.")
    for number, turn in enumerate(episode.turns):
        _check_turn(turn, number)


def _check_turn(turn: Turn, number: int) -> None:
    where = f"turns.{number}."
    _kinds(turn, _TURN_KINDS, where)
    if turn.index != number:
        raise ValueError(f"{where}index is {turn.index}")
    _ints(turn.context_ids, f"{where}context_ids")
    for name, action in (("action", turn.action), ("label", turn.label)):
        if action is not None:
            _kinds(action, _ACTION_KINDS, f"{where}{name}.")
            _among(action.finish, FINISHES, f"{where}{name}.finish")
            _ints(action.token_ids, f"{where}{name}.token_ids")
            if not all(type(value) in _NUMBER for value in action.logprobs):
                raise ValueError(f"{where}{name}.logprobs holds more than numbers")


def _kinds(record: Any, kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    for name, allowed in kinds.items():
        value = getattr(record, name)
        if type(value) not in allowed and value is not NOTHING:  # by type: True is no number here
            names = " or ".join(kind.__name__.replace("NoneType", "null") for kind in allowed)
            raise ValueError(f"{where}{name} is {shortened(value)}, expected {names}")


def _among(value: Any, allowed: Sequence[str], where: str) -> None:
    if value not in allowed:
        raise ValueError(f"{where} is {shortened(value)}, allowed: {', '.join(allowed)}")


def _ints(values: Sequence[Any], where: str) -> None:
    if not all(type(value) is int for value in values):
        raise ValueError(f"{where} holds more than whole numbers")


def _names(kind: Any) -> list[str]:
    return [item.name for item in fields(kind)]


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
