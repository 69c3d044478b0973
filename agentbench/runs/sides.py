"""What the folder that a user names stands for in a comparison: runs of one panel, or of several.

An evaluation is itself; a training run is its last evaluation; a player's folder of a suite is all its panels and
seeds. Leaves out the comparison (`compare`, `groups`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from glob import glob
from pathlib import Path

from ..errors import MissingData, UsageError
from .compare import Comparison, compare_players
from .files import read_json
from .folder import VERSIONS, is_training
from .summary import SUMMARY

_STEP = re.compile(r"step-(\d+)")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SEED = re.compile(r"seed-(-?\d+)")

TEACHERS = "teachers"
"""Folder of a training run that holds its teachers' own evaluations, numbered as in its configuration."""

Say = Callable[[str], None]


def is_evaluation(folder: Path) -> bool:
    """Whether a folder holds an evaluation."""
    return (folder / VERSIONS).is_file() and "panel" in read_json(folder / VERSIONS)


def evaluations(training: Path, say: Say) -> list[tuple[int, Path]]:
    """Step and folder of every evaluation of a training run, in order.

    One that is under way, or in which the run was killed, is left out, which is said: the episodes that are on record
    first are not like the others.

    Raises: MissingData: there is none.
    """
    found = _numbered(
        training / "eval", _STEP, f"{training} is a training run without evaluations (eval/step-N)"
    )
    whole = []
    for step, folder in found:
        if is_finished(folder):
            whole.append((step, folder))
        else:
            say(f"{folder} is not finished and is left out; the training run plays it again on --resume")
    if not whole:
        raise MissingData(f"{training} is a training run without a finished evaluation (eval/step-N)")
    return whole


def is_finished(evaluation: Path) -> bool:
    """Whether everything that an evaluation planned is on record; its summary is written at the end."""
    if not (evaluation / SUMMARY).is_file():
        return False
    written = read_json(evaluation / SUMMARY)
    recorded, planned = written.get("recorded"), written.get("planned")
    return not (isinstance(recorded, int) and isinstance(planned, int) and recorded < planned)


def last_evaluation(folder: Path, say: Say) -> Path:
    """The run folder itself, or the last evaluation of a training run or the one of a checkpoint, which is said.

    Raises: MissingData: the training run has none, or not of that checkpoint.
    """
    named = _CHECKPOINT.fullmatch(folder.name)
    if named and is_training(folder.parent):
        found = folder.parent / "eval" / f"step-{named.group(1)}"
        if not found.is_dir():
            raise MissingData(
                f"{folder} was not evaluated in training ({found} is not there); play it: agentbench eval --model "
                f"{folder}"
            )
        say(f"{folder} is a checkpoint; its evaluation in training is taken")
        return found
    if is_training(folder):
        step, found = evaluations(folder, say)[-1]
        say(f"{folder} is a training run; its last evaluation is taken, at step {step}")
        return found
    return folder


def matching(patterns: Iterable[str], say: Say) -> list[Path]:
    """Run folders that globs name, each once, each training run by its last evaluation.

    Raises: MissingData: a glob matches no folder.
    """
    found = []
    seen: set[Path] = set()
    for pattern in patterns:
        matches = sorted(Path(name) for name in glob(pattern) if Path(name).is_dir())
        if not matches:
            raise MissingData(f"no run folder matches {pattern!r}")
        found += [last_evaluation(path, say) for path in matches if path.resolve() not in seen]
        seen |= {path.resolve() for path in matches}
    return found


def suite_panels(folder: Path) -> dict[str, list[Path]]:
    """Panel folder -> its runs by seed, of one player of a suite; {} where the folder is none."""
    if is_evaluation(folder) or is_training(folder) or not folder.is_dir():
        return {}
    panels = sorted(path for path in folder.iterdir() if path.is_dir())
    found = {
        path.name: [run for _, run in _numbered(path, _SEED, "") if is_evaluation(run)]
        for path in panels
        if any(_SEED.fullmatch(inner.name) for inner in path.iterdir())
    }
    return {name: runs for name, runs in found.items() if runs}


def compare_folders(first: Path, other: Path, say: Say) -> list[Comparison]:
    """Compare what two folders stand for: one comparison, or one for each panel that two players of a suite share.

    Raises: UsageError: one is a suite's and the other is not, or they share no panel.
    """
    for folder in (first, other):
        players = sorted(path for path in folder.iterdir() if suite_panels(path)) if folder.is_dir() else []
        if players:
            raise UsageError(
                f"{folder} is a suite's folder; compare its players: {_listed(map(str, players))}"
            )
    suites = suite_panels(first), suite_panels(other)
    if not any(suites):
        runs = last_evaluation(first, say), last_evaluation(other, say)
        return [compare_players([runs[0]], [runs[1]], (str(first), str(other)))]
    shared = [panel for panel in suites[0] if panel in suites[1]]
    if not shared:
        raise UsageError(f"{first} and {other} share no panel: {_listed(suites[0])}; {_listed(suites[1])}")
    for panel in sorted({*suites[0], *suites[1]} - {*shared}):
        say(f"{panel} is left out, only one of {first} and {other} has it")
    return [
        compare_players(*_same_seeds(suites[0][panel], suites[1][panel], say), (str(first), str(other)))
        for panel in shared
    ]


def _same_seeds(runs_a: list[Path], runs_b: list[Path], say: Say) -> tuple[list[Path], list[Path]]:
    """The runs of both players that have the same seed, in one order; what is left out is said.

    Raises: UsageError: no seed is shared.
    """
    by_seed = {run.name: run for run in runs_a}, {run.name: run for run in runs_b}
    shared = [name for name in by_seed[0] if name in by_seed[1]]
    if not shared:
        raise UsageError(
            f"{runs_a[0].parent} and {runs_b[0].parent} share no seed: {_listed(by_seed[0])}; {_listed(by_seed[1])}"
        )
    for name in sorted({*by_seed[0], *by_seed[1]} - {*shared}):
        say(f"{name} is left out, only one of {runs_a[0].parent} and {runs_b[0].parent} has it")
    return [by_seed[0][name] for name in shared], [by_seed[1][name] for name in shared]


def _numbered(folder: Path, pattern: re.Pattern[str], refusal: str) -> list[tuple[int, Path]]:
    inner = folder.iterdir() if folder.is_dir() else []
    found = sorted(
        (int(match.group(1)), path)
        for path in inner
        if (match := pattern.fullmatch(path.name)) and path.is_dir()
    )
    if not found and refusal:
        raise MissingData(refusal)
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no panel at all"
