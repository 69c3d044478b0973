"""Opening shops and finding tasks: which catalogues there are, which goals form a split, what a task id means.

A task id reads <catalogue>-<order>-<index>-<hash>: goal number <index> of a frozen `GoalOrder`; the hash is of the
goal's content, so an id that meets other data is refused instead of playing another task. Leaves out file formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from agentbench.datasets import Progress, dataset_dir, missing_data, silent
from agentbench.errors import UnknownName, unknown_name
from agentbench.retrieval.bm25.analyzer import analyze
from agentbench.retrieval.bm25.build import build_index
from agentbench.retrieval.bm25.index import Bm25Index

from ..shop.catalog import Catalog, build_catalog, open_catalog
from ..shop.goals import ORDERS, Goal, GoalTable
from ..shop.nouns import noun_test
from ..shop.products import Product, document_text, product_of
from ..shop.search import ProductSearch
from ..shop.session import Shop
from .generate import generate

NAME = "webshop"
GENERATED_SIZE = 300
"""Products of a generated shop."""

OFFICIAL = ("small", "full")
_TASK = re.compile(r"([a-z0-9]+)-([a-z0-9]+)-(\d+)-([0-9a-f]{10})")
_GENERATED = re.compile(r"gen(\d+)")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Split:
    """Goals `start` up to `stop` of an order over a catalogue; `stop` None goes to the end."""

    catalog: str
    order: str
    start: int = 0
    stop: int | None = None


SPLITS = {
    "mini-train": Split("gen0", "orig"),
    "mini-dev": Split("gen1", "orig", 0, 200),
    "mini-test": Split("gen2", "orig", 0, 200),
    "test": Split("small", "orig", 0, 500),
    "dev": Split("small", "orig", 500, 1500),
    "train": Split("small", "orig", 1500),
    "human": Split("small", "human"),
    "va-test": Split("small", "va1000", 0, 500),
    "va-train": Split("small", "va0", 500),
    "full-test": Split("full", "human", 0, 500),
    "full-dev": Split("full", "human", 500, 1500),
    "full-train": Split("full", "human", 1500),
}
"""Split name -> goals. Each generated split has a shop of its own."""


def tasks(split: str) -> tuple[str, ...]:
    """Ordered task ids of a split.

    Raises: UnknownName: no such split. MissingData: its files were not imported.
    """
    if split not in SPLITS:
        raise unknown_name("split of webshop", split, SPLITS)
    return _split_ids(split, _folder(SPLITS[split].catalog))


@lru_cache(maxsize=32)
def _split_ids(split: str, _folder: Path | None) -> tuple[str, ...]:
    wanted = SPLITS[split]
    goals = goal_table(wanted.catalog, wanted.order)
    return tuple(task_id(wanted.catalog, wanted.order, goal) for goal in goals[wanted.start : wanted.stop])


def task_id(catalog: str, order: str, goal: Goal) -> str:
    """Return the id of a goal."""
    return f"{catalog}-{order}-{goal.index}-{goal.digest}"


@dataclass(frozen=True, slots=True)
class Task:
    """A task as found: its goal and the table that says what products cost."""

    id: str
    catalog: str
    goals: GoalTable = field(repr=False)
    goal: Goal


def find_task(name: str) -> Task:
    """Look a task id up.

    Raises: UnknownName: no such task, or the data hold another goal there. MissingData: its files are absent.
    """
    found = _TASK.fullmatch(name)
    if (
        found is None
        or found[2] not in ORDERS
        or not (found[1] in OFFICIAL or _GENERATED.fullmatch(found[1]))
    ):
        raise UnknownName(
            f"no WebShop task {name!r}; ids look like {tasks('mini-train')[0]!r}, see tasks('mini-train')"
        )
    goals = goal_table(found[1], found[2])
    index = int(found[3])
    if index >= len(goals):
        raise UnknownName(f"no WebShop task {name!r}: that order has {len(goals)} goals")
    goal = goals[index]
    if goal.digest != found[4]:
        right = task_id(found[1], found[2], goal)
        raise UnknownName(
            f"WebShop task {name!r} is not in this data, which has {right!r} there: other product files"
        )
    return Task(name, found[1], goals, goal)


# --- catalogues ---


@dataclass(frozen=True, slots=True)
class Stock:
    """A catalogue and the index over it."""

    catalog: Catalog
    index: Bm25Index


def build_stock(
    products: Iterable[Product], folder: Path | None = None, progress: Progress = silent
) -> Stock:
    """Store products and index them.

    Args:
        products: in file order.
        folder: where to write both; None keeps them in memory.
        progress: told how many products are stored, then how many are indexed.
    """
    catalog = build_catalog(counted(products, 0, progress, "products stored"), folder)
    texts = (analyze(document_text(catalog.read(place))) for place in range(len(catalog)))
    documents = counted(texts, len(catalog), progress, "products indexed")
    return Stock(catalog, build_index(documents, catalog.rank, folder / "index" if folder else None))


def counted(items: Iterable[_T], total: int, progress: Progress, what: str) -> Iterator[_T]:
    """Pass items on, telling their number."""
    count = 0
    for count, item in enumerate(items, 1):
        if count % 1000 == 0:
            progress(count, total, what)
        yield item
    progress(count, count, what)


def open_stock(folder: Path) -> Stock:
    """Map what `build_stock` wrote.

    Raises: CorruptData: a file is missing or of another version.
    """
    return Stock(open_catalog(folder), Bm25Index.open(folder / "index"))


def stock(name: str) -> Stock:
    """Return a catalogue by name, shared by all envs of the process.

    Args:
        name: "small", "full" or "gen<seed>".
    Raises: MissingData: an official one was not imported. UnknownName: another name.
    """
    return _stock(name, _folder(name))


def _folder(name: str) -> Path | None:
    """Return where an official catalogue is stored; None for a generated one."""
    return _find_folder(name, dataset_dir(NAME))


@lru_cache(maxsize=64)
def _find_folder(name: str, root: Path) -> Path | None:
    if _GENERATED.fullmatch(name):
        return None
    if name not in OFFICIAL:
        raise unknown_name("WebShop catalogue", name, (*OFFICIAL, "gen0"))
    if not (root / name).is_dir():
        raise missing_data(NAME, f"the catalogue {name!r}")
    return root / name


@lru_cache(maxsize=64)
def _stock(name: str, folder: Path | None) -> Stock:
    if folder is not None:
        return open_stock(folder)
    seed = int(name.removeprefix("gen"))
    return build_stock(product_of(*entries) for entries in generate(GENERATED_SIZE, seed))


def goal_table(catalog: str, order: str) -> GoalTable:
    """Return all goals of a catalogue in a named order, shared by all envs of the process."""
    return _goal_table(catalog, order, _folder(catalog))


@lru_cache(maxsize=64)
def _goal_table(catalog: str, order: str, folder: Path | None) -> GoalTable:
    return GoalTable(_stock(catalog, folder).catalog, ORDERS[order])


def shop(name: str, nouns: str = "auto") -> Shop:
    """Return a shop by the name of its catalogue and of a noun test, shared by all envs of the process."""
    return _shop(name, nouns, _folder(name))


@lru_cache(maxsize=64)
def _shop(name: str, nouns: str, folder: Path | None) -> Shop:
    goods = _stock(name, folder)
    return Shop(goods.catalog, ProductSearch(goods.catalog, goods.index), noun_test(nouns))
