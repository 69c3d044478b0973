"""Which questions form a split, in which order, and which question a task id names. Leaves out files and worlds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from agentbench.datasets import dataset_dir
from agentbench.errors import MissingData, UnknownName, unknown_name

from .dataset import NAME, stored
from .questions import SETS, TRAINING, Question, content_hash
from .world.encyclopaedia import MAKES, world

GENERATED: dict[str, tuple[tuple[str, ...], int]] = {
    "mini-train": (("mini0",), 2000),
    "mini-dev": (("mini1",), 512),
    "mini-test": (("mini2",), 512),
    "plain-train": (tuple(f"plain{seed}" for seed in range(0, 128, 4)), 256),
    "plain-dev": (("plain1",), 512),
    "plain-test": (("plain2",), 512),
}
"""Split -> worlds and questions of each. Worlds whose seeds differ modulo 4 share no name: all tests are held out."""

SPLITS = (*GENERATED, *SETS, "supported", "all", "train")
"""`supported`: questions that the imported corpus answers; `all`: the stratified draw; `train`: the field's mix."""

ALL_SIZE = 2048
_TASK = re.compile(r"([a-z]+\d+)-(\d+)-([0-9a-f]{10})")
_PUBLIC = re.compile(r"(.+)-[0-9a-f]{10}")


def tasks(split: str) -> tuple[str, ...]:
    """Ordered task ids of a split; "mini:7" names the world mini7, and needs no split of its own.

    Raises: UnknownName: no such split. MissingData: its files were not imported.
    """
    make, colon, seed = split.partition(":")
    if colon and make in MAKES and seed.isdigit():
        return _generated((f"{make}{seed}",), 512)
    if split in GENERATED:
        return _generated(*GENERATED[split])
    if split not in SPLITS:
        raise unknown_name("split of search-qa", split, SPLITS, "mini:SEED is another generated world.")
    return _public(split, dataset_dir(NAME))


@lru_cache(maxsize=32)
def _generated(worlds: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Worlds take turns, so that any prefix is mixed."""
    drawn = [[task_id(name, number) for number in range(count)] for name in worlds]
    return tuple(task for row in zip(*drawn, strict=True) for task in row)


def neighbours(question: Question) -> tuple[str, ...]:
    """Task ids of the same world or set."""
    if question.world:
        return _generated((question.world,), 64)
    return tuple(stored(question.id.rpartition("-")[0]))


def task_id(world_name: str, number: int) -> str:
    """The id of a generated question: world, number, hash of its content."""
    asked = world(world_name).questions(number + 1)[number]
    return f"{world_name}-{number}-{content_hash(asked.text, asked.answers)}"


@lru_cache(maxsize=64)
def _public(split: str, _folder: Path) -> tuple[str, ...]:
    if split in SETS:
        return tuple(stored(split))
    if split == "train":
        return tuple(task for name in TRAINING for task in stored(name))
    if split == "supported":
        chosen = (item.id for name in SETS for item in stored(name).values() if item.support != "none")
        return tuple(by_hash(chosen))
    return stratified({name: tuple(stored(name)) for name in SETS})


def by_hash(ids: Iterable[str]) -> list[str]:
    """Order task ids by the sha256 of the id: a fixed draw, of which any prefix is as good as any other."""
    return sorted(ids, key=lambda task: hashlib.sha256(task.encode()).digest())


def stratified(sets: dict[str, tuple[str, ...]], size: int = ALL_SIZE) -> tuple[str, ...]:
    """Draw `size` questions: all of Bamboogle, the rest equally from the other sets, in whose order odd ones go.

    Raises: MissingData: a set has too few.
    """
    rest, equal = dict(sets), size - len(sets["bamboogle"])
    chosen = list(rest.pop("bamboogle"))
    share, over = divmod(equal, len(rest))
    for place, (name, ids) in enumerate(rest.items()):
        wanted = share + (place < over)
        if len(ids) < wanted:
            raise MissingData(
                f"the draw over all sets takes {wanted} questions of {name}, {len(ids)} were imported"
            )
        chosen += by_hash(ids)[:wanted]
    return tuple(by_hash(chosen))


def find_task(name: str) -> Question:
    """Look a task id up.

    Raises: UnknownName: no such task, or other content. MissingData: its files are absent.
    """
    if (found := _TASK.fullmatch(name)) and found[1].rstrip("0123456789") in MAKES:
        number = int(found[2])
        if number >= 100_000:
            raise UnknownName(f"no search-qa task {name!r}: a world is asked 100,000 questions at most")
        asked = world(found[1]).questions(number + 1)[number]
        if (right := task_id(found[1], number)) != name:
            raise UnknownName(
                f"search-qa task {name!r} is {right!r} in this release; use the release that made it"
            )
        return Question(
            name,
            f"{asked.plan.facts}-hop",
            asked.text,
            asked.answers,
            support="gold",
            plan=asked.plan,
            world=found[1],
        )
    owner = _PUBLIC.fullmatch(name)
    if owner and owner[1] in (*SETS, *TRAINING):
        question = stored(owner[1]).get(name)
        if question is not None:
            return question
        raise UnknownName(
            f"search-qa task {name!r} is not in the imported questions: another file was imported"
        )
    raise UnknownName(
        f"no search-qa task {name!r}; ids look like {tasks('mini-test')[0]!r}, see tasks('mini-test')"
    )
