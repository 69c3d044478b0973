"""Draws a household: which room, furniture and objects, where things lie, what is asked for, how hard it is.

Leaves out the tables (`household`, `chores`), the file text (`problem`) and the finished game (`generate`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from agentbench.errors import ConfigError, UsageError, unknown_name

from ..chores import LAMP_TASK, LOOKALIKES, TASKS
from ..household import HOLDS, OPENABLE, PLACES, ROOMS, Room
from .problem import Furniture, Household, Thing, coordinates, standing_point

_BASINS: Final = {"SinkBasin": "Sink", "BathtubBasin": "Bathtub"}  # a basin's id begins with its owner's name


@dataclass(frozen=True)
class Difficulty:
    """How large and how hard a household is; counts are drawn evenly from (least, most).

    Attributes:
        rooms: kinds of room that may be drawn.
        receptacles: number of receptacles; more if the task needs more, fewer if the room holds no more.
        objects: number of movable objects, targets included.
        spares: objects of the target's type beyond those asked for (they help).
        lookalikes: objects of another type that is easily mistaken for the target's (they do not).
        hidden: chance that a target starts inside a receptacle that opens.
        shared_points: chance that a receptacle shares another one's standing point.
        fixtures: number of immovable objects; they appear in the text only.
        quirks: chance of each oddity of the official games: an object whose own standing point is not its
            receptacle's, an object that is cold because it lay in the fridge.
    Raises: ConfigError: a count or a chance out of range.
    """

    rooms: tuple[str, ...] = tuple(ROOMS)
    receptacles: tuple[int, int] = (6, 6)
    objects: tuple[int, int] = (6, 8)
    spares: tuple[int, int] = (0, 1)
    lookalikes: tuple[int, int] = (0, 1)
    hidden: float = 0.3
    shared_points: float = 0.0
    fixtures: tuple[int, int] = (0, 0)
    quirks: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers, and make equal difficulties alike to the letter: games are seeded with them."""
        for name in ("receptacles", "objects", "spares", "lookalikes", "fixtures"):
            least, most = getattr(self, name)
            if not 0 <= least <= most:
                raise ConfigError(
                    f"{name} must be (least, most) with 0 <= least <= most, found {(least, most)}"
                )
            object.__setattr__(self, name, (int(least), int(most)))
        for name in ("hidden", "shared_points", "quirks"):
            chance = getattr(self, name)
            if not 0 <= chance <= 1:
                raise ConfigError(f"{name} must be a chance from 0 to 1, found {chance}")
            object.__setattr__(self, name, float(chance))
        object.__setattr__(self, "rooms", tuple(self.rooms))


@cache
def _questions(task_type: str, rooms: tuple[str, ...]) -> tuple[tuple[str, dict[str, tuple[str, ...]]], ...]:
    """List what can be asked where: (room, object type -> possible destinations)."""
    task = TASKS[task_type]
    found = []
    for name in rooms:
        if name not in ROOMS:
            raise unknown_name("kind of room", name, ROOMS)
        room = ROOMS[name]
        if task.appliance and task.appliance not in room.receptacles:
            continue
        if task_type == LAMP_TASK:
            lamps = tuple(lamp for lamp in task.parents if lamp in room.fixtures)
            asked = {obj: lamps for obj in task.objects if obj in room.objects and lamps}
        else:
            asked = {
                obj: parents
                for obj in task.objects
                if obj in room.objects and (parents := _destinations(task_type, obj, room))
            }
        if asked:
            found.append((name, asked))
    if not found:
        raise UsageError(f"no room of {list(rooms)} can host {task_type}; allowed rooms: {sorted(ROOMS)}")
    return tuple(found)


def _destinations(task_type: str, obj: str, room: Room) -> tuple[str, ...]:
    return tuple(
        parent
        for parent in TASKS[task_type].parents
        if parent in room.receptacles and obj in HOLDS[parent] and _sources(obj, parent, room)
    )


def _sources(obj: str, parent: str, room: Room) -> dict[str, float]:
    """Weigh the receptacle types in which a target may start: never the destination's type."""
    return {name: share for name, share in PLACES[obj].items() if name in room.receptacles and name != parent}


