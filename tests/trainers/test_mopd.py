from dataclasses import replace

import pytest
import torch
from spoken import FRESH, GROWING, prompted, spoken_groups
from trainer_cases import assert_close, gradient, make_run, naive, same_weights, student_weights
from transformers import AutoModelForCausalLM

from agentbench.errors import TrainingError, UsageError
from agentbench.trainers.mopd import SPEC
from agentbench.trainers.teachers.peers import longest_context
from agentbench.training.config import TeacherConfig
from agentbench.types import Group

K = 8
LAYOUTS = pytest.mark.parametrize("prompt", [GROWING, FRESH], ids=["growing", "fresh"])
SELF = (TeacherConfig(backend="ema"),)


def build(models, prompt=GROWING, teachers=SELF, values=None, **settings):
    run = prompted(
        make_run(models, "mopd", teacher=None, **({"max_grad_norm": 1e9} | (values or {}))), prompt
    )
    keys = {"k": K, "importance_cap": None, "block_tokens": 512} | settings
    return SPEC.build(run.model_copy(update={"teachers": teachers}), SPEC.config(**keys))


def spoken(trainer, successes=({0, 2}, {1}), **kwargs):
    return spoken_groups(trainer.run, trainer.tokenizer, successes=successes, **kwargs)


def external(models):
    return (TeacherConfig(model_name_or_path=models["teacher"]),)


def reference(models, trainer, groups, update, teacher="student"):
    """The gradient in float64: for every turn with a note, JSD on the student's K ids and the rest."""
    batch = trainer.collate(groups)
    student = AutoModelForCausalLM.from_pretrained(models["student"], dtype=torch.float64)
    other = AutoModelForCausalLM.from_pretrained(models[teacher], dtype=torch.float64)
    values, members = [], {m.id: m for g in groups for m in g.members}
    for (name, index), text in update.notes["peers"].items():
        turn = members[name].turns[index]
        ids = trainer.reader.prompt_ids(members[name], turn, text)
        said = list(turn.action.token_ids)
        with torch.no_grad():
            p_AV = other(input_ids=torch.tensor([[*ids, *said]])).logits[0].log_softmax(-1)[len(ids) - 1 : -1]
        n = next(
            n
            for n in range(batch.turns)
            if (batch.ids_M[batch.traj_N[n]], int(batch.index_N[n])) == (name, index)
        )
        row, column = (batch.turn_BT == n).nonzero(as_tuple=True)
        logits_TV = student(input_ids=batch.tokens_BT[row[:1]]).logits[0]
        q_AV = logits_TV.log_softmax(-1)[column - 1]
        best = q_AV.detach().topk(K, dim=-1).indices
        q, p = q_AV.gather(1, best).exp(), p_AV.gather(1, best).exp()
        q, p = (torch.cat([x, 1.0 - x.sum(1, keepdim=True)], dim=1) for x in (q, p))
        m = 0.5 * (p + q)
        values.append(0.5 * (p * (p / m).log()).sum(1) + 0.5 * (q * (q / m).log()).sum(1))
    loss = torch.cat(values).mean()
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in student.named_parameters()}


@LAYOUTS
@pytest.mark.parametrize("kind", ["average", "external"])
def test_gradient_is_that_of_the_definition_in_float64(long_models, prompt, kind):
    teachers = SELF if kind == "average" else external(long_models)
    trainer = build(long_models, prompt, teachers)
    groups = spoken(trainer)
    ours = gradient(trainer, groups)
    update = build(long_models, prompt, teachers).update(groups, 0)
    loss, expected = reference(
        long_models, trainer, groups, update, "student" if kind == "average" else "teacher"
    )
    assert update.metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert_close(ours, expected, 1e-4)


def test_attempts_without_a_context_count_in_neither_loss_nor_denominator(long_models):
    """Positive imitation: the only success of the second group has nothing to read, and so has nobody of the third."""
    trainer = build(long_models, failure="never", feedback=False)
    groups = spoken(trainer, ({0, 2}, {1}, set()), groups=3)
    ours = gradient(trainer, groups)
    update = build(long_models, failure="never", feedback=False).update(groups, 0)
    read = {name for name, _ in update.notes["peers"]}
    assert read == {m.id for m in groups[0].members} | {groups[1].members[n].id for n in (0, 2)}
    loss, expected = reference(long_models, trainer, groups, update)
    assert update.metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert_close(ours, expected, 1e-4)
    assert update.metrics["context_share"] == pytest.approx(5 / 9)
    turns = {m.id: len(m.turns) for g in groups for m in g.members}
    masked = sum(count for name, count in turns.items() if name not in read)
    assert update.metrics["masked_share"] == pytest.approx(masked / sum(turns.values()))
    # no figure and no annotation of a turn that nobody read
    assert {name for name, _ in update.turn_columns["divergence"]} == read


