"""Times the native ALFWorld engine and the original side by side: load, reset, step, memory.

    python benchmarks/alfworld.py --data FOLDER_WITH_GAMES --output alfworld.json

Without `--data`, games of the generator's largest preset are used. Both engines play the same games with the same
commands; each measures itself in a fresh process, native first, in CPU seconds of its one thread, which a busy
machine distorts less than wall time. The original needs the extra
`[alfworld]`; without it only the native engine is timed. Leaves out: whether they agree
(`python -m agentbench.envs.alfworld.conformance`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

Figures = dict[str, float]
MEBIBYTE = 1024 * 1024

# this script bears the name of the package that the original engine imports, and its folder comes first
sys.path[:] = [
    folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent
]


def main() -> int:
    """Run the benchmark; exit code 1 when a target is missed."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        paths = _games(options.data, options.games, Path(scratch))
        native = _fresh_process(measure_native, paths, options.steps, options.seed)
        native |= _fresh_process(measure_memory, paths, options.live)
        original: Figures = {}
        if importlib.util.find_spec("textworld") and importlib.util.find_spec("alfworld"):
            few = paths[: options.original_games]
            original = _fresh_process(measure_original, few, options.original_steps, options.seed)
    checks = _checks(native, original, options.live)
    _print(native, original, checks)
    if options.output:
        report = {"machine": _machine(), "options": _plain(options), "native": native, "original": original}
        report["targets"] = [{"target": name, "seen": seen, "met": met} for name, seen, met in checks]
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(met for _, _, met in checks) else 1


def measure_native(paths: Sequence[str], steps: int, seed: int) -> Figures:
    """Time loading, resetting and stepping the native engine; seconds."""
    from agentbench.envs.alfworld.play.session import Game, Session

    Game.load(paths[0])  # imports and first-use costs are paid once a process
    loads = [_timed(lambda path=path: Game.load(path)) for path in paths]
    games = [Game.load(path) for path in paths]
    sessions = [Session(game) for game in games]
    resets = [_timed(session.reset) for session in sessions]
    times = _steps(sessions, steps, seed)
    return _figures(loads, resets, times)


def measure_original(paths: Sequence[str], steps: int, seed: int) -> Figures:
    """Time the original engine in the same way; seconds, and MiB a live env."""
    from agentbench.envs.alfworld.play.reference import ReferenceSession, start

    start(paths[0])
    before = _peak_bytes()
    loads, resets, times, sessions = [], [], [], []
    for path in paths:
        loads.append(_timed(lambda path=path: start(path)))
        sessions.append(ReferenceSession(path))
        resets.append(_timed(sessions[-1].reset))
        times += _steps([sessions[-1]], steps, seed)
    # an upper bound: what the timed loads leave behind is counted with the sessions
    grown = (_peak_bytes() - before) / len(paths)
    return _figures(loads, resets, times) | {"mib_per_env_own_game": grown / MEBIBYTE}


def measure_memory(paths: Sequence[str], live: int) -> Figures:
    """Hold many live episodes, each with a compiled game of its own; MiB."""
    from agentbench.envs.alfworld.play.session import Game, Session

    first = Session(Game.load(paths[0]))
    before = _peak_bytes()
    sessions = [first]
    while len(sessions) < live:
        sessions.append(Session(Game.load(paths[len(sessions) % len(paths)])))
    separate = _peak_bytes()
    rng = random.Random(0)
    for session in sessions:
        session.step(rng.choice(session.reset().admissible))
    sessions += [Session(first.game) for _ in range(live)]
    return {
        "mib_process_before": before / MEBIBYTE,
        "mib_per_env_own_game": (separate - before) / (live - 1) / MEBIBYTE,
        "mib_live_envs_total": separate / MEBIBYTE,
        "mib_per_env_shared_game": (_peak_bytes() - separate) / live / MEBIBYTE,
    }


def _steps(sessions: Sequence[Any], steps: int, seed: int) -> list[float]:
    """Play `steps` random admissible commands in each session, the same ones in both engines."""
    times = []
    for number, session in enumerate(sessions):
        rng = random.Random(f"{seed} {number}")
        result = session.reset()
        for _ in range(steps):
            command = rng.choice(result.admissible)
            began = time.thread_time()
            result = session.step(command)
            times.append(time.thread_time() - began)
    return times


def _figures(loads: list[float], resets: list[float], steps: list[float]) -> Figures:
    return {
        "load_seconds_median": statistics.median(loads),
        "reset_seconds_median": statistics.median(resets),
        "load_and_reset_seconds_mean": statistics.fmean(loads) + statistics.fmean(resets),
        "step_seconds_mean": statistics.fmean(steps),
        "step_seconds_median": statistics.median(steps),
        "step_seconds_p99": sorted(steps)[int(0.99 * (len(steps) - 1))],
        "games": len(loads),
        "steps": len(steps),
    }


def _checks(native: Figures, original: Figures, live: int) -> list[tuple[str, float, bool]]:
    """Return (target, what was seen, whether it is met)."""
    held = native["mib_live_envs_total"]
    checks = [(f"{live} live envs in one process below 1024 MiB", held, held < 1024)]
    if original:
        for key, least in (("load_and_reset_seconds_mean", 300), ("step_seconds_mean", 1000)):
            ratio = original[key] / native[key]
            checks.append((f"{key}: at least {least} times faster than the original", ratio, ratio >= least))
    return checks


def _print(native: Figures, original: Figures, checks: Sequence[tuple[str, float, bool]]) -> None:
    print(f"{'':32}{'native':>14}{'original':>14}{'ratio':>12}")
    for key in sorted({*native, *original}):
        mine, theirs = native.get(key), original.get(key)
        scale, unit = (1e3, " ms") if "seconds" in key else (1.0, "")
        shown = [f"{value * scale:.4g}{unit}" if value is not None else "-" for value in (mine, theirs)]
        ratio = f"{theirs / mine:.0f}x" if mine and theirs and key not in ("games", "steps") else ""
        print(f"{key:32}{shown[0]:>14}{shown[1]:>14}{ratio:>12}")
    for target, seen, met in checks:
        print(f"{'met ' if met else 'MISSED'}  {target}: {seen:.4g}")


def _timed(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _fresh_process(measure: Callable[..., Figures], *arguments: Any) -> Figures:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _games(folder: Path | None, count: int, scratch: Path) -> list[str]:
    if folder is not None:
        found = sorted(folder.rglob("*.tw-pddl"))
        if not found:
            raise SystemExit(f"no *.tw-pddl below {folder}; give the folder of unpacked games")
        chosen = range(0, len(found), max(1, len(found) // count))
        return [str(found[i]) for i in chosen][:count]
    from agentbench.envs.alfworld.generate.generate import game_for, task_ids, write_game

    ids = task_ids("real", "test", count)
    return [str(write_game(game_for(task_id), scratch / task_id.replace("/", "-"))) for task_id in ids]


def _machine() -> dict[str, Any]:
    packages = ("agentbench-opd", "textworld", "alfworld")
    found = {name: version(name) for name in packages if importlib.util.find_spec(name.split("-")[0])}
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        **found,
    }


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options without paths, which differ from machine to machine."""
    kept = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
    return kept | {"data": "generated" if options.data is None else options.data.name}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of unpacked games; default: generated ones")
    parser.add_argument("--games", type=int, default=60, help="games for the native engine")
    parser.add_argument("--steps", type=int, default=200, help="commands a game")
    parser.add_argument("--live", type=int, default=1000, help="episodes held at once")
    parser.add_argument("--original-games", type=int, default=6)
    parser.add_argument("--original-steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
