"""A catalogue as columns: in memory for a small shop, memory-mapped and shared between processes for a large one.

Owns how products are stored and found again. Leaves out reading the official files (`products`), searching by text
(`search`) and prices drawn from ranges (`goals`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from agentbench.datasets import broken_file, write_digests
from agentbench.errors import CorruptData

from .products import HumanInstruction, Product

FORMAT = 1
"""Version of the folder layout; a store of another version has to be imported again."""

CACHED_PRODUCTS = 8192
_TEXT = ("asin", "title", "description", "query", "category", "product_category", "price_text")
_JSON = ("bullets", "attributes", "options", "goals")
COLUMNS = _TEXT + _JSON

GROUPED = ("category", "query")
"""Columns whose equal values are found without reading all of them."""


class TextColumn(Sequence[str]):
    """Strings end to end in a mapped file."""

    def __init__(self, path: Path) -> None:
        """Map `path`.bin and `path`.npy."""
        self._start = np.load(path.with_suffix(".npy"), mmap_mode="r").view(np.ndarray)
        empty = int(self._start[-1]) == 0
        self._bytes: Any = (
            np.empty(0, np.uint8) if empty else np.memmap(path.with_suffix(".bin"), np.uint8, "r")
        )
        self._view = memoryview(self._bytes)  # type: ignore[arg-type]
        if len(self._view) != int(self._start[-1]):
            raise ValueError(
                f"{path.name}.bin has {len(self._view)} bytes, its offsets end at {self._start[-1]}"
            )

    def __len__(self) -> int:
        return len(self._start) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        """Read one string, or a list of them."""
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return str(self._view[self._start[place] : self._start[place + 1]], "utf-8")


class Catalog:
    """All products of a shop, by number (file order) and by ASIN.

    Attributes:
        columns: one sequence of strings per name in `COLUMNS`.
        prices: float64 [P, 2], both ends of the price range; the second is NaN where there is one price.
        rank: int32 [P], place of each product when sorted by ASIN.
        synthetic_places: int32, products with a synthetic instruction, ascending.
        human_places: int32, products with instructions of people, ascending.
        fingerprint: 16 hex digits over all that the shop keeps of the products.
        directory: where it is stored; None in memory.
    """

    def __init__(
        self, columns: Mapping[str, Sequence[str]], numbers: Mapping[str, NDArray[Any]], *, fingerprint: str,
        directory: Path | None = None,
    ) -> None:  # fmt: skip
        """Put columns together; see `build_catalog` and `open_catalog`."""
        self.columns = columns
        self.prices = numbers["prices"]
        self.rank = numbers["rank"]
        self.synthetic_places = numbers["synthetic_places"]
        self.human_places = numbers["human_places"]
        self._sorted = numbers["sorted_asins"]
        self._by_rank = numbers["by_rank"]
        self.fingerprint = fingerprint
        self.directory = directory
        self.product = lru_cache(maxsize=CACHED_PRODUCTS)(self.read)
        self.place = lru_cache(maxsize=CACHED_PRODUCTS)(self._place)
        self._grouped = {column: numbers[f"by_{column}"] for column in GROUPED}

    def __len__(self) -> int:
        return len(self.rank)

    def read(self, place: int) -> Product:
        """Return product number `place` without remembering it; `product` does the same with a memory."""
        text = {name: self.columns[name][place] for name in _TEXT}
        goals = orjson.loads(self.columns["goals"][place])
        low, high = self.prices[place].tolist()
        options = orjson.loads(self.columns["options"][place])
        return Product(
            **text,
            bullets=tuple(orjson.loads(self.columns["bullets"][place])),
            attributes=tuple(orjson.loads(self.columns["attributes"][place])),
            prices=(low,) if high != high else (low, high),
            options={name: tuple(values) for name, values in options},
            instruction=goals[0],
            instruction_attributes=tuple(goals[1]),
            human=tuple(HumanInstruction(text, tuple(attrs), tuple(opts)) for text, attrs, opts in goals[2]),
        )

    def _place(self, asin: str) -> int | None:
        """Return the number of the product with this ASIN."""
        wanted = asin.encode()
        at = int(np.searchsorted(self._sorted, wanted))
        if at < len(self) and self._sorted[at] == wanted:
            return int(self._by_rank[at])
        return None

    def members(self, column: str, value: str) -> list[int]:
        """Return all products with exactly this text in one of the `GROUPED` columns, in file order."""
        texts, order = self.columns[column], self._grouped[column]
        start, end = (
            find(order, value, key=lambda place: texts[int(place)]) for find in (bisect_left, bisect_right)
        )
        members: list[int] = order[start:end].tolist()
        return members


def build_catalog(products: Iterable[Product], directory: Path | None = None) -> Catalog:
    """Store products.

    Args:
        products: in the order that numbers them.
        directory: folder to write (it appears whole or not at all); None keeps all in memory.
    Returns: the catalogue; opened from disk if a directory was given.
    """
    if directory is None:
        lists: dict[str, list[str]] = {name: [] for name in COLUMNS}

        def keep(row: Mapping[str, str]) -> None:
            for name, text in row.items():
                lists[name].append(text)

        numbers, fingerprint = _collect(products, keep)
        return Catalog(lists, numbers, fingerprint=fingerprint)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _write(products, staging)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(staging, directory)
        directory.chmod(0o755)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_catalog(directory)


def fingerprint_of(products: Iterable[Product]) -> str:
    """Return the fingerprint that a catalogue of these products would have."""
    return _collect(products, lambda row: None)[1]


def open_catalog(directory: Path) -> Catalog:
    """Map a stored catalogue.

    Raises: CorruptData: not a catalogue of this version.
    """
    try:
        meta = orjson.loads((directory / "catalog.json").read_bytes())
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, this version reads {FORMAT}")
        if problem := broken_file(directory):
            raise ValueError(f"{problem} is not as it was written")
        columns = {name: TextColumn(directory / name) for name in COLUMNS}
        numbers = {name: _map(directory / f"{name}.npy") for name in _NUMBERS}
        if wrong := [name for name, column in columns.items() if len(column) != len(numbers["rank"])]:
            raise ValueError(
                f"{wrong[0]} has {len(columns[wrong[0]])} entries of {len(numbers['rank'])} products"
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, IndexError) as error:
        raise CorruptData(
            f"{directory} is not a stored catalogue ({error}); import its files again with --replace"
        ) from error
    return Catalog(columns, numbers, fingerprint=meta["fingerprint"], directory=directory)


_NUMBERS = (
    "by_category",
    "by_query",
    "prices",
    "rank",
    "synthetic_places",
    "human_places",
    "sorted_asins",
    "by_rank",
)


def _map(path: Path) -> NDArray[Any]:
    array_: NDArray[Any] = np.load(path, mmap_mode="r").view(np.ndarray)
    return array_


def _row(product: Product) -> dict[str, str]:
    goals = [
        product.instruction,
        product.instruction_attributes,
        [(entry.text, entry.attributes, entry.options) for entry in product.human],
    ]
    values = {
        "bullets": product.bullets,
        "attributes": product.attributes,
        "options": list(product.options.items()),
    }
    row = {name: getattr(product, name) for name in _TEXT}
    return row | {name: orjson.dumps(value).decode() for name, value in {**values, "goals": goals}.items()}


def _collect(
    products: Iterable[Product], keep: Callable[[Mapping[str, str]], None]
) -> tuple[dict[str, NDArray[Any]], str]:
    """Pass every product's columns to `keep`; return the numeric columns and the fingerprint."""
    prices, asins, synthetic, human = array("d"), list[str](), array("i"), array("i")
    grouped: dict[str, list[str]] = {column: [] for column in GROUPED}
    digest = hashlib.sha256()
    for product in products:
        row = _row(product)
        keep(row)
        digest.update(orjson.dumps([row, product.prices], option=orjson.OPT_SORT_KEYS))
        if product.instruction is not None:
            synthetic.append(len(asins))
        if product.human:
            human.append(len(asins))
        asins.append(product.asin)
        for column, values in grouped.items():
            values.append(sys.intern(row[column]))
        prices.extend(product.prices if len(product.prices) == 2 else (product.prices[0], float("nan")))
    keys = np.array([asin.encode() for asin in asins], dtype=np.bytes_)
    by_rank = np.argsort(keys, kind="stable").astype(np.int32)
    rank = np.empty(len(asins), np.int32)
    rank[by_rank] = np.arange(len(asins), dtype=np.int32)
    numbers: dict[str, NDArray[Any]] = {
        "prices": np.array(prices, np.float64).reshape(-1, 2),
        "rank": rank,
        "synthetic_places": np.array(synthetic, np.int32),
        "human_places": np.array(human, np.int32),
        "sorted_asins": keys[by_rank],
        "by_rank": by_rank,
    }
    for column, values in grouped.items():  # a stable sort keeps file order among equals
        numbers[f"by_{column}"] = np.array(sorted(range(len(values)), key=values.__getitem__), np.int32)
    return numbers, digest.hexdigest()[:16]


def _write(products: Iterable[Product], directory: Path) -> None:
    files = {name: (directory / f"{name}.bin").open("wb") for name in COLUMNS}
    starts = {name: array("q", [0]) for name in COLUMNS}

    def keep(row: Mapping[str, str]) -> None:
        for name, text in row.items():
            size = files[name].write(text.encode())
            starts[name].append(starts[name][-1] + size)

    try:
        numbers, fingerprint = _collect(products, keep)
    finally:
        for file in files.values():
            file.close()
    for name in COLUMNS:
        np.save(directory / f"{name}.npy", np.frombuffer(starts[name], np.int64))
    for name, values in numbers.items():
        np.save(directory / f"{name}.npy", values)
    (directory / "catalog.json").write_bytes(orjson.dumps({"format": FORMAT, "fingerprint": fingerprint}))
    write_digests(directory)
