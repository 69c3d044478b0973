"""How often a comparison calls two equal things different: 5 of 100, as an interval of 95 % promises."""

import numpy as np
import pytest

from agentbench.runs.groups import contrast
from agentbench.runs.significance import detectable, mcnemar, paired_bootstrap, sign_flip

PAIRS, TASKS = 1000, 134


def paired_runs(rng, difference=0.0, tasks=TASKS):
    """Two runs over the same tasks: tasks are easy or hard for both, each run has its own luck."""
    ease = rng.beta(0.8, 0.8, tasks)
    a, b = (rng.random(tasks) < np.clip(ease + shift, 0, 1) for shift in (0.0, difference))
    return b.astype(float) - a.astype(float)


@pytest.mark.slow
def test_two_runs_without_a_difference():
    rng = np.random.default_rng(0)
    alarms = sum(
        not (found.low <= 0 <= found.high)
        for found in (paired_bootstrap(paired_runs(rng).tolist()) for _ in range(PAIRS))
    )
    assert 0.035 <= alarms / PAIRS <= 0.065


@pytest.mark.parametrize(("tasks", "least"), [(TASKS, 0.025), (1000, 0.035)])
def test_the_exact_test_behind_the_verdict_is_on_the_careful_side(tasks, least):
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(PAIRS):
        found = paired_runs(rng, tasks=tasks)
        alarms += mcnemar(int((found < 0).sum()), int((found > 0).sum())) < 0.05
    assert least <= alarms / PAIRS <= 0.065  # whole numbers: the largest level below 0.05 is used


@pytest.mark.slow
def test_sign_flips_without_a_difference():
    rng = np.random.default_rng(1)
    alarms = sum(sign_flip(paired_runs(rng).tolist()) < 0.05 for _ in range(PAIRS))
    assert 0.02 <= alarms / PAIRS <= 0.065  # whole numbers tie, so it is on the careful side


def test_groups_of_three_seeds_with_a_seed_effect_of_seven_points():
    rng = np.random.default_rng(2)
    rates = rng.normal(0.4, 0.07, (PAIRS, 2, 3))  # what a seed does to a method, seen in public reruns
    means = rng.binomial(TASKS, np.clip(rates, 0, 1)) / TASKS
    alarms = sum(contrast(list(a), list(b)).p < 0.05 for a, b in means) / PAIRS
    assert 0.035 <= alarms <= 0.065
    # the same runs by their episodes: a test that takes the seeds' luck for the method's
    pooled = means.mean(axis=2)
    error = np.sqrt(pooled * (1 - pooled) / (3 * TASKS)).mean(axis=1) * np.sqrt(2)
    assert (np.abs(pooled[:, 0] - pooled[:, 1]) > 1.96 * error).mean() > 0.2


def test_the_detectable_difference_is_found_in_four_of_five_experiments():
    rng = np.random.default_rng(3)
    least = detectable(paired_runs(rng).tolist())
    found = 0
    for _ in range(400):
        seen = paired_runs(rng, least)
        # the plain normal interval stands for the bootstrap, which takes a hundred times longer
        found += abs(seen.mean()) > 1.96 * seen.std(ddof=1) / np.sqrt(TASKS)
    assert 0.6 < found / 400 < 0.95  # clipping at 0 and 1 takes some of the difference away
