"""A seeded shop of invented products with goals, in the official file format and with the official file names.

Products come in families of near-duplicates that differ in an attribute, an option or the price, so a shopper has to
read. Every goal can be met in full by its own product. Leaves out reading (`products`) and ordering goals (`goals`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

ITEMS_FILE = "items_shuffle_1000.json"
ATTRIBUTES_FILE = "items_ins_v2_1000.json"
HUMAN_FILE = "items_human_ins.json"

COLOURS = ("black", "navy", "red", "green", "grey", "ivory", "teal", "purple", "orange", "brown")
_BRANDS = (
    "Alderic",
    "Bromley",
    "Castell",
    "Dovane",
    "Elmquist",
    "Farrow",
    "Gantry",
    "Hollin",
    "Ibrant",
    "Jorvik",
)
_STYLES = (
    "Classic",
    "Modern",
    "Everyday",
    "Compact",
    "Deluxe",
    "Original",
    "Slim",
    "Rustic",
    "Studio",
    "Travel",
)


@dataclass(frozen=True, slots=True)
class _Department:
    """One kind of shop: what it sells, how it praises it, in which versions, at which prices."""

    category: str
    path: str
    queries: tuple[str, ...]
    attributes: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]
    prices: tuple[int, int]


_SIZES = ("small", "medium", "large", "x-large", "xx-large")
_DEPARTMENTS = (
    _Department(
        "fashion",
        "Clothing, Shoes & Jewelry \u203a Outdoor \u203a Clothing",
        ("men's jackets", "women's sweaters", "running shirts", "hiking trousers"),
        ("machine wash", "long sleeve", "slim fit", "quick drying", "polyester lining", "hand wash", "elastic waist"),
        (("size", _SIZES), ("color", COLOURS)),
        (12, 90),
    ),
    _Department(
        "garden",
        "Home & Kitchen \u203a Furniture \u203a Living Room Furniture",
        ("floor lamps", "coffee tables", "bookcases", "throw pillows"),
        ("solid wood", "easy assemble", "space saving", "living room", "metal legs", "easy clean", "non slip"),
        (("color", COLOURS), ("size", ("18 x 18 inch", "20 x 30 inch", "24 x 36 inch", "36 x 48 inch"))),
        (25, 400),
    ),
    _Department(
        "beauty",
        "Beauty & Personal Care \u203a Hair Care \u203a Hair Treatments",
        ("hair masks", "face creams", "hand soaps", "body lotions"),
        ("cruelty free", "dry skin", "tea tree", "natural ingredients", "sulfate free", "sensitive skin"),
        (("scent", ("lavender", "eucalyptus", "citrus", "cedar")), ("size", ("2 ounce", "8 ounce", "16 ounce"))),
        (5, 60),
    ),
    _Department(
        "electronics",
        "Electronics \u203a Portable Audio & Video \u203a Accessories",
        ("bluetooth speakers", "usb cables", "phone cases", "wireless headphones"),
        ("fast charging", "water resistant", "noise cancelling", "high speed", "easy install", "heavy duty"),
        (("color", COLOURS), ("length", ("3 feet", "6 feet", "10 feet"))),
        (8, 250),
    ),
    _Department(
        "grocery",
        "Grocery & Gourmet Food \u203a Snack Foods \u203a Bars",
        ("granola bars", "herbal teas", "roasted nuts", "dried fruits"),
        ("gluten free", "low sodium", "high protein", "artificial colors", "non gmo", "keto friendly"),
        (("flavor name", ("almond", "peach", "cinnamon", "ginger", "sea salt")), ("size", ("6 pack", "12 pack"))),
        (4, 45),
    ),
)  # fmt: skip


def generate(
    size: int, seed: int = 0
) -> Iterator[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
    """Yield the products of a shop.

    Args:
        size: number of products, > 0.
        seed: equal seeds give equal shops; a larger shop begins with the smaller one.
    Returns: for each product its entries in the items, the attributes and the human instructions file.
    """
    number = family = 0
    while number < size:
        rng = random.Random(f"webshop:{seed}:{family}")
        for member in _family(rng, seed, family):
            if number < size:
                yield _entries(rng, member, number, seed)
                number += 1
        family += 1


def write_files(folder: Path, size: int, seed: int = 0) -> None:
    """Write a shop as the three official files, product by product."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (ITEMS_FILE, ATTRIBUTES_FILE, HUMAN_FILE)
    attributes: dict[str, Any] = {}
    human: dict[str, Any] = {}
    with (folder / names[0]).open("wb") as file:
        for number, (item, extra, people) in enumerate(generate(size, seed)):
            file.write((b",\n" if number else b"[\n") + orjson.dumps(item))
            attributes[item["asin"]] = extra
            if people:
                human[item["asin"]] = people
        file.write(b"\n]\n")
    (folder / names[1]).write_bytes(orjson.dumps(attributes))
    (folder / names[2]).write_bytes(orjson.dumps(human))


