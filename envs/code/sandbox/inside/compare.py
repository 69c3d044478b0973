"""The benchmarks' own rules for "this is the right answer". Pure functions on plain values.

Sources: LiveCodeBench `testing_util.py`; EvalPlus 0.3.1 `evalplus/eval/__init__.py` and `_special_oracle.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from .plain import Array

RTOL = 1e-7

_SET_TASKS = (
    "similar_elements find_char_long common_in_nested_lists extract_singly larg_nnum intersection_array "
    "find_dissimilar Diff"
)
_AS_SETS = frozenset(_SET_TASKS.split())
_NOT_NONE = frozenset(("check_str", "text_match_three", "text_starta_endb"))


def stdout_equal(got: str, expected: str) -> bool:
    """LiveCodeBench's rule for printed answers: equal lines, or equal numbers token by token. No tolerance."""
    got_lines = [line.strip() for line in got.strip().split("\n")]
    expected_lines = [line.strip() for line in expected.strip().split("\n")]
    if len(got_lines) != len(expected_lines):
        return False
    return all(
        one == other or _decimals_equal(one, other)
        for one, other in zip(got_lines, expected_lines, strict=True)
    )


def _decimals_equal(got: str, expected: str) -> bool:
    try:
        return [Decimal(each) for each in got.split()] == [Decimal(each) for each in expected.split()]
    except (InvalidOperation, ValueError, OverflowError):
        return False


def lcb_call_equal(got: Any, expected: Any) -> bool:
    """LiveCodeBench's rule for returned answers: a tuple counts as a list at the top level, then equality."""
    return bool((list(got) if isinstance(got, tuple) else got) == expected)


def equal(got: Any, expected: Any) -> bool:
    """Python's equality, and equal types of the whole: `True` is no right answer where 1 is wanted."""
    return type(got) is type(expected) and bool(got == expected)


class EvalPlus:
    """The rule of EvalPlus for one task.

    Departure: there an absolute tolerance that was raised for one float answer stays for the later inputs of the
    task; here only with `compatible`, which also keeps numpy arrays apart from lists as the original does.
    """

    def __init__(self, dataset: str, entry_point: str, atol: float, *, compatible: bool = False) -> None:
        """Take the task's facts; `dataset` is "humaneval" or "mbpp"."""
        self.dataset = dataset
        self.entry_point = entry_point
        self.atol = atol
        self.compatible = compatible

    def __call__(self, got: Any, expected: Any, arguments: Sequence[Any]) -> bool:
        """Tell whether a returned value is right; whatever the comparison raises means that it is not."""
        try:
            return self._judge(got, expected, arguments)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError, ArithmeticError):
            return False

    def _judge(self, got: Any, expected: Any, arguments: Sequence[Any]) -> bool:
        name = self.entry_point
        if self.compatible and isinstance(got, Array) != isinstance(expected, Array):
            return False
        if self.dataset == "humaneval" and name == "find_zero":
            (coefficients,) = arguments
            return bool(abs(sum(c * math.pow(got, i) for i, c in enumerate(coefficients))) <= self.atol)
        exact = bool(got == expected)
        if self.dataset == "mbpp":
            if name in _AS_SETS:
                exact = set(got) == set(expected)
            elif name in _NOT_NONE:
                wanted = expected if isinstance(expected, bool) else expected is not None
                exact = got == wanted if isinstance(got, bool) else wanted == (got is not None)
            else:
                exact = exact or self._other_reading(got, arguments)
        atol = self.atol
        if atol == 0 and _is_floats(expected):
            atol = 1e-6
            if self.compatible:
                self.atol = atol
        if exact or atol == 0:
            return exact
        return type(got) is type(expected) and close(got, expected, atol)

    def _other_reading(self, got: Any, arguments: Sequence[Any]) -> bool:
        """Accept what the original also takes where a task's text has two readings."""
        name = self.entry_point
        if name == "are_equivalent":  # Mbpp/164
            return True
        if name == "sum_div":  # Mbpp/295
            return bool(got == 0)
        if name == "surface_Area":  # Mbpp/581: the height of the pyramid, not of its side
            base, height = arguments
            slant = math.sqrt((base / 2) ** 2 + height**2)
            return bool(abs(got - round(base**2 + 4 * (base * slant) / 2, 2)) <= self.atol)
        if name == "digit_distance_nums":  # Mbpp/558: padded with zeros
            one, other = str(arguments[0]), str(arguments[1])
            width = max(len(one), len(other))
            pairs = zip(one.zfill(width), other.zfill(width), strict=True)
            return bool(got == sum(abs(int(a) - int(b)) for a, b in pairs))
        return False


def _is_floats(value: Any) -> bool:
    if isinstance(value, float):
        return True
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, float) for each in value)


def close(got: Any, expected: Any, atol: float) -> bool:
    """Numpy's `allclose` for plain numbers and equally shaped sequences of them; NaN is close to nothing."""
    if isinstance(expected, list | tuple):
        return (
            isinstance(got, list | tuple)
            and len(got) == len(expected)
            and all(close(one, other, atol) for one, other in zip(got, expected, strict=True))
        )
    if not isinstance(got, int | float | complex) or not isinstance(expected, int | float | complex):
        return False
    return got == expected or bool(
        abs(got - expected) <= atol + RTOL * abs(expected) and not _infinite(got) and not _infinite(expected)
    )


def _infinite(value: complex) -> bool:
    return isinstance(value, float) and math.isinf(value)
