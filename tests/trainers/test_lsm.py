import pytest
import torch
from trainer_cases import Reference, assert_close, gradient, make_run, random_groups

from agentbench.errors import UsageError
from agentbench.trainers.lsm import SPEC

EXACT = {"max_grad_norm": 1e9}


def test_gradient_is_that_of_the_renormalised_reverse_kl_in_float64(models):
    groups = random_groups(250)
    ours = gradient(SPEC.build(make_run(models, "lsm", **EXACT), SPEC.config(k=5)), groups)
    reference = Reference(models)
    tokens = sum(len(turn.action.token_ids) for g in groups for m in g.members for turn in m.turns)
    loss = 0.0
    for episode in (member for group in groups for member in group.members):
        q = torch.cat(reference.log_probs(reference.student, episode))
        p = torch.cat(reference.log_probs(reference.teacher, episode)).detach()
        best, ids = p.topk(5, dim=-1)
        mine, theirs = q.gather(1, ids).log_softmax(-1), best.log_softmax(-1)
        loss = loss + (mine.exp() * (mine - theirs)).sum() / tokens
    assert_close(ours, reference.gradient(loss), tolerance=1e-4)


def test_the_first_occurrence_of_a_masked_token_is_not_trained(models):
    groups = random_groups(250)
    trainer = SPEC.build(make_run(models, "lsm"), SPEC.config(k=5))
    batch = trainer.collate(groups)
    token = int(batch.tokens_BT[batch.mask_BT].mode().values)
    trainer.masked = [token]
    keep_BT = trainer._kept(batch)
    turns = {int(t) for t in batch.turn_BT[(batch.tokens_BT == token) & batch.mask_BT]}
    assert turns
    assert int((~keep_BT).sum()) == len(turns)  # one in each turn that holds it
    assert set(batch.tokens_BT[~keep_BT].tolist()) == {token}


def test_a_masked_text_must_be_one_token(models):
    with pytest.raises(UsageError, match="is 0 tokens of this tokenizer, not one"):
        SPEC.build(make_run(models, "lsm"), SPEC.config(masked_tokens=("",)))


def test_teacher_equal_to_the_student_teaches_nothing(models):
    run = make_run(models | {"teacher": models["student"]}, "lsm", weight_decay=0.0, **EXACT)
    found = gradient(SPEC.build(run, SPEC.config(k=8)), random_groups(250))
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())


def test_figures_tell_what_the_loss_cannot_see(models):
    metrics = SPEC.build(make_run(models, "lsm"), SPEC.config(k=100)).update(random_groups(250), 0).metrics
    assert 0 < metrics["support_mass"] < 1
    assert 0 < metrics["outside_support_share"] < 1
