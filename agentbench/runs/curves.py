"""Training runs side by side: each run's evaluations, and what the seeds of one configuration say together.

The last evaluation is the headline. Best and mean of the last three stand beside it, best only among the steps whose
checkpoint is still there: a number that no weights belong to is nobody's. Leaves out one evaluation's own page
(`report`), tests (`groups`) and the page (`curves_page`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import CorruptData, MissingData
from .episodes import decode_episode
from .files import as_written, read_lines
from .folder import METRICS, TIMINGS, measured, run_config
from .resume import TRAINING, changes, is_free
from .sides import evaluations
from .stats import Estimate
from .summary import Summary, summary_of

_SEEDS_MAY_DIFFER = (*TRAINING, "seed")
_SECONDS = "seconds/"


@dataclass(frozen=True, slots=True)
class Cost:
    """What the training steps of a run took.

    Attributes:
        episodes: collected; `sampled` tokens in them, `read` newly read before those.
        trained: tokens that an update learned from, where the algorithm says so.
        seconds: wall time of rollouts, updates and publishing; evaluations left out.
    """

    episodes: int = 0
    sampled: int = 0
    read: int = 0
    trained: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(Cost)))


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation.

    Attributes:
        step: after which it was made.
        value: the headline with its interval.
        checkpoint: that has it; None where it is gone.
        cost: of all steps up to it.
    """

    step: int
    value: Estimate
    checkpoint: Path | None
    cost: Cost


@dataclass(frozen=True, slots=True)
class Curve:
    """One training run.

    Attributes:
        points: its evaluations by step, at least one.
        panel: what they played.
        steps: what the run set out to do.
        cost: of all steps, those after the last evaluation too.
    """

    run: Path
    config: dict[str, Any]
    points: tuple[Point, ...]
    panel: str
    steps: int
    cost: Cost

    @property
    def last(self) -> Point:
        """The headline."""
        return self.points[-1]

    @property
    def last_three(self) -> float | None:
        """Mean of the last three evaluations, the one before training left out; None where there are fewer."""
        values = [point.value.value for point in self.points if point.step > 0][-3:]
        return sum(values) / 3 if len(values) == 3 else None

    @property
    def best(self) -> Point | None:
        """The best evaluation whose checkpoint is there; the first of equals. None where no checkpoint is."""
        saved = [point for point in self.points if point.checkpoint is not None]
        return max(saved, key=lambda point: point.value.value, default=None)


def read_curve(run: Path, say: Callable[[str], None] = lambda line: None) -> Curve:
    """Read a training run; what is left out of it is said.

    Raises: MissingData: it has no evaluations, or no configuration. CorruptData: a file is broken.
    """
    config = run_config(run)
    found = [(step, folder, summary_of(folder)) for step, folder in evaluations(run, say)]
    costs = _costs(run)
    points = tuple(
        Point(step, _headline(summary, folder), _existing(run / f"checkpoint-{step}"), _until(costs, step))
        for step, folder, summary in found
    )
    with as_written(run):
        steps = int(config.get("max_steps", points[-1].step))
    return Curve(run, config, points, found[-1][2].plan.id, steps, _until(costs, max(costs, default=0)))


def methods(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Runs that differ in nothing but the seed, under the first folder's name without its number."""
    groups: list[list[Curve]] = []
    for curve in curves:
        group = next((group for group in groups if _alike(group[0].config, curve.config)), None)
        if group is None:
            groups.append([curve])
        else:
            group.append(curve)
    named: dict[str, list[Curve]] = {}
    for group in groups:
        name = _name(group)
        named[name if name not in named else str(group[0].run)] = group
    return named


OVER: dict[str, Callable[[Point], float]] = {
    "steps": lambda point: point.step,
    "episodes": lambda point: point.cost.episodes,
    "tokens": lambda point: point.cost.sampled,
    "hours": lambda point: point.cost.seconds / 3600,
}
"""What a curve may be drawn over; tokens are those that the student sampled in training."""


@dataclass(frozen=True, slots=True)
class Band:
    """A method's seeds at the steps that all of them evaluated: mean place and value, lowest and highest value."""

    at: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def band(group: Sequence[Curve], over: str = "steps") -> Band:
    """The seeds of one method together, over one of `OVER`."""
    by_step = [{point.step: point for point in curve.points} for curve in group]
    steps = sorted(set.intersection(*map(set, by_step)))
    rows = [[seed[step] for seed in by_step] for step in steps]
    values = [[point.value.value for point in row] for row in rows]
    return Band(
        at=tuple(sum(map(OVER[over], row)) / len(row) for row in rows),
        mean=tuple(sum(row) / len(row) for row in values),
        low=tuple(map(min, values)),
        high=tuple(map(max, values)),
    )


def _headline(summary: Summary, folder: Path) -> Estimate:
    if summary.overall is None:
        raise MissingData(f"{folder} has no headline: too many of its episodes broke, see its report.md")
    return summary.overall.success or summary.overall.score


def _existing(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _costs(run: Path) -> dict[int, Cost]:
    """Step -> what it took, by its episodes, its metrics and its timings."""
    found: dict[int, Cost] = {}
    for file in sorted((run / "rollouts").glob("step-*.jsonl")):
        step = int(file.stem.removeprefix("step-")) + 1  # files count from 0, steps from 1
        for number, line in read_lines(file):
            try:
                turns = decode_episode(line).turns
            except ValueError as error:
                raise CorruptData(f"{file} line {number}: {error}") from error
            sampled = sum(len(turn.action.token_ids) for turn in turns)
            read = sum(len(turn.context_ids) for turn in turns)
            found[step] = found.get(step, Cost()) + Cost(episodes=1, sampled=sampled, read=read)
    for step, line in _by_step(run / METRICS):
        found[step] = found.get(step, Cost()) + Cost(trained=int(line.get("trained_tokens", 0)))
    for step, line in _by_step(run / TIMINGS):
        with as_written(run / TIMINGS):
            seconds = sum(measured(value) for name, value in line.items() if name.startswith(_SECONDS))
        found[step] = found.get(step, Cost()) + Cost(seconds=seconds)
    return found


def _by_step(file: Path) -> Iterator[tuple[int, dict[str, float]]]:
    for number, line in read_lines(file):
        values = {name: value for name, value in line.items() if type(value) in (int, float)}
        if not isinstance(line.get("step"), int):
            raise CorruptData(f"{file} line {number} names no step; it is no line of a training run")
        yield line["step"], values


def _until(costs: Mapping[int, Cost], step: int) -> Cost:
    return sum((cost for at, cost in costs.items() if at <= step), Cost())


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(is_free(key, _SEEDS_MAY_DIFFER) for key, _, _ in changes(one, other))


def _name(group: Sequence[Curve]) -> str:
    if len(group) == 1:
        return str(group[0].run)
    bare = re.sub(r"[-_.]*(seed|s)?[-_.]*\d*$", "", group[0].run.name)
    return bare or str(group[0].config.get("algorithm", "?"))
