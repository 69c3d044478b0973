"""Reading the official product files, with the original's cleaning and price rules. Leaves out storage (`catalog`).

Three JSON files make a catalogue: products (a list), attributes and synthetic instructions (by ASIN), human
instructions (by ASIN; optional). The product list may be larger than memory, so it is read piece by piece.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from agentbench.errors import CorruptData, MissingData

DEFAULT_PRICE = 100.0
_PIECE = 1 << 22
_NOT_PRICE = re.compile(r"[^\d.]")


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """A goal sentence written by a person, with what it asks for."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """A product as the shop shows and scores it.

    Attributes:
        prices: one price, or the two ends of a range.
        price_text: as shown, "$9.5" or "$9.5 to $12.0".
        options: group name -> values, both as clicked; order and repeats kept.
        instruction: sentence of the synthetic goals; None if there is none.
        human: goal sentences of people.
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    query: str
    category: str
    product_category: str
    attributes: tuple[str, ...]
    prices: tuple[float, ...]
    price_text: str
    options: Mapping[str, tuple[str, ...]]
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()
    human: tuple[HumanInstruction, ...] = ()


@dataclass(frozen=True, slots=True)
class CatalogFiles:
    """Where the files of one catalogue are; `human` may be None."""

    items: Path
    attributes: Path
    human: Path | None = None

    def check(self) -> None:
        """Raise MissingData unless all files are there."""
        for path in (self.items, self.attributes, self.human):
            if path is not None and not path.is_file():
                raise MissingData(
                    f"WebShop file {path} not found; a catalogue needs its items and attributes files"
                )


def read_products(files: CatalogFiles, first: int | None = None) -> Iterator[Product]:
    """Yield the products that the original keeps, in file order.

    Args:
        files: the official files, or generated ones of the same format.
        first: read so many entries of the items file only, kept or not; None reads all.
    Returns: an iterator; ASINs that are `nan`, repeated or longer than ten characters are skipped.
    Raises: MissingData: a file is absent. CorruptData: a file or a product cannot be read; names it.
    """
    files.check()
    attributes = _read_object(files.attributes)
    human = _read_object(files.human) if files.human is not None else {}
    seen: set[str] = set()
    for item in itertools.islice(read_array(files.items), first):
        asin = item.get("asin")
        if not isinstance(asin, str):
            raise CorruptData(f"{files.items}: product number {len(seen)} has no asin; get the file again")
        if asin == "nan" or len(asin) > 10 or asin in seen:
            continue
        seen.add(asin)
        try:
            yield product_of(item, attributes.get(asin, {}), human.get(asin, []))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CorruptData(f"{files.items}: product {asin}: {type(error).__name__}: {error}") from error


def product_of(
    item: Mapping[str, Any], extra: Mapping[str, Any], human: Sequence[Mapping[str, Any]]
) -> Product:
    """Clean one raw item.

    Args:
        item: entry of the items file.
        extra: entry of the attributes file, {} if none.
        human: entries of the human file, [] if none.
    Raises: KeyError, TypeError, ValueError: the item is not what the format says.
    """
    bullets = item["small_description"]
    prices, price_text = parse_price(item.get("pricing"))
    return Product(
        asin=item["asin"],
        title=item["name"],
        description=item["full_description"],
        bullets=tuple(bullets) if isinstance(bullets, list) else (bullets,),
        query=item["query"].lower().strip(),
        category=item["category"],
        product_category=item["product_category"],
        attributes=tuple(extra.get("attributes", ("DUMMY_ATTR",))),
        prices=prices,
        price_text=price_text,
        options=_options(item["customization_options"]),
        instruction=extra.get("instruction"),
        instruction_attributes=tuple(extra.get("instruction_attributes") or ()),
        human=tuple(
            HumanInstruction(
                entry["instruction"],
                tuple(entry["instruction_attributes"]),
                tuple(entry["instruction_options"]),
            )
            for entry in human
        ),
    )


def parse_price(text: str | None) -> tuple[tuple[float, ...], str]:
    """Read a price string.

    Args:
        text: "$1.00" or "$1.00 - $2.00"; whatever stands before the first dollar sign is ignored.
    Returns: one price or the first two, and the text shown for them; no text means 100 dollars.
    Raises: ValueError: there is text but no price in it.
    """
    if not text:
        return (DEFAULT_PRICE,), f"${DEFAULT_PRICE}"
    prices = tuple(float(_NOT_PRICE.sub("", part)) for part in text.split("$")[1:])
    if not prices:
        raise ValueError(f"price {text!r} has no dollar sign")
    if len(prices) == 1:
        return prices, f"${prices[0]}"
    return prices[:2], f"${prices[0]} to ${prices[1]}"


def document_text(product: Product) -> str:
    """Return the text of a product that the search engine indexes."""
    groups = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first_bullet = product.bullets[0] if product.bullets else ""
    return " ".join((product.title, product.description, first_bullet, groups)).lower()


def _options(raw: Mapping[str, Any] | str | None) -> dict[str, tuple[str, ...]]:
    if not raw or isinstance(raw, str):
        return {}
    return {
        name.lower(): tuple(entry["value"].strip().replace("/", " | ").lower() for entry in entries)
        for name, entries in raw.items()
        if entries is not None
    }


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CorruptData(f"{path} is not JSON ({error}); get the file again") from error
    if not isinstance(found, dict):
        raise CorruptData(f"{path} must hold one JSON object by ASIN, found {type(found).__name__}")
    return found


def read_array(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON array without holding the file in memory.

    Raises: CorruptData: not an array of objects, or cut short.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        text = file.read(_PIECE).lstrip().removeprefix("\ufeff")
        if not text.startswith("["):
            raise CorruptData(f"{path} must hold a JSON array, it starts with {text[:20]!r}")
        place = 1
        while True:
            place = _skip(text, place)
            if text.startswith("]", place):
                return
            try:
                item, place = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                more = file.read(_PIECE)
                if not more:
                    raise CorruptData(f"{path} is cut short or broken: {error}") from error
                text, place = text[place:] + more, 0
                continue
            if not isinstance(item, dict):
                raise CorruptData(f"{path} must hold JSON objects, found {type(item).__name__}")
            yield item


def _skip(text: str, place: int) -> int:
    """Pass blanks and commas."""
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place
