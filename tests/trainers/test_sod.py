from dataclasses import replace

import pytest
import torch
from trainer_cases import Reference, assert_close, gradient, make_run, random_groups

from agentbench.trainers.opd import SPEC as OPD
from agentbench.trainers.sod import SPEC

EXACT = {"max_grad_norm": 1e9}


def test_gradient_is_that_of_the_damped_gap_in_float64(models):
    groups = random_groups(250)
    trainer = SPEC.build(
        make_run(models, "sod", **EXACT), SPEC.config(reward=False, clip=None, clip_high=None)
    )
    ours = gradient(trainer, groups)
    reference = Reference(models)
    tokens = sum(len(turn.action.token_ids) for g in groups for m in g.members for turn in m.turns)
    loss = 0.0
    for episode in (member for group in groups for member in group.members):
        student = reference.sampled(reference.student, episode)
        teacher = reference.sampled(reference.teacher, episode)
        first = None
        for q, p in zip(student, teacher, strict=True):
            gap = float((p - q).detach().abs().mean()) + 1e-6  # d_k + eps
            first = gap if first is None else first
            weight = min(first / gap, 1.2)  # the product of neighbouring ratios, telescoped
            loss = loss - weight * ((p - q).detach() * q).sum() / tokens
    assert_close(ours, reference.gradient(loss))


def test_the_episode_advantage_is_added(models):
    groups = random_groups(250)
    metrics = SPEC.build(make_run(models, "sod"), SPEC.config()).update(groups, 0).metrics
    assert metrics["episode_advantage"] > 0
    assert 0 < metrics["turn_weight"] <= 1.2


def test_teacher_equal_to_the_student_leaves_the_reward_alone(models):
    run = make_run(models | {"teacher": models["student"]}, "sod", **EXACT)
    groups = random_groups(250)
    found = gradient(SPEC.build(run, SPEC.config(reward=False, clip=None, clip_high=None)), groups)
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())


def test_weights_of_one_turn_each_make_it_opd(models):
    # every first turn weighs 1
    groups = [
        replace(g, members=tuple(replace(m, turns=m.turns[:1]) for m in g.members))
        for g in random_groups(250)
    ]
    ours = gradient(
        SPEC.build(make_run(models, "sod", **EXACT), SPEC.config(reward=False, clip=None, clip_high=None)),
        groups,
    )
    assert_close(ours, gradient(OPD.build(make_run(models, "opd", **EXACT), OPD.config()), groups))
    assert torch.isfinite(next(iter(ours.values()))).all()


def test_groups_of_one_are_refused_where_rewards_are_compared(models):
    run = make_run(models, "sod", rollout={"group_size": 1})
    with pytest.raises(Exception, match="use 2 or more"):
        SPEC.build(run, SPEC.config())
    assert SPEC.build(run, SPEC.config(reward=False))
