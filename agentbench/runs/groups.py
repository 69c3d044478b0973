"""Compares two methods that were trained with several seeds each: the run is the unit, not the episode.

Episodes of one trained model share its luck, so a test over episodes would call seeds methods. With as many tasks in
every run, Student's test over the runs' means is the test of a mixed model with a random effect of the seed; a test
holds it against statsmodels' MixedLM. Leaves out single runs (`compare`) and the statistics of tasks (`stats`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError
from .compare import adjusted, differing_settings, verdict
from .folder import run_config
from .own import read_run
from .shortfalls import shortfalls_of
from .significance import detectable_between, pooled, student
from .stats import Estimate
from .summary import read_plan


@dataclass(frozen=True, slots=True)
class Contrast:
    """One figure of two groups of runs.

    Attributes:
        means_a: of every run of A; `means_b` of B.
        difference: mean of B minus mean of A with Student's 95 % interval over runs; `n` is the number of runs.
        p: two-sided, Student's t test with pooled variance, over runs; None where no run of a group differs from
            another. `holm` after Holm, see `compare.Difference`.
        detectable: true difference that so many seeds would show in four of five experiments; None without spread.
    """

    means_a: tuple[float, ...]
    means_b: tuple[float, ...]
    difference: Estimate
    p: float | None
    detectable: float | None
    holm: float | None


@dataclass(frozen=True, slots=True)
class GroupComparison:
    """Two groups of runs of one panel, each run one seed.

    Attributes:
        a: name of the first; `b` of the second.
        head: success, or score where there is no yes or no.
        spread: standard deviation between runs of one group, pooled.
        luck: the most that the luck of so many episodes alone would make of `spread`.
        settings: as in `compare.Comparison`, of all runs together.
        verdict: the headline in words.
        task_types: the headline by type of task, p after Holm over the types.
        shortfalls: what runs lack of a full, scored evaluation, each with the run.
    """

    a: str
    b: str
    panel: str
    head: Contrast
    spread: float
    luck: float
    settings: tuple[str, ...]
    verdict: str
    task_types: dict[str, Contrast] = field(default_factory=dict)
    shortfalls: tuple[str, ...] = ()


def compare_groups(
    runs_a: Sequence[Path], runs_b: Sequence[Path], names: tuple[str, str] = ("A", "B")
) -> GroupComparison:
    """Compare two groups of runs, each run one seed of a method.

    Raises: UsageError: fewer than two runs on a side, or other tasks. MissingDependency: scipy is not installed.
    """
    for name, runs in (("A", runs_a), ("B", runs_b)):
        if len(runs) < 2:
            raise UsageError(
                f"group {name} has {len(runs)} run(s); groups need two or more, compare two single runs as RUN_A RUN_B"
            )
    both = {run.resolve() for run in runs_a} & {run.resolve() for run in runs_b}
    if both:
        raise UsageError(f"{min(both)} is in both groups; name each run once")
    _require_different(runs_a)
    _require_different(runs_b)
    _require_same_tasks([*runs_a, *runs_b])
    short: list[str] = []
    values_a, values_b = ([_values(run, short) for run in runs] for runs in (runs_a, runs_b))
    head = contrast([_mean(run) for run in values_a], [_mean(run) for run in values_b])
    everything = [*values_a, *values_b]
    types = sorted(set.intersection(*({kind for kind, _ in run} for run in everything)))
    by_type = {
        kind: contrast(*([_mean(_of(run, kind)) for run in side] for side in (values_a, values_b)))
        for kind in (types if len(types) > 1 else ())
    }
    settings = tuple(differing_settings([*runs_a, *runs_b]))
    return GroupComparison(
        a=names[0],
        b=names[1],
        panel=read_plan(runs_a[0])[0].id,
        head=head,
        spread=pooled(head.means_a, head.means_b),
        luck=math.sqrt(sum(map(_variance, everything)) / len(everything)),
        settings=settings,
        verdict=verdict(head.difference, head.p, head.detectable, settings, short, of="seeds"),
        task_types=adjusted(by_type),
        shortfalls=tuple(short),
    )


def contrast(means_a: Sequence[float], means_b: Sequence[float]) -> Contrast:
    """Student's test between the means of two groups of runs, at least two runs each.

    Raises: MissingDependency: scipy or statsmodels is not installed.
    """
    difference, p = student(means_a, means_b)
    return Contrast(
        means_a=tuple(means_a),
        means_b=tuple(means_b),
        difference=difference,
        p=p,
        detectable=detectable_between(means_a, means_b),
        holm=p,
    )


def _require_different(runs: Sequence[Path]) -> None:
    """Refuse a copy of a run: it would count as a seed of its own."""
    seen: dict[tuple[str, int], Path] = {}
    for run in runs:
        engine = read_plan(run)[1].get("engine")
        if not isinstance(engine, Mapping) or "weights" not in engine:
            continue
        key = str(engine["weights"]), run_config(run).get("seed", 0)
        if key in seen:
            raise UsageError(
                f"{seen[key]} and {run} are the same weights played with the same seed; a run counts once"
            )
        seen[key] = run


def _require_same_tasks(runs: Sequence[Path]) -> None:
    plans = {run: read_plan(run)[0] for run in runs}
    first = plans[runs[0]]
    for run, plan in plans.items():
        if (plan.digest, plan.rules, plan.repeats) != (first.digest, first.rules, first.repeats):
            raise UsageError(
                f"{run} played other tasks, rules or repeats than {runs[0]}: {plan.id}, {first.id}"
            )


Values = list[tuple[str, float]]
"""(task type, value) of every sound episode of a run."""


def _values(run: Path, short: list[str]) -> Values:
    """Success of a run's sound episodes, or their score where there is no yes or no; what it lacks goes to `short`."""
    plan = read_plan(run)[0]
    episodes = read_run(run, plan)
    items = [item for item in episodes if item.ok]
    if not items:
        raise UsageError(f"{run} has no episode that went through")
    short += [f"{run} {said}" for said in shortfalls_of(run, plan, episodes)]
    yes_no = all(item.success is not None for item in items)
    return [(item.task_type, float(bool(item.success)) if yes_no else item.score) for item in items]


def _of(values: Values, kind: str) -> Values:
    return [(name, value) for name, value in values if name == kind]


def _mean(values: Values) -> float:
    return sum(value for _, value in values) / len(values)


def _variance(values: Values) -> float:
    """Of a run's mean, were its episodes independent draws."""
    mean = _mean(values)
    return sum((value - mean) ** 2 for _, value in values) / len(values) ** 2
