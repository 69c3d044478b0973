"""Compares two runs of one panel, task by task. Leaves out the statistics (`stats`) and each run's own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..types import Trajectory
from .episodes import Key
from .stats import Estimate, bootstrap_mean, mcnemar
from .summary import Assignment, read_plan, read_run


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both runs over the same episodes.

    Attributes:
        mean_a: of run A; `mean_b` of run B.
        difference: B - A with a 95 % paired bootstrap interval over tasks.
        only_a: pairs that A solved and B did not; `only_b` the other way round.
        p: two-sided exact McNemar; None with repeats, whose pairs are not independent.
    """

    mean_a: float
    mean_b: float
    difference: Estimate
    only_a: int
    only_b: int
    p: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs of one panel.

    Attributes:
        pairs: episodes, by (task, repeat), that both runs have and that no error spoilt.
        excluded: episodes of either run without such a partner.
        success: None where the env has no yes/no outcome.
    """

    panel: str
    pairs: int
    excluded: int
    success: Difference | None
    score: Difference


def compare_runs(run_a: Path, run_b: Path) -> Comparison:
    """Pair the episodes of two run folders by (task, repeat) and compare them.

    Raises: UsageError: the runs played different tasks, repeats or rules; names the first difference.
    """
    plan_a, plan_b = read_plan(run_a)[0], read_plan(run_b)[0]
    a, b = (
        {(item.task, item.repeat): item for item in read_run(run, plan)}
        for run, plan in ((run_a, plan_a), (run_b, plan_b))
    )
    _require_same_items(plan_a, plan_b, a, b)
    keys = sorted(key for key in a if key in b and a[key].ok and b[key].ok)
    if not keys:
        raise UsageError(f"{run_a} and {run_b} share no episode that went through on both sides")
    pairs = [(a[key], b[key]) for key in keys]
    yes_no = all(x.success is not None and y.success is not None for x, y in pairs)
    return Comparison(
        panel=plan_a.id,
        pairs=len(pairs),
        excluded=len({*a, *b}) - len(pairs),
        success=_difference([(bool(x.success), bool(y.success)) for x, y in pairs], keys) if yes_no else None,
        score=_difference([(x.score, y.score) for x, y in pairs], keys),
    )


def _require_same_items(
    plan_a: Assignment, plan_b: Assignment, a: dict[Key, Trajectory], b: dict[Key, Trajectory]
) -> None:
    for what in ("env", "rules", "repeats"):
        seen = getattr(plan_a, what), getattr(plan_b, what)
        if seen[0] != seen[1]:
            raise UsageError(f"the runs cannot be compared: {what} is {seen[0]!r} in A and {seen[1]!r} in B")
    if plan_a.digest != plan_b.digest:
        tasks_a, tasks_b = ({task for task, _ in run} for run in (a, b))
        differing = sorted(tasks_a ^ tasks_b)
        where = ""
        if differing:
            side = "A" if differing[0] in tasks_a else "B"
            where = f": task {differing[0]!r} is in {side} only ({len(differing)} tasks differ)"
        raise UsageError(
            f"the runs cannot be compared: {plan_a.id} and {plan_b.id} played different tasks{where}"
        )


def _difference(pairs: list[tuple[float, float]], keys: list[Key]) -> Difference:
    by_task: dict[str, list[float]] = {}
    for (x, y), (task, _) in zip(pairs, keys, strict=True):
        by_task.setdefault(task, []).append(y - x)
    only_a = sum(x == 1 and y != 1 for x, y in pairs)
    only_b = sum(y == 1 and x != 1 for x, y in pairs)
    return Difference(
        mean_a=sum(x for x, _ in pairs) / len(pairs),
        mean_b=sum(y for _, y in pairs) / len(pairs),
        difference=bootstrap_mean([sum(values) / len(values) for values in by_task.values()]),
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b) if len(by_task) == len(pairs) else None,
    )