class Draw:
    """One household being drawn."""

    def __init__(self, rng: random.Random, task_type: str, difficulty: Difficulty) -> None:
        self.rng = rng
        self.task_type = task_type
        self.task = TASKS[task_type]
        self.difficulty = difficulty
        self.room, asked = rng.choice(_questions(task_type, difficulty.rooms))
        self.obj = rng.choice(tuple(asked))
        self.parent = rng.choice(asked[self.obj])
        self.furniture: list[Furniture] = []
        self.things: list[Thing] = []
        self.ids: set[str] = set()
        self.points: set[str] = set()

    def household(self) -> Household:
        """Draw furniture first, then targets, distractors, the rest, and the start."""
        sources = [self._source_type() for _ in range(self.task.count)]
        lamp_on = self._weighted(self._places_of(self.parent)) if self.task_type == LAMP_TASK else None
        self._furnish(
            [name for name in (lamp_on or self.parent, self.task.appliance, *sources) if name], sources
        )
        if lamp_on:
            self._put(self.parent, lamp_on, movable=False)
        for source in sources:
            self._put(self.obj, source, closed=source in OPENABLE)
        self._distract()
        self._fill()
        return Household(self.furniture, self.things, self._new_point())

    def _source_type(self) -> str:
        weights = _sources(self.obj, self.parent, ROOMS[self.room])
        closed = {name: share for name, share in weights.items() if name in OPENABLE}
        in_sight = {name: share for name, share in weights.items() if name not in OPENABLE}
        wanted = closed if self.rng.random() < self.difficulty.hidden else in_sight
        return self._weighted(wanted or weights)

    def _places_of(self, kind: str) -> dict[str, float]:
        known = ROOMS[self.room].receptacles
        return {name: share for name, share in PLACES.get(kind, {}).items() if name in known}

    def _furnish(self, needed: Sequence[str], sources: Sequence[str]) -> None:
        for kind in dict.fromkeys(needed):
            self._add_furniture(kind, certainly_opens=kind in sources)
        wanted = self.rng.randint(*self.difficulty.receptacles)
        stock = ROOMS[self.room].receptacles
        counts = {kind: sum(item.type == kind for item in self.furniture) for kind in stock}
        while len(self.furniture) < wanted:
            open_kinds = {kind: mean for kind, (mean, most) in stock.items() if counts[kind] < most}
            if not open_kinds:
                break
            kind = self._weighted(open_kinds)
            counts[kind] += 1
            self._add_furniture(kind)
        self.rng.shuffle(self.furniture)

    def _add_furniture(self, kind: str, certainly_opens: bool = False) -> None:
        share = 100.0 if certainly_opens else OPENABLE.get(kind, 0.0)
        openable = kind in OPENABLE and self.rng.random() * 100 < share
        if self.furniture and self.rng.random() < self.difficulty.shared_points:
            point = self.rng.choice(self.furniture).point
        else:
            point = self._new_point()
        name = self._new_id(_BASINS.get(kind, kind), f"_bar_{kind}" if kind in _BASINS else "")
        self.furniture.append(Furniture(name, kind, point, openable))

    def _put(
        self, kind: str, receptacle_type: str | None, *, movable: bool = True, closed: bool = False
    ) -> None:
        """Add an object in some receptacle of a type, or on the floor (None)."""
        inside = None
        if receptacle_type is not None:
            choices = [item for item in self.furniture if item.type == receptacle_type]
            inside = self.rng.choice(
                [item for item in choices if item.openable] or choices if closed else choices
            )
        if inside is not None and self.rng.random() >= self.difficulty.quirks:
            point = inside.point
        elif self.rng.random() < 0.125 and self.furniture:  # floor objects of official games: 504 of 4,000
            point = self.rng.choice(self.furniture).point
        else:
            point = self._new_point()
        cold = (
            self.task.flag != "isCool"
            and receptacle_type == "Fridge"
            and self.rng.random() < self.difficulty.quirks
        )
        self.things.append(Thing(self._new_id(kind), kind, point, inside, movable, cold))

    def _place(self, kind: str, avoid: str = "", movable: bool = True) -> bool:
        """Put an object where its kind is kept, if this room has such a place."""
        present = {item.type for item in self.furniture}
        places = {
            name: share for name, share in PLACES.get(kind, {}).items() if name in present and name != avoid
        }
        if places:
            self._put(kind, self._weighted(places), movable=movable)
        elif not movable:
            self._put(kind, None, movable=False)
        return bool(places) or not movable

    def _distract(self) -> None:
        # A placed spare would meet the goal of a plain errand at once, and half of a double one.
        avoid = "" if self.task.flag or self.task_type == LAMP_TASK else self.parent
        for _ in range(self.rng.randint(*self.difficulty.spares)):
            self._place(self.obj, avoid)
        alike = {
            name
            for group in LOOKALIKES
            if self.obj in group
            for name in group
            if name != self.obj and name in ROOMS[self.room].objects
        }
        for _ in range(self.rng.randint(*self.difficulty.lookalikes)):
            if alike:
                self._place(self.rng.choice(sorted(alike)))

    def _fill(self) -> None:
        stock = {kind: share for kind, share in ROOMS[self.room].objects.items() if kind != self.obj}
        wanted = self.rng.randint(*self.difficulty.objects)
        while stock and sum(thing.movable for thing in self.things) < wanted:
            kind = self._weighted(stock)
            if not self._place(kind) or sum(thing.type == kind for thing in self.things) >= 3:
                del stock[kind]
        fixtures = ROOMS[self.room].fixtures
        for _ in range(self.rng.randint(*self.difficulty.fixtures)):
            self._place(self._weighted(fixtures), movable=False)

    def _weighted(self, shares: dict[str, float]) -> str:
        return self.rng.choices(tuple(shares), weights=tuple(shares.values()))[0]

    def _new_id(self, kind: str, suffix: str = "") -> str:
        while True:
            x, y, z = self.rng.random(), self.rng.random(), self.rng.random()
            name = kind + coordinates(int(800 * x) - 400, int(200 * y), int(800 * z) - 400) + suffix
            if name not in self.ids:
                self.ids.add(name)
                return name

    def _new_point(self) -> str:
        while True:
            cell = self.rng.randint(-12, 12), self.rng.randint(-12, 12)
            point = standing_point(*cell, self.rng.randint(0, 3), self.rng.choice((0, 30, 45, 60)))
            if point not in self.points:
                self.points.add(point)
                return point
