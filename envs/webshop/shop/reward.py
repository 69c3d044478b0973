"""The original's reward of a purchase, with all its parts. Leaves out which words are nouns (`nouns`).

reward = type * (attribute hits + option hits + price ok) / (goal attributes + goal options + 1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from .goals import Goal, GoalOption
from .nouns import NounTest
from .products import Product

_COLOUR_WORDS = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory
ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom
mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire
seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat white
wine yellow
"""
COLOURS = tuple(_COLOUR_WORDS.split())
"""Options are compared by the first of these that occurs in them, if any does."""

MATCH_ABOVE = 85
_LATIN1 = dict.fromkeys(range(128, 256))


@dataclass(frozen=True, slots=True)
class Reward:
    """What a purchase earned.

    Attributes:
        total: in [0, 1].
        type_factor: 1, 0.5, 0.1 or 0.
        title_score: share of the goal title's nouns that the bought title has.
        attribute_score: share of the goal's attributes that were hit.
        option_score: share of the goal's options that were hit; None if it has none.
        price_ok: the price is within the limit.
        weights: shares of attributes, options and price in the sum.
    """

    total: float
    type_factor: float
    query_match: bool
    category_match: bool
    title_score: float
    attribute_score: float
    option_score: float | None
    price_ok: bool
    weights: tuple[float, float, float]

    def parts(self) -> dict[str, Any]:
        """Return the parts under the original's names."""
        found: dict[str, Any] = {
            "r_type": self.type_factor,
            "r_att": self.attribute_score,
            "w_att": self.weights[0],
            "query_match": self.query_match,
            "category_match": self.category_match,
            "title_score": self.title_score,
        }
        if self.option_score is not None:
            found |= {"r_option": self.option_score, "w_option": self.weights[1]}
        return found | {"r_price": self.price_ok, "w_price": self.weights[2]}


def score(
    bought: Product, target: Product, goal: Goal, *, price: float, options: Mapping[str, str], nouns: NounTest
) -> Reward:
    """Score a purchase.

    Args:
        bought: the product.
        target: the product that the goal was made from.
        goal: what was asked for.
        price: of the bought product in the world of the goal; options do not change it.
        options: chosen values by group.
        nouns: finds the nouns of titles.
    """
    query_match = bought.query == target.query
    category_match = len(_categories(bought.product_category) & _categories(target.product_category)) >= 2
    title_score = _title_score(nouns.nouns(bought.title), nouns.nouns(target.title))
    factor = type_factor(title_score, same_kind=query_match or category_match)
    attributes = _attribute_hits(bought, goal.attributes)
    hits = _option_hits(tuple(options.values()), goal.options)
    price_ok = price <= goal.price_limit
    size = len(goal.attributes) + len(goal.options) + 1
    return Reward(
        total=(attributes + hits + price_ok) / size * factor,
        type_factor=factor,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
        attribute_score=attributes / len(goal.attributes),
        option_score=hits / len(goal.options) if goal.options else None,
        price_ok=price_ok,
        weights=(len(goal.attributes) / size, len(goal.options) / size, 1 / size),
    )


def type_factor(title_score: float, *, same_kind: bool) -> float:
    """Return how much the kind of product counts.

    Args:
        title_score: share of nouns in common.
        same_kind: same query, or two categories in common.
    """
    if title_score == 0.0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    return 1.0 if same_kind or title_score > 0.2 else 0.5


@lru_cache(maxsize=1 << 16)
def similar(one: str, other: str) -> bool:
    """Tell whether two texts share enough words: thefuzz's token set ratio, rounded, above 85."""
    return round(fuzz.token_set_ratio(_words(one), _words(other))) > MATCH_ABOVE


@lru_cache(maxsize=1 << 16)
def _words(text: str) -> str:
    """Clean a text as thefuzz does: no characters 128 to 255, lower case, blanks for all but letters and digits."""
    return default_process(text if text.isascii() else text.translate(_LATIN1))


@lru_cache(maxsize=1 << 14)
def _categories(path: str) -> frozenset[str]:
    return frozenset(part.strip() for part in path.split("\u203a"))


def _title_score(bought: Sequence[str], wanted: Sequence[str]) -> float:
    """Distinct common nouns over all nouns wanted, repeats included."""
    return len(set(bought) & set(wanted)) / len(wanted) if wanted else 0.2


def _attribute_hits(bought: Product, wanted: Sequence[str]) -> int:
    texts = (bought.title.lower(), " ".join(bought.bullets).lower(), bought.description.lower())
    return sum(
        any(similar(have, name) for have in bought.attributes) or any(name in text for text in texts)
        for name in wanted
    )


def _option_hits(chosen: Sequence[str], wanted: Sequence[GoalOption]) -> int:
    return sum(option_hit(chosen, option) for option in wanted)


def option_hit(chosen: Sequence[str], wanted: GoalOption) -> bool:
    """Tell whether one of the chosen values counts as the wanted option; its group does not matter."""
    return any(similar(_colour(value), _colour(wanted)) for value in chosen)


@lru_cache(maxsize=1 << 15)
def _colour(option: GoalOption) -> str:
    """Return the first colour word in an option.

    In a human goal the option is a text and the word may stand anywhere in it. In a synthetic goal it is a (group,
    value) pair: the word must equal one of the two, and without a word the pair is later compared as Python prints it.
    """
    return str(next((colour for colour in COLOURS if colour in option), option))
