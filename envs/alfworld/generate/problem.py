"""A household written down: the PDDL problem text and the goal of a generated game.

Owns the spelling of the official game files: order of sections, ids with their coordinates, the goal
formula of each task type. Leaves out what is in the household (`generate`) and all rules (`logic/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from ..chores import LAMP_TASK, TASKS
from ..household import FLAGS, HOLDS, PLACES, ROOMS


@dataclass(frozen=True)
class Furniture:
    """A receptacle: id, type, standing point, and whether it opens."""

    id: str
    type: str
    point: str
    openable: bool


@dataclass
class Thing:
    """An object: id, type, standing point, the receptacle it is in (None: on the floor), cold at the start."""

    id: str
    type: str
    point: str
    inside: Furniture | None
    movable: bool
    cold: bool = False


@dataclass(frozen=True)
class Household:
    """Everything that the problem text says, apart from the goal."""

    furniture: list[Furniture]
    things: list[Thing]
    start: str


_NAMED_IN_RULES: Final = ("Sink", "Knife", "ButterKnife")  # types the rules name: they must be declared
_PLACED: Final = (
    "(exists (?r - receptacle) (exists (?o - object) (and {extra}(objectType ?o {obj}Type)"
    " (receptacleType ?r {parent}Type) {flag}(inReceptacle ?o ?r))))"
)
_TWO: Final = (
    "(exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1 {obj}Type)"
    " (receptacleType ?r {parent}Type) (inReceptacle ?o1 ?r) (exists (?o2 - object) (and (not (= ?o1 ?o2))"
    " (objectType ?o2 {obj}Type) (receptacleType ?r {parent}Type) (inReceptacle ?o2 ?r))))))"
)
_LIT: Final = (
    "(exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?ot {parent}Type)"
    " (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))"
    " (exists (?o - object ?a - agent) (and (objectType ?o {obj}Type) (holds ?a ?o)))"
)


def coordinates(*hundredths: int) -> str:
    """Spell coordinates as the ids of game files do: -185, that is `|-01.85`, becomes `_bar__minus_01_dot_85`."""
    return "".join(map(_coordinate, hundredths))


@cache
def _coordinate(hundredths: int) -> str:
    sign = "minus" if hundredths < 0 else "plus"
    whole, rest = divmod(abs(hundredths), 100)
    return f"_bar__{sign}_{whole:02}_dot_{rest:02}"


def standing_point(x: int, z: int, turn: int, tilt: int) -> str:
    """Spell a standing point: grid cell, quarter turns, camera tilt in degrees."""
    return "loc" + "".join(
        f"_bar_{'_minus_' if number < 0 else ''}{abs(number)}" for number in (x, z, turn, tilt)
    )


@cache
def _declarations() -> str:
    objects = {name for room in ROOMS.values() for name in (*room.objects, *room.fixtures)}
    objects |= set(PLACES) | set(_NAMED_IN_RULES)
    receptacles = {name for room in ROOMS.values() for name in room.receptacles}
    lines = [f"        {name} - object" for name in sorted(objects)]
    lines += [f"        {name}Type - otype" for name in sorted(objects)]
    lines += [f"        {name}Type - rtype" for name in sorted(receptacles)]
    return "\n".join(lines)


def goal_formula(task_type: str, obj: str, parent: str) -> str:
    """Return the goal section of a task, in the official wording.

    Args:
        task_type: one of `chores.TASKS`.
        obj: object type asked for, e.g. `Apple`.
        parent: destination receptacle type, or the lamp type of a lamp task.
    Returns: `(:goal ...)`.
    """
    task = TASKS[task_type]
    if task_type == LAMP_TASK:
        body = _LIT.format(obj=obj, parent=parent)
    elif task.count == 2:
        body = _TWO.format(obj=obj, parent=parent)
    else:
        extra = f"({task.needs} ?o) " if task.needs else ""
        flag = f"({task.flag} ?o) " if task.flag else ""
        body = _PLACED.format(obj=obj, parent=parent, extra=extra, flag=flag)
    return f"(:goal (and {body}))"


def problem_text(name: str, household: Household, goal: str) -> str:
    """Write a household and its goal as the `pddl_problem` of a game file."""
    furniture, things = household.furniture, household.things
    points = dict.fromkeys(
        [*(item.point for item in furniture), *(thing.point for thing in things), household.start]
    )
    declared = [f"{thing.id} - object" for thing in things]
    declared += [f"{item.id} - receptacle" for item in furniture]
    declared += [f"{point} - location" for point in points]
    facts = [fact for group in _facts(household) for fact in group]
    return (
        f"\n(define (problem {name})\n(:domain alfred)\n(:objects\nagent1 - agent\n{_declarations()}\n\n        "
        + "\n        ".join(declared)
        + "\n        )\n\n(:init\n        "
        + "\n        ".join(facts)
        + f"\n        )\n\n{goal}\n)\n"
    )


def _facts(household: Household) -> list[list[str]]:
    furniture, things = household.furniture, household.things
    present = sorted({thing.type for thing in things})
    groups = [
        [f"(receptacleType {item.id} {item.type}Type)" for item in furniture],
        [f"(objectType {thing.id} {thing.type}Type)" for thing in things],
        [
            f"(canContain {holder}Type {name}Type)"
            for holder in sorted({item.type for item in furniture})
            for name in present
            if name in HOLDS[holder]
        ],
        [f"(pickupable {thing.id})" for thing in things if thing.movable],
        [f"(openable {item.id})" for item in furniture if item.openable],
        [f"(atLocation agent1 {household.start})"],
    ]
    groups += [[f"({flag} {thing.id})" for thing in things if thing.type in FLAGS[flag]] for flag in FLAGS]
    groups += [
        [f"(isCool {thing.id})" for thing in things if thing.cold],
        [f"(inReceptacle {thing.id} {thing.inside.id})" for thing in things if thing.inside],
        [f"(receptacleAtLocation {item.id} {item.point})" for item in furniture],
        [f"(objectAtLocation {thing.id} {thing.point})" for thing in things],
    ]
    return groups
