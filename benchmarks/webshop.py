"""Measures the WebShop engine: steps by kind of action, start-up, memory, and a synthetic shop of any size.

    python benchmarks/webshop.py                                  # a generated shop of 300 products
    python benchmarks/webshop.py --split test --episodes 500      # the official small set, imported before
    python benchmarks/webshop.py --large 1000000 --folder DIR     # build once, then open and query

Times are CPU seconds of one thread unless they say wall; a busy machine still slows them through its caches, medians
less than means. The original needs 16.3 ms CPU for a step of a mixed walk (61 steps a core-second, action list not
counted). `--output FILE` keeps the figures as JSON, with command and versions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from agentbench.envs.webshop.env import WebShopEnv
from agentbench.envs.webshop.shop.goals import ORDERS, GoalTable
from agentbench.envs.webshop.shop.products import Product, product_of
from agentbench.envs.webshop.shop.search import ProductSearch
from agentbench.envs.webshop.stock import market
from agentbench.envs.webshop.stock.generate import generate
from agentbench.machine import versions

ORIGINAL_STEPS = 61
Figures = dict[str, Any]
_NO_BRACKETS = str.maketrans("[]", "  ")

_START = """
import resource, time
began = time.perf_counter(), time.process_time()
from agentbench.envs.webshop.env import SPEC, WebShopEnv
env = WebShopEnv(split={split!r})
env.reset(seed=0)
ended = time.perf_counter(), time.process_time()
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{{ended[0] - began[0]:.2f}} s wall, {{ended[1] - began[1]:.2f}} s CPU, {{kilobytes // 1024}} MB")
"""


def walk(env: WebShopEnv) -> Iterator[tuple[str, str]]:
    """Yield (kind, action) of a sensible walk that uses every kind of action once or more."""
    session = env.session
    yield "search", f"search[{session.goal.instruction.translate(_NO_BRACKETS)}]"
    yield "next page", "click[next >]"
    yield "previous page", "click[< prev]"
    link = next(name for name, node in session.page.clickables.items() if node.kind == "link")
    yield "open item", f"click[{link}]"
    yield "back to results", "click[< prev]"
    yield "open item", f"click[{link}]"
    groups = {node.group: name for name, node in session.page.clickables.items() if node.kind == "option"}
    for value in groups.values():
        if "[" not in value:
            yield "option", f"click[{value}]"
    yield "sub page", "click[description]"
    yield "back to item", "click[< prev]"
    yield "invalid", "click[no such thing]"
    yield "buy now", "click[buy now]"


def measure_steps(split: str, episodes: int) -> Figures:
    """Print and return resets and steps per CPU second, by kind of action; every query is new to the shop."""
    env = WebShopEnv(split=split)
    tasks = list(itertools.islice(market.tasks(split), episodes))
    spent: dict[str, list[float]] = defaultdict(list)
    for task in tasks:
        began = time.thread_time()
        env.reset(seed=0, options={"task": task})
        spent["reset"].append(time.thread_time() - began)
        for kind, action in walk(env):
            began = time.thread_time()
            env.step(action)
            spent[kind].append(time.thread_time() - began)
    figures: Figures = {"split": split, "episodes": len(tasks), "microseconds": {}}
    print(f"{len(tasks)} episodes of {split!r}; observation and info with the action list included")
    for kind, seconds in spent.items():
        mean, median = statistics.mean(seconds), statistics.median(seconds)
        figures["microseconds"][kind] = {
            "count": len(seconds), "mean": mean * 1e6, "median": median * 1e6, "p99": _quantile(seconds, 0.99) * 1e6
        }  # fmt: skip
        print(f"  {kind:16} {len(seconds):6} x  mean {mean * 1e6:7.1f} us  median {median * 1e6:7.1f} us")
    steps = {kind: seconds for kind, seconds in spent.items() if kind != "reset"}
    count = sum(map(len, steps.values()))
    for name, average in (("mean", statistics.mean), ("median", statistics.median)):
        rate = count / sum(average(seconds) * len(seconds) for seconds in steps.values())
        figures[f"steps_per_cpu_second_by_{name}s"] = rate
        print(
            f"  mixed walk by {name}s: {rate:,.0f} steps per CPU second, {rate / ORIGINAL_STEPS:.0f} x the original"
        )
    return figures


def measure_start(split: str) -> str:
    """Print and return what a fresh process needs until its first observation."""
    command = [sys.executable, "-c", _START.format(split=split)]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    print("start to first observation:", line)
    return line


# --- a large shop ---


def large_products(count: int, filler: int) -> Iterator[Product]:
    """Yield generated products whose descriptions are as long and as varied as real ones.

    Args:
        count: number of products.
        filler: words added to each description, drawn by Zipf's law from 200,000 invented ones.
    """
    rng = random.Random(0)
    letters = "bcdfghklmnprstvz"
    names = ["".join(pair) for pair in itertools.product(letters, "aeiou")]
    vocabulary = ["".join(rng.choices(names, k=rng.randint(2, 4))) for _ in range(200_000)]
    shares = np.cumsum(1 / (np.arange(len(vocabulary)) + 5))
    draw = np.random.default_rng(0)
    for item, extra, human in generate(count, 0):
        words = [vocabulary[place] for place in np.searchsorted(shares, draw.random(filler) * shares[-1])]
        yield product_of(
            {**item, "full_description": f"{item['full_description']} {' '.join(words)}"}, extra, human
        )


def build_large(count: int, folder: Path, filler: int) -> Figures:
    """Build the store; print and return how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    with Progress(disable=not sys.stdout.isatty()) as bar:
        lines: dict[str, Any] = {}

        def progress(done: int, total: int, what: str) -> None:
            if what not in lines:
                lines[what] = bar.add_task(what, total=total or count)
            bar.update(lines[what], completed=done)

        market.build_stock(large_products(count, filler), folder, progress)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"built {count:,} products in {wall:.0f} s wall, {cpu:.0f} s CPU; {size:.2f} GB on disk; {_memory()}"
    )
    return {
        "products": count,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "gigabytes_on_disk": size,
        "memory": _memory(),
    }


def query_large(folder: Path, queries: int) -> Figures:
    """Open the store and measure queries: goal sentences, titles, and short ones."""
    began = time.perf_counter()
    goods = market.open_stock(folder)
    figures: Figures = {"open_wall_ms": (time.perf_counter() - began) * 1e3, "queries": {}}
    print(
        f"opened {len(goods.catalog):,} products in {(time.perf_counter() - began) * 1e3:.1f} ms wall; {_memory()}"
    )
    began = time.perf_counter()
    goals = GoalTable(goods.catalog, ORDERS["human"])
    print(f"{len(goals):,} human goals in {time.perf_counter() - began:.2f} s wall; {_memory()}")
    rng = random.Random(1)
    search = ProductSearch(goods.catalog, goods.index)
    texts = {
        "goal sentences": [goals[rng.randrange(len(goals))].instruction for _ in range(queries)],
        "titles": [goods.catalog.columns["title"][rng.randrange(len(goods.catalog))] for _ in range(queries)],
    }
    texts["three words"] = [
        " ".join(rng.sample(text.split(), min(3, len(text.split())))) for text in texts["titles"]
    ]
    for name, sample in texts.items():
        cpu, wall = [], []
        for text in sample:
            began, thread = time.perf_counter(), time.thread_time()
            search.find(tuple(text.lower().split(" ")), "")
            wall.append((time.perf_counter() - began) * 1e3)
            cpu.append((time.thread_time() - thread) * 1e3)
        figures["queries"][name] = {
            "count": len(sample), "cpu_ms_p50": _quantile(cpu, 0.5), "cpu_ms_p99": _quantile(cpu, 0.99),
            "wall_ms_p50": _quantile(wall, 0.5), "wall_ms_p99": _quantile(wall, 0.99),
        }  # fmt: skip
        print(
            f"  {name:15} CPU p50 {_quantile(cpu, 0.5):6.2f} ms  p99 {_quantile(cpu, 0.99):6.2f} ms;  "
            f"wall p50 {_quantile(wall, 0.5):6.2f} ms  p99 {_quantile(wall, 0.99):6.2f} ms"
        )
    print(f"after the queries: {_memory()}")
    return {**figures, "memory_after": _memory()}


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _memory() -> str:
    """Say how much memory the process has held at most, and how much of what it holds now is its own."""
    own = 0
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            own = int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"memory peak {peak // 1024} MB, own (not mapped from files) {own // 1024} MB"


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", default="mini-train", help="tasks of the step benchmark")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument(
        "--large", type=int, default=0, help="products of the synthetic shop; 0 leaves it out"
    )
    parser.add_argument("--folder", type=Path, help="where the synthetic shop is stored; built if absent")
    parser.add_argument("--filler", type=int, default=70, help="words added to each synthetic description")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    if options.large and options.folder is None:
        parser.error("--large needs --folder")
    figures: Figures = {"command": " ".join(["python", *sys.argv]), "versions": versions()}
    if options.large:
        if not options.folder.exists():
            figures["build"] = build_large(options.large, options.folder, options.filler)
        figures["large"] = query_large(options.folder, options.queries)
    else:
        figures["start"] = measure_start(options.split)
        figures["steps"] = measure_steps(options.split, options.episodes)
        figures["memory"] = _memory()
        print(figures["memory"])
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
