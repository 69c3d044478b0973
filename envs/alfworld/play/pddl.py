"""Reads a `game.tw-pddl` file: whether its rules are the known ones, its facts, its goal, its display names.

Leaves out: what the facts mean in play (see `engine`) and the compiled goal (see `goal`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from agentbench.errors import CorruptData, MissingData, UsageError

DOMAIN_SHA256 = "0af55e7f92d12b09d28515aa730e4d03fddd17228ef1fd7b18a3ee8ba49b27b9"
GRAMMAR_SHA256 = "cce0702cd250cc6af6c3ea047a21f6c4c1c8d29a1739efefb5221ef4c3dcac57"
"""Rules of all 2.1.x games written for alfworld 0.4 (`logic/`); the goal sentence is cut out before hashing."""

PLACEHOLDER = "UNKNOWN GOAL"

SIGNATURES: dict[str, tuple[str, ...]] = {
    "atlocation": ("agent", "location"),
    "cancontain": ("rtype", "otype"),
    "cleanable": ("object",),
    "coolable": ("object",),
    "heatable": ("object",),
    "inreceptacle": ("object", "receptacle"),
    "inreceptacleobject": ("object", "object"),
    "iscool": ("object",),
    "isreceptacleobject": ("object",),
    "objectatlocation": ("object", "location"),
    "objecttype": ("object", "otype"),
    "openable": ("receptacle",),
    "pickupable": ("object",),
    "receptacleatlocation": ("receptacle", "location"),
    "receptacletype": ("receptacle", "rtype"),
    "sliceable": ("object",),
    "toggleable": ("object",),
}
"""Predicates that may hold at the start of a game, with the types of their arguments (all real games' facts)."""

_TASK = re.compile(r'("task": \[\s*\{\s*"rhs": "Your task is to: )([^"]*)(\.")')
_PLAIN_SENTENCE = re.compile(r"[A-Za-z0-9 ,.'!?&()-]*")
_HEAD = re.compile(
    r"\s*\(\s*define\s*\(\s*problem\s+[^\s()]+\s*\)\s*\(\s*:domain\s+alfred\s*\)\s*"
    r"\(\s*:objects([^()]*)\)\s*\(\s*:init\b"
)
_TOKEN = re.compile(r"[()]|[^\s()]+")
_SPELLED = (("_bar_", "|"), ("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ","))

Expression = str | list["Expression"]
"""A parsed PDDL term: a word, or a list of terms."""


class UnsupportedGame(UsageError):
    """A sound game whose rules the native engine does not know; the reference engine plays it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name}: {reason}; the native engine cannot play it exactly. "
            f'Use engine="textworld" (pip install "agentbench-opd[alfworld]").'
        )


class CorruptGame(CorruptData):
    """A game file that cannot be read."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"corrupt game file {name}: {reason}. Fetch or import the data again.")


@dataclass(frozen=True, slots=True)
class Problem:
    """The facts and the goal of one game, all words in lower case as the original translator makes them.

    Attributes:
        facts: predicate -> argument tuples, without repeats, in file order.
        entities: type -> ids that some fact speaks of, sorted.
        names: id -> display name, for every id in `entities`.
        goal: the condition under `:goal`.
    """

    facts: dict[str, list[tuple[str, ...]]]
    entities: dict[str, list[str]]
    names: dict[str, str]
    goal: Expression


def read_game(path: str | Path) -> dict[str, Any]:
    """Load the JSON of a game file.

    Raises:
        MissingData: there is no such file.
        CorruptGame: it is not a JSON object.
    """
    try:
        data = orjson.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise MissingData(f"no game file {path}; run: agentbench data fetch alfworld") from error
    except (OSError, ValueError) as error:
        raise CorruptGame(str(path), str(error)) from error
    if not isinstance(data, dict):
        raise CorruptGame(str(path), f"a JSON object is expected, found {type(data).__name__}")
    return data


def text_field(data: Mapping[str, Any], key: str, name: str) -> str:
    """Return the string under `key`. Raises CorruptGame: it is absent or no string."""
    value = data.get(key)
    if not isinstance(value, str):
        found = "nothing" if value is None else type(value).__name__
        raise CorruptGame(name, f"{key!r} must be a string, found {found}")
    return value


def rules_hashes(domain: str, grammar: str) -> tuple[str, str, str]:
    """Return (hash of the domain, hash of the grammar without its goal sentence, goal sentence)."""
    task = _TASK.search(grammar)
    if task is not None:
        grammar = grammar[: task.start(2)] + PLACEHOLDER + grammar[task.end(2) :]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (domain, grammar)]
    return digests[0], digests[1], task[2] + "." if task is not None else ""


def check_rules(data: Mapping[str, Any], name: str) -> str:
    """Return the goal sentence ("put a clean apple in fridge.") of a game with the known rules.

    Raises:
        UnsupportedGame: other rules, or a sentence that the original text grammar might rewrite.
        CorruptGame: domain or grammar is missing.
    """
    domain, grammar, task = rules_hashes(
        text_field(data, "pddl_domain", name), text_field(data, "grammar", name)
    )
    for what, seen, known in (("domain", domain, DOMAIN_SHA256), ("grammar", grammar, GRAMMAR_SHA256)):
        if seen != known:
            raise UnsupportedGame(name, f"unknown {what} (sha256 {seen[:12]}…, known: {known[:12]}…)")
    if not _PLAIN_SENTENCE.fullmatch(task):
        raise UnsupportedGame(
            name, f"the goal sentence {task!r} has characters outside {_PLAIN_SENTENCE.pattern}"
        )
    return task


def parse_problem(text: str, name: str) -> Problem:
    """Parse the PDDL problem of a game.

    Raises:
        CorruptGame: the text is cut off, or speaks of something undeclared or of the wrong type.
        UnsupportedGame: a start fact that no official game has.
    """
    if not text.isascii():
        raise UnsupportedGame(name, "its PDDL problem has characters outside ASCII")
    text = re.sub(r";[^\n]*", "", text.lower()) if ";" in text else text.lower()
    head = _HEAD.match(text)
    goal_at = text.rfind("(:goal")
    if head is None or goal_at < 0:
        raise CorruptGame(
            name, "pddl_problem must hold (:domain alfred), :objects, :init and :goal, in this order"
        )
    types = _declarations(head[1], name)
    init = text[head.end() : goal_at]
    facts = _facts(init, name)
    ids = _check_arguments(facts, types, name)
    entities: dict[str, list[str]] = {kind: [] for kind in ("agent", "location", "object", "receptacle")}
    for entity in sorted(ids):
        entities.setdefault(types[entity], []).append(entity)
    tokens = iter(_TOKEN.findall(text, goal_at))
    next(tokens)
    goal = _nested(tokens, name)
    if len(goal) != 2 or list(tokens) != [")"]:
        raise CorruptGame(name, "the parentheses after :goal do not match")
    return Problem(facts, entities, numbered_names(ids), goal[1])


def numbered_names(ids: Iterable[str]) -> dict[str, str]:
    """Give every id its display name: the sorted ids of a kind are numbered from the highest down."""
    kinds = {entity: _kind(entity) for entity in sorted(ids)}
    left = Counter(kind for entity, kind in kinds.items() if "_bar_" in entity)
    names = {}
    for entity, kind in kinds.items():
        if "_bar_" in entity:
            names[entity] = f"{kind} {left[kind]}"
            left[kind] -= 1
        else:
            names[entity] = f"{kind} "  # the original prints an empty number, blank included
    return names


def _kind(entity: str) -> str:
    kind, bar, _ = entity.partition("_bar_")
    if "_" in kind:
        for spelled, character in _SPELLED:
            kind = kind.replace(spelled, character)
    return kind + "basin" if bar and "basin" in entity else kind


def _declarations(text: str, name: str) -> dict[str, str]:
    """Read `a b - kind c - kind` into id -> kind."""
    types: dict[str, str] = {}
    pending: list[str] = []
    words = iter(text.split())
    for word in words:
        if word == "-":
            types.update(dict.fromkeys(pending, next(words, "")))
            pending = []
        else:
            pending.append(word)
    if pending:
        raise CorruptGame(name, f"object {pending[0]!r} is declared without a type")
    return types


def _facts(init: str, name: str) -> dict[str, list[tuple[str, ...]]]:
    """Read `(predicate argument …) … )`; the last parenthesis closes `:init`."""
    pieces = init.split(")")
    if len(pieces) < 2 or pieces[-2].strip() or pieces[-1].strip():
        raise CorruptGame(name, "the parentheses of :init do not match at its end")
    facts: dict[str, dict[tuple[str, ...], None]] = {predicate: {} for predicate in SIGNATURES}
    for fact in pieces[:-2]:
        before, _, inside = fact.partition("(")
        words = inside.split()
        if before.strip() or not words or "(" in inside:
            raise CorruptGame(name, f"the parentheses of :init do not match at {fact.strip()!r}")
        if words[0] not in facts:
            raise UnsupportedGame(name, f"unknown start fact ({' '.join(words)})")
        facts[words[0]][tuple(words[1:])] = None
    return {predicate: list(arguments) for predicate, arguments in facts.items()}


def _check_arguments(
    facts: Mapping[str, list[tuple[str, ...]]], types: Mapping[str, str], name: str
) -> set[str]:
    """Return all ids in the facts, each declared with the type that its predicate asks for."""
    ids: set[str] = set()
    for predicate, signature in SIGNATURES.items():
        for arguments in facts[predicate]:
            if tuple(map(types.get, arguments)) != signature:
                raise CorruptGame(
                    name,
                    f"({predicate} {' '.join(arguments)}): declared arguments of types {signature} expected",
                )
            ids.update(arguments)
    return ids


def _nested(tokens: Iterator[str], name: str) -> list[Expression]:
    """Read up to the parenthesis that closes an already opened list."""
    result: list[Expression] = []
    for token in tokens:
        if token == ")":
            return result
        result.append(_nested(tokens, name) if token == "(" else token)
    raise CorruptGame(name, "the text ends inside a parenthesis")
