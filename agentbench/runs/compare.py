"""Compares two players of one panel task by task, overall and by task type.

What differs in their settings is named beside every figure: two numbers under two prompts are no comparison of models.
Leaves out the statistics (`significance`), seeds of training (`groups`) and each run's own numbers (`summary`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..config import differences
from ..errors import UsageError
from ..types import Trajectory
from .files import as_written, read_json
from .folder import CONFIG, VERSIONS, run_config, training_home
from .own import read_run
from .resume import TRAINING, is_free
from .shortfalls import shortfalls_of
from .significance import detectable, holm, mcnemar, paired_bootstrap, sign_flip
from .stats import Estimate
from .summary import Assignment, read_plan

_MOVES_NOTHING = frozenset(
    {
        *("output_dir", "concurrency", "step_seconds", "episode_seconds", "retries", "allow_missing"),
        *("max_error_rate", "give_up_after", "model_name_or_path", "policy", "panel", "seed"),
    }
)
"""Keys of a run that are no setting of the game: bookkeeping, and what a comparison is about (model, seed)."""

Pair = tuple[str, int, int]
"""(task id, which of the runs, repeat): what both players played once."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both runs over the same episodes.

    Attributes:
        mean_a: of run A; `mean_b` of run B.
        difference: B - A with a 95 % paired bootstrap interval over tasks.
        only_a: pairs that A solved and B did not; `only_b` the other way round.
        p: two-sided; exact McNemar where each task was played once, else a sign-flip test over the tasks' means.
        test: which of the two.
        holm: `p` after Holm, among the figures that are read together with this one; `p` itself where it stands alone.
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
    holm: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two players of one panel.

    Attributes:
        a: name of the first; `b` of the second.
        pairs: episodes, by (task, seed, repeat), that both have and that no error spoilt.
        excluded: episodes of either side without such a partner; of these, `absent` are on record on one side only.
        success: None where the env has no yes/no outcome.
        task_types: the headline by type of task, p after Holm over the types.
        settings: every setting in which the runs differ, but for model and seed.
        verdict: the headline in words.
    """

    a: str
    b: str
    panel: str
    pairs: int
    excluded: int
    success: Difference | None
    score: Difference
    settings: tuple[str, ...]
    verdict: str
    task_types: dict[str, Difference] = field(default_factory=dict)
    absent: int = 0
    shortfalls: tuple[str, ...] = ()

    @property
    def head(self) -> Difference:
        """Success, or score where there is no yes or no."""
        return self.success or self.score


def compare_runs(run_a: Path, run_b: Path) -> Comparison:
    """Pair the episodes of two run folders by (task, repeat) and compare them.

    Raises: UsageError: the runs played different tasks, repeats or rules; names the first difference.
    """
    return compare_players([run_a], [run_b])


def compare_players(
    runs_a: Sequence[Path], runs_b: Sequence[Path], names: tuple[str, str] | None = None
) -> Comparison:
    """Compare two players that played one panel once or with several seeds of sampling, pair by pair.

    The seeds here are the luck of sampling alone: every run of a side is of the same weights. Seeds of training are
    compared run by run, see `groups.compare_groups`.

    Args:
        runs_a: run folders of one player, in the order in which they pair with `runs_b`.
        runs_b: of the other.
        names: of the two; None takes the first folders.
    Raises: UsageError: other tasks, repeats, rules or numbers of runs; names the first difference.
    """
    if len(runs_a) != len(runs_b):
        raise UsageError(
            f"{runs_a[0]} and {runs_b[0]} have {len(runs_a)} and {len(runs_b)} runs of the panel; pairs need as many"
        )
    a: dict[Pair, Trajectory] = {}
    b: dict[Pair, Trajectory] = {}
    short: list[str] = []
    for place, (run_a, run_b) in enumerate(zip(runs_a, runs_b, strict=True)):
        plan_a, plan_b = read_plan(run_a)[0], read_plan(run_b)[0]
        one, other = read_run(run_a, plan_a), read_run(run_b, plan_b)
        _require_same_items(plan_a, plan_b, one, other)
        short += [f"A ({run_a}) {said}" for said in shortfalls_of(run_a, plan_a, one)]
        short += [f"B ({run_b}) {said}" for said in shortfalls_of(run_b, plan_b, other)]
        a |= {(item.task, place, item.repeat): item for item in one}
        b |= {(item.task, place, item.repeat): item for item in other}
    keys = sorted(key for key in a if key in b and a[key].ok and b[key].ok)
    if not keys:
        raise UsageError(f"{runs_a[0]} and {runs_b[0]} share no episode that went through on both sides")
    yes_no = all(side[key].success is not None for side in (a, b) for key in keys)
    score = _difference([(key, a[key].score, b[key].score) for key in keys])
    success = (
        _difference([(key, bool(a[key].success), bool(b[key].success)) for key in keys]) if yes_no else None
    )
    settings = tuple(differing_settings([*runs_a, *runs_b]))
    return Comparison(
        a=names[0] if names else str(runs_a[0]),
        b=names[1] if names else str(runs_b[0]),
        panel=plan_a.id,
        pairs=len(keys),
        excluded=len({*a, *b}) - len(keys),
        absent=len({*a} ^ {*b}),
        shortfalls=tuple(short),
        success=success,
        score=score,
        settings=settings,
        verdict=verdict(
            (success or score).difference,
            (success or score).p,
            (success or score).detectable,
            settings,
            short,
        ),
        task_types=_by_type(a, b, keys, yes_no=yes_no),
    )


def _by_type(
    a: Mapping[Pair, Trajectory], b: Mapping[Pair, Trajectory], keys: Sequence[Pair], *, yes_no: bool
) -> dict[str, Difference]:
    """The headline by type of task; {} where there are not two types."""
    rows: dict[str, list[tuple[Pair, float, float]]] = {}
    for key in keys:
        x, y = a[key], b[key]
        values = (bool(x.success), bool(y.success)) if yes_no else (x.score, y.score)
        rows.setdefault(x.task_type, []).append((key, *values))
    if len(rows) < 2:
        return {}
    return adjusted({name: _difference(rows[name]) for name in sorted(rows)})


class Tested(Protocol):
    """A figure with its p-value; None where it could not be tested."""

    @property
    def p(self) -> float | None: ...


_Row = TypeVar("_Row", bound=Tested)


def adjusted(rows: Mapping[str, _Row]) -> dict[str, _Row]:
    """The rows with p after Holm over those of them that have one."""
    tested = {name: row.p for name, row in rows.items() if row.p is not None}
    after = dict(zip(tested, holm(list(tested.values())), strict=True))
    found: dict[str, _Row] = {name: replace(row, holm=after.get(name)) for name, row in rows.items()}  # type: ignore[type-var]
    return found


def differing_settings(runs: Sequence[Path]) -> Iterator[str]:
    """Every setting in which any of the runs differs from the first, with both values; model and seed are left out."""
    first, *others = [_settings(run) for run in runs]
    training = [_training(run) for run in runs]
    if all(training):  # a run that was not trained here has none to differ in
        first = {**first, "training": training[0]}
        others = [{**other, "training": made} for other, made in zip(others, training[1:], strict=True)]
    seen: set[str] = set()
    for other in others:
        for line in differences(first, other):
            if line not in seen:
                seen.add(line)
                yield line


def _settings(run: Path) -> dict[str, Any]:
    """What moves a number besides the model: the run's configuration, and what was really played with."""
    with as_written(run):
        return _played(run)


