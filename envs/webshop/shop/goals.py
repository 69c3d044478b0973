"""Goals: what a shopper is asked to buy, under the frozen orders of the field.

The original draws prices, price limits and the order of goals from a random state it never fixes. A `GoalOrder` fixes
it, so that goal i of an order is one task everywhere. Leaves out scoring (`reward`) and which goals form a split.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import shutil
import tempfile
from array import array
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from agentbench.datasets import DIGESTS, broken_file, write_digests
from agentbench.errors import CorruptData

from .catalog import Catalog
from .products import Product

PRICE_STEPS = tuple(10.0 * number for number in range(1, 100))
NO_LIMIT = 1_000_000.0

GoalOption = tuple[str, str] | str
"""What a goal asks of the options: (group, value) in synthetic goals, only a value in human ones."""


@dataclass(frozen=True, slots=True)
class GoalOrder:
    """A way of drawing prices, limits and the order of goals.

    Attributes:
        name: short and lower case, part of every goal id.
        draw_seed: of the prices of range products, then of the price limits.
        shuffle_seed: of the order.
        human: sentences of people instead of synthetic ones.
    """

    name: str
    draw_seed: int
    shuffle_seed: int
    human: bool = False


ORDERS = {
    order.name: order
    for order in (
        # The original shuffles after seed 233 and leaves its draws to chance; here they come from seed 0.
        GoalOrder("orig", draw_seed=0, shuffle_seed=233),
        GoalOrder("human", draw_seed=0, shuffle_seed=233, human=True),
        # verl-agent uses its seed for both; validation workers add 1000.
        GoalOrder("va0", draw_seed=0, shuffle_seed=0),
        GoalOrder("va1000", draw_seed=1000, shuffle_seed=1000),
    )
}


@dataclass(frozen=True, slots=True)
class Goal:
    """One task.

    Attributes:
        place: number of the product the goal was made from.
        instruction: what the shopper is told.
        attributes: asked for.
        options: asked for.
        price_limit: dollars; `NO_LIMIT` if the price is left open.
    """

    index: int
    place: int
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[GoalOption, ...]
    price_limit: float

    @property
    def digest(self) -> str:
        """Ten hex digits over everything the shopper is asked for."""
        content = [self.instruction, self.attributes, self.options, self.price_limit]
        return hashlib.sha256(orjson.dumps(content)).hexdigest()[:10]


class GoalTable(Sequence[Goal]):
    """All goals of a catalogue in a frozen order, and the price each product has in that world.

    Goals are put together when asked for; the table holds four numbers for each.
    """

    def __init__(
        self, catalog: Catalog, order: GoalOrder, numbers: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Draw prices, limits and order, or read them where a stored catalogue has them already.

        Args:
            catalog: products.
            order: how they are drawn.
            numbers: what `draw_numbers` returned, where they were drawn from another source than the order says.
        """
        self.catalog = catalog
        self.order = order
        numbers = numbers or _stored(catalog, order)
        self.price = numbers["price"]
        self.places = numbers["places"]
        self.choices = numbers["choices"]
        self.limits = numbers["limits"]
        self._goal = lru_cache(maxsize=4096)(self._make)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """Return goal number `index`, or a list for a slice."""
        if isinstance(index, slice):
            return [self._goal(number) for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._goal(int(index))

    def _make(self, index: int) -> Goal:
        place, choice, limit = int(self.places[index]), int(self.choices[index]), float(self.limits[index])
        product = self.catalog.product(place)
        price_text = "" if limit == NO_LIMIT else f", and price lower than {limit:.2f} dollars"
        if self.order.human:
            human = product.human[choice]
            text = human.text.strip(".") + price_text
            return Goal(index, place, text, human.attributes, human.options, limit)
        chosen = _combination(product, choice)
        options = ", and ".join(f"{name}: {value}" for name, value in chosen)
        text = f"{product.instruction}{' with ' + options if options else ''}{price_text}"
        return Goal(index, place, text, product.instruction_attributes, chosen, limit)

    def weights(self) -> list[float]:
        """Return the weights by which the original draws a goal at random.

        Returns: 1 for human goals, else the mean over a goal's attributes of 1 / (goals with that attribute).
        """
        if self.order.human:
            return [1.0] * len(self)
        attributes = [self.catalog.product(int(place)).instruction_attributes for place in self.places]
        count = Counter(itertools.chain.from_iterable(attributes))
        return [sum(1.0 / count[name] for name in names) / len(names) for names in attributes]

    def draw(self, rng: random.Random, cumulative: Sequence[float]) -> int:
        """Draw a goal as the original does: off by one, so goal 0 never comes and goal i weighs as much as i - 1.

        Args:
            rng: source of the one number drawn.
            cumulative: running sums of `weights`, starting with 0.
        """
        return min(bisect(cumulative, rng.uniform(0, cumulative[-1])), len(self) - 1)


def shuffled(order: GoalOrder, count: int) -> tuple[list[int], random.Random]:
    """Return the numbers 0 to count - 1 in shuffled order, and the random state after that.

    The draws depend on the length of a list alone, so numbers stand in for goals.
    """
    rng, numbers = random.Random(order.shuffle_seed), list(range(count))
    rng.shuffle(numbers)
    return numbers, rng


def _stored(catalog: Catalog, order: GoalOrder) -> dict[str, NDArray[Any]]:
    """Read the numbers of a table from the catalogue's folder; draw them first, and keep them if it is writable."""
    if catalog.directory is None:
        return _draw(catalog, order)
    folder = catalog.directory / "goals" / f"{order.name}-{order.draw_seed}-{order.shuffle_seed}"
    return _read(folder) or _keep(folder, _draw(catalog, order))


_NUMBERS = ("price", "places", "choices", "limits")


def _read(folder: Path) -> dict[str, NDArray[Any]] | None:
    """Map the numbers that are kept; None where there are none, or where they are not as they were written."""
    if not (folder / DIGESTS).is_file() or broken_file(folder):
        return None
    try:
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in _NUMBERS}
    except (OSError, ValueError, EOFError):
        return None


