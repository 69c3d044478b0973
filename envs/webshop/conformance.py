"""Checks the shop against recordings of the original: goals, prices, rewards, rankings and whole walks, byte for byte.

`python -m agentbench.envs.webshop.conformance RECORDINGS --data FILES` prints what was compared and every difference.
Leaves out making recordings. Two things cannot be compared: what a random query drew, and the exceptions by which the
original ends on some queries, which here are invalid actions.
"""

from __future__ import annotations

import argparse
import itertools
import string
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from agentbench.retrieval.bm25.analyzer import analyze

from .shop.goals import GoalOrder, GoalTable, shuffled
from .shop.nouns import noun_test
from .shop.pages import SEPARATOR
from .shop.products import read_products
from .shop.reward import score
from .shop.search import RESULTS, ProductSearch
from .shop.session import Session, Shop
from .stock.dataset import find_files
from .stock.market import Stock, build_stock

Record = Mapping[str, Any]


@dataclass
class Report:
    """What was compared, by kind, and every difference as a line of text."""

    compared: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def same(self, kind: str, where: str, ours: object, original: object) -> None:
        """Count a comparison; note a difference."""
        self.compared[kind] += 1
        if ours != original or type(ours) is not type(original):
            self.differences.append(f"{kind} {where}: ours {ours!r:.300}, original {original!r:.300}")