def test_nothing_to_read_anywhere_skips_the_step(long_models):
    trainer = build(long_models, failure="never", feedback=False)
    before = student_weights(trainer)
    metrics = trainer.update(spoken(trainer, (set(), set())), 0).metrics
    assert metrics["skipped_steps"] == 1.0
    assert metrics["masked_share"] == 1.0
    assert "teacher_auc" not in metrics
    assert same_weights(before, student_weights(trainer))


@LAYOUTS
@pytest.mark.parametrize("budget", [1, 3000])
def test_cuts_and_the_order_of_groups_change_nothing(long_models, prompt, budget):
    whole = gradient(build(long_models, prompt), spoken(build(long_models, prompt)))
    trainer = build(long_models, prompt, values={"tokens_per_micro_batch": budget})
    assert_close(gradient(trainer, list(reversed(spoken(trainer)))), whole)


def test_padding_changes_nothing(long_models):
    """An attempt that broke pads the others and is nobody's peer."""
    trainer = build(long_models)
    groups = spoken(trainer)
    plain = gradient(trainer, groups)
    extra = spoken(trainer, ({0}, {0}), members=1, most_turns=8, seed=9)[0].members[0]
    broken = replace(extra, end="error", success=None)
    more = [Group(groups[0].key, 0, (*groups[0].members, broken)), *groups[1:]]
    assert_close(gradient(build(long_models), more), plain)


def test_strata_are_told_apart(long_models):
    trainer = build(long_models)
    groups = spoken(trainer, ({0, 1, 2}, set(), {1}, {2}), groups=4)
    metrics = trainer.update(groups, 0).metrics
    assert metrics["groups_succeeding/all"] == 0.25
    assert metrics["groups_succeeding/none"] == 0.25
    assert metrics["groups_succeeding/mixed"] == 0.5
    tokens = {"none": 0, "all": 0, "mixed": 0}
    for group, name in zip(groups, ("all", "none", "mixed", "mixed"), strict=True):
        tokens[name] += sum(len(t.action.token_ids) for m in group.members for t in m.turns)
    mean = sum(metrics[f"divergence/groups_{name}"] * n for name, n in tokens.items()) / sum(tokens.values())
    assert mean == pytest.approx(metrics["loss"], rel=1e-5)
    # the winner of a mixed group sees a loser, each of its two losers the other one: 3 of 3, as without winners
    assert metrics["failure_block_share"] == pytest.approx((0 + 3 + 3 + 3) / 12)


def test_the_teachers_scores_are_held_against_success(long_models):
    """AUC over the attempts, from float64 scores of the very rows, by counting pairs."""
    trainer = build(long_models, teachers=external(long_models))
    groups = spoken(trainer, ({0, 2}, {1}, {0}), groups=3)
    update = trainer.update(groups, 0)
    model = AutoModelForCausalLM.from_pretrained(long_models["teacher"], dtype=torch.float64)
    scored = []
    for member in (m for g in groups for m in g.members):
        found = []
        for turn in member.turns:
            ids = trainer.reader.prompt_ids(member, turn, update.notes["peers"][member.id, turn.index])
            said = torch.tensor(turn.action.token_ids)
            logits_TV = model(input_ids=torch.tensor([[*ids, *said.tolist()]])).logits[0]
            found.append(logits_TV.log_softmax(-1)[len(ids) - 1 : -1].gather(1, said[:, None])[:, 0])
        scored.append((float(torch.cat(found).detach().mean()), member.success))
    pairs = [one > two for one, won in scored if won for two, lost in scored if not lost]
    assert update.metrics["teacher_auc"] == pytest.approx(sum(pairs) / len(pairs))