def _keep(folder: Path, drawn: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Keep numbers for the next time, in place of broken ones; a store that cannot be written is only slower."""
    staging: Path | None = None
    try:
        folder.parent.mkdir(exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, values in drawn.items():
            np.save(staging / f"{name}.npy", values)
        write_digests(staging)
        if folder.exists() and _read(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except OSError:  # read-only, full, or another process was first; its numbers are the same
        pass
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return drawn


def _draw(catalog: Catalog, order: GoalOrder) -> dict[str, NDArray[Any]]:
    draw = random.Random(order.draw_seed)
    return draw_numbers(catalog, draw, lambda count: shuffled(order, count)[0], human=order.human)


def draw_numbers(
    catalog: Catalog, draw: random.Random, order_of: Callable[[int], list[int]], *, human: bool
) -> dict[str, NDArray[Any]]:
    """Draw the prices of products, then the limits of goals, then put the goals in order.

    Args:
        catalog: products.
        draw: source of prices and limits.
        order_of: given their number, the goals' places in the new order; called last.
        human: sentences of people instead of synthetic ones.
    """
    price = _draw_prices(catalog, draw)
    places, choices, limits = _list_goals(catalog, price, draw, human=human)
    by_index = np.array(order_of(len(places)), np.int64)
    return {
        "price": price,
        "places": places[by_index],
        "choices": choices[by_index],
        "limits": limits[by_index],
    }


def _draw_prices(catalog: Catalog, draw: random.Random) -> NDArray[np.float64]:
    """Draw one price for each product with a range, in file order."""
    price = catalog.prices[:, 0].copy()
    for place in np.flatnonzero(~np.isnan(catalog.prices[:, 1])).tolist():
        price[place] = draw.uniform(*catalog.prices[place].tolist())
    return price


def _draw_limit(price: float, draw: random.Random) -> float:
    """Draw two of the four next steps above a price and take the larger; no draw where fewer than two are left."""
    above = [step for step in PRICE_STEPS if step > price][:4]
    return max(draw.sample(above, 2)) if len(above) >= 2 else NO_LIMIT


def _list_goals(
    catalog: Catalog, price: NDArray[np.float64], draw: random.Random, *, human: bool
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """List the goals before shuffling: product, which combination or sentence, price limit."""
    places, choices, limits = array("i"), array("q"), array("d")
    for place in (catalog.human_places if human else catalog.synthetic_places).tolist():
        product = catalog.product(place)
        if human:
            for number, entry in enumerate(product.human):
                if entry.attributes:
                    places.append(place)
                    choices.append(number)
                    limits.append(_draw_limit(price[place], draw))
        else:
            if not product.instruction_attributes:
                raise CorruptData(
                    f"product {product.asin} has an instruction without attributes; it cannot be scored"
                )
            limit = _draw_limit(price[place], draw)  # one draw, shared by all combinations of options
            count = math.prod(len(values) for values in product.options.values())
            places.extend([place] * count)
            choices.extend(range(count))
            limits.extend([limit] * count)
    return np.array(places, np.int32), np.array(choices, np.int64), np.array(limits, np.float64)


def _combination(product: Product, number: int) -> tuple[tuple[str, str], ...]:
    """Return combination `number` of a product's options: groups by name, the last one turning fastest."""
    chosen = []
    for name in sorted(product.options, reverse=True):
        number, value = divmod(number, len(product.options[name]))
        chosen.append((name, product.options[name][value]))
    return tuple(reversed(chosen))
