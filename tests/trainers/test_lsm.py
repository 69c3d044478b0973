import pytest
import torch
from trainer_cases import Reference, assert_close, gradient, make_run, random_groups

from agentbench.errors import UsageError
from agentbench.registry import trainer_spec
from agentbench.trainers.gkd import SPEC as GKD
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


@pytest.mark.parametrize("support", ["teacher", "student"])
@pytest.mark.parametrize("sampled", ["unused", "member", "tail"])
def test_every_variant_has_the_gradient_of_its_formula_in_float64(models, support, sampled):
    groups = random_groups(250)
    settings = SPEC.config(k=5, support=support, sampled_token=sampled)
    ours = gradient(SPEC.build(make_run(models, "lsm", **EXACT), settings), groups)
    reference = Reference(models)
    tokens = sum(len(turn.action.token_ids) for g in groups for m in g.members for turn in m.turns)
    loss = 0.0
    for episode in (member for group in groups for member in group.members):
        said = [token for turn in episode.turns for token in turn.action.token_ids]
        q_TV = torch.cat(reference.log_probs(reference.student, episode))
        p_TV = torch.cat(reference.log_probs(reference.teacher, episode)).detach()
        for q, p, y in zip(q_TV, p_TV, said, strict=True):
            ids = (p if support == "teacher" else q).topk(5).indices.tolist()
            if sampled == "tail":
                loss = loss + (q[ids].exp() * (q[ids] - p[ids])).sum() / tokens
                if y not in ids:  # its sample: log q - log p, and the score function times it
                    gap = (q[y] - p[y]).detach()
                    loss = loss + (q[y] + gap * q[y]) / tokens
                continue
            ids = [*ids, y] if sampled == "member" and y not in ids else ids
            mine, theirs = q[ids].log_softmax(-1), p[ids].log_softmax(-1)
            loss = loss + (mine.exp() * (mine - theirs)).sum() / tokens
    assert_close(ours, reference.gradient(loss), tolerance=1e-4)


@pytest.mark.parametrize("support", ["teacher", "student"])
def test_a_support_of_the_whole_vocabulary_is_the_full_reverse_kl(models, support):
    groups = random_groups(250)
    everything = len(models["tokenizer"])
    settings = SPEC.config(k=everything, support=support)
    ours = gradient(SPEC.build(make_run(models, "lsm", **EXACT), settings), groups)
    assert_close(
        ours, gradient(GKD.build(make_run(models, "gkd", **EXACT), GKD.config()), groups), tolerance=1e-4
    )


def test_sampling_that_a_variant_cannot_use_is_refused(models):
    with pytest.raises(UsageError, match="biased under truncated sampling"):
        SPEC.refuse(make_run(models, "lsm", rollout={"top_p": 0.9}), SPEC.config(sampled_token="tail"))
    with pytest.raises(UsageError, match="at temperature 1"):
        SPEC.refuse(
            make_run(models, "lsm", rollout={"temperature": 0.7}), SPEC.config(sampled_token="member")
        )
    SPEC.refuse(make_run(models, "lsm", rollout={"top_p": 0.9}), SPEC.config(sampled_token="member"))


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


@pytest.mark.parametrize("algorithm", ["lsm", "opad", "mad_opd"])
def test_whole_distributions_are_compared_at_temperature_one(models, algorithm):
    """Departure: whatever the temperature of the sampler."""
    spec = trainer_spec(algorithm)
    keys = {"lsm": {"k": 5}, "opad": {}, "mad_opd": {"rounds": 0}}[algorithm]
    cold, plain = (
        gradient(
            spec.build(make_run(models, algorithm, rollout={"temperature": t}, **EXACT), spec.config(**keys)),
            random_groups(250),
        )
        for t in (0.5, 1.0)
    )
    assert_close(cold, plain)
