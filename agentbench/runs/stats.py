"""Intervals, pass@k and paired comparisons. Pure functions of plain numbers; leaves out what is counted and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
Z80 = 0.8416212335729143
"""80 % quantile of the standard normal distribution."""
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


def sign_flip(values: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value that paired differences are symmetric around 0, by flipping their signs at random.

    Args:
        values: one mean difference for each task, so that repeats of a task count once.
        seed: of the 9,999 flips; the smallest p is 1 / 10,000.
    Source: Fisher's randomisation test; the added 1 keeps it valid, Phipson and Smyth 2010.
    """
    array = np.asarray(values, dtype=np.float64)
    seen = abs(float(array.sum()))
    rng, rows = np.random.default_rng(seed), max(1, _CELLS // max(1, len(array)))
    hits = 0
    for start in range(0, RESAMPLES, rows):
        signs = rng.integers(0, 2, size=(min(rows, RESAMPLES - start), len(array))) * 2 - 1
        hits += int((np.abs(signs @ array) >= seen - 1e-12).sum())
    return (hits + 1) / (RESAMPLES + 1)


def detectable(values: Sequence[float]) -> float | None:
    """Smallest true mean difference that so many pairs of this spread would show in four of five experiments.

    (z_0.975 + z_0.8) sd / sqrt(n); None for fewer than two pairs.
    """
    if len(values) < 2:
        return None
    return float((Z95 + Z80) * np.std(values, ddof=1) / math.sqrt(len(values)))


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values that are read together: below 0.05 only what stays so although the others were tried too.

    Four lines instead of statsmodels, which brings pandas; a test holds its figures.

    Source: Holm 1979; the k-th smallest of m counts (m - k + 1) times, and never less than one before it.
    """
    adjusted, worst = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = worst
    return adjusted


def pass_at_k(n: int, successes: int, k: int) -> float:
    """Estimate the chance that at least one of k tries succeeds, without bias, from n tries of one task.

    Source: Chen et al. 2021, arXiv:2107.03374, Eq. 1: 1 - C(n-c, k) / C(n, k).
    """
    if not 0 <= successes <= n or not 1 <= k <= n:
        raise ValueError(f"need 0 <= successes <= n and 1 <= k <= n, got c={successes}, n={n}, k={k}")
    return 1.0 - math.comb(n - successes, k) / math.comb(n, k)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p-value: how surprising this split of the differing items is for a fair coin."""
    n = only_a + only_b
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return float(min(1.0, 2 * tail / 2**n))
