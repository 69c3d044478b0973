"""Intervals of a run's own figures, and pass@k: what every evaluation shows, with nothing but numpy.

Pure functions of plain numbers. Leaves out what is counted and why (`summary`) and comparisons (`significance`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
RESAMPLES = 9999
_CELLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int) -> Estimate:
    """Give a rate its 95 % Wilson score interval, which stays inside [0, 1] and is honest for few episodes.

    Source: Wilson 1927; (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"need 0 <= successes <= n and n > 0, got {successes} of {n}")
    low, high = _wilson_ends(successes / n, n)
    return Estimate(successes / n, low, high, n)


def _wilson_ends(rate: float, n: float) -> tuple[float, float]:
    z2 = Z95 * Z95
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not push the ends past the rate or the unit interval (0 of n has low = 0 exactly).
    return min(max(middle - half, 0.0), rate), max(min(middle + half, 1.0), rate)


def stratified(parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Give a weighted mean of independent estimates its 95 % interval, out of theirs.

    Args:
        parts: one estimate for each stratum, at least one.
        weights: not negative, any positive sum.
    Source: Zou and Donner 2008 (MOVER): the distances to the ends add up like standard errors.
    """
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    value = math.fsum(share * part.value for share, part in zip(shares, parts, strict=True))
    down = math.hypot(*(share * (part.value - part.low) for share, part in zip(shares, parts, strict=True)))
    up = math.hypot(*(share * (part.high - part.value) for share, part in zip(shares, parts, strict=True)))
    return Estimate(value, value - down, value + up, sum(part.n for part in parts))


def wilson_repeated(outcomes: Sequence[Sequence[bool]]) -> Estimate:
    """Give a success rate its Wilson interval when tasks were played several times.

    Repeats of one task are not independent, so the interval is that of the effective number of episodes
    p(1-p) / Var(task means) × tasks, kept between the number of tasks and the number of episodes; with one repeat
    that is the plain interval, and tasks that always end alike count once.

    Args:
        outcomes: per task, whether each of its episodes succeeded; tasks without episodes are left out.
    Source: effective sample size under clustering, Korn and Graubard 1998.
    """
    tasks = [list(task) for task in outcomes if task]
    successes, n = sum(map(sum, tasks)), sum(map(len, tasks))
    if n in (0, len(tasks)):
        return wilson(successes, n)
    rate = successes / n
    means = np.array([sum(task) / len(task) for task in tasks])
    spread = float(means.var(ddof=1)) if len(tasks) > 1 else 0.0
    if rate in (0.0, 1.0) or len(tasks) == 1:
        effective = float(len(tasks))
    elif spread == 0.0:
        effective = float(n)
    else:
        effective = min(max(rate * (1 - rate) / spread * len(tasks), float(len(tasks))), float(n))
    low, high = _wilson_ends(rate, effective)
    return Estimate(rate, low, high, n)


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """Give a mean its 95 % percentile bootstrap interval; equal values and seeds give equal intervals."""
    n = len(values)
    if n == 0:
        raise ValueError("the mean of no values has no interval")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if n == 1 or bool(np.all(array == array[0])):
        return Estimate(mean, mean, mean, n)
    # Three lines of numpy instead of scipy.stats.bootstrap: importing scipy.stats takes longer than a whole
    # evaluation of fast games. A test holds the two against each other.
    rng, rows = np.random.default_rng(seed), max(1, _CELLS // n)
    means = [
        array[rng.integers(n, size=(min(rows, RESAMPLES - start), n))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Estimate(mean, float(low), float(high), n)


def pass_at_k(n: int, successes: int, k: int) -> float:
    """Estimate the chance that at least one of k tries succeeds, without bias, from n tries of one task.

    Source: Chen et al. 2021, arXiv:2107.03374, Eq. 1: 1 - C(n-c, k) / C(n, k).
    """
    if not 0 <= successes <= n or not 1 <= k <= n:
        raise ValueError(f"need 0 <= successes <= n and 1 <= k <= n, got c={successes}, n={n}, k={k}")
    return 1.0 - math.comb(n - successes, k) / math.comb(n, k)
