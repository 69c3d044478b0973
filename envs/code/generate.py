"""Small programming tasks out of a seed: a pipeline of steps, told in English, with reference, tests and mutants.

Nothing is copied from any benchmark, and a task's id says all of it: "made/calls/list/blend/keep_even,add-3/sum" keeps
even numbers, adds 3 and returns the sum. Difficulty is the number of steps. Splits are disjoint by steps, whatever the
function is called.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agentbench.errors import UnknownName, unknown_name

from .sandbox.inside import plain
from .tasks import Task, Test

NAMES = (
    "blend",
    "craft",
    "fold",
    "gather",
    "handle",
    "mend",
    "pick",
    "process",
    "shape",
    "solve",
    "trace",
    "weigh",
)
NUMBERS = range(2, 10)
PUBLIC, HIDDEN = 2, 8


@dataclass(frozen=True)
class Step:
    """One step: how it is told, and the expression that carries it out on `x`; `{n}` is its number."""

    told: str
    code: str

    @property
    def numbered(self) -> bool:
        """Whether the step takes a number."""
        return "{n}" in self.code


@dataclass(frozen=True)
class Family:
    """Values of one type: steps that keep the type, and last steps that give the answer."""

    told: str
    steps: dict[str, Step]
    ends: dict[str, Step]
    draw: Callable[[random.Random], Any]
    read: str


def _draw_list(rng: random.Random) -> list[int]:
    return [rng.randint(-20, 20) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8)))]


def _draw_text(rng: random.Random) -> str:
    return "".join(rng.choice("abcdeeiouXYZ  ") for _ in range(rng.randint(1, 12))).strip() or "a"


def _draw_number(rng: random.Random) -> int:
    return rng.randint(-50, 50)


FAMILIES: dict[str, Family] = {
    "list": Family(
        "a list of integers",
        {
            "keep_even": Step("keep the even numbers", "[v for v in x if v % 2 == 0]"),
            "keep_odd": Step("keep the odd numbers", "[v for v in x if v % 2 == 1]"),
            "keep_above": Step("keep the numbers above {n}", "[v for v in x if v > {n}]"),
            "keep_below": Step("keep the numbers below {n}", "[v for v in x if v < {n}]"),
            "add": Step("add {n} to each", "[v + {n} for v in x]"),
            "times": Step("multiply each by {n}", "[v * {n} for v in x]"),
            "minus": Step("subtract {n} from each", "[v - {n} for v in x]"),
            "abs": Step("take the absolute values", "[abs(v) for v in x]"),
            "sort": Step("sort them", "sorted(x)"),
            "reverse": Step("reverse the order", "x[::-1]"),
            "first": Step("take the first {n}", "x[:{n}]"),
            "drop": Step("drop the first {n}", "x[{n}:]"),
        },
        {
            "same": Step("return the list", "x"),
            "sum": Step("return the sum", "sum(x)"),
            "count": Step("return how many there are", "len(x)"),
            "max": Step("return the largest, or 0", "max(x, default=0)"),
            "min": Step("return the smallest, or 0", "min(x, default=0)"),
        },
        _draw_list,
        "[int(v) for v in input().split()]",
    ),
    "text": Family(
        "a string",
        {
            "upper": Step("make it upper case", "x.upper()"),
            "lower": Step("make it lower case", "x.lower()"),
            "reverse": Step("reverse it", "x[::-1]"),
            "first": Step("take the first {n} characters", "x[:{n}]"),
            "drop": Step("drop the first {n} characters", "x[{n}:]"),
            "repeat": Step("repeat it {n} times", "x * {n}"),
            "strip": Step("remove the spaces", 'x.replace(" ", "")'),
            "mark": Step("put {n} at its end", 'x + "{n}"'),
        },
        {
            "same": Step("return the string", "x"),
            "count": Step("return its length", "len(x)"),
            "vowels": Step("return how many of its characters are in aeiou", 'sum(c in "aeiou" for c in x)'),
            "words": Step("return the list of its words", "x.split()"),
        },
        _draw_text,
        "input()",
    ),
    "number": Family(
        "an integer",
        {
            "add": Step("add {n}", "x + {n}"),
            "minus": Step("subtract {n}", "x - {n}"),
            "times": Step("multiply by {n}", "x * {n}"),
            "mod": Step("take the remainder by {n}", "x % {n}"),
            "div": Step("divide by {n}, rounding down", "x // {n}"),
            "abs": Step("take the absolute value", "abs(x)"),
            "square": Step("square it", "x * x"),
            "negate": Step("change its sign", "-x"),
            "atmost": Step("replace it by {n} if it is larger", "min(x, {n})"),
        },
        {
            "same": Step("return it", "x"),
            "even": Step("return whether it is even", "x % 2 == 0"),
            "digits": Step("return how many digits it has", "len(str(abs(x)))"),
        },
        _draw_number,
        "int(input())",
    ),
}

# Preset: (lowest and highest number of steps, forms, names). A form is a kind of test.
PRESETS: dict[str, tuple[int, int, tuple[str, ...], tuple[str, ...]]] = {
    "mini": (
        1,
        2,
        ("calls",),
        ("solve",),
    ),  # one name: the first thing that models of this size learn is not copying
    "small": (2, 4, ("calls", "calls", "stdin"), NAMES),
    "deep": (5, 8, ("calls", "stdin"), NAMES),
}
_SHARES = {"train": range(0, 8), "valid": range(8, 9), "test": range(9, 10)}
COUNTS = {"train": 2048, "valid": 128, "test": 256}
SPLITS = tuple(f"{preset}-{share}" for preset in PRESETS for share in _SHARES)


@dataclass(frozen=True)
class Recipe:
    """What an id says: form, family, name of the function, steps with their numbers (0: none), last step."""

    form: str
    family: str
    name: str
    steps: tuple[tuple[str, int], ...]
    end: str

    @property
    def id(self) -> str:
        """The task id."""
        steps = ",".join(f"{name}-{n}" if n else name for name, n in self.steps)
        return f"made/{self.form}/{self.family}/{self.name}/{steps}/{self.end}"

    @property
    def share(self) -> int:
        """Tenth of all tasks that this one falls into, by what it computes alone."""
        said = f"{self.family}:{self.steps}:{self.end}"
        return int(hashlib.sha256(said.encode()).hexdigest(), 16) % 10

    @classmethod
    def parse(cls, task_id: str) -> Recipe:
        """Read an id.

        Raises: UnknownName: it is none of a generated task.
        """
        parts = task_id.split("/")
        try:
            _, form, family, name, said, end = parts
            steps = tuple(
                (each.partition("-")[0], int(each.partition("-")[2] or 0)) for each in said.split(",")
            )
            known = FAMILIES[family]
            right = all(known.steps[each].numbered == (n in NUMBERS) for each, n in steps)
            if parts[0] != "made" or form not in ("calls", "stdin") or name not in NAMES or not right:
                raise KeyError
            known.ends[end]
            recipe = cls(form, family, name, steps, end)
            if recipe.id != task_id:
                raise KeyError
        except (KeyError, ValueError):
            raise UnknownName(
                f"no generated code task {task_id!r}; ids look like 'made/calls/list/blend/keep_even,add-3/sum'"
            ) from None
        return recipe


def task_ids(split: str) -> list[str]:
    """Ids of a split such as "mini-train", in the order in which they are drawn."""
    return list(_task_ids(split))


@lru_cache(maxsize=len(SPLITS))
def _task_ids(split: str) -> tuple[str, ...]:
    if split not in SPLITS:
        raise unknown_name("split of generated code tasks", split, SPLITS)
    preset, _, share = split.rpartition("-")
    rng = random.Random(f"code/{split}")
    found: dict[tuple[Any, ...], str] = {}
    while len(found) < COUNTS[share]:
        recipe = _drawn(rng, *PRESETS[preset])
        key = (recipe.form, recipe.family, recipe.steps, recipe.end)
        if recipe.share in _SHARES[share] and key not in found and _tells_apart(recipe):
            found[key] = recipe.id
    return tuple(found.values())


def _drawn(rng: random.Random, low: int, high: int, forms: tuple[str, ...], names: tuple[str, ...]) -> Recipe:
    family = rng.choice(list(FAMILIES))
    steps: list[tuple[str, int]] = []
    for _ in range(rng.randint(low, high)):
        name = rng.choice([each for each in FAMILIES[family].steps if not steps or each != steps[-1][0]])
        steps.append((name, rng.choice(NUMBERS) if FAMILIES[family].steps[name].numbered else 0))
    end = rng.choice(list(FAMILIES[family].ends))
    return Recipe(rng.choice(forms), family, rng.choice(names), tuple(steps), end)


def _tells_apart(recipe: Recipe) -> bool:
    """Whether the answers differ between inputs: a task whose answer is always the same teaches nothing."""
    compute = _function(recipe)
    return len({repr(compute(value)) for value in _inputs(recipe)}) > 2


def make_task(task_id: str) -> Task:
    """Build a task from its id.

    Raises: UnknownName: it is none of a generated task.
    """
    recipe = Recipe.parse(task_id)
    compute = _function(recipe)
    pairs = [(value, compute(value)) for value in _inputs(recipe)]
    read = recipe.form == "stdin"
    make = _printed if read else _called
    tests = tuple(make(value, answer) for value, answer in pairs)
    return Task(
        id=task_id,
        benchmark="generated",
        statement=_statement(recipe, pairs[:PUBLIC]),
        kind=recipe.form,
        entry="" if read else recipe.name,
        public=tests[:PUBLIC],
        hidden=tests[PUBLIC:],
        reference=_reference(recipe),
        cpu=2.0,
        call_cpu=2.0,
        stratum=f"{len(recipe.steps)} steps",
    )


def _inputs(recipe: Recipe) -> list[Any]:
    rng = random.Random(f"inputs/{recipe.id}")
    family = FAMILIES[recipe.family]
    found: dict[str, Any] = {}
    while len(found) < PUBLIC + HIDDEN:
        value = family.draw(rng)
        if recipe.form == "stdin" and value == []:
            continue
        found.setdefault(repr(value), value)
    return list(found.values())


def _code(recipe: Recipe) -> list[str]:
    """One expression on `x` for each step, the last one for the answer."""
    family = FAMILIES[recipe.family]
    lines = [family.steps[name].code.replace("{n}", str(n)) for name, n in recipe.steps]
    return [*lines, family.ends[recipe.end].code]


def _function(recipe: Recipe) -> Callable[[Any], Any]:
    """The recipe itself, for the expected answers: expressions of this file alone."""
    compiled = [compile(line, "<step>", "eval") for line in _code(recipe)]

    def compute(value: Any) -> Any:
        for each in compiled:
            value = eval(each, {"x": value})
        return value

    return compute


def _reference(recipe: Recipe) -> str:
    *steps, answer = _code(recipe)
    if recipe.form == "stdin":
        head = f"x = {FAMILIES[recipe.family].read}"
        shown = f"print(*{answer})" if _is_list(recipe) else f"print({answer})"
        return "\n".join([head, *(f"x = {step}" for step in steps), shown]) + "\n"
    body = [*(f"x = {step}" for step in steps), f"return {answer}"]
    return "\n".join([f"def {recipe.name}(x):", *(f"    {line}" for line in body)]) + "\n"


def _is_list(recipe: Recipe) -> bool:
    return (recipe.family, recipe.end) in (("list", "same"), ("text", "words"))


def _statement(recipe: Recipe, examples: list[tuple[Any, Any]]) -> str:
    family = FAMILIES[recipe.family]
    told = [family.steps[name].told.replace("{n}", str(n)) for name, n in recipe.steps]
    last = family.ends[recipe.end].told
    if recipe.form == "calls":
        shown = [f"{recipe.name}({value!r}) == {answer!r}" for value, answer in examples]
        head = f"Write a function {recipe.name}(x) that takes {family.told}: "
    else:
        last = last.replace("return", "print", 1)
        shown = [
            f"for the input {_line(value)!r} it prints {_line(answer, True)!r}" for value, answer in examples
        ]
        head = f"Write a program that reads {family.told} from one line: "
    return head + ", ".join([*told, last]) + ".\nExamples:\n" + "\n".join(shown)


def _line(value: Any, answer: bool = False) -> str:
    """A value as one line of text: lists with blanks between."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _called(value: Any, answer: Any) -> Test:
    return Test(plain.pack([value]), plain.pack(answer))


def _printed(value: Any, answer: Any) -> Test:
    return Test(_line(value) + "\n", _line(answer, True) + "\n")
