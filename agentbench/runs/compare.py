"""Compares runs of one panel: two of them task by task, or two groups of seeds.

What differs in their settings is named beside every figure: two numbers under two prompts are no comparison of models.
Leaves out the statistics (`stats`) and each run's own numbers (`summary`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import differences
from ..errors import UsageError, missing_dependency
from ..types import Trajectory
from .episodes import Key
from .files import read_json
from .folder import VERSIONS, run_config
from .own import read_run
from .stats import Estimate, bootstrap_mean, detectable, mcnemar, sign_flip
from .summary import Assignment, read_plan

_MOVES_NOTHING = frozenset(
    {
        *("output_dir", "concurrency", "step_seconds", "episode_seconds", "retries", "allow_missing"),
        *("max_error_rate", "model_name_or_path", "panel", "seed"),
    }
)
"""Keys of a run that are no setting of the game: bookkeeping, and what a comparison is about (model, seed)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both runs over the same episodes.

    Attributes:
        mean_a: of run A; `mean_b` of run B.
        difference: B - A with a 95 % paired bootstrap interval over tasks.
        only_a: pairs that A solved and B did not; `only_b` the other way round.
        p: two-sided; exact McNemar where each task was played once, else a sign-flip test over the tasks' means.
        test: which of the two.
        detectable: true difference that so many tasks would show in four of five experiments; None for one task.
    """

    mean_a: float
    mean_b: float
    difference: Estimate
    only_a: int
    only_b: int
    p: float
    test: str
    detectable: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs of one panel.

    Attributes:
        pairs: episodes, by (task, repeat), that both runs have and that no error spoilt.
        excluded: episodes of either run without such a partner.
        success: None where the env has no yes/no outcome.
        settings: every setting in which the runs differ, but for model and seed.
        verdict: the headline in words.
    """

    panel: str
    pairs: int
    excluded: int
    success: Difference | None
    score: Difference
    settings: tuple[str, ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class GroupComparison:
    """Two groups of runs of one panel, each run one seed.

    Attributes:
        means_a: headline of every run of A; `means_b` of B.
        difference: mean of B minus mean of A with Student's 95 % interval over runs; `n` is the number of runs.
        p: two-sided, Student's t test with pooled variance, over runs.
        settings: as in `Comparison`, of all runs together.
    """

    panel: str
    means_a: tuple[float, ...]
    means_b: tuple[float, ...]
    difference: Estimate
    p: float
    settings: tuple[str, ...]
    verdict: str


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
    success = _difference([(bool(x.success), bool(y.success)) for x, y in pairs], keys) if yes_no else None
    score = _difference([(x.score, y.score) for x, y in pairs], keys)
    settings = tuple(differing_settings([run_a, run_b]))
    head = success or score
    return Comparison(
        panel=plan_a.id,
        pairs=len(pairs),
        excluded=len({*a, *b}) - len(pairs),
        success=success,
        score=score,
        settings=settings,
        verdict=_verdict(head.difference, head.p, head.detectable, settings),
    )


def compare_groups(runs_a: Sequence[Path], runs_b: Sequence[Path]) -> GroupComparison:
    """Compare two groups of runs, each run one seed of a method: the run is the unit, not the episode.

    Episodes of one trained model share its luck, so a test over episodes would call seeds methods. Student's test asks
    how far the groups' means lie apart beside how far runs of one group do.

    Raises: UsageError: fewer than two runs on a side, or other tasks. MissingDependency: scipy is not installed.
    """
    for name, runs in (("A", runs_a), ("B", runs_b)):
        if len(runs) < 2:
            raise UsageError(
                f"group {name} has {len(runs)} run(s); groups need two or more, compare two single runs as RUN_A RUN_B"
            )
    try:
        from scipy.stats import ttest_ind
    except ImportError as error:
        raise missing_dependency("scipy", "stats", "the comparison of groups") from error
    plans = {run: read_plan(run)[0] for run in (*runs_a, *runs_b)}
    first = plans[runs_a[0]]
    for run, plan in plans.items():
        if (plan.digest, plan.rules, plan.repeats) != (first.digest, first.rules, first.repeats):
            raise UsageError(
                f"{run} played other tasks, rules or repeats than {runs_a[0]}: {plan.id}, {first.id}"
            )
    means_a, means_b = tuple(map(_headline, runs_a)), tuple(map(_headline, runs_b))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # runs that are equal to the last digit are no trouble here
        found = ttest_ind(means_b, means_a, equal_var=True)
    low, high = found.confidence_interval(0.95)
    value = sum(means_b) / len(means_b) - sum(means_a) / len(means_a)
    difference = Estimate(value, float(low), float(high), len(means_a) + len(means_b))
    settings = tuple(differing_settings([*runs_a, *runs_b]))
    p = float(found.pvalue) if found.pvalue == found.pvalue else 1.0  # NaN: no run differs from another
    return GroupComparison(
        first.id, means_a, means_b, difference, p, settings, _verdict(difference, p, None, settings)
    )


def differing_settings(runs: Sequence[Path]) -> Iterator[str]:
    """Every setting in which any of the runs differs from the first, with both values; model and seed are left out."""
    first, *others = [_settings(run) for run in runs]
    seen: set[str] = set()
    for other in others:
        for line in differences(first, other):
            if line not in seen:
                seen.add(line)
                yield line


def _settings(run: Path) -> dict[str, Any]:
    """What moves a number besides the model: the run's configuration, and what was really played with."""
    plan, policy = read_plan(run)
    config = {key: value for key, value in run_config(run).items() if key not in _MOVES_NOTHING}
    engine = policy.get("engine", {})
    played = {
        **{key: value for key, value in policy.items() if key not in ("engine", "sampling")},
        **{
            f"engine.{key}": engine[key]
            for key in ("name", "dtype")
            if isinstance(engine, Mapping) and key in engine
        },
    }
    machine = read_json(run / VERSIONS).get("env", {})
    return {"panel": plan.id, "rules": plan.rules, **config, "played": played, "machine": machine}


def _headline(run: Path) -> float:
    """Mean success of a run's sound episodes, or mean score where there is no yes or no."""
    items = [item for item in read_run(run, read_plan(run)[0]) if item.ok]
    if not items:
        raise UsageError(f"{run} has no episode that went through")
    if all(item.success is not None for item in items):
        return sum(bool(item.success) for item in items) / len(items)
    return sum(item.score for item in items) / len(items)


def _verdict(difference: Estimate, p: float, least: float | None, settings: Sequence[str]) -> str:
    low, high = difference.low, difference.high
    if low > 0 or high < 0:
        better = "B" if difference.value > 0 else "A"
        said = f"{better} is better: the 95 % interval of B - A leaves out 0 (p = {p:.3g})."
    else:
        said = f"No difference is shown: the 95 % interval of B - A holds 0 (p = {p:.3g})."
        if least is not None:
            said += f" So many tasks would show a difference of {100 * least:.1f} points in four of five experiments."
    if settings:
        said += (
            f" The runs differ in {len(settings)} setting(s) besides the model: read them before the numbers."
        )
    return said


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
    means = [sum(values) / len(values) for values in by_task.values()]
    once = len(by_task) == len(pairs) and all(value in (-1, 0, 1) for value in means)
    return Difference(
        mean_a=sum(x for x, _ in pairs) / len(pairs),
        mean_b=sum(y for _, y in pairs) / len(pairs),
        difference=bootstrap_mean(means),
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b) if once else sign_flip(means),
        test="exact McNemar" if once else "sign flips over tasks",
        detectable=detectable(means),
    )
