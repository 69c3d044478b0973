"""Tests, intervals and power of differences, all of them scipy's and statsmodels': this only hands numbers over.

Both come with the extra `stats`, and are imported when something is compared: that takes longer than a whole evaluation
of fast games. Leaves out the intervals of a single run (`stats`) and what is compared (`compare`, `groups`).
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import missing_dependency
from .stats import RESAMPLES, Estimate

_CELLS = 1_000_000
"""Values that a resampling holds at once."""


def require_statistics(purpose: str) -> None:
    """Refuse what could not be tested in the end. Raises: MissingDependency."""
    for package in ("scipy.stats", "statsmodels"):
        _library(package, purpose)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p-value: how surprising this split of the differing items is for a fair coin."""
    exact = _library("statsmodels.stats.contingency_tables").mcnemar
    return float(exact([[0, only_a], [only_b, 0]], exact=True).pvalue)


def sign_flip(values: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value that paired differences are symmetric around 0: all flips of their signs, or 9,999 of them.

    Args:
        values: one mean difference for each task, so that repeats of a task count once.
        seed: of the flips, where there are too many to try all.
    """
    if len(values) < 2:
        return 1.0  # a flip of the only sign is as far from 0
    found = _library("scipy.stats").permutation_test(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=max(1, _CELLS // len(values)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def paired_bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean difference with its 95 % percentile bootstrap interval over tasks.

    Values that are all equal, or a single one, have no spread to draw from: the interval is then the value itself, and
    whoever shows it says that there is none.

    Args:
        values: one mean difference for each task.
        seed: of the resampling.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if bool(np.all(array == array[0])):
        return Estimate(mean, mean, mean, len(array))
    found = _library("scipy.stats").bootstrap(
        (array,),
        np.mean,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=max(1, _CELLS // len(array)),
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Estimate(mean, float(low), float(high), len(array))


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values that are read together: below 0.05 only what stays so although the others were tried too."""
    if len(values) < 2:
        return list(values)
    adjusted = _library("statsmodels.stats.multitest").multipletests(values, method="holm")[1]
    return [float(value) for value in adjusted]


def detectable(values: Sequence[float]) -> float | None:
    """Smallest true mean difference that so many pairs of this spread would show in four of five experiments.

    By the power of the paired t test at 0.05; None where there is no spread to judge by.
    """
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if spread == 0:
        return None
    power = _library("statsmodels.stats.power").TTestPower()
    return spread * float(power.solve_power(nobs=len(values), alpha=0.05, power=0.8))


def detectable_between(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The same of two groups, by Student's t test; None where no member of a group differs from another."""
    spread = pooled(a, b)
    if spread == 0:
        return None
    power = _library("statsmodels.stats.power").TTestIndPower()
    found = power.solve_power(nobs1=len(a), ratio=len(b) / len(a), alpha=0.05, power=0.8)
    return spread * float(found)


def student(a: Sequence[float], b: Sequence[float]) -> tuple[Estimate, float | None]:
    """Mean of B minus mean of A with Student's 95 % interval, variance pooled, and its two-sided p.

    They are shares, so the interval ends at -1 and 1.
    Without any spread within the groups the test says nothing: p is None and the interval the difference itself.
    """
    value, n = float(np.mean(b)) - float(np.mean(a)), len(a) + len(b)
    if pooled(a, b) == 0:
        return Estimate(value, value, value, n), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runs that are nearly equal are no trouble here
        found = _library("scipy.stats").ttest_ind(b, a, equal_var=True)
    low, high = found.confidence_interval(0.95)
    return Estimate(value, max(-1.0, float(low)), min(1.0, float(high)), n), float(found.pvalue)


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean of shares with Student's 95 % interval, at least two values; it ends where shares do, at 0 and 1.

    Values that are all equal have no spread: the interval is then the value, and whoever shows it leaves it out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = _library("scipy.stats", "an interval over seeds").ttest_1samp(values, 0.0)
    low, high = found.confidence_interval(0.95)
    return Estimate(float(np.mean(values)), max(0.0, float(low)), min(1.0, float(high)), len(values))


def pooled(a: Sequence[float], b: Sequence[float]) -> float:
    """Standard deviation within two groups."""
    squares = sum((value - sum(side) / len(side)) ** 2 for side in (a, b) for value in side)
    within = math.sqrt(squares / (len(a) + len(b) - 2))
    return within if within > 1e-12 else 0.0  # equal means that were summed in another order


def _library(name: str, purpose: str = "a comparison") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_dependency(name.partition(".")[0], "stats", purpose) from error
