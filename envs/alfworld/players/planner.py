"""Shortest plans with full knowledge of the state.

One fact makes this easy: every place is one command away from every other. A shortest plan is therefore a
short list of stops (take this there, heat it there, put it there, ...), each of which costs at most "go", "open" and
the deed itself. For each way to meet the goal all useful lists are priced and the cheapest is kept. That
the lists left out are never cheaper is argued at each function and checked against breadth-first search in the
tests. Leaves out: what the agent has seen so far (the expert knows everything) and command texts (`expert`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, permutations, product
from typing import Final, NamedTuple

from agentbench.errors import UsageError

from ..play.goal import Goal, Need
from ..play.rules import Game
from ..play.state import Action, State, Verb

IN_HAND: Final = -1
_TREATMENTS: Final[dict[str, Verb]] = {"clean": "clean", "hot": "heat", "cool": "cool"}
_NEEDS_OPEN: Final = ("take", "move")


class Target(NamedTuple):
    """An object that must end in a receptacle (or `IN_HAND`), and be clean, hot or cool ("": as it is)."""

    thing: int
    receptacle: int
    quality: str


class Wish(NamedTuple):
    """One way to meet the goal.

    Attributes:
        targets: objects to bring somewhere; all that have a destination share it.
        fixed: (object, receptacle) that cannot be changed and must hold already.
        lamp: (lamp, receptacle it stands on) to switch on, or ().
        at: location to end at, or -1; always that of a receptacle.
    """

    targets: tuple[Target, ...]
    fixed: tuple[tuple[int, int], ...]
    lamp: tuple[int, ...]
    at: int


class Planner:
    """Finds shortest plans for one game and goal.

    Raises: UsageError: the goal asks for something that no official task does, such as a sliced object.
    """

    def __init__(self, game: Game, goal: Goal | None = None) -> None:
        self.game = game
        self.goal = game.goal if goal is None else goal
        combined = product(*(part.alternatives for part in self.goal.parts))
        wishes = (_wish(game, list(dict.fromkeys(chain(*needs)))) for needs in combined)
        found = [wish for wish in wishes if wish is not None]
        # the highest index has the lowest number on display: among equals, "cabinet 1" is chosen
        self.wishes = sorted(found, key=lambda wish: [(-t.receptacle, -t.thing) for t in wish.targets])
        self.treaters = {
            verb: [r for r, things in enumerate(table) if things and game.location_of[r] >= 0]
            for verb, table in (("clean", game.cleans), ("heat", game.heats), ("cool", game.cools))
        }
        self.kinds = [(kind, game.openable >> r & 1) for r, kind in enumerate(game.receptacle_types)]

    def plan(self, state: State) -> list[Action] | None:
        """Return a shortest list of actions that meets the goal; None when nothing does any more."""
        if self.goal.met(state):
            return []
        search = _Search(self, state)
        for wish in self._distinct(state, search):
            for stops in search.routes(wish):
                search.offer(stops)
        return None if search.best is None else search.actions(search.best)

    def _distinct(self, state: State, search: _Search) -> Iterator[Wish]:
        """Skip destinations that are like one already tried: same type and door, nothing of use at their place."""
        game = self.game
        busy = {game.location_of[r] for rs in self.treaters.values() for r in rs} | {state.location}
        seen: set[object] = set()
        for wish in self.wishes:
            destination = wish.targets[0].receptacle if wish.targets else IN_HAND
            if destination >= 0:
                place = game.location_of[destination]
                sources = {game.location_of[r] for t in wish.targets for r in search.where(t.thing)}
                if place not in busy and place not in sources:
                    door = self.kinds[destination], state.opened >> destination & 1
                    key = door, tuple((t.thing, t.quality) for t in wish.targets)
                    if key in seen:
                        continue
                    seen.add(key)
            yield wish


class _Stop(NamedTuple):
    """One deed at one receptacle; "go" means only to be there."""

    verb: Verb
    thing: int
    receptacle: int


class _Search:
    """The cheapest list of stops from one state."""

    def __init__(self, planner: Planner, state: State) -> None:
        self.game = planner.game
        self.treaters = planner.treaters
        self.state = state
        self.best: Sequence[_Stop] | None = None
        self.least = 1 << 30
        self._where: dict[int, list[int]] = {}

    def where(self, thing: int) -> list[int]:
        """List the reachable places of an object; official games hold objects that lie in two receptacles."""
        if thing not in self._where:
            at = self.game.location_of
            self._where[thing] = [
                r for r, things in enumerate(self.state.contents) if things >> thing & 1 and at[r] >= 0
            ]
        return self._where[thing]

    def routes(self, wish: Wish) -> Iterator[list[_Stop]]:
        """List the ways to fulfil a wish as lists of stops."""
        state = self.state
        if not all(state.contents[r] >> thing & 1 for thing, r in wish.fixed):
            return
        pending = [target for target in wish.targets if not self._done(target)]
        ending = self._ending(wish)
        held = state.holding
        carrying = any(target.thing == held for target in pending)
        for order in permutations(pending):
            if carrying and order[0].thing != held:
                continue  # the hand must be free before anything else is taken
            for ways in product(*(self._ways(target) for target in order)):
                stops = [*(stop for way in ways for stop in way), *ending]
                if held < 0 or carrying or not order:
                    yield stops
                else:
                    yield from ([drop, *stops] for drop in self._drops(held, stops))

    def offer(self, stops: Sequence[_Stop]) -> None:
        """Price a list of stops and keep it if it is the cheapest so far."""
        at, openable = self.game.location_of, self.game.openable
        here, opened, price = self.state.location, self.state.opened, 0
        for verb, _, receptacle in stops:
            if at[receptacle] != here:
                here = at[receptacle]
                price += 1
            if verb in _NEEDS_OPEN and (openable & ~opened) >> receptacle & 1:
                opened |= 1 << receptacle
                price += 1
            price += verb != "go"
            if price >= self.least:
                return
        self.best, self.least = stops, price

    def actions(self, stops: Sequence[_Stop]) -> list[Action]:
        """Spell out stops as actions."""
        at, openable = self.game.location_of, self.game.openable
        here, opened = self.state.location, self.state.opened
        actions = []
        for verb, thing, receptacle in stops:
            if at[receptacle] != here:
                here = at[receptacle]
                actions.append(Action("go", -1, receptacle))
            if verb in _NEEDS_OPEN and (openable & ~opened) >> receptacle & 1:
                opened |= 1 << receptacle
                actions.append(Action("open", -1, receptacle))
            if verb != "go":
                actions.append(Action(verb, thing, receptacle))
        return actions

    def _done(self, target: Target) -> bool:
        if target.receptacle == IN_HAND:
            placed = self.state.holding == target.thing
        else:
            placed = bool(self.state.contents[target.receptacle] >> target.thing & 1)
        return placed and self._has_quality(target)

    def _has_quality(self, target: Target) -> bool:
        return not target.quality or bool(getattr(self.state, target.quality) >> target.thing & 1)

    def _ways(self, target: Target) -> Iterator[list[_Stop]]:
        """List the ways to take, treat and put one object; it is carried from taking to putting.

        To set it down in between never helps: nothing else can be done for this goal with the freed hand
        that could not be done before or after, at the same price.
        """
        thing, destination = target.thing, target.receptacle
        if self.state.holding == thing:
            takes: list[list[_Stop]] = [[]]
        elif self.game.pickupable >> thing & 1:
            takes = [[_Stop("take", thing, r)] for r in self.where(thing)]
        else:
            return
        treatments: list[list[_Stop]] = [[]]
        if not self._has_quality(target):
            verb = _TREATMENTS[target.quality]
            table = {"clean": self.game.cleans, "heat": self.game.heats, "cool": self.game.cools}[verb]
            treatments = [[_Stop(verb, thing, r)] for r in self.treaters[verb] if table[r] >> thing & 1]
        for take in takes:
            rest = {r for r in self.where(thing) if not take or r != take[0].receptacle}
            put: list[_Stop] = []
            if destination != IN_HAND and destination not in rest:
                if not self.game.accepts[destination] >> thing & 1 or self.game.location_of[destination] < 0:
                    continue
                put = [_Stop("move", thing, destination)]
            for treatment in treatments:
                yield [*take, *treatment, *put]

    def _ending(self, wish: Wish) -> list[_Stop]:
        """Switch the lamp on and stand there: last, because the plan has to end there anyway."""
        stops = []
        if wish.lamp and not self.state.toggled >> wish.lamp[0] & 1:
            stops.append(_Stop("use", wish.lamp[0], wish.lamp[1]))
        if wish.at >= 0:
            stops.append(_Stop("go", -1, self.game.receptacles_at[wish.at][0]))
        return stops

    def _drops(self, thing: int, stops: Sequence[_Stop]) -> Iterator[_Stop]:
        """List where to get rid of an object that is in the way.

        Only its price counts: here, at the first stop, in a receptacle that has to be opened later anyway, or
        elsewhere; of "elsewhere" one open and one closed place stand for all.
        """
        at = self.game.location_of
        near = {self.state.location, at[stops[0].receptacle]}
        used = {stop.receptacle for stop in stops}
        shut = self.game.openable & ~self.state.opened
        elsewhere: dict[int, int] = {}
        for r in range(len(at)):
            if at[r] >= 0 and self.game.accepts[r] >> thing & 1:
                if at[r] in near or r in used:
                    yield _Stop("move", thing, r)
                else:
                    elsewhere.setdefault(shut >> r & 1, r)
        yield from (_Stop("move", thing, r) for r in elsewhere.values())


def _wish(game: Game, needs: Sequence[Need]) -> Wish | None:
    """Turn facts that must hold together into a wish; None when they never can."""
    ends: dict[int, int] = {}
    qualities: dict[int, str] = {}
    fixed: dict[int, int] = {}
    lamp, at = -1, -1
    for condition, thing, receptacle in needs:
        if condition == "inside" and not game.pickupable >> thing & 1 and thing not in fixed:
            fixed[thing] = receptacle
        elif condition in ("inside", "held") and thing not in ends:
            ends[thing] = receptacle if condition == "inside" else IN_HAND
        elif condition in _TREATMENTS and thing not in qualities:
            qualities[thing] = condition
        elif condition == "toggled" and lamp < 0:
            lamp = thing
        elif condition == "at" and at < 0:
            at = thing
        else:
            raise UsageError(f"{game.name}: the expert cannot plan for {condition!r} among {needs}")
    if len(set(ends.values())) > 1 or (len(ends) > 1 and IN_HAND in ends.values()):
        raise UsageError(
            f"{game.name}: the expert brings objects to one receptacle, the goal names several: {needs}"
        )
    if (lamp >= 0 and lamp not in fixed) or not set(qualities) <= set(ends) | set(fixed):
        raise UsageError(
            f"{game.name}: the expert cannot plan for an object whose place the goal leaves open: {needs}"
        )
    if set(qualities) & set(fixed) or (at >= 0 and not game.receptacles_at[at]):
        return None
    targets = tuple(Target(thing, end, qualities.get(thing, "")) for thing, end in ends.items())
    return Wish(targets, tuple(fixed.items()), (lamp, fixed[lamp]) if lamp >= 0 else (), at)