class Checker:
    """Holds the shop, and one goal table for each world that the recordings come from."""

    def __init__(self, stock: Stock) -> None:
        """Open the shop with the noun test that the recordings used."""
        self.stock = stock
        search = ProductSearch(stock.catalog, stock.index)
        self.shop = Shop(stock.catalog, search, noun_test("letters"))
        self.report = Report()
        self._tables: dict[GoalOrder, GoalTable] = {}

    def table(self, config: Record) -> GoalTable:
        """Return the goals of a recorded configuration."""
        seed = int(config["seed"])
        shuffle = 233 if config["fork"] == "orig" else seed
        order = GoalOrder("recorded", draw_seed=seed, shuffle_seed=shuffle, human=bool(config["human_goals"]))
        if order not in self._tables:
            self._tables[order] = GoalTable(self.stock.catalog, order)
        return self._tables[order]

    def check(self, folder: Path) -> Report:
        """Compare with every file of recordings in a folder; absent ones are left out."""
        if (path := folder / "goals.jsonl").exists():
            self._goals(_records(path))
        for name, compare in (
            ("rankings", self._ranking),
            ("reward_pairs", self._reward),
            ("traces", self._trace),
        ):
            if (path := folder / f"{name}.jsonl").exists():
                for number, record in enumerate(_records(path)):
                    compare(f"{name}:{number}", record)
        return self.report

    def _goals(self, records: Iterator[Record]) -> None:
        """Compare goals and prices; each block of records begins with its configuration."""
        same, catalog = self.report.same, self.stock.catalog
        for record in records:
            if "config" in record:
                goals = self.table(record["config"])
                weights = goals.weights()
                same("goal counts", "", len(goals), record["n_goals"])
                rng = shuffled(goals.order, len(goals))[1]
                session = "".join(rng.choices(string.ascii_lowercase, k=10))
                drawn = goals.draw(rng, [0.0, *itertools.accumulate(weights)])
                same(
                    "constructor draws",
                    "",
                    [session, drawn],
                    [record["constructor_session"], record["constructor_goal"]],
                )
            elif "prices_of_range_products" in record:
                for asin, price in record["prices_of_range_products"].items():
                    same("drawn prices", asin, float(goals.price[self.shop.place(asin)]), price)
            else:
                goal = goals[record["i"]]
                wanted = record["goal_options"]
                ours = [
                    catalog.product(goal.place).asin, goal.instruction, list(goal.attributes),
                    dict(goal.options) if isinstance(wanted, dict) else list(goal.options),
                    goal.price_limit, weights[goal.index],
                ]  # fmt: skip
                keys = ("asin", "instruction_text", "attributes", "goal_options", "price_upper", "weight")
                same("goals", str(goal.index), ours, [record[key] for key in keys])

    def _ranking(self, where: str, record: Record) -> None:
        terms = analyze(record["query"])
        found, scores = self.stock.index.search(terms, RESULTS)
        asins = [self.stock.catalog.columns["asin"][place] for place in found.tolist()]
        same = self.report.same
        same("query terms", where, terms, record["tokens"])
        same("hit counts", where, self.stock.index.hits(terms), record["n_hits"])
        same("rankings", where, asins, record["asins"])
        same("ranking scores", where, [float(value) for value in scores], record["scores"])

    def _reward(self, where: str, record: Record) -> None:
        goals = self.table({"fork": "orig", "seed": 0, "human_goals": record["human_goals"]})
        goal, place = goals[record["goal_index"]], self.shop.place(record["purchased"])
        product, price = self.stock.catalog.product, float(goals.price[place])
        ours = score(
            product(place), product(goal.place), goal,
            price=price, options=record["options"], nouns=self.shop.nouns,
        )  # fmt: skip
        self.report.same("prices paid", where, price, record["price"])
        self.report.same("rewards", where, ours.total, record["reward"])
        self.report.same("reward parts", where, ours.parts(), record["info"])

    # --- walks ---

    def _trace(self, where: str, record: Record) -> None:
        config, start = record["config"], record["reset"]
        session = self._session(config, start)
        past: list[str] = [self._snapshot(f"{where} reset", session, start)]
        for number, step in enumerate(record["steps"]):
            place = f"{where} step {number} {step['action']!r:.60}"
            outcome = session.act(step["action"])
            self.report.compared["steps"] += 1
            if "raises" in step:  # Departure: we answer as to any invalid action.
                self.report.same("crashes of the original", place, outcome.valid, False)
                return
            if "<r>" in session.state.words[:1]:
                self.report.compared["random pages left out"] += 1
                return
            self.report.same(
                "step rewards", place, [outcome.reward, outcome.done], [step["reward"], step["done"]]
            )
            if outcome.bought is not None and step.get("reward_info"):
                self.report.same("purchases", place, outcome.bought.parts(), step["reward_info"])
            past += [step["action"], self._snapshot(place, session, step)]
            if config["num_prev"]:
                shown = SEPARATOR.join(past[-1 - 2 * int(config["num_prev"]) :])
                self.report.same("texts with history", place, shown, step["returned"])
            if moved := step.get("auto_reset"):
                session = self._session(config, moved)
                self._snapshot(f"{place} auto reset", session, {**moved, "avail": step["avail"]})

    def _session(self, config: Record, start: Record) -> Session:
        goals = self.table(config)
        goal = goals[start["goal_index"]]
        name = str(start["session"])
        return Session(self.shop, goals, goal, name=name, show_attrs=bool(config["show_attrs"]))

    def _snapshot(self, where: str, session: Session, record: Record) -> str:
        """Compare a page with a recorded one; returns its text."""
        bar, names = session.available()
        ours = {
            "text": session.text(),
            "rich": session.rich(),
            "url": session.url(),
            "avail": {"has_search_bar": bar, "clickables": names},
        }
        self.report.compared["pages"] += 1
        for key, value in ours.items():
            elsewhere = (
                key == "avail" and "auto_reset" in record
            )  # it speaks of the page after the automatic reset
            if record.get(key) is not None and not elsewhere:
                self.report.same(f"page {key}", where, value, record[key])
        return session.text()


def _records(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def check_recordings(recordings: Path, data: Path) -> Report:
    """Compare a folder of recordings with the shop over the official files in `data`."""
    return Checker(build_stock(read_products(find_files(data)["small"]))).check(recordings)


def main() -> int:
    """Run the check from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "recordings", type=Path, help="folder with goals, rankings, reward_pairs, traces (.jsonl)"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the official product files")
    options = parser.parse_args()
    report = check_recordings(options.recordings, options.data)
    for kind, count in sorted(report.compared.items()):
        print(f"{count:8} {kind}")
    print(*report.differences, f"{len(report.differences)} differences", sep="\n")
    return int(bool(report.differences))


if __name__ == "__main__":
    sys.exit(main())
