"""An expert that knows the goal's product: finds it, chooses the options that count, buys it; from any state.

Reaches reward 1 on every generated goal. On official goals it is honest about what the reward rules allow: some
options cannot be matched even by the goal's own product. Leaves out every other way to earn points.
"""

from __future__ import annotations

from .shop.goals import Goal, GoalOption
from .shop.pages import PAGE_SIZE
from .shop.products import Product, document_text
from .shop.reward import option_hit
from .shop.session import Session

MAX_PAGES = 5


class Plan:
    """What to search for and which options to choose for one goal."""

    __slots__ = ("asin", "goal", "options", "query")

    def __init__(self, session: Session, goal: Goal) -> None:
        """Look for a query that finds the goal's product, and for options that match."""
        product = session.shop.catalog.product(goal.place)
        self.goal = goal
        self.asin = product.asin
        self.query = _best_query(session, product, goal.place)
        self.options = choose_options(product, goal)

    def next(self, session: Session) -> str:
        """Return the next command."""
        state, clickables = session.state, session.page.clickables
        if state.view == "item" and state.asin == self.asin:
            chosen = dict(state.options)
            for group, value in self.options:
                if chosen.get(group) != value and clickables[value].group.lower() == group:
                    return f"click[{value}]"
            return "click[buy now]"
        if (
            state.asin == self.asin
            and state.view not in ("item", "done", "results")
            and "< prev" in clickables
        ):
            return "click[< prev]"
        if state.view == "results":
            if self.asin.lower() in clickables:
                return f"click[{self.asin.lower()}]"
            if " ".join(state.words) == self.query and 0 < state.number < MAX_PAGES:
                return "click[next >]"
        return f"search[{self.query}]"


def _best_query(session: Session, product: Product, wanted: int) -> str:
    """Return the query that lists the product earliest: its title, or more of its text."""
    words = _plain_words(document_text(product))
    title = _plain_words(product.title)
    queries = [" ".join(title), " ".join(words[:60]), " ".join(words[:200])]
    best, best_place = queries[0], MAX_PAGES * PAGE_SIZE
    for query in queries:
        found = list(session.shop.search.find(tuple(query.split(" ")), ""))
        place = found.index(wanted) if wanted in found else MAX_PAGES * PAGE_SIZE
        if place < best_place:
            best, best_place = query, place
        if place < PAGE_SIZE:
            break
    return best


def _plain_words(text: str) -> list[str]:
    """Return words without what an action cannot hold or a query would not be taken literally for."""
    return "".join(" " if character in "[]<>\n" else character for character in text.lower()).split() or [
        "product"
    ]


def choose_options(product: Product, goal: Goal) -> list[tuple[str, str]]:
    """Choose one value per group so that as many of the goal's options as possible count.

    Args:
        product: the goal's own product.
        goal: what is asked for.
    Returns: (group, value) pairs; values that cannot be clicked are never chosen.
    """
    owner = {value: group.lower() for group, values in product.options.items() for value in values}
    clickable = [(group, value) for value, group in owner.items() if _can_click(value)]
    chosen: dict[str, str] = {}
    for wanted in goal.options:
        if any(option_hit((value,), wanted) for value in chosen.values()):
            continue
        fitting = [pair for pair in clickable if option_hit((pair[1],), wanted) and pair[0] not in chosen]
        if fitting:
            group, value = max(fitting, key=lambda pair: _likeness(pair, wanted))
            chosen[group] = value
    return list(chosen.items())


def _likeness(pair: tuple[str, str], wanted: GoalOption) -> int:
    return 2 * (pair == wanted or pair[1] == wanted) + (pair[0] == wanted[0])


def _can_click(value: str) -> bool:
    """Tell whether a click on the value means the value: no bracket, no button's name."""
    names = {"buy now", "back to search", "< prev", "next >", "search", "description", "features", "reviews"}
    return bool(value) and not set("[\n") & set(value) and value not in {*names, "attributes"}
