"""A shopper that knows only what a person sees: it asks for what the instruction names and buys what it can afford.

It searches for the first words of the instruction, opens the first result within the price limit, chooses the wanted
options that are on offer, and buys. It never reads on, so some purchases are wrong; but all that it says stands in
the texts before it, which is what a small model can learn. The environment's own expert knows the product's title.

agentbench eval --env webshop --split mini-test --policy examples/webshop/shopper.py:Shopper
"""

from __future__ import annotations

import re

from agentbench.policy import InstantPolicy, View

_WISH = re.compile(r"find me (.*?)(?: with (.*?))?,? and price lower than ([\d.]+) dollars")
_ASIN = re.compile(r"b0[0-9a-z]{8}")
PLACES = ("first", "second", "third")


class Shopper(InstantPolicy):
    """Plays the generated shops from their texts alone."""

    name = "shopper"

    def command(self, view: View) -> str:
        """Search, open, choose, buy."""
        wish = _WISH.match(view.info["instruction"].lower())
        if wish is None:
            return "click[buy now]"
        what, options, limit = wish[1], wish[2] or "", float(wish[3])
        parts = [part.strip(" '") for part in view.observation.lower().split("[sep]")]
        if view.info["page"] == "search":
            return f"search[{what}]"
        if view.info["page"] == "results":
            return self.open(parts, limit)
        wanted = [f"click[{option.partition(': ')[2]}]" for option in re.split(r", and |, ", options)]
        said = {turn.env_action for turn in view.turns}
        return next(
            (choice for choice in wanted if choice not in said and self.offered(choice, parts)),
            "click[buy now]",
        )

    def open(self, parts: list[str], limit: float) -> str:
        """Click the first product whose lowest price is within the limit."""
        shown = affordable(parts, limit)
        return f"click[{shown[0][1]}]" if shown else "click[next >]"

    def offered(self, choice: str, parts: list[str]) -> bool:
        """Whether the page has it."""
        return choice[6:-1] in parts


class PlaceShopper(Shopper):
    """The same where products are clicked by their place (`shops.py`): of the first three, else the first.

    It asks for every wanted option, offered or not (what is not changes nothing), so that a model only has to copy.
    """

    name = "place-shopper"

    def open(self, parts: list[str], limit: float) -> str:
        """Click the first affordable of three places."""
        places = [place for place, _ in affordable(parts, limit)]
        return f"click[{PLACES[places[0] if places and places[0] < len(PLACES) else 0]}]"

    def offered(self, choice: str, parts: list[str]) -> bool:
        """Ask anyway, if any option was wanted."""
        return choice != "click[]"


def affordable(parts: list[str], limit: float) -> list[tuple[int, str]]:
    """Return (place from 0, id) of the products within the limit; a price stands two parts after its product."""
    found = [
        (part, re.findall(r"[\d.]+", parts[at + 2]))
        for at, part in enumerate(parts[:-2])
        if _ASIN.fullmatch(part)
    ]
    return [
        (place, asin) for place, (asin, prices) in enumerate(found) if prices and float(prices[0]) <= limit
    ]
