from dataclasses import replace

import pytest
import torch
from trainer_cases import make_trajectory, make_turn, random_groups

from agentbench.errors import ContractError, UsageError
from agentbench.trainers.batch.micro import idle_micro, micro_batches
from agentbench.trainers.batch.tables import collate, with_context
from agentbench.types import Group

PAD = 99


def two_turns(key="a", **kwargs):
    turns = [
        make_turn(0, [1, 2], [3, 4], logprobs=(-0.5, -0.25), reward=1.0, observation="hall"),
        make_turn(1, [5], [6], logprobs=(-1.0,), reward=2.0, observation="kitchen"),
    ]
    return make_trajectory(key, turns, **kwargs)


def test_three_tables_of_a_growing_conversation():
    short = make_trajectory("b", [make_turn(0, [7], [8], observation="hall", finish="length")])
    batch = collate([Group("g", 0, (two_turns(), short))], PAD)
    assert batch.tokens_BT.tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 99, 99, 99, 99]]
    assert batch.turn_BT.tolist() == [[-1, -1, 0, 0, -1, 1], [-1, 2, -1, -1, -1, -1]]
    assert batch.behaviour_BT.tolist() == [[0, 0, -0.5, -0.25, 0, -1.0], [0.0] * 6]
    assert batch.length_B.tolist() == [6, 2]
    assert batch.traj_N.tolist() == [0, 0, 1]
    assert batch.index_N.tolist() == [0, 1, 0]
    assert batch.reward_N.tolist() == [1.0, 2.0, 0.0]
    assert batch.truncated_N.tolist() == [False, False, True]
    assert batch.score_M.tolist() == [3.0, 0.0]
    assert batch.ids_M == ("a", "b")
    assert batch.traj_B.tolist() == [0, 1]
    # both episodes start in the hall of one task
    assert batch.anchor_N[0] == batch.anchor_N[2] != batch.anchor_N[1]


def test_equal_observations_of_two_tasks_are_different_anchors():
    one = Group("g", 0, (two_turns("a"),))
    two = Group("h", 0, (two_turns("b"),))
    batch = collate([one, two], PAD)
    assert len(batch.anchor_N.unique()) == 4
    assert batch.group_M.tolist() == [0, 1]


def test_fresh_prompts_make_a_row_each():
    turns = [make_turn(0, [1], [2]), make_turn(1, [3, 4], [5], fresh=True)]
    batch = collate([Group("g", 0, (make_trajectory("a", turns),))], PAD)
    assert batch.tokens_BT.tolist() == [[1, 2, 99], [3, 4, 5]]
    assert batch.turn_BT.tolist() == [[-1, 0, -1], [-1, -1, 1]]


def test_turns_before_the_anchor_are_context_and_not_in_the_turn_table():
    batch = collate([Group("g", 1, (two_turns(),))], PAD)
    assert batch.turn_BT.tolist() == [[-1, -1, -1, -1, -1, 0]]
    assert batch.index_N.tolist() == [1]
    assert batch.score_M.tolist() == [3.0]  # of the whole episode


def test_only_turns_of_the_wanted_authors_are_trained():
    turns = [make_turn(0, [1], [2], author="mixture"), make_turn(1, [3], [4], author="expert")]
    batch = collate([Group("g", 0, (make_trajectory("a", turns),))], PAD, ("expert",))
    assert batch.turn_BT.tolist() == [[-1, -1, -1, 1]]
    assert batch.columns(weight=torch.tensor([5.0, 7.0])) == {"weight": {("a", 1): 7.0}}


def test_broken_episodes_are_counted_but_have_no_rows():
    batch = collate([Group("g", 0, (two_turns("a"), two_turns("b", end="error")))], PAD)
    assert len(batch.tokens_BT) == 1
    assert batch.ok_M.tolist() == [True, False]
    assert batch.turns == 4


def test_first_token_of_a_row_is_never_trained():
    turns = [make_turn(0, [], [3, 4], logprobs=(-1.0, -2.0))]
    batch = collate([Group("g", 0, (make_trajectory("a", turns),))], PAD)
    assert batch.turn_BT.tolist() == [[-1, 0]]
    assert batch.behaviour_BT.tolist() == [[0.0, -2.0]]


def test_labels_share_the_row_where_they_agree_and_make_their_own_where_not():
    turns = [
        make_turn(0, [1], [2, 3], label=[2, 3]),
        make_turn(1, [4], [5], label=[6, 7]),
        make_turn(2, [8], [9], label=[9]),
    ]
    batch = collate([Group("g", 0, (make_trajectory("a", turns),))], PAD, labels=True)
    assert batch.tokens_BT.tolist() == [[1, 2, 3, 4, 5, 8, 9], [1, 2, 3, 4, 6, 7, 99]]
    assert batch.turn_BT.tolist() == [[-1, 0, 0, -1, -1, -1, 2], [-1, -1, -1, -1, 1, 1, -1]]


def test_turn_without_label_is_named():
    group = Group("g", 0, (make_trajectory("a", [make_turn(0, [1], [2])]),))
    with pytest.raises(ContractError, match="turn 0 of trajectory 'a' has no label;"):
        collate([group], PAD, labels=True)


def test_repeated_trajectory_id_is_refused():
    with pytest.raises(UsageError, match="'a' occurs twice"):
        collate([Group("g", 0, (two_turns(), two_turns()))], PAD)


def test_nothing_collected_gives_empty_tables():
    batch = collate([], PAD)
    assert batch.tokens_BT.shape == (0, 2)
    assert batch.turns == 0


@pytest.mark.parametrize("budget", [1, 30, 100, 10_000])
def test_micro_batches_hold_every_trained_token_once_within_the_budget(budget):
    batch = collate(random_groups(250, groups=3), PAD)
    seen = torch.zeros_like(batch.turn_BT)
    for micro in micro_batches(batch, budget):
        assert micro.tokens_BT.numel() <= budget or len(micro.tokens_BT) == 1
        assert torch.equal(micro.token_X, batch.tokens_BT[micro.at])
        seen[micro.at] += 1
    assert torch.equal(seen, batch.mask_BT.long())


def test_pick_and_place_move_token_columns_in_and_out():
    batch = collate([Group("g", 0, (two_turns(),))], PAD)
    (micro,) = micro_batches(batch, 100)
    assert micro.pick(batch.behaviour_BT).tolist() == [-0.5, -0.25, -1.0]
    into_BT = torch.zeros(batch.tokens_BT.shape)
    micro.place(torch.tensor([1.0, 2.0, 3.0]), into_BT)
    assert into_BT.tolist() == [[0, 0, 1, 2, 0, 3]]


def test_idle_micro_batch_trains_nothing():
    assert idle_micro(PAD).token_X.numel() == 0


def test_context_counts_to_the_turn_that_answers_it():
    said = two_turns()
    after = replace(said, turns=(*said.turns, make_turn(2, [7], [8], author="other")))
    batch = with_context(collate([Group("g", 0, (after,))], PAD))
    # 1 2 | 3 4 | 5 | 6 | 7 | 8: the first token is never trained, what follows the last trained reply neither
    assert batch.turn_BT.tolist() == [[-1, 0, 0, 0, 1, 1, -1, -1]]
