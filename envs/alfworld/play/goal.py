"""The goal of a game, compiled once: every way to reach it as a list of facts that may change in play.

Leaves out: planning. A goal says "there is an object and a receptacle such that …"; what never changes (types,
places of receptacles) is decided here, so that checking a state only reads sets of integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .pddl import SIGNATURES, Expression, Problem, UnsupportedGame
from .state import State

Condition = Literal["inside", "held", "at", "clean", "hot", "cool", "toggled", "sliced", "opened"]


class Need(NamedTuple):
    """One fact that must hold.

    Attributes:
        condition: "inside": object `thing` is in `receptacle`; "held": it is in hand; "at": the agent stands at
            location `thing`; "opened": receptacle `thing` is open; the rest: object `thing` is so.
        thing: an object, or a location for "at", or a receptacle for "opened".
        receptacle: only for "inside", else -1.
    """

    condition: Condition
    thing: int
    receptacle: int = -1

    def met(self, state: State) -> bool:
        """Tell whether the fact holds in `state`."""
        if self.condition == "inside":
            return state.contents[self.receptacle] >> self.thing & 1 == 1
        if self.condition == "held":
            return state.holding == self.thing
        if self.condition == "at":
            return state.location == self.thing
        mask: int = getattr(state, self.condition)
        return mask >> self.thing & 1 == 1


Alternative = tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One conjunct of the goal: it holds when all needs of any alternative do.

    Attributes:
        alternatives: all the ways; none at all when the part cannot be reached.
        watched: (receptacle, objects, alternatives): these ways need one of the objects in the receptacle, so
            a receptacle without any of them is skipped in one test. Receptacle -1: ways without such a need.
    """

    alternatives: tuple[Alternative, ...]
    watched: tuple[tuple[int, int, tuple[Alternative, ...]], ...]

    def met(self, state: State) -> bool:
        """Tell whether the part holds in `state`."""
        for receptacle, objects, alternatives in self.watched:
            if receptacle < 0 or state.contents[receptacle] & objects:
                for needs in alternatives:
                    if all(need.met(state) for need in needs):
                        return True
        return False


@dataclass(frozen=True, slots=True)
class Goal:
    """A conjunction of independent parts; every official game has one or two."""

    parts: tuple[Part, ...]

    def met(self, state: State) -> bool:
        """Tell whether the game is won in `state`."""
        return all(part.met(state) for part in self.parts)


_CONDITIONS: dict[str, Condition] = {
    "inreceptacle": "inside",
    "holds": "held",
    "atlocation": "at",
    "isclean": "clean",
    "ishot": "hot",
    "iscool": "cool",
    "istoggled": "toggled",
    "issliced": "sliced",
    "opened": "opened",
}
_STATIC = (
    "cancontain", "cleanable", "coolable", "heatable", "inreceptacleobject", "isreceptacleobject", "objecttype",
    "openable", "pickupable", "receptacleatlocation", "receptacletype", "sliceable", "toggleable",
)  # fmt: skip

_ARITY = {predicate: len(SIGNATURES[predicate]) for predicate in _STATIC} | {
    predicate: 2 if predicate in ("inreceptacle", "holds", "atlocation") else 1 for predicate in _CONDITIONS
}

Binding = Mapping[str, str]
_Atom = tuple[str, ...]
_Literal = tuple[bool, _Atom]


@dataclass(frozen=True, slots=True)
class _Clause:
    """`exists variables: literals`, flattened."""

    variables: dict[str, str]
    literals: list[_Literal]


def compile_goal(
    problem: Problem, name: str, index: Mapping[str, int], may_hold: Callable[[str, str], bool]
) -> Goal:
    """Turn the goal of `problem` into alternatives over the changing facts.

    Args:
        problem: the parsed game.
        name: the game's name, for errors.
        index: id of an object, receptacle or location -> its integer.
        may_hold: (object id, receptacle id) -> whether the object can ever be in the receptacle.
    Raises:
        UnsupportedGame: the goal is no conjunction of existential conjunctions over known predicates.
    """
    goal = problem.goal
    conjuncts = goal[1:] if isinstance(goal, list) and goal[:1] == ["and"] else [goal]
    parts = []
    for conjunct in conjuncts:
        clause = _Clause({}, [])
        _flatten(conjunct, clause, name)
        rules = _Possible(problem, clause, may_hold)
        bindings = _bindings(clause, problem, rules)
        found = (tuple(sorted(set(_needs(clause, binding, index, name)))) for binding in bindings)
        parts.append(_part(list(dict.fromkeys(found))))
    return Goal(tuple(parts))


