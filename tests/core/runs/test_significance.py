"""Tests of differences: scipy's and statsmodels' figures are those worked out by hand, and their absence has a name."""

import sys

import numpy as np
import pytest

from agentbench.errors import MissingDependency
from agentbench.runs.compare import verdict
from agentbench.runs.significance import (
    detectable,
    detectable_between,
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    sign_flip,
    student,
)

pytest.importorskip("statsmodels")


def test_mcnemar_by_hand():
    assert mcnemar(1, 5) == pytest.approx(0.21875)  # 2 * (C(6,0) + C(6,1)) / 2^6 = 14/64
    assert mcnemar(5, 1) == mcnemar(1, 5)
    assert mcnemar(0, 6) == pytest.approx(0.03125)  # 2 * 1/64
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0
    # twice the lower tail of 42 tosses: 2 x (C(42,0) + ... + C(42,12)) / 2^42
    assert mcnemar(12, 30) == pytest.approx(0.0079159, abs=1e-7)


@pytest.mark.parametrize(
    ("values", "adjusted"),
    [
        # by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 no less than the one before
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.6], [0.06, 0.06, 0.6]),
        ([0.7, 0.9], [1.0, 1.0]),
        ([0.3], [0.3]),
        ([], []),
    ],
)
def test_holm_adjusts_what_is_read_together(values, adjusted):
    assert holm(values) == pytest.approx(adjusted)


def test_sign_flips_by_hand():
    # of the 16 patterns of four equal signs two are as far from 0; of one value both are
    assert sign_flip([1, 1, 1, 1]) == pytest.approx(2 / 16)
    assert sign_flip([0.5]) == 1.0
    assert sign_flip([0, 0, 0]) == 1.0
    # 3, 1, -1: sums of +-3 +-1 +-1 are 5, 3, 3, 1 and their negatives: six of eight are at least 3 away
    assert sign_flip([3, 1, -1]) == pytest.approx(6 / 8)


def test_the_paired_bootstrap_by_hand():
    # means 0, 1/2, 1 with chances 1/4, 1/2, 1/4: the 2.5 % and 97.5 % points are 0 and 1
    found = paired_bootstrap([0.0, 1.0])
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)
    assert paired_bootstrap([0.3, 0.1, 0.8]) == paired_bootstrap([0.3, 0.1, 0.8])
    alike = paired_bootstrap([0.25] * 3)  # nothing to draw from
    assert (alike.low, alike.high, alike.n) == (0.25, 0.25, 3)
    values = np.random.default_rng(3).normal(2.0, 1.0, size=5000)
    found, half = paired_bootstrap(values.tolist()), 1.96 * values.std() / 5000**0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)


def test_the_detectable_difference_is_a_little_above_the_normal_formula():
    values = [
        1.0,
        -1.0,
    ] * 50  # sd sqrt(100/99); (1.959964 + 0.841621) / 10 = 0.280158, and Student's is wider
    assert 0.280158 < detectable(values) / (100 / 99) ** 0.5 < 0.285
    assert detectable([0.5, 0.5, 0.5]) is None
    assert detectable([1.0]) is None


def test_students_test_by_hand():
    # means 0.2 and 0.5, variances 0.01 each, standard error 0.1 sqrt(2/3): t = 3.674235, 4 degrees of freedom
    found, p = student([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert found.value == pytest.approx(0.3)
    assert found.high - found.value == pytest.approx(2.7764451 * 0.1 * (2 / 3) ** 0.5)
    assert p == pytest.approx(0.0213, abs=5e-5)
    # Cohen 1988, table 2.4.1: d = 1.00 needs 17 in each group for 80 % at two-sided 0.05
    seventeen = np.linspace(-1, 1, 17)
    unit = (seventeen / seventeen.std(ddof=1)).tolist()
    assert detectable_between(unit, unit) == pytest.approx(1.0, abs=0.02)


def test_differences_of_shares_end_at_100_points_and_too_few_seeds_show_nothing():
    # means 1/2 and 1/2, each side 0 and 1: sd 0.7071, standard error 0.7071, 2 degrees: +- 4.303 x 0.7071 = 3.04
    found, p = student([0.0, 1.0], [0.0, 1.0])
    assert (found.low, found.high, p) == (-1.0, 1.0, 1.0)
    least = detectable_between([0.0, 1.0], [0.0, 1.0])
    assert least > 1
    assert "So few seeds would show no difference reliably" in verdict(found, p, least, (), of="seeds")


def test_groups_without_spread_are_not_tested():
    # two runs that are equal, against two others that are equal: seeds did nothing, so there is nothing to test by
    found, p = student([0.5, 0.5], [0.7, 0.7])
    assert (found.value, p) == (pytest.approx(0.2), None)
    assert detectable_between([0.5, 0.5], [0.7, 0.7]) is None


def test_an_interval_over_seeds_by_hand():
    # 0.4, 0.5, 0.6: sd 0.1, standard error 0.1 / sqrt(3), quantile 4.3026527 for 2 degrees
    found = mean_interval([0.4, 0.5, 0.6])
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(4.3026527 * 0.1 / 3**0.5)
    wide = mean_interval([0.0, 0.25])  # 0.125 +- 12.706 x 0.125 lies beyond what a share can be
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_without_the_extra_the_comparison_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    monkeypatch.setitem(sys.modules, "statsmodels.stats.contingency_tables", None)
    with pytest.raises(MissingDependency, match=r"a comparison needs the package 'statsmodels'.*\[stats\]"):
        mcnemar(1, 2)
