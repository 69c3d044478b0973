from dataclasses import replace

import pytest
import torch
from trainer_cases import (
    Reference,
    assert_close,
    gradient,
    make_run,
    random_groups,
    same_weights,
    student_weights,
)

from agentbench.config import validate
from agentbench.errors import ConfigError, UsageError
from agentbench.trainers.opd import SPEC, OpdConfig

EXACT = {"max_grad_norm": 1e9}


def tokens_of(groups):
    return sum(len(turn.action.token_ids) for g in groups for m in g.members for turn in m.turns)


@pytest.mark.parametrize("fresh", [False, True])
def test_sampled_gradient_is_the_float64_policy_gradient(models, fresh):
    groups = random_groups(250, fresh=fresh)
    trainer = SPEC.build(make_run(models, "opd", **EXACT), SPEC.config(coef=2.0))
    ours = gradient(trainer, groups)
    reference = Reference(models)
    loss = 0.0
    for episode in (member for group in groups for member in group.members):
        student = reference.sampled(reference.student, episode)
        teacher = reference.sampled(reference.teacher, episode)
        for q, p in zip(student, teacher, strict=True):
            # A = 2 (log p - log q), constant; ratio 1, so the gradient is that of -A log q, averaged over tokens
            loss = loss - (2.0 * (p - q).detach() * q).sum() / tokens_of(groups)
    assert_close(ours, reference.gradient(loss))


def test_teacher_equal_to_the_student_teaches_nothing(models):
    run = make_run(models | {"teacher": models["student"]}, "opd", weight_decay=0.0, **EXACT)
    found = gradient(SPEC.build(run, SPEC.config()), random_groups(250))
    # no token has an advantage, so no update is made at all
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())


def test_sampled_step_without_any_advantage_is_skipped_and_counted(models):
    trainer = SPEC.build(make_run(models | {"teacher": models["student"]}, "opd"), SPEC.config())
    before = student_weights(trainer)
    metrics = trainer.update(random_groups(250), 0).metrics
    assert same_weights(before, student_weights(trainer))
    assert metrics["skipped_steps"] == 1.0
    assert metrics["updates"] == 0.0


def test_the_gap_to_the_teacher_falls(models):
    groups = random_groups(250, groups=4)
    trainer = SPEC.build(make_run(models, "opd", learning_rate=3e-3, max_steps=40), SPEC.config())
    gaps = [trainer.update(groups, step).metrics["teacher_distance"] for step in range(15)]
    assert gaps[-1] < 0.7 * gaps[0]


def test_advantage_raises_what_the_teacher_prefers(models):
    groups = random_groups(250)
    run = make_run(models, "opd", learning_rate=1e-4)
    trainer = SPEC.build(run, SPEC.config())
    batch = trainer.collate(groups)
    before = trainer.student.score(batch).logp_BT
    liked = trainer.teacher.score(batch).logp_BT > before + 0.5
    disliked = trainer.teacher.score(batch).logp_BT < before - 0.5
    trainer.update(groups, 0)
    change = trainer.student.score(batch).logp_BT - before
    assert float(change[liked & batch.mask_BT].mean()) > 0
    assert float(change[disliked & batch.mask_BT].mean()) < 0


def test_clipped_gap_bounds_a_single_token(models):
    groups = random_groups(250)
    trainer = SPEC.build(make_run(models, "opd"), SPEC.config(gap_clip=0.01))
    column = trainer.update(groups, 0).turn_columns["advantage"]
    assert max(abs(value) for value in column.values()) <= 0.01 + 1e-7


def test_every_trained_turn_gets_its_column(models):
    groups = random_groups(250)
    column = SPEC.build(make_run(models, "opd"), SPEC.config()).update(groups, 0).turn_columns["advantage"]
    expected = {(m.id, turn.index) for g in groups for m in g.members for turn in m.turns}
    assert set(column) == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"divergence": "jsd"}, "unknown key 'trainer.divergence'"),
        ({"loss": "full"}, "set algorithm: gkd, with trainer.support: full or top_k"),
        ({"loss": "sampled"}, "'loss' is gone (it was 'sampled')"),
        ({"clip_high": 0.3}, "clip_high is set but clip is off"),
        ({"klip": 0.3}, "did you mean 'clip'"),
    ],
)
def test_keys_that_would_be_ignored_are_refused(keys, message):
    with pytest.raises(ConfigError) as caught:
        validate(OpdConfig, keys, "trainer.")
    assert message.lower() in str(caught.value).lower()


def test_truncated_sampling_is_refused(models):
    run = make_run(models, "opd", rollout={"top_p": 0.9})
    with pytest.raises(UsageError, match="biased under truncated sampling"):
        SPEC.build(run, SPEC.config())


def test_the_engines_log_probs_do_not_enter_the_loss(models):
    groups = random_groups(250)

    def reheard(turn):
        said = turn.action
        return replace(turn, action=replace(said, logprobs=(-3.0,) * len(said.token_ids)))

    changed = [
        replace(g, members=tuple(replace(m, turns=tuple(map(reheard, m.turns))) for m in g.members))
        for g in groups
    ]
    run = make_run(models, "opd", **EXACT)
    ours, theirs = (gradient(SPEC.build(run, SPEC.config()), x) for x in (changed, groups))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_turn_balance_follows_its_schedule_and_is_refused_where_it_would_be_ignored(models):
    """Alpha 0 is trajectory_mean, at step 5 of 10 half of each: gradients are linear in the coefficients."""
    groups = random_groups(250)
    rising = {"kind": "linear", "start": 0.0, "end": 1.0, "steps": 10}

    def found(step, **settings):
        trainer = SPEC.build(make_run(models, "opd", **EXACT), SPEC.config(**settings))
        return gradient(trainer, groups, step)

    tokens = found(0, reduction="trajectory_mean")
    assert_close(found(0, reduction="turn_balanced", balance=rising), tokens)
    turns = found(0, reduction="turn_balanced")
    half = found(5, reduction="turn_balanced", balance=rising)
    assert_close(half, {name: 0.5 * (tokens[name] + turns[name]) for name in tokens})
    for wrong, text in (
        ({"balance": 0.5}, "'balance' is used by reduction 'turn_balanced' only"),
        (
            {"reduction": "turn_balanced", "balance": {"kind": "handover", "start": 0.0, "end": 1.0}},
            "a measured schedule is not allowed",
        ),
    ):
        with pytest.raises(ConfigError, match=text):
            validate(SPEC.config, wrong, "trainer.")
