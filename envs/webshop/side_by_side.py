"""Plays recordings of the original WebShop again through the class that stands in for it, and reports what differs.

The original needs Java and Flask, so it is not run here: `conformance` says what a recording holds. Compared are what
loops read: observations in three modes, rewards, ends, actions on offer, sessions and goals, the reset after a
purchase, and the record of a session. Leaves out the shop's own conformance (`conformance`).
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from agentbench.bridges import SideBySide
from agentbench.datasets import Progress, silent
from agentbench.errors import MissingData, UsageError

Record = Mapping[str, Any]
_MODES = {"text": "text", "text_rich": "rich", "url": "url"}
_GOAL_KEYS = ("asin", "instruction_text", "attributes", "goal_options", "price_upper", "weight")


class Replay:
    """Shops of the recorded configurations, one for each, and what was compared in them."""

    def __init__(self, data: Path | None) -> None:
        """Take the official files of a folder, or None for the imported ones."""
        self.data = data
        self.report = SideBySide()
        self._envs: dict[str, Any] = {}

    def env(self, config: Record) -> Any:
        """Return the env of a configuration, made as the recording says the original was."""
        from .bridge import WebAgentTextEnv

        key = orjson.dumps(config).decode()
        if key not in self._envs:
            seed = int(config["seed"])
            seeded: dict[str, Any] = {} if config["fork"] == "orig" else {"seed": seed}
            if config["fork"] == "orig":
                random.seed(seed)  # the original takes the state that it finds
            self._envs[key] = WebAgentTextEnv(
                observation_mode="text",
                file_path=None if self.data is None else self.data / "items_shuffle_1000.json",
                num_products=None,
                human_goals=config["human_goals"],
                show_attrs=config["show_attrs"],
                num_prev_obs=config["num_prev"],
                num_prev_actions=config["num_prev"],
                nouns="letters",
                **seeded,
            )
        return self._envs[key]

    def goals(self, records: Iterator[Record]) -> None:
        """Compare goals, prices, and the session that the constructor starts."""
        env: Any = None
        for record in records:
            if "config" in record:
                env = self.env(record["config"])
                self.report.same("number of goals", len(env.server.goals), record["n_goals"])
                self.report.same("first session", env.session, record["constructor_session"])
                goal = env.server.user_sessions[env.session]["goal"]
                self.report.same("its goal", env.server.goals.index(goal), record["constructor_goal"])
            elif "prices_of_range_products" in record:
                prices = env.server.product_prices
                for asin, price in record["prices_of_range_products"].items():
                    self.report.same(f"price of {asin}", prices[asin], price)
            else:
                self.report.count("goals")
                for key in _GOAL_KEYS:
                    self.report.same(
                        f"goal {record['i']} {key}", env.server.goals[record["i"]][key], record[key]
                    )

    def trace(self, where: str, record: Record) -> None:
        """Play one recorded episode again, then start its session a second time."""
        env, start = self.env(record["config"]), record["reset"]
        self.report.count("episodes")
        started = time.perf_counter()
        observation, info = env.reset(session=start["session"])
        ours = time.perf_counter() - started
        self.report.same(f"{where} reset", [observation, info], [start["text"], None])
        self._page(f"{where} reset", env, start)
        goal = env.server.user_sessions[str(start["session"])]["goal"]
        self.report.same(f"{where} goal", env.server.goals.index(goal), start["goal_index"])
        for number, step in enumerate(record["steps"]):
            place = f"{where} step {number} {step['action']!r:.60}"
            if "raises" in step:
                self.report.notes.append(
                    f"{place}: the original ends with {step['raises']}, here it is invalid"
                )
                self.report.same(place, env.step(step["action"])[1:3], (0, False))
                return
            started = time.perf_counter()
            observation, reward, done, info = env.step(step["action"])
            ours += time.perf_counter() - started
            self.report.count("steps")
            shown = step.get("returned", step["text"])
            if step["action"].startswith("search[<r>"):
                self.report.notes.append(f"{place}: what a random query draws depends on episodes left out")
                return
            self.report.same(
                place, [observation, reward, done, info], [shown, step["reward"], step["done"], None]
            )
            if done and step.get("reward_info") and "auto_reset" not in step:
                session = env.server.user_sessions[env.session]
                self.report.same(f"{place} record", session["verbose_info"], step["reward_info"])
            self._page(place, env, step)
        self.report.spent("playing", 0.0, ours)
        again, _ = env.reset(session=str(start["session"]))
        self.report.same(f"{where} the same session again", again, start["text"])

    def _page(self, where: str, env: Any, record: Record) -> None:
        """Compare the page that the env is at; after a reset by itself that is the next session's start."""
        moved = record.get("auto_reset")
        self.report.same(f"{where} actions", env.get_available_actions(), record["avail"])
        if moved is not None:
            self.report.same(f"{where} next session", len(env.session), len(moved["session"]))
            if env.session != moved["session"]:
                self.report.notes.append(f"{where}: which session comes next depends on episodes left out")
                return
            goal = env.server.user_sessions[env.session]["goal"]
            self.report.same(f"{where} next goal", env.server.goals.index(goal), moved["goal_index"])
            record = moved
        kept = env.observation_mode
        for mode, key in _MODES.items():
            if record.get(key) is not None:
                env.observation_mode = mode
                self.report.same(f"{where} {mode}", env.observation, record[key])
        env.observation_mode = kept


def check(
    sources: Sequence[str] = (),
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> SideBySide:
    """Play recordings again.

    Args:
        sources: the folder of recordings (goals.jsonl, traces.jsonl), then the folder of the official files where
            they are not imported.
        limit: episodes; None plays all.
        seed: not used, recordings say their own.
        progress: told how many episodes are done.
    Raises: UsageError: no folder named. MissingData: no recordings or no products there.
    """
    if not sources:
        raise UsageError(
            "the original WebShop cannot be run here (it needs Java); name a folder of its recordings, "
            "and the folder of the official files where they are not imported"
        )
    folder = Path(sources[0])
    if not (folder / "traces.jsonl").is_file():
        raise MissingData(f"no recordings in {folder}: it holds no traces.jsonl")
    replay = Replay(Path(sources[1]) if len(sources) > 1 else None)
    if (folder / "goals.jsonl").is_file():
        replay.goals(_records(folder / "goals.jsonl"))
    for number, record in enumerate(itertools.islice(_records(folder / "traces.jsonl"), limit)):
        progress(number, 0, "episodes")
        replay.trace(f"trace {number}", record)
    return replay.report


def _records(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)