def test_tokens_the_engine_found_likelier_count_less(long_models):
    """Behaviour twice as likely as the trainer finds: every weight, and so the loss, is one half."""
    plain = build(long_models)
    groups = spoken(plain)
    batch = plain.collate(groups)
    model = AutoModelForCausalLM.from_pretrained(long_models["student"], dtype=torch.float64)
    logp_BT, _ = naive(model, batch, 1.0, plain.student.vocab_size)
    told = told_by_engine(groups, batch, logp_BT + torch.log(torch.tensor(2.0)))
    whole = plain.update(groups, 0).metrics["loss"]
    weighted = build(long_models, importance_cap=2.0).update(told, 0).metrics["loss"]
    assert weighted == pytest.approx(0.5 * whole, rel=1e-4)


def told_by_engine(groups, batch, logp_BT):
    changed = []
    for group in groups:
        members = []
        for member in group.members:
            turns = []
            for turn in member.turns:
                n = next(
                    n
                    for n in range(batch.turns)
                    if (batch.ids_M[batch.traj_N[n]], int(batch.index_N[n])) == (member.id, turn.index)
                )
                logprobs = tuple(logp_BT[batch.turn_BT == n].tolist())
                turns.append(replace(turn, action=replace(turn.action, logprobs=logprobs)))
            members.append(replace(member, turns=tuple(turns)))
        changed.append(replace(group, members=tuple(members)))
    return changed


def test_a_later_step_on_the_batch_weighs_tokens_by_what_they_have_become(long_models):
    values = {"updates_per_step": 2, "learning_rate": 0.05}
    groups = spoken(build(long_models))
    tight = build(long_models, values=values, ratio_cap=1.0)
    loose = build(long_models, values=values, ratio_cap=50.0)
    one, two = (trainer.update(groups, 0).metrics["loss"] for trainer in (tight, loose))
    assert one < two  # the first halves are equal, in the second some tokens are likelier than they were


def test_the_average_follows_after_the_step_and_continues_to_the_bit(long_models, tmp_path):
    trainer = build(long_models, values={"learning_rate": 0.02})
    groups = spoken(trainer)
    (average,) = trainer.student.averages
    start = average.state()
    trainer.update(groups, 0)
    for name, parameter in trainer.student.net.named_parameters():
        expected = 0.95 * start[name].double() + 0.05 * parameter.detach().double()  # the released rate
        assert float((average.state()[name] - expected).abs().max()) < 1e-6
    trainer.save(tmp_path)
    again = build(long_models, values={"learning_rate": 0.02})
    again.load(tmp_path)
    assert trainer.update(groups, 1).metrics == again.update(groups, 1).metrics


def test_learning_brings_the_student_to_what_its_peers_show(long_models):
    trainer = build(long_models, teachers=external(long_models), values={"learning_rate": 3e-3})
    groups = spoken(trainer)
    losses = [trainer.update(groups, step).metrics["loss"] for step in range(8)]
    assert losses[-1] < 0.6 * losses[0]


def test_peers_that_may_fill_the_teachers_context_are_refused_at_the_start(long_models):
    """Two successes and a failure of 2,048 tokens each are more than the 4,096 of this model."""
    message = (
        r"up to 3 blocks of trainer\.block_tokens\) may have 6\d\d\d tokens; .* Lower trainer\.block_tokens"
    )
    with pytest.raises(UsageError, match=message):
        build(long_models, block_tokens=2048)
    with pytest.raises(UsageError, match=r"no room .* in the 48 tokens that the teacher may read"):
        build(long_models, max_prompt_tokens=40)


def test_a_teachers_prompt_beyond_the_limit_is_refused_with_task_and_turn(long_models):
    longest = longest_context(SPEC.config(block_tokens=16), long_models["tokenizer"])
    trainer = build(long_models, max_prompt_tokens=longest + 1, block_tokens=16)
    # the start knows nothing of the conversation, which grows beyond what is left
    with pytest.raises(TrainingError, match=r"task 'task 0', episode .* turn \d+: .* that it may read"):
        trainer.update(spoken(trainer, most_turns=12), 0)


@pytest.mark.parametrize(
    ("teachers", "values", "words"),
    [
        (
            (TeacherConfig(model_name_or_path="x", backend="vllm"),),
            {},
            "says nothing; use hf, ema or student",
        ),
        (SELF, {"updates_per_step": 2, "rollout": {"temperature": 0.7}}, "updates_per_step: 1"),
        (SELF, {"rollout": {"group_size": 1}}, "use 2 or more"),
        ((), {}, "exactly one teacher"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(teachers, values, words):
    run = make_run({"student": "absent"}, "mopd", teacher=None, **values)
    with pytest.raises(UsageError, match=words):
        SPEC.refuse(run.model_copy(update={"teachers": teachers}), SPEC.config())