def _played(run: Path) -> dict[str, Any]:
    plan, policy = read_plan(run)
    config = {key: value for key, value in run_config(run).items() if key not in _MOVES_NOTHING}
    engine = policy.get("engine", {})
    played = {
        **{key: value for key, value in policy.items() if key not in ("engine", "sampling", "policy")},
        **{
            f"engine.{key}": engine[key]
            for key in ("name", "dtype")
            if isinstance(engine, Mapping) and key in engine
        },
    }
    versions = read_json(run / VERSIONS)
    # What was played counts, not how it came about: options of the panel's file, the env's own turns, the checkpoint's
    # parser. Runs of earlier releases kept less of it.
    config |= versions.get("terms", {})
    if "options" in versions:
        config["env_options"] = versions["options"]
    for key, told in (("parser", "parser"), ("prompt", "prompt"), ("template_options", "template")):
        if told in played:
            config.pop(key, None)
    if not config.get("template_options"):  # a ready-made player has none
        config.pop("template_options", None)
    machine = versions.get("env", {})
    code = {key: versions[key] for key in ("code", "python", "packages") if key in versions}
    made = {"panel": plan.id, "rules": plan.rules, **config, "played": played, "machine": machine}
    return {**made, "versions": code}


def _training(run: Path) -> dict[str, Any]:
    """What moved the weights of a training run's evaluation, but for the seed; {} of another evaluation."""
    home = training_home(run)
    if home is None or not (home / CONFIG).is_file():
        return {}
    config = run_config(home)
    kept = {key: value for key, value in config.items() if key not in ("seed", "eval", "output_dir")}
    return {"step": run.resolve().name.removeprefix("step-"), **_pinned(kept)}