@dataclass(frozen=True, slots=True)
class _Product:
    """What a family member is, before it is written down as a file entry."""

    department: _Department
    query: str
    title: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]
    price: float


def _family(rng: random.Random, seed: int, family: int) -> Iterator[_Product]:
    """Draw one product and up to three that are nearly the same."""
    department = rng.choice(_DEPARTMENTS)
    query = rng.choice(department.queries)
    brand, style = rng.choice(_BRANDS), rng.choice(_STYLES)
    pool = rng.sample(department.attributes, 5)
    base_price = round(rng.uniform(*department.prices), 2)
    for copy in range(rng.randint(1, 4)):
        attributes = tuple(pool[:3] if copy == 0 else rng.sample(pool, 3))
        options = tuple(
            (name, tuple(rng.sample(values, rng.randint(2, min(4, len(values))))))
            for name, values in department.options
        )
        praise = ", ".join(word.title() for word in attributes[:2])
        title = f"{brand} {style} {query.title()} with {praise}, Model {brand[:2].upper()}{seed}x{family}-{copy + 1}"
        price = base_price if copy == 0 else round(base_price * rng.uniform(0.8, 1.6), 2)
        yield _Product(department, query, title, attributes, options, price)


def _entries(
    rng: random.Random, product: _Product, number: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    asin = "B0" + _base36(number * 7919 + seed * 104_729 + 36**5, width=8)
    first, second, third = product.attributes
    options = product.options if rng.random() < 0.8 else ()
    price = f"${product.price:,.2f}"
    if rng.random() < 0.1:
        price += f" - ${product.price * 1.3:,.2f}"
    item = {
        "asin": asin,
        "name": product.title,
        "category": product.department.category,
        "query": product.query,
        "product_category": product.department.path,
        "pricing": price if rng.random() < 0.97 else "",
        "full_description": f"Our {product.query} are known for {first} and {second}. Also: {third}.",
        "small_description": [
            f"{first.capitalize()}: made to last ",
            f"{third.capitalize()} ",
            "Ships in two days ",
        ],
        "customization_options": {
            name: [{"value": value, "image": None} for value in values] for name, values in options
        }
        or "",
        "images": [""],
        "average_rating": "",
        "page": 1,
    }
    extra: dict[str, Any] = {"attributes": [*product.attributes]}
    if rng.random() < 0.7:
        asked = sorted(rng.sample(product.attributes, rng.randint(1, 3)))
        extra["instruction"] = f"Find me {', '.join(asked)} {product.query}"
        extra["instruction_attributes"] = asked
    human = [_person(rng, asin, product, options)] if rng.random() < 0.1 else []
    return item, extra, human


def _person(rng: random.Random, asin: str, product: _Product, options: tuple[Any, ...]) -> dict[str, Any]:
    """Put a goal into a person's words."""
    wanted = [rng.choice(values) for _, values in options]
    asked = [product.attributes[0]]
    text = f"i am looking for {product.query} that are {asked[0]}{' in ' + ' and '.join(wanted) if wanted else ''}."
    return {
        "asin": asin,
        "instruction": text,
        "attributes": [*product.attributes],
        "options": [f"{name}: {value}" for (name, _), value in zip(options, wanted, strict=True)],
        "instruction_attributes": asked,
        "instruction_options": wanted,
        "assignment_id": "",
        "worker_id": "",
    }


def _base36(number: int, width: int) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    text = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        text = digits[digit] + text
    return text
