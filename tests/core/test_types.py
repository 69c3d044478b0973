import copy
import pickle

import orjson
import pytest

from agentbench.types import (
    Action,
    Failure,
    Parent,
    Trajectory,
    Turn,
    author_of,
    derive_seed,
    to_dict,
    trajectory_from_dict,
)


def test_trajectory_survives_json():
    first = Turn(
        0,
        "obs",
        Action("a", (1, 2), (-0.1, -0.2), "length", 3, "teacher"),
        None,
        -0.1,
        (7,),
        True,
        {"k": [1]},
    )
    second = Turn(1, "é", Action("b"), "b", 1.0, (), False, {}, {"weight": 0.5})
    whole = Trajectory(
        "id", "env", "task", 5, (first, second), None, 0.0, "error", 2, "type",
        Failure("Boom", "it broke", "env"), "last", Parent("p", 1), seconds=3.0,
    )  # fmt: skip
    again = trajectory_from_dict(orjson.loads(orjson.dumps(to_dict(whole))))
    assert again == whole
    assert again.seconds == 0.0  # wall time is not part of the record
    assert again.reward == 0.9
    assert not again.ok


def test_seeds_follow_from_their_parts_alone():
    # blake2b("a\x1f1"), 8 bytes, big-endian, shifted right by one; the same on every machine and in every process
    import hashlib

    expected = int.from_bytes(hashlib.blake2b(b"a\x1f1", digest_size=8).digest(), "big") >> 1
    assert derive_seed("a", 1) == expected
    assert derive_seed("a", 1) != derive_seed("a", 2)
    assert 0 <= derive_seed("x") < 2**63


def test_hand_overs():
    authors = ((0, "mixture"), (3, "expert"))
    assert [author_of(authors, turn) for turn in range(5)] == ["mixture"] * 3 + ["expert"] * 2


def test_a_record_with_nothing_to_say_is_read_only_and_an_empty_mapping():
    turn = Turn(index=0, observation="o", action=Action("a"), env_action="a", reward=0.0)
    assert turn.shown == turn.info == turn.annotations == turn.notes == {}
    for change in (
        lambda: turn.info.__setitem__("x", 1),
        lambda: turn.notes.update(x=1),
        lambda: turn.shown.setdefault("x", 1),
    ):
        with pytest.raises(TypeError, match=r"dataclasses\.replace"):
            change()
    assert pickle.loads(pickle.dumps(turn)) == copy.deepcopy(turn) == turn
