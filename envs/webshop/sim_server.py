"""The shop behind WebShop's own environment class, as other code bases read it: goals, sessions, draws.

Stands in for the original's `SimServer` and `SimBrowser`. Draws come from Python's global random state in the order
in which the original draws, so that a process that seeds it sees the same sessions and goals. Leaves out the
environment class itself (`bridge`) and HTML, which this shop does not have.
"""

from __future__ import annotations

import itertools
import random
import sys
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from agentbench.errors import UsageError

from .shop.goals import NO_LIMIT, Goal, GoalOrder, GoalTable, draw_numbers
from .shop.nouns import noun_test
from .shop.products import CatalogFiles, Product, read_products
from .shop.reward import Reward
from .shop.search import RESULTS, ProductSearch
from .shop.session import BASE_URL, Session, Shop, State, parse_action
from .stock import market
from .stock.market import Stock, build_stock

ORIGINAL_SHUFFLE = 233
"""The seed with which the original shuffles its goals, whatever came before."""

_ATTRIBUTES = ("items_ins_v2_1000.json", "items_ins_v2.json")
_HUMAN = ("items_human_ins.json", "items_human_ins_1000.json")


class SharedRandomSearch(ProductSearch):
    """Search whose random queries draw from the global random state, as the original's do."""

    def find(self, words: Sequence[str], seed: str) -> Sequence[int]:
        """Return the products found; see `ProductSearch.find`."""
        if words[0] == "<r>":
            return random.sample(range(len(self.catalog)), min(RESULTS, len(self.catalog)))
        return super().find(words, seed)


def random_idx(cum_weights: Sequence[float]) -> int:
    """Draw the index of a goal by running sums of weights that start with 0; off by one, as the original is."""
    return min(bisect(cum_weights, random.uniform(0, cum_weights[-1])), len(cum_weights) - 2)


def seed_all(seed: int) -> None:
    """Seed what verl-agent's copy seeds: Python, NumPy, and torch where it is loaded already."""
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


class SimServer:
    """A shop with its goals and the sessions of its shoppers.

    Attributes:
        goals: dicts with asin, category, query, name, product_category, instruction_text, attributes, price_upper,
            goal_options and weight.
        user_sessions: session name -> goal, done, keywords, page, asin, asins, options, actions, and after a purchase
            reward and verbose_info. A session keeps its goal for ever.
        assigned_instruction_text: put in place of every goal's instruction, where it is not None.
    """

    def __init__(
        self,
        base_url: str = BASE_URL,
        file_path: str | Path | None = None,
        filter_goals: Callable[[int, dict[str, Any]], Any] | None = None,
        limit_goals: int | None = -1,
        num_products: int | None = None,
        human_goals: Any = 0,
        show_attrs: bool = False,
        *,
        attr_path: str | Path | None = None,
        seed: int | None = None,
        nouns: str = "auto",
    ) -> None:
        """Open the shop.

        Args:
            base_url: kept; the original's own is used in URLs.
            file_path: the items file; where there is no such file, the imported set of that size is used.
            filter_goals: keeps the goals for which it returns true, called with index and goal.
            limit_goals: only -1; the original draws the others at random.
            num_products: use just the first entries of the items file.
            human_goals: sentences of people instead of synthetic ones.
            show_attrs: offer the Attributes page.
            attr_path: the attributes file; found beside the items file where not given.
            seed: verl-agent's convention, everything drawn and shuffled with it; None is the original's: drawn from
                the random state as it is, shuffled with 233.
            nouns: noun test of the reward, see `nouns`.
        Raises: UsageError: limit_goals. MissingData: no files and nothing imported.
        """
        if limit_goals not in (-1, None):
            raise UsageError(
                f"limit_goals={limit_goals!r} is not supported, only -1; choose goals with filter_goals or by index"
            )
        self.base_url = base_url
        self.show_attrs = show_attrs
        self.stock = find_stock(file_path, attr_path, num_products)
        self.shop = _shop(self.stock, nouns)
        self._table = self._draw(bool(human_goals), seed)
        self.goals = self._describe()
        if filter_goals is not None:
            self.goals = [goal for index, goal in enumerate(self.goals) if filter_goals(index, goal)]
        self.weights = [goal["weight"] for goal in self.goals]
        self.cum_weights: list[float] = [0, *itertools.accumulate(self.weights)]
        self.user_sessions: dict[str, dict[str, Any]] = {}
        self.search_time = self.render_time = self.sample_time = 0
        self.assigned_instruction_text: str | None = None

    @property
    def product_prices(self) -> dict[str, float]:
        """What each product costs in this shop."""
        asins = self.stock.catalog.columns["asin"]
        return {asins[place]: float(price) for place, price in enumerate(self._table.price)}

    def _draw(self, human: bool, seed: int | None) -> GoalTable:
        """Draw prices and limits from the global random state, then seed it and shuffle."""
        shuffle_seed = ORIGINAL_SHUFFLE if seed is None else seed

        def order_of(count: int) -> list[int]:
            random.seed(shuffle_seed)
            numbers = list(range(count))
            random.shuffle(numbers)
            return numbers

        source = cast(random.Random, random)  # the module has the methods that are used
        numbers = draw_numbers(self.stock.catalog, source, order_of, human=human)
        order = GoalOrder("drawn", draw_seed=-1, shuffle_seed=shuffle_seed, human=human)
        return GoalTable(self.stock.catalog, order, numbers)

    def _describe(self) -> list[dict[str, Any]]:
        table, human = self._table, self._table.order.human
        described = []
        for goal, weight in zip(table[:], table.weights(), strict=True):
            product = self.stock.catalog.product(goal.place)
            described.append(
                {
                    "asin": product.asin,
                    "category": product.category,
                    "query": product.query,
                    "name": product.title,
                    "product_category": product.product_category,
                    "instruction_text": goal.instruction,
                    "attributes": list(goal.attributes),
                    "price_upper": int(NO_LIMIT) if goal.price_limit == NO_LIMIT else goal.price_limit,
                    "goal_options": list(goal.options) if human else dict(goal.options),
                    "weight": 1 if human else weight,
                }
            )
        return described

    def open(self, name: str, number: int | None) -> Session:
        """Stand on the start page of a session, with the goal it has or, if it is new, with the goal given or drawn.

        Raises: UsageError: no goal of that number.
        """
        if name not in self.user_sessions:
            index = random_idx(self.cum_weights) if number is None else int(number)
            if not -len(self.goals) <= index < len(self.goals):
                raise UsageError(
                    f"no goal {index}: this shop has {len(self.goals)}, from 0 to {len(self.goals) - 1}"
                )
            self.user_sessions[name] = {"goal": self.goals[index], "done": False}
        record = self.user_sessions[name]
        if self.assigned_instruction_text is not None:
            record["goal"]["instruction_text"] = self.assigned_instruction_text
        session = Session(
            self.shop, self._table, self._goal(record["goal"]), name=name, show_attrs=self.show_attrs
        )
        _forget(record)
        return session

    def _goal(self, described: Mapping[str, Any]) -> Goal:
        """Read a goal out of its dict, since other code may have changed that."""
        options = described["goal_options"]
        return Goal(
            index=-1,
            place=self.shop.place(described["asin"]),
            instruction=described["instruction_text"],
            attributes=tuple(described["attributes"]),
            options=tuple(options.items() if isinstance(options, dict) else options),
            price_limit=float(described["price_upper"]),
        )


