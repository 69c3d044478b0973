import math
from dataclasses import replace

import pytest
from trainer_cases import (
    Reference,
    assert_close,
    gradient,
    make_run,
    make_trajectory,
    make_turn,
    random_groups,
    same_weights,
    student_weights,
)

from agentbench.errors import UsageError
from agentbench.trainers.grpo import SPEC
from agentbench.types import Group


def build(models, settings=None, **values):
    keys = {"ref_kl_coef": 0.0} | (settings or {})
    return SPEC.build(make_run(models, "grpo", teacher=None, **values), SPEC.config(**keys))


def episode(key, turns, reward):
    made = [make_turn(k, [5, 6], [7, 8]) for k in range(turns)]
    made[-1] = replace(made[-1], reward=reward)
    return make_trajectory(key, made)


def advantages(models, group, settings=None):
    return build(models, settings).update([group], 0).turn_columns["advantage"]


def test_trajectory_statistics_count_every_episode_once(models):
    # rewards 1, 0, 0: mean 1/3; unbiased variance ((2/3)^2 + 2 (1/3)^2) / 2 = 1/3
    group = Group("t", 0, (episode("a", 1, 1.0), episode("b", 3, 0.0), episode("c", 2, 0.0)))
    got = advantages(models, group, {"group_stats": "trajectory"})
    std = math.sqrt(1 / 3)
    assert got["a", 0] == pytest.approx((2 / 3) / (std + 1e-6), rel=1e-5)
    assert got["b", 2] == pytest.approx((-1 / 3) / (std + 1e-6), rel=1e-5)
    assert len(got) == 6


def test_turn_statistics_weigh_longer_episodes_more(models):
    # six turn samples 1, 0, 0, 0, 0, 0: mean 1/6; unbiased variance ((5/6)^2 + 5 (1/6)^2) / 5 = 1/6
    group = Group("t", 0, (episode("a", 1, 1.0), episode("b", 3, 0.0), episode("c", 2, 0.0)))
    got = advantages(models, group)
    std = math.sqrt(1 / 6)
    assert got["a", 0] == pytest.approx((5 / 6) / (std + 1e-6), rel=1e-5)
    assert got["c", 1] == pytest.approx((-1 / 6) / (std + 1e-6), rel=1e-5)


def test_penalty_of_an_invalid_reply_lowers_its_own_turn_only(models):
    # the env's reward is 1 and 0; one turn of the winner was invalid and cost 0.1, so its record sums to 0.9
    turns = [make_turn(0, [5], [6], reward=-0.1, penalty=0.1), make_turn(1, [5], [6], reward=1.0)]
    group = Group("t", 0, (make_trajectory("a", turns), episode("b", 2, 0.0)))
    got = advantages(models, group, {"divide_by_std": False})
    # samples 0.9, 1, 0, 0: mean 0.475
    assert got["a", 0] == pytest.approx(0.9 - 0.475)
    assert got["a", 1] == pytest.approx(1.0 - 0.475)
    assert got["b", 0] == pytest.approx(-0.475)


def test_gradient_is_the_float64_one_with_a_reference_penalty(models):
    groups = random_groups(250)
    trainer = build(models, {"ref_kl_coef": 0.3, "group_stats": "trajectory"}, max_grad_norm=1e9)
    # move the student off its reference, or the penalty has no gradient
    for parameter in trainer.student.trained:
        parameter.data.mul_(1.1)
    ours = gradient(trainer, groups)
    reference = Reference(models)
    for parameter in reference.student.parameters():
        parameter.data.mul_(1.1)
    initial = Reference(models).student
    tokens = sum(len(turn.action.token_ids) for g in groups for m in g.members for turn in m.turns)
    loss = 0.0
    for group in groups:
        rewards = [member.reward for member in group.members]
        mean = sum(rewards) / 3
        std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / 2)
        for member in group.members:
            advantage = (member.reward - mean) / (std + 1e-6)
            near = reference.sampled(initial, member)
            for q, r in zip(reference.sampled(reference.student, member), near, strict=True):
                gap = r.detach() - q
                loss = loss + (-advantage * q + 0.3 * (gap.exp() - gap - 1)).sum() / tokens
    assert_close(ours, reference.gradient(loss), tolerance=5e-5)


def test_step_without_variance_is_skipped_and_counted(models):
    flat = Group("t", 0, (episode("a", 2, 1.0), episode("b", 3, 1.0)))
    trainer = build(models)
    before = student_weights(trainer)
    first, second = (trainer.update([flat], step).metrics for step in range(2))
    assert same_weights(before, student_weights(trainer))
    assert (first["skipped_steps"], second["skipped_steps"]) == (1.0, 2.0)
    assert first["zero_variance_share"] == 1.0
    assert first["loss"] == 0.0
    assert first["alarm/zero_variance"] == 1.0


def test_winners_become_likelier(models):
    group = Group("t", 0, (episode("a", 2, 1.0), episode("b", 3, 0.0)))
    different = replace(group.members[1], turns=tuple(make_turn(k, [5, 6], [20, 21]) for k in range(3)))
    group = Group("t", 0, (group.members[0], different))
    trainer = build(models, learning_rate=1e-3)
    batch = trainer.collate([group])
    before = trainer.student.score(batch).logp_BT.sum(1)
    trainer.update([group], 0)
    winner, loser = (trainer.student.score(batch).logp_BT.sum(1) - before).tolist()
    assert winner > 0 > loser


def test_drifted_tokens_are_clipped_within_a_step(models):
    group = Group(
        "t", 0, tuple(episode(key, 2, reward) for key, reward in zip("abcd", (1, 0, 1, 0), strict=True))
    )
    trainer = build(models, learning_rate=0.05, updates_per_step=4, max_grad_norm=100.0)
    metrics = trainer.update([group], 0).metrics
    assert metrics["updates"] == 4.0
    assert metrics["clip_share"] > 0
    assert metrics["ratio_max"] > 1.2


def test_groups_of_one_are_refused(models):
    with pytest.raises(UsageError, match="group_size is 1, use 2 or more"):
        build(models, rollout={"group_size": 1})


def test_broken_episodes_change_nothing_but_the_count(models):
    healthy = (episode("a", 2, 1.0), episode("b", 3, 0.0))
    broken = make_trajectory("c", [make_turn(0, [1], [2], reward=5.0)], end="error")
    one, two = build(models), build(models)
    one.update([Group("t", 0, healthy)], 0)
    metrics = two.update([Group("t", 0, (*healthy, broken))], 0).metrics
    assert same_weights(student_weights(one), student_weights(two))
    assert metrics["episode_errors"] == 1.0
    assert metrics["episode_error_share"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("changes", [{"top_p": 0.9}, {"top_k": 5}, {"guided": True}])
def test_importance_weights_between_different_distributions_are_refused(models, changes):
    run = make_run(models, "grpo")
    rollout = run.rollout.model_copy(update=changes)
    with pytest.raises(UsageError, match=r"trainer\.importance_cap compares the probabilities"):
        SPEC.build(run.model_copy(update={"rollout": rollout}), SPEC.config(importance_cap=2.0))
