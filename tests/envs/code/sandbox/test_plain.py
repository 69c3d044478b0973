"""Values that cross between processes: what arrives, and what a liar may send."""

import enum
import json
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest

from agentbench.envs.code.sandbox.inside import plain

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


class Odd(int):
    def __eq__(self, other):
        return True

    __hash__ = None


def carried(value, **options):
    return plain.unpack(plain.loads(plain.dumps(plain.pack(value))), **options)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**53), 2**53, 10**100, 1.0, -0.0, float("inf"), "", "é\n\0", "\ud800", b"\x00\xff", 1 + 2j,
        [], [1, [2, (3,)]], (), (1, [2]), {}, {1: "a", (1, 2): [3]}, set(), {1, 2}, frozenset({1}), {frozenset({1}), 2},
        range(3), range(0, 10**30, 7), bytearray(b"x"), {"i": "5"}, int, ValueError,
    ],
)  # fmt: skip
def test_plain_values_arrive_as_they_are(value):
    got = carried(value)
    assert got == value
    assert type(got) is type(value)


def test_nan_arrives():
    assert carried(float("nan")) != carried(float("nan"))


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Point(1, 2), (1, 2)),
        (Colour.RED, 1),
        (Odd(3), 3),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (iter([1, 2]), [1, 2]),
        (map(str, [1]), ["1"]),
        ({1: 2}.items(), [(1, 2)]),
        (np.float64(0.5), 0.5),
        (np.int64(5), 5),
        (np.bool_(True), True),
        (np.array([[1, 2]]), [[1, 2]]),
    ],
)
def test_other_kinds_arrive_as_their_plain_base(value, arrives):
    got = carried(value)
    assert got == arrives
    assert type(got) is type(arrives)


def test_arrays_can_be_kept_apart():
    assert type(carried(np.array([1, 2]), arrays=True)) is plain.Array
    assert type(carried(np.array([1, 2]))) is list


def test_anything_else_has_a_truth_value_and_nothing_more():
    import re

    got = carried(re.match("a", "a"))
    assert isinstance(got, plain.Opaque)
    assert got
    assert got != carried(re.match("a", "a"))
    assert repr(got) == "<Match object>"


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth_and_size_are_limited():
    assert carried(nested(plain.MAX_DEPTH - 1)) == nested(plain.MAX_DEPTH - 1)
    with pytest.raises(plain.NotPlain, match="deeper than 200"):
        plain.pack(nested(plain.MAX_DEPTH + 1))
    shared = [0]
    for _ in range(60):
        shared = [shared, shared]
    with pytest.raises(plain.NotPlain, match="parts"):
        plain.pack(shared)
    circle = []
    circle.append(circle)
    with pytest.raises(plain.NotPlain):
        plain.pack(circle)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"\xff", b"[" * 100_000, b'{"v"', b"nul",
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(data):
    with pytest.raises(plain.NotPlain):
        plain.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        {}, {"a": 1, "b": 2}, {"?": 1}, {"i": 5}, {"i": "zz"}, {"s": [[1]]}, {"d": [[[], 1]]}, {"d": [1]}, {"d": 5},
        {"t": "xy"}, {"T": "eval"}, {"T": []}, {"c": [1]}, {"c": "ab"}, {"r": ["1"]}, {"y": 5}, {"y": "\u0100"},
        {"o": [1, True]}, {"o": ["x", 1]}, {"s": [{"d": []}]},
    ],
)  # fmt: skip
def test_what_is_no_value_is_refused(data):
    with pytest.raises(plain.NotPlain):
        plain.unpack(data)


def test_a_deep_message_is_refused_when_it_arrives():
    data = json.loads("[" * 250 + "]" * 250)
    with pytest.raises(plain.NotPlain, match="deeper"):
        plain.unpack(data)
