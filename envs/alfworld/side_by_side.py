"""Plays TextWorld's own batch and the native one side by side on the same game files, and reports what differs.

Every value that a loop can read is compared, with its type: observations, scores, ends, infos, the order of games
over seeds and laps, and the answers after a game is over. Leaves out the engine's own conformance (`conformance`).
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agentbench.bridges import SideBySide
from agentbench.datasets import Progress, silent
from agentbench.errors import ConfigError, MissingData

from .games import catalog

NONSENSE = ("dance", "", "  look  ", "go to", "take everything", "Look", "open the door", "go to cabinet 99")
_PAST_THE_END = 3
_DATA_KEYS = ("data_path", "eval_id_data_path", "eval_ood_data_path")
_EMBEDDED = 6


@dataclass(frozen=True)
class Plan:
    """How a pool of games is played.

    Attributes:
        batch_size: games at once.
        rounds: resets; as many as the pool has games, divided by the batch size, make a lap.
        seed: given to the batch's `seed`; None keeps the order it was made with.
        steps: turns of a game after which its batch is reset again.
        limit: turns after which a game is over, see `max_episode_steps`.
    """

    batch_size: int
    rounds: int
    seed: int | None = None
    steps: int = 24
    limit: int = 20


class Script:
    """What to type in one game: its solution and a little more, chance, or nonsense between both."""

    def __init__(self, path: str, number: int) -> None:
        """Choose the kind by the number of the game in the run."""
        self.random = random.Random(f"{number} {Path(path).parent.name}")
        self.kind = ("solution", "chance", "nonsense")[number % 3]
        self.left = list(json.loads(Path(path).read_bytes()).get("walkthrough") or ())

    def next(self, admissible: Sequence[str]) -> str:
        """Return the command to give now."""
        if self.kind == "nonsense" and self.random.random() < 0.4:
            return self.random.choice(NONSENSE)
        if self.kind != "chance" and self.left:
            return str(self.left.pop(0))
        return self.random.choice(list(admissible) or ["look"])


def play(files: Sequence[str], plan: Plan, report: SideBySide) -> None:
    """Play a pool of games as `plan` says on both sides and add to `report`."""
    from .bridge import native_class, original_class

    started = time.perf_counter()
    original = _open(original_class(), files, plan)
    between = time.perf_counter()
    native = _open(native_class(), files, plan)
    report.spent("making", between - started, time.perf_counter() - between)
    try:
        if plan.seed is not None:
            report.same("seed", native.seed(plan.seed), original.seed(plan.seed))
        for number in range(plan.rounds):
            _round(original, native, plan, number, report)
    finally:
        native.close()
        original.close()


def _open(kind: Any, files: Sequence[str], plan: Plan) -> Any:
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos

    return kind(
        list(files),
        request_infos=textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"]),
        batch_size=plan.batch_size,
        asynchronous=True,
        max_episode_steps=plan.limit,
        wrappers=[AlfredDemangler(shuffle=False), AlfredInfos],
    )


def _round(original: Any, native: Any, plan: Plan, number: int, report: SideBySide) -> None:
    """Reset both, and play until all games are over and a little beyond."""
    started = time.perf_counter()
    theirs = original.reset()
    between = time.perf_counter()
    ours = native.reset()
    report.spent("reset", between - started, time.perf_counter() - between)
    _same(f"round {number} reset", ours, theirs, report)
    paths, admissible = theirs[1]["extra.gamefile"], theirs[1]["admissible_commands"]
    scripts = [Script(path, number * plan.batch_size + place) for place, path in enumerate(paths)]
    report.count("games", len(paths))
    past = 0
    for step in range(plan.steps):
        commands = [script.next(found) for script, found in zip(scripts, admissible, strict=True)]
        started = time.perf_counter()
        theirs = original.step(commands)
        between = time.perf_counter()
        ours = native.step(commands)
        report.spent("step", between - started, time.perf_counter() - between)
        _same(f"round {number} step {step} {commands}", ours, theirs, report)
        report.count("steps", len(commands))
        admissible = theirs[3]["admissible_commands"]
        past += all(theirs[2])
        if past > _PAST_THE_END:
            break
    report.count("won", sum(theirs[3]["won"]))


def _same(where: str, ours: Any, theirs: Any, report: SideBySide) -> None:
    """Compare what a reset or step returned: each column, then each value in it."""
    report.same(f"{where}: length", len(ours), len(theirs))
    for column, (one, other) in enumerate(zip(ours[:-1], theirs[:-1], strict=True)):
        report.same(f"{where}: type of column {column}", type(one), type(other))
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            report.same(f"{where}: column {column}, game {place}", a, b)
    mine, yours = ours[-1], theirs[-1]
    report.same(f"{where}: names of infos", sorted(mine), sorted(yours))
    for name in sorted(set(mine) & set(yours)):
        report.same(f"{where}: type of {name}", type(mine[name]), type(yours[name]))
        for place, (a, b) in enumerate(zip(mine[name], yours[name], strict=True)):
            report.same(f"{where}: {name}, game {place}", a, b)


# --- which games ---


def find_games(sources: Iterable[str]) -> list[str]:
    """Return game files, sorted: from files, folders, or an ALFWorld configuration file.

    Args:
        sources: paths; with none, what $ALFWORLD_DATA holds.
    Raises: MissingData: there are none. ConfigError: a configuration without `dataset`.
    """
    given = list(sources)
    if not given and "ALFWORLD_DATA" in os.environ:
        given = [os.environ["ALFWORLD_DATA"]]
    found: set[str] = set()
    for source in given:
        for path in _folders(Path(source)):
            files = [path] if path.is_file() else path.rglob("*.tw-pddl")
            found |= {str(file) for file in files if "movable" not in str(file) and "Sliced" not in str(file)}
    if given and not found:
        raise MissingData(
            f"no .tw-pddl games under {', '.join(given)}; give game files, a folder of games, or ALFWorld's config file"
        )
    return sorted(found)


def _folders(path: Path) -> list[Path]:
    if path.suffix not in (".yaml", ".yml"):
        if not path.exists():
            raise MissingData(f"no game, folder or config file {str(path)!r}")
        return [path]
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not isinstance(config, dict) or not isinstance(config.get("dataset"), dict):
        raise ConfigError(f"{path} is no ALFWorld configuration: it has no section 'dataset'")
    named = [
        os.path.expandvars(str(config["dataset"][key])) for key in _DATA_KEYS if key in config["dataset"]
    ]
    return [Path(folder) for folder in named if Path(folder).exists()]


def write_embedded(folder: Path, count: int = _EMBEDDED) -> list[str]:
    """Write generated games where both sides can read them."""
    files = []
    for task in catalog.tasks("mini-test")[:count]:
        content = catalog.load(task)
        file = folder / content.path
        file.parent.mkdir(parents=True)
        file.write_bytes(content.game)
        files.append(str(file))
    return files


def check(
    sources: Sequence[str] = (),
    *,
    limit: int = 12,
    seed: int = 0,
    batch_sizes: Sequence[int] = (1, 3),
    progress: Progress = silent,
) -> SideBySide:
    """Play the user's games on both sides.

    Args:
        sources: see `find_games`; where there are none at all, generated games are played.
        limit: games, drawn with `seed`; each batch size plays all of them.
        seed: of the draw, and given to the batches.
        batch_sizes: games at once.
        progress: told how many batches are done.
    Raises: MissingDependency: textworld or alfworld is not installed. MissingData: no games there.
    """
    report = SideBySide()
    with tempfile.TemporaryDirectory(prefix="agentbench-bridge-") as folder:
        files = find_games(sources)
        if not files:
            files = write_embedded(Path(folder))
            report.notes.append(
                "no games were named and ALFWORLD_DATA is not set: generated games were played"
            )
        chosen = sorted(random.Random(seed).sample(files, min(limit, len(files))))
        for number, size in enumerate(batch_sizes):
            progress(number, len(batch_sizes), f"batches of {size}")
            rounds = -(-len(chosen) // size)
            play(chosen, Plan(size, rounds, seed=seed), report)
            play(
                chosen[:size], Plan(size, 2), report
            )  # two laps of a pool of one batch, in the order it starts with
    return report
