"""What an env and an author gave, made into records. Whatever could not be written down fails here, inside its episode.

The scheduler calls this within the guard that turns exceptions into recorded failures, so that one odd value (half a
surrogate pair, an integer beyond 64 bits, a key that is no text, a missing `success`) costs its own episode and never
the run. Leaves out when an episode ends (`schedule`).
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from ..env import INFO_KEYS, Info
from ..errors import EnvFailure
from ..foreign import shortened, writable
from ..policy import Decision, View
from ..runs.episodes import with_line
from ..types import NOTHING, Action, End, Failure, Parent, Trajectory, Turn
from .episode import Episode

_wanted = operator.itemgetter(*INFO_KEYS)
_FIXED = frozenset({str, bool, type(None)})
_BOOLS, _LISTS = (bool, np.bool_), (list, tuple)


def check_moment(observation: Any, info: Any) -> None:
    """Check what `reset`, `restore` or `step` showed, as far as a record or a prompt depends on it.

    Raises: EnvFailure: names what is wrong.
    """
    if not isinstance(observation, str):
        raise EnvFailure(f"the observation must be text, got {shortened(observation)}")
    if type(info) is not dict and not isinstance(info, Mapping):  # the first is much the faster
        raise EnvFailure(f"info must be a dict, got {shortened(info)}")
    try:
        _, commands, success, score, _ = _wanted(info)
    except KeyError:
        key = next(key for key in INFO_KEYS if key not in info)
        raise EnvFailure(f"info lacks the key {key!r} ({INFO_KEYS[key]})") from None
    try:
        shown = observation + "".join(commands) if isinstance(commands, _LISTS) else None
    except TypeError:  # a command that is no text
        shown = None
    if shown is None:
        raise EnvFailure(f"info['admissible'] must list texts, got {shortened(commands)}")
    if not isinstance(success, _BOOLS):
        raise EnvFailure(f"info['success'] must be a bool, got {shortened(success)}")
    if not 0.0 <= float(score) <= 1.0:  # NaN is not either; JSON could not hold it
        raise EnvFailure(f"info['score'] must lie in [0, 1], got {shortened(score)}")
    if not shown.isascii():
        shown.encode()  # raises for half a surrogate pair


def check_flags(terminated: Any, truncated: Any) -> None:
    """Check what says that an episode is over: a text or None would be taken for an answer that nobody gave.

    Raises: EnvFailure: names the flag.
    """
    if type(terminated) is bool and type(truncated) is bool:
        return
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, _BOOLS):
            raise EnvFailure(f"{name} must be a bool, got {shortened(flag)}")


def opening_of(info: Info) -> Info:
    """Copy the env's own values at reset, so that a value which the env changes in place is seen to change."""
    own = {name: value for name, value in info.items() if name not in INFO_KEYS}
    if _FIXED.issuperset(map(type, own.values())):
        return own
    try:
        return copy.deepcopy(own)
    except Exception:  # an object that cannot be copied; it is refused once it would be recorded
        return own


def make_turn(
    view: View, decision: Decision, label: Action | None, reward: Any, info: Info, opening: Info
) -> Turn:
    """Write down one turn.

    Args:
        view: the episode before the step.
        decision: what was said.
        label: what another author would have said.
        reward: what the env paid.
        info: the env's, after the step.
        opening: the env's info at reset; what has not changed since is not repeated.
    Raises: EnvFailure, TypeError: a value cannot be written down.
    """
    paid = float(reward)
    if not math.isfinite(paid):
        raise EnvFailure(f"the reward must be a finite number, got {reward}")
    own = _changed(info, opening) if len(info) > len(INFO_KEYS) else None
    penalty = view.spec.invalid_penalty if decision.invalid else 0.0
    return Turn(
        index=len(view.turns),
        observation=view.observation,
        action=decision.action,
        env_action=decision.env_action,
        reward=paid - penalty,
        context_ids=decision.context_ids,
        fresh=decision.fresh,
        invalid=decision.invalid,
        penalty=penalty,
        label=label,
        shown=decision.shown,
        info=_plain(own) if own else NOTHING,
    )


def _changed(info: Info, opening: Info) -> dict[str, Any]:
    """Find an env's own values that differ from those at reset; what cannot be compared, such as arrays, differs."""
    changed: dict[str, Any] = {}
    for name, value in info.items():
        if name in INFO_KEYS:
            continue
        try:
            if opening.get(name) == value:
                continue
        except Exception:  # arrays compare by element
            pass
        changed[name] = value
    return changed


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Copy an env's values through JSON: they are writable, and what the env does to them later changes no record."""
    if _FIXED.issuperset(map(type, values.values())):
        return values  # nothing of it can change, and the whole episode is written in the end
    copied: dict[str, Any] = orjson.loads(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY))
    return copied


def scored(
    episode: Episode, turns: Sequence[Turn], end: End, observation: str, info: Info, seconds: float
) -> Trajectory:
    """Write down an episode that went through.

    Raises: EnvFailure or what the encoder raises: it could not be put on record.
    """
    return with_line(
        Trajectory(
            **_frame(episode, turns, end, seconds),
            success=bool(info["success"]),
            score=float(info["score"]),
            task_type=str(info["task_type"]),
            final_observation=observation,
        )
    )


def broken(
    episode: Episode, turns: Sequence[Turn], failure: Failure, task_type: str, seconds: float
) -> Trajectory:
    """Write down an episode that its infrastructure broke; what of it cannot be written is left out."""
    whole = Trajectory(
        **_frame(episode, turns, "error", seconds),
        success=None,
        score=0.0,
        task_type=writable(task_type),
        error=failure,
    )
    try:
        return with_line(whole)
    except Exception:
        return Trajectory(
            **_frame(episode, (), "error", seconds),
            success=None,
            score=0.0,
            task_type=writable(task_type),
            error=failure,
        )


def _frame(episode: Episode, turns: Sequence[Turn], end: End, seconds: float) -> dict[str, Any]:
    start = episode.start
    return {
        "id": episode.key,
        "env": episode.spec.id,
        "task": episode.task,
        "seed": episode.seed,
        "turns": tuple(turns),
        "end": end,
        "repeat": episode.repeat,
        "parent": Parent(start.trajectory.id, start.turn) if start else None,
        "seconds": seconds,
    }
