"""Seeded household games in the official file format, for all six task types.

Owns the drawing: which room, furniture and objects, where things lie, what is asked for, how hard it is;
and the ids `<preset>/<task type>/<seed>` from which a game is rebuilt at any time. A game depends on
(task type, seed, difficulty) alone. Each game is played to its end by the expert before it is handed out, so
`walkthrough` is a shortest solution. Leaves out the tables (`household`), the file text (`problem`) and the
rules (`engine`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from agentbench.errors import ContractError, UsageError, unknown_name

from .engine import Game, Session
from .expert import Expert
from .household import HOLDS, LOOKALIKES, OPENABLE, PLACES, ROOMS, TASKS, Room
from .problem import Furniture, Household, Thing, coordinates, goal_formula, problem_text, standing_point

TASK_TYPES: Final = tuple(TASKS)
SPLITS: Final = {"train": 0, "valid": 10_000_000, "test": 20_000_000}  # first seed of each split
_SPLIT_SIZE: Final = 10_000_000
_LAMP_TASK: Final = "look_at_obj_in_light"
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


PRESETS: Final[dict[str, Difficulty]] = {
    "mini": Difficulty(),
    "small": Difficulty(
        receptacles=(10, 14),
        objects=(12, 18),
        lookalikes=(0, 2),
        shared_points=0.05,
        fixtures=(2, 4),
    ),
    "real": Difficulty(
        receptacles=(12, 36),
        objects=(24, 42),
        spares=(0, 2),
        lookalikes=(1, 3),
        shared_points=0.12,
        fixtures=(6, 12),
        quirks=0.03,
    ),
}


def generate_game(task_type: str, seed: int, difficulty: Difficulty) -> dict[str, Any]:
    """Draw one game.

    Args:
        task_type: one of `TASK_TYPES`.
        seed: any integer; the same arguments give the same game in any process.
        difficulty: a preset or your own.
    Returns: the content of a `game.tw-pddl` file (`pddl_domain`, `grammar`, `pddl_problem`, `solvable`,
        `walkthrough`) and, under `traj_data`, of the `traj_data.json` beside it.
    Raises: UnknownName: no such task type. UsageError: the difficulty's rooms cannot host the task.
    """
    if task_type not in TASKS:
        raise unknown_name("ALFWorld task type", task_type, TASKS)
    rng = random.Random(f"alfworld/{task_type}/{seed}/{astuple(difficulty)}")
    draw = _Draw(rng, task_type, difficulty)
    household = draw.household()
    sentence = rng.choice(TASKS[task_type].sentences).format(obj=draw.obj.lower(), parent=draw.parent.lower())
    domain, grammar = _rules()
    game: dict[str, Any] = {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL.", sentence),
        "pddl_problem": problem_text(
            f"plan_synthetic_{seed}", household, goal_formula(task_type, draw.obj, draw.parent)
        ),
        "solvable": True,
        "walkthrough": [],
    }
    game["walkthrough"] = _played(game)
    low, high = ROOMS[draw.room].scenes
    scene = rng.randint(low, high)
    lamp = task_type == _LAMP_TASK
    game["traj_data"] = {
        "task_id": f"synthetic_{task_type}_{seed}",
        "task_type": task_type,
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": draw.obj,
            "parent_target": "" if lamp else draw.parent,
            "toggle_target": draw.parent if lamp else "",
        },
        "scene": {"floor_plan": f"FloorPlan{scene}", "scene_num": scene},
        "plan": {"high_pddl": []},
        "turk_annotations": {"anns": []},
    }
    return game


def task_ids(preset: str, split: str, n: int) -> list[str]:
    """Return the first `n` task ids of a split; task types take turns, splits share no seed.

    Raises: UnknownName: no such preset or split. UsageError: more ids than a split has.
    """
    _difficulty(preset)
    if split not in SPLITS:
        raise unknown_name("split of generated ALFWorld games", split, SPLITS)
    if not 0 <= n <= _SPLIT_SIZE:
        raise UsageError(f"cannot list {n} generated games; a split has 0 to {_SPLIT_SIZE}")
    return [f"{preset}/{TASK_TYPES[i % len(TASK_TYPES)]}/{SPLITS[split] + i}" for i in range(n)]


def game_for(task_id: str) -> dict[str, Any]:
    """Rebuild a game from its id, `<preset>/<task type>/<seed>`.

    Raises: UsageError: the id is not of that form. UnknownName: no such preset or task type.
    """
    parts = task_id.split("/")
    if len(parts) != 3 or not parts[2].isdecimal():
        raise UsageError(
            f"{task_id!r} is no id of a generated game; expected <preset>/<task type>/<seed>,"
            " such as mini/pick_and_place_simple/7"
        )
    return generate_game(parts[1], int(parts[2]), _difficulty(parts[0]))


def write_game(game: dict[str, Any], folder: Path) -> Path:
    """Write a generated game as the official releases are laid out and return the game file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in game.items() if key != "traj_data"}
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "traj_data.json").write_text(json.dumps(game["traj_data"]), encoding="utf-8")
    return path


def _difficulty(preset: str) -> Difficulty:
    if preset not in PRESETS:
        raise unknown_name("ALFWorld difficulty preset", preset, PRESETS)
    return PRESETS[preset]


@cache
def _rules() -> tuple[str, str]:
    logic = files(__package__) / "logic"
    return (
        (logic / "domain.pddl").read_text(encoding="utf-8"),
        (logic / "grammar.twl2").read_text(encoding="utf-8"),
    )


def _played(content: dict[str, Any]) -> list[str]:
    """Play the expert to the end of a new game; return its commands."""
    game = Game.from_json(content)
    expert, session = Expert(game), Session(game)
    session.reset()
    commands: list[str] = []
    while (command := expert.act(session.state)) is not None:
        commands.append(command)
        result = session.step(command)
        if result.won:
            return commands
        if len(commands) > 30:
            break
    raise ContractError(f"generated a game that its expert does not win: {commands}, goal {content['grammar']!r}")


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
        if task_type == _LAMP_TASK:
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


class _Draw:
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
        lamp_on = self._weighted(self._places_of(self.parent)) if self.task_type == _LAMP_TASK else None
        self._furnish([name for name in (lamp_on or self.parent, self.task.appliance, *sources) if name], sources)
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

    def _put(self, kind: str, receptacle_type: str | None, *, movable: bool = True, closed: bool = False) -> None:
        """Add an object in some receptacle of a type, or on the floor (None)."""
        inside = None
        if receptacle_type is not None:
            choices = [item for item in self.furniture if item.type == receptacle_type]
            inside = self.rng.choice([item for item in choices if item.openable] or choices if closed else choices)
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
        places = {name: share for name, share in PLACES.get(kind, {}).items() if name in present and name != avoid}
        if places:
            self._put(kind, self._weighted(places), movable=movable)
        elif not movable:
            self._put(kind, None, movable=False)
        return bool(places) or not movable

    def _distract(self) -> None:
        # A placed spare would meet the goal of a plain errand at once, and half of a double one.
        avoid = "" if self.task.flag or self.task_type == _LAMP_TASK else self.parent
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
