"""Guided OPD: its two limits, the mixed loss against float64, and runs in which the guide acts."""

import json

import pytest
import torch
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

from agentbench.config import validate
from agentbench.errors import ConfigError, UsageError
from agentbench.registry import env_spec, open_engine
from agentbench.runs.episodes import decode_episode
from agentbench.runs.files import read_lines
from agentbench.trainers import opd, sft
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.guided_opd import SPEC
from agentbench.trainers.maths.reductions import token_coefficients
from agentbench.trainers.objectives import FullVocabulary, Mixed, TokenObjective
from agentbench.trainers.teachers.local import LocalTeacher
from agentbench.training.authors import build_stage
from agentbench.training.config import TeacherConfig, TrainConfig
from agentbench.training.loop import train
from agentbench.types import Group

EXACT = {"max_grad_norm": 1e9}


def mixed_groups():
    """Two episodes of the student and its guide: 5 tokens of the student's, 4 of the guide's."""
    first = make_trajectory(
        "a",
        [
            make_turn(0, [5, 6, 7], [8, 9], author="teacher"),
            make_turn(1, [10, 11], [12, 13, 14]),
            make_turn(2, [15], [16], author="teacher"),
        ],
    )
    second = make_trajectory(
        "b", [make_turn(0, [5, 6], [20, 21]), make_turn(1, [22, 23], [24], author="teacher")]
    )
    return [Group("t", 0, (first, second))]


def by_author(groups, author):
    members = []
    for member in groups[0].members:
        turns = [make_turn(t.index, t.context_ids, t.action.token_ids, author=author) for t in member.turns]
        members.append(make_trajectory(member.id, turns))
    return [Group("t", 0, tuple(members))]


def updated(models, spec, settings, groups, teacher="teacher"):
    trainer = spec.build(make_run(models, spec.id, teacher=teacher), settings)
    for step in range(3):
        trainer.update(groups, step)
    return student_weights(trainer)


def test_without_a_guide_it_is_opd_to_the_bit(models):
    groups = random_groups(250)
    ours = updated(models, SPEC, SPEC.config(beta=0.0), groups)
    assert same_weights(ours, updated(models, opd.SPEC, opd.SPEC.config(clip=0.2), groups))


def test_where_the_guide_acts_throughout_it_is_imitation(models):
    run = make_run(models, "guided-opd", **EXACT)
    ours = gradient(SPEC.build(run, SPEC.config(beta=1.0)), by_author(mixed_groups(), "teacher"))
    clone = make_run(models, "sft", teacher=None, **EXACT)
    settings = sft.SPEC.config(takeover=(0, 0))
    assert_close(ours, gradient(sft.SPEC.build(clone, settings), by_author(mixed_groups(), "expert")))


@pytest.mark.parametrize("budget", [1, 4096])
def test_both_losses_share_one_denominator(models, budget):
    groups = mixed_groups()
    settings = SPEC.config(coef=2.0, imitation=0.5)
    run = make_run(models, "guided-opd", tokens_per_micro_batch=budget, **EXACT)
    ours = gradient(SPEC.build(run, settings), groups)
    reference = Reference(models)
    loss = 0.0
    for episode in groups[0].members:
        read = zip(
            episode.turns,
            reference.sampled(reference.student, episode),
            reference.sampled(reference.teacher, episode),
            strict=True,
        )
        for turn, q, p in read:
            if turn.action.author == "teacher":
                loss = loss - 0.5 * q.sum() / 9  # 5 + 4 tokens
            else:
                loss = loss - (2.0 * (p - q).detach() * q).sum() / 9
    assert_close(ours, reference.gradient(loss))


def test_figures_are_of_the_students_turns_and_success_is_told_apart(models):
    trainer = SPEC.build(make_run(models, "guided-opd"), SPEC.config(beta=0.25))
    alone = make_trajectory("c", [make_turn(0, [5, 6], [30, 31])])
    lost = make_trajectory("d", [make_turn(0, [5, 6], [40], author="teacher")], end="error")
    (group,) = mixed_groups()
    found = trainer.update([Group("t", 0, (*group.members, alone, lost))], 0)
    assert found.metrics["trained_tokens"] == 7.0  # 3 + 2 + 2 of the student
    assert found.metrics["imitated_share"] == pytest.approx(4 / 11)
    assert found.metrics["beta"] == 0.25
    assert (found.metrics["success_guided"], found.metrics["success_alone"]) == (1.0, 1.0)
    assert found.turn_columns["advantage"].keys() == {("a", 1), ("b", 0), ("c", 0)}


