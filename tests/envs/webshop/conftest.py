"""A tiny shop written by hand, and the official files where they are on disk."""

import pytest
from places import SHARED_DATA

from agentbench.envs.webshop.conformance import Checker
from agentbench.envs.webshop.shop.goals import GoalOrder, GoalTable
from agentbench.envs.webshop.shop.nouns import noun_test
from agentbench.envs.webshop.shop.products import product_of, read_products
from agentbench.envs.webshop.shop.search import ProductSearch
from agentbench.envs.webshop.shop.session import Session, Shop
from agentbench.envs.webshop.stock.dataset import find_files
from agentbench.envs.webshop.stock.market import build_stock

OFFICIAL = SHARED_DATA / "webshop"


def entry(asin, name, **changes):
    """An items-file entry with nothing special about it."""
    plain = {
        "asin": asin,
        "name": name,
        "category": "garden",
        "query": "Lamps ",
        "product_category": "Home › Lighting › Lamps",
        "pricing": "$20.00",
        "full_description": "A lamp.",
        "small_description": ["Gives light "],
        "customization_options": "",
        "images": [""],
    }
    return {**plain, **changes}


def options(**groups):
    return {name: [{"value": value, "image": None} for value in values] for name, values in groups.items()}


LAMP = product_of(
    entry(
        "B000000001",
        "Red Desk Lamp",
        customization_options=options(Color=["Red", "Dark Blue"], size=["Small", "Big"]),
    ),
    {
        "attributes": ["easy clean"],
        "instruction": "Find me easy clean lamps",
        "instruction_attributes": ["easy clean"],
    },
    [],
)
SOFA = product_of(
    entry(
        "B000000002", "Grey Sofa", query="sofas", product_category="Home › Sofas", pricing="$300.00 - $500.00"
    ),
    {},
    [],
)
MORE = [
    product_of(entry(f"B0000001{number:02}", f"Plain Lamp number{number}"), {}, []) for number in range(25)
]


@pytest.fixture(scope="session")
def raw():
    return entry


@pytest.fixture(scope="session")
def shop():
    stock = build_stock([LAMP, SOFA, *MORE])
    return Shop(stock.catalog, ProductSearch(stock.catalog, stock.index), noun_test("letters"))


@pytest.fixture
def session(shop):
    goals = GoalTable(shop.catalog, GoalOrder("test", draw_seed=0, shuffle_seed=0))
    return Session(shop, goals, goals[0], name="7")


@pytest.fixture(scope="session")
def official():
    if not (OFFICIAL / "items_shuffle_1000.json").is_file():
        pytest.skip(f"the official WebShop files are not at {OFFICIAL}")
    return build_stock(read_products(find_files(OFFICIAL)["small"]))


@pytest.fixture(scope="session")
def recordings():
    folder = OFFICIAL / "oracle-sample"
    if not folder.is_dir():
        pytest.skip(f"the recordings of the original are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def checker(official):
    return Checker(official)