def _pinned(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The keys of a training run's configuration that may move a number."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{where}{key}"
        if isinstance(value, Mapping):
            found[key] = _pinned(value, f"{dotted}.")
        elif not is_free(dotted, TRAINING):
            found[key] = value
    return found


def verdict(
    difference: Estimate,
    p: float | None,
    least: float | None,
    settings: Sequence[str],
    short: Sequence[str] = (),
    *,
    of: str = "tasks",
) -> str:
    """Say in words what a difference shows, by its test: the bootstrap's interval is a little narrow for few pairs."""
    points = f"B - A is {100 * difference.value:+.1f} points"
    if p is None:
        said = (
            f"No test is possible: {points}, and no run of a group differs from another, so the seeds say nothing. "
            "Compare one run of each, task by task."
        )
    else:
        said = f"{'B' if difference.value > 0 else 'A'} is better" if p < 0.05 else "No difference is shown"
        said += f" (p = {p:.3g}; {_confidence(difference, points, of)})."
        if p >= 0.05 and least and least > 1:
            said += f" So few {of} would show no difference reliably, however large."
        elif p >= 0.05 and least:
            said += f" So many {of} would show a difference of {100 * least:.1f} points in four of five experiments."
    if settings:
        said += (
            f" The runs differ in {len(settings)} setting(s) besides the model: read them before the numbers."
        )
    if short:  # what is not there may be what was hard, or long
        said += " Not every episode of the runs stands behind this: what they lack is named below."
    return said


def _confidence(difference: Estimate, points: str, of: str) -> str:
    if difference.low == difference.high:  # all alike: nothing to draw an interval from
        where = f"in every one of {difference.n} {of}" if difference.n > 1 else "in the one task"
        return f"{points} {where}, so there is no interval"
    low, high = 100 * difference.low, 100 * difference.high
    return f"B - A is {low:+.1f} to {high:+.1f} points with 95 % confidence"


def _require_same_items(
    plan_a: Assignment, plan_b: Assignment, a: Sequence[Trajectory], b: Sequence[Trajectory]
) -> None:
    for what in ("env", "rules", "repeats"):
        seen = getattr(plan_a, what), getattr(plan_b, what)
        if seen[0] != seen[1]:
            raise UsageError(f"the runs cannot be compared: {what} is {seen[0]!r} in A and {seen[1]!r} in B")
    if plan_a.digest != plan_b.digest:
        tasks_a, tasks_b = ({item.task for item in run} for run in (a, b))
        differing = sorted(tasks_a ^ tasks_b)
        where = ""
        if differing:
            side = "A" if differing[0] in tasks_a else "B"
            where = f": task {differing[0]!r} is in {side} only ({len(differing)} tasks differ)"
        raise UsageError(
            f"the runs cannot be compared: {plan_a.id} and {plan_b.id} played different tasks{where}"
        )


def _difference(rows: Sequence[tuple[Pair, float, float]]) -> Difference:
    by_task: dict[str, list[float]] = {}
    for (task, _, _), x, y in rows:
        by_task.setdefault(task, []).append(y - x)
    only_a = sum(x == 1 and y != 1 for _, x, y in rows)
    only_b = sum(y == 1 and x != 1 for _, x, y in rows)
    means = [sum(values) / len(values) for values in by_task.values()]
    once = len(by_task) == len(rows) and all(value in (-1, 0, 1) for value in means)
    p = mcnemar(only_a, only_b) if once else sign_flip(means)
    return Difference(
        mean_a=sum(x for _, x, _ in rows) / len(rows),
        mean_b=sum(y for _, _, y in rows) / len(rows),
        difference=paired_bootstrap(means),
        only_a=only_a,
        only_b=only_b,
        p=p,
        test="exact McNemar" if once else "sign flips over tasks",
        detectable=detectable(means),
        holm=p,
    )