def _forget(record: dict[str, Any]) -> None:
    record.update(keywords=None, page=None, asin=None, asins=set(), options={}, actions=defaultdict(int))


class SimBrowser:
    """One shopper's view of a server, and what is noted of every action in the server's sessions."""

    page_source = ""
    """The page as HTML, which this shop does not have."""

    def __init__(self, server: SimServer) -> None:
        """Look at a server, at no page yet."""
        self.server = server
        self.session_id: str | None = None
        self.shopper: Session | None = None

    @property
    def current_url(self) -> str | None:
        """Where the shopper is."""
        return None if self.shopper is None else self.shopper.url()

    def get(self, session_id: str, session_int: int | None) -> Session:
        """Go to the start page of a session."""
        self.session_id = session_id
        self.shopper = self.server.open(session_id, session_int)
        return self.shopper

    def act(self, action: str) -> tuple[float, bool]:
        """Carry out an action: what it paid (the integer 0 where it is impossible), and whether it was a purchase."""
        shopper = self.shopper
        assert shopper is not None
        assert self.session_id is not None
        name, argument = parse_action(action)
        before = shopper.state
        clicked = shopper.page.clickables.get(argument) if name == "click" else None
        outcome = shopper.act(action)
        if outcome.valid:
            record = self.server.user_sessions[self.session_id]
            kind = clicked.kind if clicked is not None else ""
            _note(record, before, shopper.state, kind, outcome.bought)
        return outcome.reward, outcome.done


def _note(record: dict[str, Any], before: State, after: State, kind: str, bought: Reward | None) -> None:
    """Bring a session's record up to date with what an action did."""
    if after.view == "search":
        return _forget(record)
    actions = record["actions"]
    if bought is not None:
        actions["purchase"] += 1
        record.update(verbose_info=bought.parts(), done=True, reward=bought.total)
    elif after.view == "results":
        actions["search"] += 1
    elif after.view != "item":
        actions[after.view] += 1
    elif kind == "link":
        actions["asin"] += 1
    elif kind == "option":
        actions["options"] += 1
    record.update(keywords=list(after.words), page=after.number, asin=after.asin or None)
    record.update(asins=set(after.opened), options=dict(after.options))


# --- which products ---


def find_stock(file_path: str | Path | None, attr_path: str | Path | None, num_products: int | None) -> Stock:
    """Return the products of an items file, or of the imported set of its size where the file is not there.

    Raises: MissingData: neither is there, or the attributes file is missing.
    """
    path = Path(file_path) if file_path else None
    if path is None or not path.is_file():
        full = path is not None and path.name == "items_shuffle.json"
        goods = market.stock("full" if full else "small")
        return (
            goods
            if num_products is None or num_products >= len(goods.catalog)
            else _first(goods, num_products)
        )
    attributes = (
        Path(attr_path) if attr_path else _beside(path, _ATTRIBUTES) or path.with_name(_ATTRIBUTES[0])
    )
    files = CatalogFiles(path, attributes, _beside(path, _HUMAN))
    files.check()
    stamps = tuple(file.stat().st_mtime_ns for file in (path, attributes))
    return _read(files, num_products, stamps)


def _beside(path: Path, names: Sequence[str]) -> Path | None:
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


@lru_cache(maxsize=4)
def _read(files: CatalogFiles, first: int | None, _stamps: tuple[int, ...]) -> Stock:
    return build_stock(read_products(files, first))


@lru_cache(maxsize=4)
def _first(goods: Stock, count: int) -> Stock:
    products: list[Product] = [goods.catalog.product(place) for place in range(count)]
    return build_stock(products)


@lru_cache(maxsize=4)
def _shop(goods: Stock, nouns: str) -> Shop:
    return Shop(goods.catalog, SharedRandomSearch(goods.catalog, goods.index), noun_test(nouns))
