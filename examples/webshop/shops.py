"""Generated shops to train small models in: forty of them, with products that are clicked by their place.

Half a million parameters do not learn to copy a product's id from a page, so here `click[first]`, `click[second]` and
`click[third]` stand for the ids of a results page; shop, search, options, goals and reward are WebShop's. And a model
that trains in one shop of 300 products learns by heart what follows which search; in forty it has to read. None of them
is the shop of `mini-train`, `mini-dev` or `mini-test`. Use it as `env: {name: examples/webshop/shops.py:SHOPS}`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from agentbench import EnvSpec, env_spec
from agentbench.envs.webshop import WebShopEnv
from agentbench.envs.webshop.stock.market import goal_table, task_id

WEBSHOP = env_spec("webshop")
CATALOGS = tuple(f"gen{number}" for number in range(3, 43))
GOALS = 250
"""Of each shop."""

PLACES = ("first", "second", "third")
_ID = re.compile(r"click\[(b0[0-9a-z]{8})\]")


class NumberedShop(WebShopEnv):
    """WebShop, but the products of a results page are clicked by their place."""

    def step(self, action: str) -> Any:
        """Carry out an action; a place stands for the product there."""
        place = action.removeprefix("click[").removesuffix("]")
        if self.session.state.view == "results" and place in PLACES:
            shown = [found[0] for found in map(_ID.fullmatch, self.session.page.commands) if found]
            action = dict(zip(PLACES, shown, strict=False)).get(place, action)
        return super().step(action)

    def _info(self) -> dict[str, Any]:
        info = super()._info()
        shown = [command for command in info["admissible"] if _ID.fullmatch(command)]
        if info["page"] == "results":
            others = [command for command in info["admissible"] if command not in shown]
            places = [f"click[{place}]" for place, _ in zip(PLACES, shown, strict=False)]
            info["admissible"] = [*others, *places]
        return info


def tasks(split: str) -> tuple[str, ...]:
    """Task ids of all shops for `mini-train`; other splits are as they were."""
    if split != "mini-train":
        return tuple(WEBSHOP.tasks(split))
    return tuple(
        task_id(name, "orig", goal) for name in CATALOGS for goal in goal_table(name, "orig")[:GOALS]
    )


SHOPS: EnvSpec = replace(WEBSHOP, make=NumberedShop, tasks=tasks, rules=f"{WEBSHOP.rules}/places")
