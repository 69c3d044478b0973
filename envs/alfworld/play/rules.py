"""The rules of the household: what never changes in a game, what can be done in a state, and what that changes.

Everything here is pure, so planners can use `Game.actions` and `Game.apply` without making any text. Leaves out:
reading the file (see `pddl`), the goal (see `goal`), episodes (see `engine`) and sentences (see `text`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .goal import Goal, compile_goal
from .pddl import CorruptGame, Problem, UnsupportedGame, check_rules, parse_problem, read_game, text_field
from .state import Action, State, bits, mask_of, with_bit, without_bit

_SHARP = ("knifetype", "butterknifetype")
_CLEANERS = ("sinktype", "sinkbasintype")
_HEATERS = ("microwavetype",)
_COOLERS = ("fridgetype",)


@dataclass(frozen=True, slots=True)
class Game:
    """The unchanging part of a game; safe to share between sessions, threads and processes.

    Objects, receptacles and locations are integers (positions in the tuples below). Every attribute annotated
    `int` is a set of them as a bit mask, see `state.bits`.

    Attributes:
        name: file the game came from, for messages.
        task: the goal sentence, "put a clean apple in fridge."
        walkthrough: the commands stored in the file; they win.
        objects: display names, "apple 1".
        object_types: PDDL types in lower case, "appletype"; "" where the file gives none.
        receptacles: display names, "cabinet 3".
        receptacle_types: likewise, "cabinettype".
        location_of: per receptacle its location; -1 when it has none and cannot be reached.
        receptacles_at: per location the receptacles there.
        openable: receptacles that open and close; they start closed.
        accepts: per receptacle the objects that may be put there.
        cleans, heats, cools: per receptacle the objects it can treat.
        pickupable, toggleable, sliceable, knives: objects.
        vessels: objects that are described by what is in them.
        inside_vessel: vessel -> objects in it; only shown, never changed.
        travel: per location the commands that do not depend on what is there.
        start: the state at the beginning.
        goal: what must hold to win.
    """

    name: str
    task: str
    walkthrough: tuple[str, ...]
    objects: tuple[str, ...]
    object_types: tuple[str, ...]
    receptacles: tuple[str, ...]
    receptacle_types: tuple[str, ...]
    location_of: tuple[int, ...]
    receptacles_at: tuple[tuple[int, ...], ...]
    openable: int
    accepts: tuple[int, ...]
    cleans: tuple[int, ...]
    heats: tuple[int, ...]
    cools: tuple[int, ...]
    pickupable: int
    toggleable: int
    sliceable: int
    knives: int
    vessels: int
    inside_vessel: Mapping[int, int]
    travel: tuple[Mapping[str, Action], ...]
    start: State
    goal: Goal

    @classmethod
    def load(cls, path: str | Path) -> Game:
        """Read and compile a `game.tw-pddl`.

        Raises:
            MissingData: there is no such file.
            CorruptGame: it cannot be read.
            UnsupportedGame: its rules are not the known ones.
        """
        return cls.from_json(read_game(path), str(path))

    @classmethod
    def from_json(cls, data: Mapping[str, Any], name: str = "<memory>") -> Game:
        """Compile the parsed JSON of a game file. Raises as `load` does."""
        task = check_rules(data, name)
        walkthrough = data.get("walkthrough") or ()
        if not isinstance(walkthrough, list | tuple) or not all(
            isinstance(step, str) for step in walkthrough
        ):
            raise CorruptGame(name, "'walkthrough' must be a list of commands")
        problem = parse_problem(text_field(data, "pddl_problem", name), name)
        return _compile(problem, name=name, task=task, walkthrough=tuple(walkthrough))

    def reachable(self, state: State, receptacle: int) -> bool:
        """Tell whether things can be taken from and put into a receptacle: it is open, or cannot be closed."""
        return bool((state.opened | ~self.openable) >> receptacle & 1)

    def actions(self, state: State) -> dict[str, Action]:
        """Return every command that does something in `state`, unsorted."""
        found = dict(self.travel[state.location])
        held = state.holding
        for place in self.receptacles_at[state.location]:
            self._add_local(found, state, place)
        if held >= 0:
            carried = self.objects[held]
            found[f"examine {carried}"] = Action("examine_object", held)
            if self.knives >> held & 1:
                for thing in bits(state.lying[state.location] & self.sliceable):
                    found[f"slice {self.objects[thing]} with {carried}"] = Action("slice", thing)
        return found

    def _add_local(self, found: dict[str, Action], state: State, place: int) -> None:
        """Add what can be done with one receptacle here."""
        name, held, contents = self.receptacles[place], state.holding, state.contents[place]
        found[f"examine {name}"] = Action("examine_receptacle", -1, place)
        if self.openable >> place & 1:
            verb: Any = "close" if state.opened >> place & 1 else "open"
            found[f"{verb} {name}"] = Action(verb, -1, place)
        if held < 0:
            if self.reachable(state, place):
                for thing in bits(contents & self.pickupable):
                    found[f"take {self.objects[thing]} from {name}"] = Action("take", thing, place)
        else:
            carried = self.objects[held]
            if self.accepts[place] >> held & 1 and self.reachable(state, place):
                found[f"move {carried} to {name}"] = Action("move", held, place)
            # a microwave, fridge or sink works whether it is open or not
            if self.cleans[place] >> held & 1:
                found[f"clean {carried} with {name}"] = Action("clean", held, place)
            if self.heats[place] >> held & 1:
                found[f"heat {carried} with {name}"] = Action("heat", held, place)
            if self.cools[place] >> held & 1:
                found[f"cool {carried} with {name}"] = Action("cool", held, place)
        for thing in bits(contents & self.toggleable):
            found[f"use {self.objects[thing]}"] = Action("use", thing, place)

    def apply(self, state: State, action: Action) -> State:
        """Return the state after `action`, which must be one of `actions(state)`; this is not checked.

        Returns `state` itself when the action only reads.
        """
        verb, thing, place = action
        match verb:
            case "go":
                return state._replace(location=self.location_of[place])
            case "open":
                return state._replace(opened=state.opened | 1 << place)
            case "close":
                return state._replace(opened=state.opened & ~(1 << place))
            case "take":
                return state._replace(
                    holding=thing,
                    contents=without_bit(state.contents, place, thing),
                    left=with_bit(state.left, place, thing),
                    lying=without_bit(state.lying, state.location, thing),
                )
            case "move":
                return state._replace(
                    holding=-1,
                    contents=with_bit(state.contents, place, thing),
                    left=without_bit(state.left, place, thing),
                    lying=with_bit(state.lying, state.location, thing),
                )
            case "use":
                return state._replace(toggled=state.toggled | 1 << thing)
            case "clean":
                return state._replace(clean=state.clean | 1 << thing)
            case "heat":
                return state._replace(hot=state.hot | 1 << thing, cool=state.cool & ~(1 << thing))
            case "cool":
                return state._replace(cool=state.cool | 1 << thing, hot=state.hot & ~(1 << thing))
            case "slice":
                return state._replace(sliced=state.sliced | 1 << thing)
        return state


def _compile(problem: Problem, *, name: str, task: str, walkthrough: tuple[str, ...]) -> Game:
    table = _Table(problem, name)
    receptacle_types = table.types("receptacletype", "receptacle")
    object_types = table.types("objecttype", "object")
    of_type = {
        kind: mask_of(i for i, seen in enumerate(object_types) if seen == kind) for kind in {*object_types}
    }
    fits: dict[str, int] = {}
    for outer, inner in problem.facts["cancontain"]:
        fits[outer] = fits.get(outer, 0) | of_type.get(inner, 0)

    def treated(predicate: str, treaters: tuple[str, ...]) -> tuple[int, ...]:
        things = table.having(predicate)
        return tuple(things if kind in treaters else 0 for kind in receptacle_types)

    accepts = tuple(fits.get(kind, 0) for kind in receptacle_types)
    contents = table.grouped("inreceptacle", "receptacle")
    pickupable = table.having("pickupable")
    location_of = table.locations()
    receptacles = tuple(problem.names[r] for r in problem.entities["receptacle"])
    places = range(len(problem.entities["location"]))

    def may_hold(thing: str, receptacle: str) -> bool:
        place = table.index[receptacle]
        return bool((contents[place] | accepts[place] & pickupable) >> table.index[thing] & 1)

    return Game(
        name=name,
        task=task,
        walkthrough=walkthrough,
        objects=tuple(problem.names[o] for o in problem.entities["object"]),
        object_types=object_types,
        receptacles=receptacles,
        receptacle_types=receptacle_types,
        location_of=location_of,
        receptacles_at=tuple(tuple(r for r, at in enumerate(location_of) if at == place) for place in places),
        openable=table.having("openable"),
        accepts=accepts,
        cleans=treated("cleanable", _CLEANERS),
        heats=treated("heatable", _HEATERS),
        cools=treated("coolable", _COOLERS),
        pickupable=pickupable,
        toggleable=table.having("toggleable"),
        sliceable=table.having("sliceable"),
        knives=of_type.get(_SHARP[0], 0) | of_type.get(_SHARP[1], 0),
        vessels=table.having("isreceptacleobject"),
        inside_vessel={
            i: mask for i, mask in enumerate(table.grouped("inreceptacleobject", "object")) if mask
        },
        travel=_travel(receptacles, location_of, places),
        start=State(
            location=table.start(),
            holding=-1,
            contents=contents,
            left=(0,) * len(receptacles),
            lying=table.grouped("objectatlocation", "location"),
            cool=table.having("iscool"),
        ),
        goal=compile_goal(problem, name, table.index, may_hold),
    )


def _travel(
    receptacles: tuple[str, ...], location_of: tuple[int, ...], places: Iterable[int]
) -> tuple[dict[str, Action], ...]:
    """List, per location, going elsewhere and the three commands that always do something."""
    always = {"help": Action("help"), "inventory": Action("inventory"), "look": Action("look")}
    trips = [
        (at, f"go to {name}", Action("go", -1, r))
        for r, (name, at) in enumerate(zip(receptacles, location_of, strict=True))
        if at >= 0
    ]
    return tuple(always | {command: trip for at, command, trip in trips if at != here} for here in places)


class _Table:
    """The facts of a problem with integers for ids."""

    def __init__(self, problem: Problem, name: str) -> None:
        self.facts, self.entities, self.name = problem.facts, problem.entities, name
        self.index = {
            entity: i
            for kind in ("object", "receptacle", "location")
            for i, entity in enumerate(problem.entities[kind])
        }

    def having(self, predicate: str) -> int:
        """Return the set of things that a one-place predicate holds of."""
        return mask_of(self.index[thing] for (thing,) in self.facts[predicate])

    def grouped(self, predicate: str, kind: str) -> tuple[int, ...]:
        """Return, per entity of `kind`, the set of things that (predicate thing entity) holds of."""
        masks = [0] * len(self.entities[kind])
        for thing, group in self.facts[predicate]:
            masks[self.index[group]] |= 1 << self.index[thing]
        return tuple(masks)

    def types(self, predicate: str, kind: str) -> tuple[str, ...]:
        """Return, per entity of `kind`, its type, or "" where no fact gives one."""
        single = self._single(predicate)
        return tuple(single.get(entity, "") for entity in self.entities[kind])

    def locations(self) -> tuple[int, ...]:
        """Return, per receptacle, where it stands, or -1."""
        single = self._single("receptacleatlocation")
        return tuple(self.index[single[r]] if r in single else -1 for r in self.entities["receptacle"])

    def start(self) -> int:
        """Return where the agent stands."""
        agents = self.facts["atlocation"]
        if len(agents) != 1:
            raise UnsupportedGame(self.name, f"{len(agents)} agents have a place, exactly 1 is known")
        return self.index[agents[0][1]]

    def _single(self, predicate: str) -> dict[str, str]:
        single = {arguments[0]: arguments[1] for arguments in self.facts[predicate]}
        if len(single) != len(self.facts[predicate]):
            raise UnsupportedGame(self.name, f"something has two values of {predicate}")
        return single
