import pytest

from agentbench.dialogue.segment import segment
from agentbench.errors import ContractError
from agentbench.types import Action, Trajectory, Turn


def turn(index, context, said, fresh):
    return Turn(index, "obs", Action("x", said, [-0.5] * len(said)), "x", 0.0, context, fresh)


def trajectory(*turns):
    return Trajectory("t", "e", "task", 0, turns, True, 1.0, "terminated")


def test_growing_conversation_is_one_row():
    rows = segment(trajectory(turn(0, [1, 2], [3], True), turn(1, [4], [5, 6], False)))
    assert len(rows) == 1
    assert rows[0].token_ids == [1, 2, 3, 4, 5, 6]
    assert rows[0].turn_ids == [-1, -1, 0, -1, 1, 1]
    assert rows[0].logprobs == [0, 0, -0.5, 0, -0.5, -0.5]


def test_fresh_prompts_start_new_rows():
    rows = segment(trajectory(turn(0, [1], [2], True), turn(1, [3], [4], True), turn(2, [5], [6], False)))
    assert [row.token_ids for row in rows] == [[1, 2], [3, 4, 5, 6]]
    assert [row.turn_ids for row in rows] == [[-1, 0], [-1, 1, -1, 2]]


def test_turns_left_out_become_context_and_empty_rows_vanish():
    steps = trajectory(turn(0, [1], [2], True), turn(1, [3], [4], False), turn(2, [5], [6], True))
    rows = segment(steps, keep={1})
    assert len(rows) == 1
    assert rows[0].turn_ids == [-1, -1, -1, 1]
    assert rows[0].logprobs == [0, 0, 0, -0.5]


def test_text_only_turns_have_no_rows():
    assert segment(trajectory(turn(0, [], [], True))) == []


def test_action_needs_a_logprob_per_token():
    with pytest.raises(ContractError, match="2 ids and 1 log-probs"):
        Action("x", [1, 2], [0.0])
