import pytest
import torch
from trainer_cases import Reference, assert_close, gradient, make_run, random_groups

from agentbench.config import validate
from agentbench.errors import ConfigError
from agentbench.trainers.gkd import SPEC, GkdConfig
from agentbench.trainers.maths.divergences import full_vocabulary

EXACT = {"max_grad_norm": 1e9}


def tokens_of(groups):
    return sum(len(turn.action.token_ids) for g in groups for m in g.members for turn in m.turns)


@pytest.mark.parametrize(("kind", "beta"), [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.3)])
def test_full_vocabulary_gradient_is_that_of_the_float64_divergence(models, kind, beta):
    groups = random_groups(250)
    keys = {"support": "full", "divergence": kind, "reduction": "trajectory_mean"}
    settings = SPEC.config(**keys, **({"beta": beta} if kind == "jsd" else {}))
    trainer = SPEC.build(make_run(models, "gkd", tokens_per_micro_batch=50, **EXACT), settings)
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
    run = make_run(models, "gkd", **EXACT)
    full = gradient(SPEC.build(run, SPEC.config(support="full")), groups)
    covering = SPEC.config(support="top_k", k=size, tail="renormalise")
    assert_close(gradient(SPEC.build(run, covering), groups), full, tolerance=1e-4)


def test_top_k_gradient_is_the_float64_one(models):
    groups = random_groups(250)
    settings = SPEC.config(support="top_k", k=4, tail="tail", divergence="forward_kl")
    ours = gradient(SPEC.build(make_run(models, "gkd", **EXACT), settings), groups)
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


@pytest.mark.parametrize("settings", [{}, {"divergence": "jsd"}, {"support": "top_k", "k": 64}])
def test_teacher_equal_to_the_student_teaches_nothing(models, settings):
    run = make_run(models | {"teacher": models["student"]}, "gkd", weight_decay=0.0, **EXACT)
    found = gradient(SPEC.build(run, SPEC.config(**settings)), random_groups(250))
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())  # rounding noise


@pytest.mark.parametrize("settings", [{}, {"support": "top_k", "k": 64}])
def test_the_gap_to_the_teacher_falls(models, settings):
    groups = random_groups(250, groups=4)
    trainer = SPEC.build(make_run(models, "gkd", learning_rate=3e-3, max_steps=40), SPEC.config(**settings))
    gaps = [trainer.update(groups, step).metrics["teacher_gap"] for step in range(15)]
    assert gaps[-1] < 0.7 * gaps[0]


def test_truncated_sampling_is_allowed_since_whole_distributions_are_compared(models):
    assert SPEC.build(make_run(models, "gkd", rollout={"top_p": 0.9}), SPEC.config())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"k": 8}, "'k' is used by support 'top_k' only"),
        ({"tail": "ignore"}, "'tail' is used by support 'top_k' only"),
        ({"beta": 0.3}, "'beta' is used by divergence 'jsd' only"),
        ({"divergence": "jsd", "beta": 1.0}, "beta=1.0 makes the jsd zero"),
        ({"gap_clip": 1.0}, "unknown key 'trainer.gap_clip'"),
    ],
)
def test_keys_that_would_be_ignored_are_refused(keys, message):
    with pytest.raises(ConfigError) as caught:
        validate(GkdConfig, keys, "trainer.")
    assert message.lower() in str(caught.value).lower()
