import math
import statistics

import pytest
import torch
from torch import Tensor

from agentbench.errors import ConfigError, UsageError
from agentbench.trainers.maths import advantages as adv


def long(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def ok(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def naive(
    scores: list[float], buckets: list[int], healthy: list[bool], divide: bool, singleton: str
) -> list[float]:
    out = []
    for score, bucket, good in zip(scores, buckets, healthy, strict=True):
        peers = [s for s, b, g in zip(scores, buckets, healthy, strict=True) if b == bucket and g]
        if not good:
            out.append(0.0)
        elif len(peers) == 1:
            out.append(0.0 if singleton == "zero" else score / (1 + 1e-6 if divide else 1))
        elif min(peers) == max(peers):
            out.append(0.0)
        else:
            scale = statistics.stdev(peers) + 1e-6 if divide else 1.0
            out.append((score - statistics.mean(peers)) / scale)
    return out


@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("singleton", ["raw", "zero"])
def test_standardise_equals_the_loop(divide, singleton):
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(60, generator=generator, dtype=torch.float64)
    bucket, healthy = (
        torch.randint(25, (60,), generator=generator) * 7 - 20,
        torch.rand(60, generator=generator) > 0.2,
    )
    got = adv.standardise(score, bucket, healthy, divide_by_std=divide, singleton=singleton)
    expected = naive(score.tolist(), bucket.tolist(), healthy.tolist(), divide, singleton)
    torch.testing.assert_close(got.value_X, torch.tensor(expected), rtol=1e-6, atol=1e-7)


def test_one_value_per_trajectory_by_hand():
    # group 5: scores 1, 0, 0 -> mean 1/3, unbiased std = sqrt((4/9 + 1/9 + 1/9) / 2) = sqrt(1/3) = 0.5773503
    #   (1 - 1/3) / 0.5773513 = 1.1546985 ; (0 - 1/3) / 0.5773513 = -0.5773493
    got = adv.group_centred(
        torch.tensor([1.0, 0.0, 0.0]), long(5, 5, 5), ok(1, 1, 1), long(0, 0, 1, 2), stats="trajectory"
    )
    expected = [1.1546985, 1.1546985, -0.5773493, -0.5773493]
    torch.testing.assert_close(got.value_X, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_statistics_over_turns_weigh_longer_episodes_more_by_hand():
    # trajectory 0 scores 1 with three turns, trajectory 1 scores 0 with one: samples 1, 1, 1, 0
    # mean 3/4, unbiased std = sqrt((3/16 + 9/16) / 3) = 1/2: +0.25/0.500001 = 0.499999, -0.75/0.500001 = -1.499997
    got = adv.group_centred(torch.tensor([1.0, 0.0]), long(0, 0), ok(1, 1), long(0, 0, 0, 1), stats="turn")
    torch.testing.assert_close(got.value_X, torch.tensor([0.499999] * 3 + [-1.499997]), rtol=1e-6, atol=1e-6)
    per_trajectory = adv.group_centred(
        torch.tensor([1.0, 0.0]), long(0, 0), ok(1, 1), long(0, 0, 0, 1), stats="trajectory"
    )
    # mean 1/2, std = sqrt(1/2): +-0.5/0.7071078 = +-0.7071058
    torch.testing.assert_close(per_trajectory.value_X, torch.tensor([0.7071058] * 3 + [-0.7071058]))


def test_a_turn_penalty_enters_the_turn_statistics():
    # samples 1 - 0.1, 1, 0, 0 without std: mean 0.475
    penalty = torch.tensor([0.1, 0.0, 0.0, 0.0])
    scores, groups, traj = torch.tensor([1.0, 0.0]), long(0, 0), long(0, 0, 1, 1)
    got = adv.group_centred(
        scores, groups, ok(1, 1), traj, stats="turn", penalty_N=penalty, divide_by_std=False
    )
    torch.testing.assert_close(got.value_X, torch.tensor([0.425, 0.525, -0.475, -0.475]))
    with pytest.raises(ConfigError, match="needs stats='turn'"):
        adv.group_centred(scores, groups, ok(1, 1), traj, stats="trajectory", penalty_N=penalty)


@pytest.mark.parametrize("stats", ["turn", "trajectory"])
def test_broken_episodes_get_zero_and_move_nobody(stats):
    scores, groups, traj = torch.tensor([1.0, 0.0, 99.0, 3.0]), long(0, 0, 0, 1), long(0, 1, 2, 2, 3)
    got = adv.group_centred(scores, groups, ok(1, 1, 0, 1), traj, stats=stats)
    without = adv.group_centred(scores[[0, 1, 3]], groups[[0, 1, 3]], ok(1, 1, 1), long(0, 1, 2), stats=stats)
    assert got.value_X[2] == got.value_X[3] == 0
    assert torch.equal(got.value_X[[0, 1, 4]], without.value_X)
    assert (
        (got.buckets, got.flat, got.singletons)
        == (without.buckets, without.flat, without.singletons)
        == (2, 0, 1)
    )


def test_a_nan_score_of_a_broken_episode_spreads_nowhere():
    got = adv.standardise(torch.tensor([1.0, 0.0, math.nan]), long(0, 0, 0), ok(1, 1, 0))
    torch.testing.assert_close(got.value_X, torch.tensor([0.7071058, -0.7071058, 0.0]))


def test_a_group_of_one_keeps_its_score():
    got = adv.standardise(torch.tensor([3.0]), long(4), ok(1))
    # mean 0, std 1: 3 / 1.000001
    assert float(got.value_X) == pytest.approx(3 / 1.000001)
    assert (got.buckets, got.flat, got.singletons) == (1, 0, 1)


@pytest.mark.parametrize("stats", ["turn", "trajectory"])
@pytest.mark.parametrize("turns", [1, 3])
def test_the_one_survivor_of_a_broken_group_gets_nothing(stats, turns):
    # group 0: one member of three is sound, with the reward 10; group 1: 10 and 5, +-1 / sqrt(2) once standardised
    scores, groups, sound = torch.tensor([10.0, 0.0, 0.0, 10.0, 5.0]), long(0, 0, 0, 1, 1), ok(1, 0, 0, 1, 1)
    traj = long(*[0] * turns, 3, 4)  # the broken members never got a turn
    got = adv.group_centred(scores, groups, sound, traj, stats=stats).value_X
    torch.testing.assert_close(got, torch.tensor([0.0] * turns + [0.7071066, -0.7071066]))
    # a group that was sampled as one is another matter: its score stays, mean 0 and std 1
    lone = adv.group_centred(scores[:1], groups[:1], ok(1), long(0), stats=stats).value_X
    assert float(lone) == pytest.approx(10 / 1.000001)


def test_flat_groups_are_exactly_zero_and_counted():
    # 0.1 + 0.1 + 0.1 is not 3 * 0.1: the mean is off by one rounding and no member would be exactly average
    scores = torch.tensor([0.1, 0.1, 0.1, 1.0, 0.0], dtype=torch.float64)
    got = adv.standardise(scores, long(0, 0, 0, 1, 1), ok(1, 1, 1, 1, 1))
    assert got.value_X[:3].tolist() == [0.0, 0.0, 0.0]
    assert got.flat_X.tolist() == [True, True, True, False, False]
    assert (got.buckets, got.flat) == (2, 1)
    assert bool((got.value_X != 0).any())
    assert not bool((adv.standardise(scores[:3], long(0, 0, 0), ok(1, 1, 1)).value_X != 0).any())


def test_row_order_and_group_names_change_nothing():
    score, bucket = torch.tensor([1.0, 0.0, 0.0, 2.0, 5.0]), long(0, 0, 0, 1, 1)
    order = long(3, 1, 4, 0, 2)
    plain = adv.standardise(score, bucket, torch.ones(5).bool()).value_X
    shuffled = adv.standardise(score[order], bucket[order] * -100 + 7, torch.ones(5).bool()).value_X
    torch.testing.assert_close(shuffled, plain[order])


def test_discounted_returns_by_hand_in_any_row_order():
    # trajectory 0: rewards 1, 2, 4 with gamma 1/2: 1 + 1 + 1 = 3, 2 + 2 = 4, 4; trajectory 1: 8
    got = adv.discounted_returns(torch.tensor([4.0, 1.0, 8.0, 2.0]), long(0, 0, 1, 0), long(2, 0, 0, 1), 0.5)
    assert got.tolist() == [4.0, 3.0, 8.0, 4.0]


def test_step_advantage_by_hand():
    # one group of two trajectories, reward only at the end, gamma 0.95
    # trajectory 0 (states A, B, reward 10 on B): returns 9.5, 10 ; trajectory 1 (A, C, reward 0): 0, 0
    # bucket A: 9.5, 0 -> mean 4.75 -> +4.75, -4.75 ; B and C visited once -> 0
    reward, traj, index = torch.tensor([0.0, 10.0, 0.0, 0.0]), long(0, 0, 1, 1), long(0, 1, 0, 1)
    got = adv.step_centred(reward, traj, index, long(7, 8, 7, 9), long(0, 0), ok(1, 1))
    torch.testing.assert_close(got.value_X, torch.tensor([4.75, 0.0, -4.75, 0.0]))
    assert (got.buckets, got.singletons) == (3, 2)
    # with the std: sqrt(2 * 4.75^2) = 6.7175144 -> 4.75 / 6.7175154 = 0.7071067
    scaled = adv.step_centred(reward, traj, index, long(7, 8, 7, 9), long(0, 0), ok(1, 1), divide_by_std=True)
    torch.testing.assert_close(scaled.value_X, torch.tensor([0.7071067, 0.0, -0.7071067, 0.0]))


def test_anchors_are_not_compared_across_groups_or_with_broken_episodes():
    reward, traj, index = torch.tensor([1.0, 0.0, 5.0]), long(0, 1, 2), long(0, 0, 0)
    apart = adv.step_centred(reward, traj, index, long(7, 7, 7), long(0, 1, 2), ok(1, 1, 1))
    assert apart.value_X.tolist() == [0.0, 0.0, 0.0]
    broken = adv.step_centred(reward, traj, index, long(7, 7, 7), long(0, 0, 0), ok(1, 1, 0))
    assert broken.value_X.tolist() == [0.5, -0.5, 0.0]


def test_sampled_distillation_by_hand():
    # teacher 1/2, student 1/4: +log 2; teacher 1/8, student 1/2: -log 4; context stays 0 whatever is stored
    teacher = torch.tensor([[0.5, 0.125, 1.0]]).log()
    student = torch.tensor([[0.25, 0.5, 0.0]]).log().requires_grad_()
    turn = torch.tensor([[0, 0, -1]])
    got = adv.sampled_distillation(teacher, student, turn)
    torch.testing.assert_close(got, torch.tensor([[math.log(2), -math.log(4), 0.0]]))
    assert not got.requires_grad
    clipped = adv.sampled_distillation(teacher, student, turn, clip=1.0)
    torch.testing.assert_close(clipped, torch.tensor([[math.log(2), -1.0, 0.0]]))


def test_sampled_distillation_is_zero_for_equal_models():
    logp = torch.randn(2, 3)
    assert (adv.sampled_distillation(logp, logp, torch.zeros(2, 3).long()) == 0).all()


def test_an_empty_table_is_no_group():
    got = adv.standardise(torch.zeros(0), torch.zeros(0).long(), torch.zeros(0).bool())
    assert (got.value_X.shape, got.buckets) == ((0,), 0)


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="no group statistics 'batch'"):
        adv.group_centred(torch.ones(1), long(0), ok(1), long(0), stats="batch")
    with pytest.raises(UsageError, match="differ in length"):
        adv.standardise(torch.ones(2), long(0), ok(1))
    with pytest.raises(ConfigError, match=r"gamma=1\.5"):
        adv.discounted_returns(torch.ones(1), long(0), long(0), 1.5)
    with pytest.raises(ConfigError, match="clip=0"):
        adv.sampled_distillation(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1, 1).long(), clip=0.0)
