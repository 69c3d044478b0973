import itertools
import math

import numpy as np
import pytest

from agentbench.runs.stats import (
    Estimate,
    bootstrap_mean,
    pass_at_k,
    stratified,
    wilson,
    wilson_repeated,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    found = wilson(successes, n)
    assert found.value == successes / n
    assert found.n == n
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_wilson_of_half_by_hand():
    # z² = 3.841459; centre (0.5 + 3.841459/20) / 1.3841459 = 0.5
    # half width 1.959964 * sqrt(0.25/10 + 3.841459/400) / 1.3841459 = 1.959964 * 0.1860205 / 1.3841459 = 0.263407
    found = wilson(5, 10)
    assert found.low == pytest.approx(0.236593, abs=1e-6)
    assert found.high == pytest.approx(0.763407, abs=1e-6)


def test_wilson_contains_its_rate_and_stays_inside_the_unit_interval():
    for n in (1, 2, 7, 50, 1000):
        for successes in (0, 1, n // 2, n):
            found = wilson(successes, n)
            assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


def test_repeats_count_as_independent_only_as_far_as_they_are():
    # every task wins half of its tries: task means do not vary, so all 4 episodes count
    assert wilson_repeated([[True, False], [False, True]]) == wilson(2, 4)
    # every task always ends alike: p(1-p) = 1/4, variance of means 1/3, 3/4 * 4 = 3, kept at the 4 tasks
    sure = wilson_repeated([[True, True], [False, False], [True, True], [False, False]])
    four = wilson(2, 4)
    assert (sure.value, sure.low, sure.high, sure.n) == (four.value, four.low, four.high, 8)
    # means 1, 1/2, 1/2, 0: variance (1/4 + 1/4) / 3 = 1/6; (1/4) / (1/6) * 4 = 6 episodes
    mixed = wilson_repeated([[True, True], [True, False], [False, True], [False, False]])
    six = wilson(3, 6)
    assert (mixed.low, mixed.high) == (pytest.approx(six.low), pytest.approx(six.high))
    # nothing ever failed: 3 tasks were seen, not 9 episodes
    assert wilson_repeated([[True] * 3] * 3).low == wilson(3, 3).low
    # one task alone is one observation: (0.25 + 1.920729) / 4.841459 = 0.448363,
    # half width 1.959964 * sqrt(0.1875 + 0.960365) / 4.841459 = 0.433728
    alone = wilson_repeated([[True, False, False, False]])
    assert alone.low == pytest.approx(0.014635, abs=1e-6)
    assert alone.high == pytest.approx(0.882091, abs=1e-6)


def test_without_repeats_the_interval_is_the_plain_one():
    assert wilson_repeated([[True], [False], [True], []]) == wilson(2, 3)


def test_bootstrap_of_two_values_by_hand():
    # means 0, 1/2, 1 with chances 1/4, 1/2, 1/4: the 2.5 % and 97.5 % points are 0 and 1
    found = bootstrap_mean([0.0, 1.0])
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)


def test_bootstrap_agrees_with_scipy_and_with_the_normal_approximation():
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).normal(2.0, 1.0, size=400)
    found = bootstrap_mean(values.tolist())
    theirs = bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.01)
    assert found.high == pytest.approx(theirs.high, abs=0.01)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)


def test_bootstrap_is_seeded_and_flat_for_equal_values():
    assert bootstrap_mean([0.1, 0.9, 0.4], seed=5) == bootstrap_mean([0.1, 0.9, 0.4], seed=5)
    found = bootstrap_mean([0.3] * 9)
    assert (found.low, found.high) == (found.value, found.value)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([])


def test_bootstrap_in_several_blocks_uses_every_resample(monkeypatch):
    monkeypatch.setattr("agentbench.runs.stats._CELLS", 10)
    # blocks of 10 // 2 = 5 rows: the same chances as above, so the same ends
    found = bootstrap_mean([0.0, 1.0])
    assert (found.low, found.high) == (0.0, 1.0)


def test_pass_at_k_by_hand_and_against_all_choices():
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)  # 1 - C(3,2)/C(5,2) = 1 - 3/10
    assert pass_at_k(4, 1, 1) == pytest.approx(0.25)
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 3, 2) == 1.0  # one failure cannot fill two tries
    outcomes = (1, 1, 0, 0, 0, 0)
    picks = list(itertools.combinations(outcomes, 3))
    assert pass_at_k(6, 2, 3) == pytest.approx(sum(map(any, picks)) / len(picks))


@pytest.mark.parametrize(("n", "c", "k"), [(2, 3, 1), (2, 1, 3), (2, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="1 <= k <= n"):
        pass_at_k(n, c, k)


def test_a_stratified_mean_by_hand():
    parts = [Estimate(0.5, 0.4, 0.7, 10), Estimate(0.7, 0.5, 0.8, 20)]
    # equal weights: 0.6; down hypot(0.05, 0.1), up hypot(0.1, 0.05)
    assert stratified(parts, [1, 1]) == Estimate(
        pytest.approx(0.6), pytest.approx(0.6 - 0.0125**0.5), pytest.approx(0.6 + 0.0125**0.5), 30
    )
    # weights 3 and 1: 0.75 * 0.5 + 0.25 * 0.7 = 0.55
    assert stratified(parts, [3, 1]).value == pytest.approx(0.55)
    alone = stratified(parts[:1], [5])
    assert (alone.value, alone.low, alone.high) == pytest.approx((0.5, 0.4, 0.7))
