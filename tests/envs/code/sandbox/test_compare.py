"""The benchmarks' own rules: the hand-worked cases, numbered as in the table they come from."""

import math

import pytest

from agentbench.envs.code.sandbox.inside.compare import EvalPlus, close, equal, lcb_call_equal, stdout_equal
from agentbench.envs.code.sandbox.inside.plain import Array


@pytest.mark.parametrize(
    ("number", "got", "expected", "right"),
    [
        (1, "  3  \n\n", "3", True),
        (2, "3 4", "3\n4", False),
        (3, "1  2", "1 2", True),  # tokens as decimals
        (4, "a  b", "a b", False),
        (5, "0.50", "0.5", True),
        (6, "1e3", "1000", True),
        (7, "0.3333333333", "0.3333333334", False),
        (8, "Yes", "YES", False),
        (9, "1\n\n2", "1\n2", False),
        (10, "50000000000000000", "50000000000000001", False),
        (11, "NaN", "nan", False),
        (11, "nan", "nan", True),
        (12, "inf", "Infinity", True),
        (13, "１２", "12", True),
        (14, "3\r\n4\r\n", "3\n4", True),
        (15, "[1,2]", "[1, 2]", False),
        (16, "5\0", "5", False),
        (16, "5\u200b", "5", False),
        (17, "", "", True),
        (99, "sNaN", "nan", False),  # a signalling NaN raises where it is compared
        (99, "1e999999999", "1", False),
    ],
)
def test_printed_answers(number, got, expected, right):
    assert stdout_equal(got, expected) is right


@pytest.mark.parametrize(
    ("got", "expected", "right"), [((1, [2]), [1, [2]], True), ([(1, 2)], [[1, 2]], False)]
)
def test_returned_answers_of_livecodebench(got, expected, right):  # case 18
    assert lcb_call_equal(got, expected) is right


@pytest.mark.parametrize(
    ("number", "got", "expected", "right"),
    [
        (19, 1.0, 1, True),
        (19, True, 1, True),
        (20, (1, 2), [1, 2], False),
        (21, [0.1 + 0.2, 1.0], [0.3, 1.0], True),
        (22, [0.1 + 0.2, 1], [0.3, 1], False),  # not all floats, so no tolerance
        (23, [[0.1 + 0.2]], [[0.3]], False),
        (23, {"a": 0.1 + 0.2}, {"a": 0.3}, False),
        (24, 3, 3.0000001, False),  # another type
        (25, 1000000.05, 1000000.0, True),  # 0.05 <= 1e-6 + 1e-7 * 1e6
        (26, 2e-6, 0.0, False),
        (26, 1e-7, 0.0, True),
        (27, math.nan, math.nan, False),
        (28, 0.3, 0.3, True),
        (28, Array([1, 2]), [1, 2], True),
    ],
)
def test_returned_answers_of_evalplus(number, got, expected, right):
    assert EvalPlus("humaneval", "f", 0)(got, expected, []) is right


def test_compatible_mode_keeps_arrays_apart_and_a_raised_tolerance_for_later_inputs():
    rule = EvalPlus("humaneval", "f", 0, compatible=True)
    assert rule(Array([1, 2]), [1, 2], []) is False
    assert rule([[0.1 + 0.2]], [[0.3]], []) is False
    assert rule(0.1 + 0.2, 0.3, []) is True  # raises the tolerance
    assert rule([[0.1 + 0.2]], [[0.3]], []) is True


@pytest.mark.parametrize(
    ("dataset", "entry", "atol", "got", "expected", "arguments", "right"),
    [
        ("mbpp", "are_equivalent", 0, "anything", True, [1, 2], True),  # 164
        ("mbpp", "sum_div", 0, 0, 7, [7], True),  # 295
        ("mbpp", "sum_div", 0, 1, 7, [7], False),
        # 581: base 3, height 4: 9 + 2 * 3 * sqrt(1.5^2 + 16) = 9 + 6 * 4.272 = 34.63
        ("mbpp", "surface_Area", 0, 34.63, 33, [3, 4], True),
        ("mbpp", "surface_Area", 0, 34.6, 33, [3, 4], False),
        ("mbpp", "digit_distance_nums", 0, 6, 1, [1, 25], True),  # 558: 01 and 25 differ by 2 + 4
        ("mbpp", "similar_elements", 0, [2, 1, 1], (1, 2), [], True),  # 2
        ("mbpp", "Diff", 0, [1], [1, 2], [], False),  # 769
        ("mbpp", "check_str", 0, "found", True, [], True),
        ("mbpp", "check_str", 0, None, False, [], True),
        ("mbpp", "check_str", 0, None, True, [], False),
        ("humaneval", "find_zero", 1e-4, -0.5, "unused", [[1, 2]], True),  # 1 + 2 * -0.5 = 0
        ("humaneval", "find_zero", 1e-4, -0.4, "unused", [[1, 2]], False),
        ("humaneval", "find_zero", 1e-4, "x", "unused", [[1, 2]], False),  # what raises is not right
    ],
)
def test_tasks_with_a_rule_of_their_own(dataset, entry, atol, got, expected, arguments, right):
    assert EvalPlus(dataset, entry, atol)(got, expected, arguments) is right


def test_generated_tasks_want_the_type_too():
    assert equal(1, 1)
    assert not equal(True, 1)
    assert not equal((1,), [1])


def test_close_is_allclose_on_numbers_and_their_sequences():
    assert close([1.0, [2.0 + 1e-9]], [1.0, [2.0]], 1e-6)
    assert not close([1.0], [1.0, 1.0], 1e-6)
    assert not close("a", "b", 1e-6)
    assert close(math.inf, math.inf, 1e-6)
    assert not close(math.inf, 1.0, 1e-6)
    assert not close(1.0, math.inf, 1e-6)
