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
            return _open(parts, limit)
        said = {turn.env_action for turn in view.turns}
        for option in re.split(r", and |, ", options):
            choice = f"click[{option.partition(': ')[2]}]"
            if choice[6:-1] in parts and choice not in said:
                return choice
        return "click[buy now]"


def _open(parts: list[str], limit: float) -> str:
    """Click the first product whose lowest price is within the limit; a price stands two parts after its product."""
    for place, part in enumerate(parts[:-2]):
        prices = re.findall(r"[\d.]+", parts[place + 2])
        if _ASIN.fullmatch(part) and prices and float(prices[0]) <= limit:
            return f"click[{part}]"
    return "click[next >]"
