"""Other things that could be asked for in the room of a game, and a player that does those instead.

Small models need episodes of mixed behaviour in their training data, among them an expert's with another goal.
An errand names PDDL types as `Game` does, in lower case (`appletype`, `cabinettype`). Leaves out sentences, for
nobody reads an errand, and other kinds of bad behaviour, which need no knowledge of the game.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from agentbench.errors import UsageError, unknown_name

from ..chores import LAMP_TASK, TASKS
from ..play.goal import Alternative, Condition, Goal, Need, Part
from ..play.rules import Game
from ..play.state import State, bits
from .expert import DeadEnd, Expert

_QUALITY: dict[str, Condition] = {"isClean": "clean", "isHot": "hot", "isCool": "cool"}


class Errand(NamedTuple):
    """What is asked for; `parent` is the destination's type, or the lamp's in a lamp task."""

    task_type: str
    object: str
    parent: str


def draw_errand(game: Game, rng: random.Random) -> Errand | None:
    """Draw something that could be asked for at the start of a game and is not so already; None if nothing."""
    lying = _lying(game)
    movable = sorted({game.object_types[thing] for thing in bits(lying & game.pickupable)} - {""})
    lamps = sorted({game.object_types[thing] for thing in bits(lying & game.toggleable & ~game.pickupable)})
    reachable = (kind for kind, at in zip(game.receptacle_types, game.location_of, strict=True) if at >= 0)
    places = sorted(set(reachable))
    for _ in range(200):  # about one draw in five fits
        task_type = rng.choice(tuple(TASKS))
        parents = lamps if task_type == LAMP_TASK else places
        if movable and parents:
            errand = Errand(task_type, rng.choice(movable), rng.choice(parents))
            if all(_parts(game, errand)) and not errand_goal(game, errand).met(game.start):
                return errand
    return None


class Decoy:
    """An expert that does one errand after another; it wins only by accident.

    Args:
        game: the game to play.
        rng: draws the errands.
    """

    def __init__(self, game: Game, rng: random.Random) -> None:
        self.game, self.rng = game, rng
        self._expert: Expert | None = None

    def act(self, state: State) -> str | None:
        """Return the next command; None when there is nothing to do (an empty room, a hand that never gets free)."""
        for _ in range(10):
            if self._expert is not None:
                try:
                    command = self._expert.act(state)
                except DeadEnd:
                    command = None
                if command is not None:
                    return command
            errand = draw_errand(self.game, self.rng)
            if errand is None:
                return None
            self._expert = Expert(self.game, errand_goal(self.game, errand))
        return None


def errand_goal(game: Game, errand: Errand) -> Goal:
    """Return the goal of an errand in a game.

    Raises: UnknownName: no such task type. UsageError: the room has nothing of these types for it.
    """
    if errand.task_type not in TASKS:
        raise unknown_name("ALFWorld task type", errand.task_type, TASKS)
    parts = _parts(game, errand)
    if not all(parts):
        raise UsageError(f"{game.name}: {errand} cannot be done there; draw_errand(game, rng) finds what can")
    return Goal(tuple(Part(ways, ((-1, 0, ways),)) for ways in parts))


def _parts(game: Game, errand: Errand) -> list[tuple[Alternative, ...]]:
    if errand.task_type == LAMP_TASK:
        return [
            tuple(_lit(game, errand.parent)),
            tuple((Need("held", o),) for o in _movable(game, errand.object)),
        ]
    return [tuple(_placed(game, errand))]


def _placed(game: Game, errand: Errand) -> Iterator[Alternative]:
    task = TASKS[errand.task_type]
    table = {"isClean": game.cleans, "isHot": game.heats, "isCool": game.cools}.get(task.flag)
    treatable = -1 if table is None else _union(table)
    for place, kind in enumerate(game.receptacle_types):
        if kind != errand.parent or game.location_of[place] < 0:
            continue
        fitting = [o for o in _movable(game, errand.object) if game.accepts[place] & treatable & 1 << o]
        for chosen in combinations(fitting, task.count):
            needs = [Need("inside", thing, place) for thing in chosen]
            if task.flag:
                needs += [Need(_QUALITY[task.flag], thing) for thing in chosen]
            yield tuple(needs)


def _lit(game: Game, lamp_type: str) -> Iterator[Alternative]:
    for place, things in enumerate(game.start.contents):
        for lamp in bits(things & game.toggleable & ~game.pickupable):
            if game.object_types[lamp] == lamp_type and game.location_of[place] >= 0:
                yield Need("toggled", lamp), Need("inside", lamp, place), Need("at", game.location_of[place])


def _movable(game: Game, kind: str) -> list[int]:
    things = _lying(game) & game.pickupable
    return [thing for thing in bits(things) if game.object_types[thing] == kind]


def _lying(game: Game) -> int:
    """Return the objects in some receptacle that can be reached."""
    return _union(tuple(m for m, at in zip(game.start.contents, game.location_of, strict=True) if at >= 0))


def _union(masks: tuple[int, ...]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union
