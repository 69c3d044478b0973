"""Measures the bridges: ALFWorld's hook beside TextWorld, WebShop's stand-in, and served environments over the wire.

    python benchmarks/bridges.py alfworld FOLDER_WITH_GAMES --output alfworld.json [--pieces 1]
    python benchmarks/bridges.py webshop FOLDER_WITH_FILES --output webshop.json
    python benchmarks/bridges.py served --output served.json

`alfworld` plays both sides in one process with the same commands and counts every value that differs; it takes a few
seconds a game, all of them TextWorld's. So it goes in pieces, each a batch size on a quarter of the games: pieces that
are in the output are not played again, and `--pieces` stops after some. `webshop` walks at random through the
stand-in. `served` plays each environment locally and through `agentbench serve-env`'s server with the same commands,
step by step in turn, then in 100 sessions at once beside one session that does as much.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[:] = [
    folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent
]

BATCHES = (8, 3, 1)
"""Games at once; every size plays all games."""

QUARTERS = 4


def main() -> int:
    """Run a part; exit code 1 when a value differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("alfworld", "webshop", "served"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pieces", type=int, default=99, help="alfworld: play at most so many pieces now")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    measured: dict[str, Any]
    if options.part == "alfworld":
        measured = alfworld(options.folder, options.seed, options.pieces, options.output)
    elif options.part == "webshop":
        measured = webshop(options.folder, options.steps, options.seed)
    else:
        measured = served(options.steps, options.seed)
    report = {
        "machine": machine(),
        "options": {"part": options.part, "steps": options.steps, "seed": options.seed},
        "seconds": round(time.monotonic() - started, 1),
        **measured,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return int(bool(report.get("differences")))


def machine() -> dict[str, Any]:
    """Say what ran."""
    packages = {}
    for name in ("agentbench-opd", "textworld", "alfworld", "websockets"):
        try:
            packages[name] = version(name)
        except ImportError:
            packages[name] = "absent"
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        **packages,
    }


def alfworld(folder: Path, seed: int, pieces: int, output: Path | None) -> dict[str, Any]:
    """Play every game below a folder on both sides, once in batches of each size."""
    from agentbench.envs.alfworld.side_by_side import find_games

    files = find_games([str(folder)])
    random.Random(seed).shuffle(files)
    known = json.loads(output.read_text())["pieces"] if output and output.is_file() else []
    done = {(piece["batch_size"], piece["quarter"]): piece for piece in known}
    # diagonally, so that a run that is cut off has played many games in batches of all sizes
    order = [(size, (at + turn) % QUARTERS) for turn in range(QUARTERS) for at, size in enumerate(BATCHES)]
    for size, quarter in [key for key in order if key not in done][:pieces]:
        first = not any(key[0] == size for key in done)
        done[size, quarter] = piece(sorted(files[quarter::QUARTERS]), size, quarter, seed, laps=first)
        print(json.dumps(done[size, quarter]), file=sys.stderr, flush=True)
    return {
        "games": len(files),
        "batches": [
            total(size, [row for row in done.values() if row["batch_size"] == size]) for size in BATCHES
        ],
        "pieces": list(done.values()),
        "differences": [words for row in done.values() for words in row["differences"]],
    }


def piece(files: list[str], size: int, quarter: int, seed: int, *, laps: bool) -> dict[str, Any]:
    """Play some games once, timed, since they are new to both sides; then three laps of a pool of one batch."""
    from agentbench.bridges import SideBySide
    from agentbench.envs.alfworld.side_by_side import Plan, play

    fresh, again = SideBySide(), SideBySide()
    play(files, Plan(size, -(-len(files) // size), seed=seed + size), fresh)
    if laps:  # seeded by nobody
        play(files[:size], Plan(size, 3, steps=6), again)
    both = Counter(fresh.counts) + Counter(again.counts)
    return {
        "batch_size": size,
        "quarter": quarter,
        "different_games": len(files),
        "load": round(os.getloadavg()[0], 1),
        **both,
        "seconds": {name: {"original": a, "ours": b} for name, (a, b) in fresh.seconds.items()},
        "differences": fresh.differences + again.differences,
    }


def total(size: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Add the pieces of a batch size up."""
    counts = {
        name: sum(row[name] for row in rows)
        for name in ("different_games", "games", "steps", "won", "values")
    }
    faster = {
        part: round(
            sum(row["seconds"][part]["original"] for row in rows)
            / sum(row["seconds"][part]["ours"] for row in rows)
        )
        for part in ("reset", "step")
        if rows
    }
    return {
        "batch_size": size,
        **counts,
        "differ": sum(len(row["differences"]) for row in rows),
        "faster": faster,
    }


def webshop(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Walk at random through the stand-in."""
    from agentbench.envs.webshop.bridge import WebAgentTextEnv

    rng = random.Random(seed)
    started = time.perf_counter()
    env = WebAgentTextEnv("text", folder / "items_shuffle_1000.json", seed=seed, nouns="letters")
    opened = time.perf_counter() - started
    started, bought = time.perf_counter(), 0
    for _ in range(steps):
        offered = env.get_available_actions()
        name = rng.choice(offered["clickables"])
        words = rng.choice(env.server.goals)["query"]
        bought += env.step(f"search[{words}]" if offered["has_search_bar"] else f"click[{name}]")[2]
    seconds = time.perf_counter() - started
    return {
        "open_seconds": round(opened, 3),
        "steps": steps,
        "purchases": bought,
        "steps_per_second": round(steps / seconds),
    }


def served(steps: int, seed: int) -> dict[str, Any]:
    """Play each environment locally and over the wire; then with 100 sessions at once beside one that plays as much."""
    from agentbench.bridges.episode import Terms
    from agentbench.bridges.openenv import Service
    from agentbench.bridges.serving import serving
    from agentbench.registry import env_spec, names

    rows = {}
    for name in names("envs"):
        terms = Terms(env_spec(name))
        with serving(Service(terms, port=0)) as url:
            rows[name] = play_over(url, terms, steps, seed)
            many, one = (asyncio.run(crowd(url, sessions, 1000 // sessions)) for sessions in (100, 1))
            rows[name]["sessions"] = {"100": many, "1": one}
        print(name, json.dumps(rows[name]), file=sys.stderr, flush=True)
    return {"served": rows, "differences": [name for name, row in rows.items() if row["differences"]]}


def play_over(url: str, terms: Any, steps: int, seed: int) -> dict[str, Any]:
    """Play the same commands on both sides in turn, one session."""
    from websockets.sync.client import connect

    rng, spec = random.Random(seed), terms.spec
    local, tasks = spec.make(), terms.tasks(terms.split)
    wire: list[float] = []
    here: list[float] = []
    differences = 0
    with connect(url.replace("http", "ws") + "/ws") as socket:

        def ask(kind: str, **data: Any) -> Any:
            socket.send(json.dumps({"type": kind, "data": data}))
            return json.loads(socket.recv())["data"]

        while len(wire) < steps:
            task = tasks[rng.randrange(len(tasks))]
            answer = ask("reset", task=task, seed=0)
            text, info = local.reset(seed=0, options={"task": task})
            differences += answer["observation"]["text"] != text
            while not answer["done"]:
                command = rng.choice(info["admissible"] or ["look"]).replace("<your query>", "lamp")
                started = time.perf_counter()
                answer = ask("step", command=command)
                between = time.perf_counter()
                text, reward, _, _, info = local.step(command)
                wire.append(1e3 * (between - started))
                here.append(1e3 * (time.perf_counter() - between))
                differences += answer["observation"]["text"] != text
                differences += answer["observation"]["admissible"] != info["admissible"]
                differences += answer["reward"] != reward / spec.reward_unit
    return {
        "steps": len(wire),
        "differences": differences,
        "wire_ms_median": round(statistics.median(wire), 3),
        "local_ms_median": round(statistics.median(here), 3),
        "added_ms_median": round(statistics.median(a - b for a, b in zip(wire, here, strict=True)), 3),
    }


async def crowd(url: str, sessions: int, episodes: int) -> dict[str, Any]:
    """Step in many sessions at once, each a step after a reset; all of them are open before any steps."""
    from websockets.asyncio.client import connect

    opened = asyncio.Barrier(sessions + 1)

    async def one(number: int) -> None:
        async with connect(url.replace("http", "ws") + "/ws", open_timeout=60) as socket:

            async def ask(kind: str, **data: Any) -> None:
                await socket.send(json.dumps({"type": kind, "data": data}))
                assert json.loads(await socket.recv())["type"] == "observation"

            await ask("reset", index=number)
            await opened.wait()
            for _ in range(episodes):
                await ask("reset", index=number)
                await ask("step", command="look")

    playing = [asyncio.create_task(one(number)) for number in range(sessions)]
    await opened.wait()
    started = time.perf_counter()
    await asyncio.gather(*playing)
    seconds = time.perf_counter() - started
    return {"resets_and_steps": 2 * sessions * episodes, "seconds": round(seconds, 2)}


if __name__ == "__main__":
    raise SystemExit(main())