def test_whole_distributions_and_imitation_mix_too(models):
    """The mixture knows nothing of its parts: a divergence on the student's tokens, cross-entropy on the guide's."""
    trainer = SPEC.build(make_run(models, "guided-opd", **EXACT), SPEC.config())
    student, groups = trainer.student, mixed_groups()
    teacher = LocalTeacher(TeacherConfig(model_name_or_path=models["teacher"]), student)
    batch = collate(groups, student.pad_id, ("student", "teacher"))
    guided_BT = batch.mask_BT & torch.tensor([a == "teacher" for a in batch.author_N])[batch.turn_BT]
    objective = Mixed(FullVocabulary(teacher, "reverse_kl"), TokenObjective(lambda logp: -logp), guided_BT)
    coef_BT = token_coefficients("token_mean", batch.turn_BT, batch.traj_N, batch.ok_M)
    loss = 0.0
    for micro in student.micro_batches(batch, torch.arange(len(batch.tokens_BT))):
        part, *_ = student.apply(micro, objective.kernel(micro, micro.pick(coef_BT), student))
        part.backward()
        loss += float(part.detach())
    reference, expected = Reference(models), 0.0
    for episode in groups[0].members:
        read = zip(
            episode.turns,
            reference.log_probs(reference.student, episode),
            reference.log_probs(reference.teacher, episode),
            strict=True,
        )
        for turn, q_AV, p_AV in read:
            if turn.action.author == "teacher":
                ids = torch.tensor(turn.action.token_ids)
                expected = expected - q_AV.gather(1, ids[:, None]).sum() / 9
            else:
                expected = expected + (q_AV.exp() * (q_AV - p_AV.detach())).sum() / 9
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    named = student.net.plain.named_parameters()
    assert_close({name: x.grad.double() for name, x in named}, reference.gradient(expected))


def values(models, folder, **trainer):
    return {
        "algorithm": "guided-opd",
        "output_dir": str(folder),
        "model_name_or_path": models["student"],
        "teachers": [{"model_name_or_path": models["teacher"]}],
        "env": {"name": "corridor", "split": "train", "prompt": "corridor/transcript", "max_turns": 4},
        "rollout": {"tasks_per_step": 4, "group_size": 2, "max_new_tokens": 4},
        "trainer": trainer,
        "max_steps": 2,
        "learning_rate": 1e-3,
    }


@pytest.mark.parametrize("guide", ["teacher", "expert"])
def test_the_guides_share_fades(models, tmp_path, guide):
    beta = {"kind": "linear", "start": 0.6, "end": 0.0, "steps": 1}
    train(
        validate(TrainConfig, values(models, tmp_path / "run", guide=guide, beta=beta)), report=lambda _: None
    )
    said = []
    for step in range(2):
        lines = read_lines(tmp_path / "run" / "rollouts" / f"step-{step:06d}.jsonl")
        episodes = [decode_episode(line) for _, line in lines]
        said.append({turn.action.author for item in episodes for turn in item.turns})
        assert all(turn.action.token_ids for item in episodes for turn in item.turns)
    assert said == [{"student", guide}, {"student"}]
    first, second = (
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    )
    assert 0 < first["imitated_share"] < 1
    assert second["imitated_share"] == 0
    assert "success_guided" not in second


def test_the_guide_reads_and_samples_as_the_student(models, tmp_path):
    """Departure: the student's prompt, nothing added, and the student's temperature."""
    config = validate(TrainConfig, values(models, tmp_path))
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"temperature": 0.7})})
    trainer = SPEC.build(config, SPEC.config())
    engine = open_engine("hf", models["student"], {})
    stage = build_stage(config, env_spec("corridor"), trainer, engine, SPEC.authors)
    guide, student = stage.policies["teacher"], stage.policies["student"]
    assert guide.sampling == student.sampling
    assert guide.sampling.temperature == 0.7
    assert guide.renderer is student.renderer
    assert guide.engine.info["model"] == models["teacher"]


def test_what_cannot_work_is_refused(models, tmp_path):
    with pytest.raises(ConfigError, match="used by guide 'teacher' only"):
        validate(SPEC.config, {"guide": "expert", "engine": "vllm"}, "trainer.")
    with pytest.raises(UsageError, match="biased under truncated sampling"):
        SPEC.refuse(make_run(models, "guided-opd", rollout={"top_p": 0.9}), SPEC.config())
