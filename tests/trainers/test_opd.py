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
from agentbench.trainers.maths.divergences import full_vocabulary
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


@pytest.mark.parametrize(("kind", "beta"), [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.3)])
def test_full_vocabulary_gradient_is_that_of_the_float64_divergence(models, kind, beta):
    groups = random_groups(250)
    keys = {"loss": "full", "divergence": kind, "reduction": "trajectory_mean"}
    settings = SPEC.config(**keys, **({"beta": beta} if kind == "jsd" else {}))
    trainer = SPEC.build(make_run(models, "opd", tokens_per_micro_batch=50, **EXACT), settings)
    ours = gradient(trainer, groups)
    reference = Reference(models)
    loss, episodes = 0.0, [member for group in groups for member in group.members]
    for episode in episodes:
        q = torch.cat(reference.log_probs(reference.student, episode))
        p = torch.cat(reference.log_probs(reference.teacher, episode))
        loss = loss + full_vocabulary(q, p, kind=kind, beta=beta).mean() / len(episodes)
    assert_close(ours, reference.gradient(loss))


def test_top_k_that_covers_the_vocabulary_is_the_full_divergence(models):
    groups = random_groups(250)
    size = len(models["tokenizer"])
    run = make_run(models, "opd", **EXACT)
    full = gradient(SPEC.build(run, SPEC.config(loss="full")), groups)
    covering = SPEC.config(loss="top_k", k=size, tail="renormalise")
    assert_close(gradient(SPEC.build(run, covering), groups), full, tolerance=1e-4)


def test_top_k_gradient_is_the_float64_one(models):
    groups = random_groups(250)
    settings = SPEC.config(loss="top_k", k=4, tail="tail", divergence="forward_kl")
    ours = gradient(SPEC.build(make_run(models, "opd", **EXACT), settings), groups)
    reference = Reference(models)
    loss = 0.0
    for episode in (member for group in groups for member in group.members):
        q = torch.cat(reference.log_probs(reference.student, episode))
        p = torch.cat(reference.log_probs(reference.teacher, episode)).detach()
        best, ids = p.topk(4, dim=-1)
        mine = q.gather(1, ids)
        # five outcomes: the four ids and everything else
        rest_p, rest_q = 1 - best.exp().sum(1), 1 - mine.exp().sum(1)
        inside = (best.exp() * (best - mine)).sum(1)
        loss = loss + (inside + rest_p * (rest_p.log() - rest_q.log())).sum() / tokens_of(groups)
    assert_close(ours, reference.gradient(loss), tolerance=1e-4)


@pytest.mark.parametrize("settings", [{}, {"loss": "full"}, {"loss": "full", "divergence": "jsd"}])
def test_teacher_equal_to_the_student_teaches_nothing(models, settings):
    run = make_run(models | {"teacher": models["student"]}, "opd", weight_decay=0.0, **EXACT)
    trainer = SPEC.build(run, SPEC.config(**settings))
    found = gradient(trainer, random_groups(250))
    # sampled: no token has an advantage, so no update is made at all; full: the gradient is rounding noise
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())


def test_sampled_step_without_any_advantage_is_skipped_and_counted(models):
    trainer = SPEC.build(make_run(models | {"teacher": models["student"]}, "opd"), SPEC.config())
    before = student_weights(trainer)
    metrics = trainer.update(random_groups(250), 0).metrics
    assert same_weights(before, student_weights(trainer))
    assert metrics["skipped_steps"] == 1.0
    assert metrics["updates"] == 0.0


@pytest.mark.parametrize("settings", [{}, {"loss": "full"}, {"loss": "top_k", "k": 64}])
def test_the_gap_to_the_teacher_falls(models, settings):
    groups = random_groups(250, groups=4)
    trainer = SPEC.build(make_run(models, "opd", learning_rate=3e-3, max_steps=40), SPEC.config(**settings))
    name = "teacher_distance" if not settings else "teacher_gap"
    gaps = [trainer.update(groups, step).metrics[name] for step in range(15)]
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
        ({"divergence": "jsd"}, "'divergence' is not used by loss 'sampled'"),
        ({"loss": "full", "gap_clip": 1.0}, "'gap_clip' is not used by loss 'full'"),
        ({"loss": "full", "beta": 0.3}, "'beta' is used by divergence 'jsd' only"),
        ({"loss": "full", "divergence": "jsd", "beta": 1.0}, "beta=1.0 makes the jsd zero"),
        ({"clip_high": 0.3}, "clip_high is set but clip is off"),
        ({"klip": 0.3}, "did you mean 'clip'"),
    ],
)
def test_keys_that_would_be_ignored_are_refused(keys, message):
    with pytest.raises(ConfigError) as caught:
        validate(OpdConfig, keys, "trainer.")
    assert message.lower() in str(caught.value).lower()


def test_truncated_sampling_is_refused_for_sampled_tokens_only(models):
    run = make_run(models, "opd", rollout={"top_p": 0.9})
    with pytest.raises(UsageError, match="biased under truncated sampling"):
        SPEC.build(run, SPEC.config())
    assert SPEC.build(run, SPEC.config(loss="full"))


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