def _part(alternatives: Sequence[Alternative]) -> Part:
    groups: dict[int, tuple[int, list[Alternative]]] = {}
    for needs in alternatives:
        first = next((need for need in needs if need.condition == "inside"), Need("held", -1))
        objects, members = groups.get(first.receptacle, (0, []))
        groups[first.receptacle] = (
            objects | (1 << first.thing if first.receptacle >= 0 else 0),
            [*members, needs],
        )
    watched = tuple((receptacle, objects, tuple(ways)) for receptacle, (objects, ways) in groups.items())
    return Part(tuple(alternatives), watched)


def _flatten(term: Expression, clause: _Clause, name: str) -> None:
    """Collect variables and literals of nested `and` and `exists`."""
    match term:
        case ["and", *terms]:
            for inner in terms:
                _flatten(inner, clause, name)
        case ["exists", [*declared], inner]:
            _declare(declared, clause, name)
            _flatten(inner, clause, name)
        case ["not", ["=", str(one), str(other)]]:
            clause.literals.append((False, ("=", one, other)))
        case [str(predicate), *arguments] if len(arguments) == _ARITY.get(predicate, -1):
            clause.literals.append((True, (predicate, *map(str, arguments))))
        case _:
            raise UnsupportedGame(name, f"unknown goal condition {term}")


def _declare(declared: Sequence[Expression], clause: _Clause, name: str) -> None:
    pending: list[str] = []
    words = iter(map(str, declared))
    for word in words:
        if word != "-":
            pending.append(word)
            continue
        kind = next(words, "")
        for variable in pending:
            if variable in clause.variables:
                raise UnsupportedGame(name, f"the goal declares {variable} twice")
            clause.variables[variable] = kind
        pending = []
    if pending:
        raise UnsupportedGame(name, f"the goal declares {pending[0]} without a type")


class _Possible:
    """Tells whether a literal without variables can be true at some time in the game."""

    def __init__(self, problem: Problem, clause: _Clause, may_hold: Callable[[str, str], bool]) -> None:
        used = {atom[0] for _, atom in clause.literals} & set(_STATIC)
        self.static: set[_Atom] = {(key, *arguments) for key in used for arguments in problem.facts[key]}
        self.pickupable = {arguments[0] for arguments in problem.facts["pickupable"]}
        self.may_hold = may_hold

    def __call__(self, literal: _Literal, bound: Binding) -> bool:
        positive, words = literal
        predicate, *entities = [bound.get(word, word) for word in words]
        if predicate == "=":
            return (entities[0] == entities[1]) is positive
        if predicate in _STATIC:
            return (predicate, *entities) in self.static
        if predicate == "inreceptacle":
            return self.may_hold(entities[0], entities[1])
        return predicate != "holds" or entities[1] in self.pickupable


def _bindings(clause: _Clause, problem: Problem, possible: _Possible) -> Iterator[Binding]:
    """Bind the variables in every way that the unchanging facts allow."""
    variables = list(clause.variables)
    # a literal is tested as soon as its last variable is bound; depth 0 holds those without variables
    due: list[list[_Literal]] = [[] for _ in range(len(variables) + 1)]
    alone: dict[str, list[_Literal]] = {variable: [] for variable in variables}
    for literal in clause.literals:
        used = sorted({variables.index(word) for word in literal[1] if word in alone})
        if len(used) == 1:
            alone[variables[used[0]]].append(literal)
        else:
            due[used[-1] + 1 if used else 0].append(literal)
    candidates = [
        [
            e
            for e in problem.entities.get(kind, ())
            if all(possible(literal, {variable: e}) for literal in alone[variable])
        ]
        for variable, kind in clause.variables.items()
    ]

    def extend(depth: int, bound: Binding) -> Iterator[Binding]:
        if not all(possible(literal, bound) for literal in due[depth]):
            return
        if depth == len(variables):
            yield bound
            return
        for entity in candidates[depth]:
            yield from extend(depth + 1, {**bound, variables[depth]: entity})

    return extend(0, {})


def _needs(clause: _Clause, binding: Binding, index: Mapping[str, int], name: str) -> Iterator[Need]:
    for _, (predicate, *words) in clause.literals:
        if predicate not in _CONDITIONS:
            continue
        condition = _CONDITIONS[predicate]
        # holds and atLocation name the agent first, which needs no number
        entities = [binding.get(word, word) for word in (words if condition == "inside" else words[-1:])]
        unknown = [entity for entity in entities if entity not in index]
        if unknown:
            raise UnsupportedGame(name, f"the goal speaks of {unknown[0]!r}, which no start fact does")
        yield Need(condition, *(index[entity] for entity in entities))
