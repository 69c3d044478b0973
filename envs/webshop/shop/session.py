"""A shopper's walk through the shop: what each action does, with every odd case of the original. Byte-exact texts.

Leaves out turn limits, wording for models and what an episode pays (`env`). After a purchase a session goes on as the
original does: clicks are ignored, a search works. The env ends the episode there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from .catalog import Catalog
from .goals import Goal, GoalTable
from .nouns import NounTest
from .pages import (
    BACK,
    BUY,
    NEXT,
    PREVIOUS,
    SEARCH,
    SEPARATOR,
    SUB_PAGES,
    Node,
    Page,
    done_page,
    heading,
    item_page,
    listing,
    results_page,
    rich_text,
    search_page,
    sub_page,
)
from .reward import Reward, score
from .search import ProductSearch, RefusedQuery

BASE_URL = "http://127.0.0.1:3000"
_PAGE_NAMES = ("search_results", "item_page", "item_sub_page", "done")
_START = search_page()


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a walk has changed; immutable, so it is its own snapshot.

    Attributes:
        view: "search", "results", "item", "done" or the name of a sub page.
        words: the last query.
        number: page of results.
        asin: product looked at, "" if none.
        options: chosen values by group, in the order in which the groups were first chosen.
        opened: ASINs looked at since the last search page.
        draws: random queries so far.
        earned: reward of the last purchase.
    """

    view: str = "search"
    words: tuple[str, ...] = ()
    number: int = 0
    asin: str = ""
    options: tuple[tuple[str, str], ...] = ()
    opened: frozenset[str] = frozenset()
    draws: int = 0
    earned: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an action led to.

    Attributes:
        reward: float after a valid action, the integer 0 after an invalid one, as in the original.
        valid: the action was carried out.
        bought: parts of the reward, after a purchase.
    """

    reward: float
    done: bool
    valid: bool
    bought: Reward | None = None


_INVALID = Outcome(0, done=False, valid=False)
_WALKED = Outcome(0.0, done=False, valid=True)


class Shop:
    """What all sessions share: products, search, noun test, and pages already made."""

    def __init__(self, catalog: Catalog, search: ProductSearch, nouns: NounTest) -> None:
        """Put a shop together; see `market.open_shop`."""
        self.catalog = catalog
        self.search = search
        self.nouns = nouns
        self.item = lru_cache(maxsize=4096)(self._item)
        self.sub_page = lru_cache(maxsize=4096)(self._sub_page)
        self._found = lru_cache(maxsize=4096)(self._results)
        self._listing = lru_cache(maxsize=1 << 15)(partial(listing, catalog))

    def results(self, words: tuple[str, ...], number: int, seed: str) -> Page:
        """Return a page of search results.

        Raises: RefusedQuery: the original ends with an exception here.
        """
        if words[0] == "<r>":
            return self._results(words, number, seed)
        return self._found(words, number)

    def _results(self, words: tuple[str, ...], number: int, seed: str = "") -> Page:
        return results_page(self._listing, self.search.find(words, seed), number)

    def _item(self, asin: str, show_attrs: bool) -> Page:
        return item_page(self.catalog.product(self.place(asin)), show_attrs=show_attrs)

    def _sub_page(self, asin: str, name: str) -> Page:
        return sub_page(self.catalog.product(self.place(asin)), name)

    def place(self, asin: str) -> int:
        """Return the number of a product that is known to exist."""
        place = self.catalog.place(asin)
        assert place is not None, asin
        return place


class Session:
    """One shopper with one goal."""

    def __init__(
        self, shop: Shop, goals: GoalTable, goal: Goal, *, name: str, seed: str = "", show_attrs: bool = False
    ) -> None:
        """Stand on the start page.

        Args:
            shop: shared parts.
            goals: the world of the goal, which fixes what products cost.
            goal: what to buy.
            name: stands in every URL; the original uses the goal's index.
            seed: decides what random queries find.
            show_attrs: offer the Attributes page.
        """
        self.shop = shop
        self.goals = goals
        self.goal = goal
        self.name = name
        self.seed = seed
        self.show_attrs = show_attrs
        self.restore(State())

    def restore(self, state: State) -> None:
        """Go to a state of this or another session with the same goal."""
        self.page = self._render(state)
        self.state = state

    def _render(self, state: State) -> Page:
        if state.view == "search":
            return _START
        if state.view == "results":
            return self.shop.results(state.words, state.number, f"{self.seed}:{state.draws}")
        if state.view == "item":
            return self.shop.item(state.asin, self.show_attrs)
        if state.view == "done":
            return done_page(state.asin, dict(state.options), state.earned)
        return self.shop.sub_page(state.asin, state.view)

    # --- acting ---

    def act(self, action: str) -> Outcome:
        """Carry out `search[...]` or `click[...]`; anything impossible changes nothing."""
        name, argument = parse_action(action)
        try:
            if name == "search" and argument:
                return self._show_results(tuple(argument.split(" ")), 1)
            if name == "click" and argument != SEARCH.lower() and argument in self.page.clickables:
                return self._click(argument, self.page.clickables[argument])
        except RefusedQuery:
            pass  # Departure: the original ends with an exception; here the action is merely invalid.
        return _INVALID

    def _click(self, name: str, node: Node) -> Outcome:
        """Do what the original does with a clicked name: names of buttons win over what was really clicked."""
        state = self.state
        if name == BUY.lower():
            return self._buy()
        if name == BACK.lower():
            return self._go(State(draws=state.draws))
        if name in (NEXT.lower(), PREVIOUS.lower()):
            where = self._page_name()
            if where == "search_results":
                return self._show_results(state.words, state.number + (1 if name == NEXT.lower() else -1))
            if name == PREVIOUS.lower() and where == "item_page":
                return self._show_results(state.words, state.number)
        elif name in SUB_PAGES:
            return self._go(replace(state, view=SUB_PAGES[name]))
        if node.kind == "link":
            asin = name.upper()
            if self.shop.catalog.place(asin) is None:
                return _INVALID  # Departure: the original ends with an exception when an ASIN has lower-case letters.
            return self._go(replace(state, view="item", asin=asin, opened=state.opened | {asin}))
        if node.kind == "option":
            options = {**dict(state.options), node.group.lower(): name}
            return self._go(replace(state, view="item", options=tuple(options.items())))
        return self._go(replace(state, view="item"))

    def _go(self, state: State) -> Outcome:
        self.restore(state)
        return _WALKED

    def _show_results(self, words: tuple[str, ...], number: int) -> Outcome:
        old = self.state
        draws = old.draws + (words[0] == "<r>")
        return self._go(State("results", words, number, opened=old.opened, draws=draws))

    def _buy(self) -> Outcome:
        place = self.shop.place(self.state.asin)
        product = self.shop.catalog.product
        bought = score(
            product(place),
            product(self.goal.place),
            self.goal,
            price=float(self.goals.price[place]),
            options=dict(self.state.options),
            nouns=self.shop.nouns,
        )
        self.restore(replace(self.state, view="done", earned=bought.total))
        return Outcome(bought.total, done=True, valid=True, bought=bought)

    # --- showing ---

    def _page_name(self) -> str:
        """Guess the kind of page from the URL as the original does; a query may mislead it."""
        url = self.url()
        return next((name for name in _PAGE_NAMES if name in url), "")

    def url(self) -> str:
        """Return the page's URL; nothing in it is escaped."""
        state = self.state
        options, words = dict(state.options), "+".join(state.words)
        if state.view == "search":
            return f"{BASE_URL}/{self.name}"
        if state.view == "results":
            return f"{BASE_URL}/search_results/{self.name}/{words}/{state.number}"
        if state.view == "item":
            return (
                f"{BASE_URL}/item_page/{self.name}/{state.asin}/{words}/{state.number}/{json.dumps(options)}"
            )
        if state.view == "done":
            return f"{BASE_URL}/done/{self.name}/{state.asin}/{options}"
        return (
            f"{BASE_URL}/item_sub_page/{self.name}/{state.asin}/{words}/{state.number}/{state.view}/{options}"
        )

    def above(self) -> Page | None:
        """Return what stands above the page, the instruction; None on the last page, which has none."""
        if self.state.view == "done":
            return None
        return heading(self.goal.instruction, start=self.state.view == "search")

    def text(self) -> str:
        """Return the page in the original's observation mode `text`."""
        above = self.above()
        return f"{above.text}{SEPARATOR}{self.page.text}" if above else self.page.text

    def rich(self) -> str:
        """Return the page in the original's observation mode `text_rich`."""
        above = self.above()
        nodes = (*above.nodes, *self.page.nodes) if above else self.page.nodes
        return rich_text(nodes, self.url(), self.state.opened)

    def available(self) -> tuple[bool, list[str]]:
        """Return whether there is a search bar, and the names of all clickables."""
        return self.state.view == "search", list(self.page.clickables)


def parse_action(action: str) -> tuple[str, str]:
    """Split an action into name and lower-case argument.

    Returns: ("", "") unless the first line reads name[argument]; the last `[` that has its `]` counts, and whatever
        follows the last `]` is ignored.
    """
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(end - 1, 1))
    return (line[:start], line[start + 1 : end].lower()) if start > 0 else ("", "")
