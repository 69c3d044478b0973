from dataclasses import replace

import pytest
import torch
import yaml
from spoken import FRESH, GROWING, prompted, spoken_groups
from trainer_cases import assert_close, gradient, make_run, make_turn, naive, same_weights, student_weights
from transformers import AutoModelForCausalLM

from agentbench.errors import ConfigError, UsageError
from agentbench.registry import entry_points, env_spec
from agentbench.trainers.grpo import SPEC as GRPO
from agentbench.trainers.sdar import SPEC
from agentbench.trainers.teachers.skills import load_skills
from agentbench.training.config import TeacherConfig
from agentbench.types import Group

EXACT = {"max_grad_norm": 1e9}
PLAIN = {"ref_kl_coef": 0.0, "group_stats": "trajectory", "divide_by_std": False}
LAYOUTS = pytest.mark.parametrize("prompt", [GROWING, FRESH], ids=["growing", "fresh"])
SELF = (TeacherConfig(backend="student"),)


@pytest.fixture
def skills(tmp_path):
    path = tmp_path / "skills.yaml"
    path.write_text(yaml.safe_dump({"general": ["walk"], "types": [{"for": ["far"], "skills": ["keep on"]}]}))
    return str(path)


def build(models, prompt, spec=SPEC, teachers=SELF, values=None, **settings):
    run = prompted(make_run(models, spec.id, teacher=None, **(EXACT | (values or {}))), prompt)
    run = run.model_copy(update={"teachers": teachers if "teacher" in spec.needs else ()})
    return spec.build(run, spec.config(**(PLAIN | settings)))


def far(groups):
    """Every other group is of the type that has skills of its own."""
    return [
        replace(g, members=tuple(replace(m, task_type="far" if n else "near") for m in g.members))
        for n, g in enumerate(groups)
    ]


@LAYOUTS
@pytest.mark.parametrize("backend", ["student", "hf"])
def test_gradient_is_that_of_reward_and_gated_gap_in_float64(models, prompt, backend, skills):
    teachers = SELF if backend == "student" else (TeacherConfig(model_name_or_path=models["teacher"]),)
    trainer = build(models, prompt, teachers=teachers, skills=skills, distill_coef=0.7, gate_beta=0.5)
    groups = far(spoken_groups(trainer.run, trainer.tokenizer))
    ours = gradient(trainer, groups)
    batch = trainer.collate(groups)
    student = AutoModelForCausalLM.from_pretrained(models["student"], dtype=torch.float64)
    teacher = student if backend == "student" else AutoModelForCausalLM.from_pretrained(
        models["teacher"], dtype=torch.float64
    )  # fmt: skip
    q_BT, _ = naive(student, batch, 1.0, trainer.student.vocab_size)
    loss, tokens = 0.0, int(batch.mask_BT.sum())
    for n in range(batch.turns):
        m = int(batch.traj_N[n])
        group = groups[int(batch.group_M[m])]
        member = next(e for e in group.members if e.id == batch.ids_M[m])
        turn = member.turns[int(batch.index_N[n])]
        ids = trainer.reader.prompt_ids(member, turn, trainer.skills.text(member.task_type))
        said = torch.tensor(turn.action.token_ids)
        logits_TV = teacher(input_ids=torch.tensor([[*ids, *turn.action.token_ids]])).logits[0]
        p = logits_TV.log_softmax(-1)[len(ids) - 1 : -1].gather(1, said[:, None])[:, 0].detach()
        q = q_BT[batch.turn_BT == n]
        # A = R - mean of the group's rewards; the gate is a constant
        advantage = member.reward - sum(e.reward for e in group.members) / len(group.members)
        gate = torch.sigmoid(0.5 * (p - q)).detach()
        loss = loss + (-advantage * q + 0.7 * gate * (p - q)).sum() / tokens
    loss.backward()
    assert_close(ours, {name: p.grad for name, p in student.named_parameters()}, 1e-4)


def test_hand_worked_gate(models, skills):
    """Gap +0.2 at beta 5: sigmoid(1) = 0.7311; gap -0.2: 0.2689; gap 0: 0.5."""
    trainer = build(models, GROWING, skills=skills)
    found = trainer._gate(torch.tensor([0.2, -0.2, 0.0]))
    assert torch.allclose(found, torch.tensor([0.7310586, 0.2689414, 0.5]), atol=1e-6)


def test_a_coefficient_of_nothing_is_grpo(models, skills):
    ours, theirs = (
        build(models, GROWING, SPEC, skills=skills, distill_coef=0.0),
        build(models, GROWING, GRPO),
    )
    groups = spoken_groups(ours.run, ours.tokenizer)
    assert_close(gradient(ours, groups), gradient(theirs, groups))


def test_the_term_only_ever_raises_what_was_said(models, skills):
    """Without reward, one small step makes the sampled tokens likelier, even those that the teacher likes less."""
    trainer = build(
        models, GROWING, skills=skills, distill_coef=1.0, values={"learning_rate": 1e-4, "weight_decay": 0.0}
    )
    groups = spoken_groups(trainer.run, trainer.tokenizer, successes=[set(), set()])
    batch = trainer.collate(groups)
    before = trainer.student.score(batch).logp_BT.sum()
    assert trainer.update(groups, 0).metrics["skill_gap"] != 0.0
    assert float(trainer.student.score(batch).logp_BT.sum()) > float(before)


def test_general_and_task_skills_both_reach_the_teacher(models, skills):
    trainer = build(models, FRESH, skills=skills)
    groups = far(spoken_groups(trainer.run, trainer.tokenizer))
    read = []
    inner = trainer.teacher.score
    trainer.teacher.score = lambda batch, top_k=0: read.append(batch) or inner(batch, top_k)
    update = trainer.update(groups, 0)
    rows = [trainer.tokenizer.decode(row) for row in read[0].tokens_BT]
    both = [row for row in rows if "- walk" in row and "- keep on" in row]
    assert all("- walk" in row for row in rows)
    assert len(both) == sum(len(m.turns) for m in groups[1].members)
    # the student's own message comes after them, and the records keep what was read
    assert all(row.index("- walk") < row.index("room ") for row in rows)
    notes = update.notes["skills"]
    assert set(notes) == {(m.id, t.index) for g in groups for m in g.members for t in m.turns}
    assert "- keep on" in notes[groups[1].members[0].id, 0]
    assert update.metrics["task_skills_share"] == 0.5


def test_the_teacher_reads_an_episode_once_a_step_with_the_skills_in_its_first_message(models, skills):
    """Departures: the gate follows the student within a step, the teacher does not; later messages stay bare."""
    trainer = build(models, GROWING, skills=skills, values={"updates_per_step": 2})
    groups = spoken_groups(trainer.run, trainer.tokenizer)
    read = []
    inner = trainer.teacher.score
    trainer.teacher.score = lambda batch, top_k=0: read.append(batch) or inner(batch, top_k)
    assert trainer.update(groups, 0).metrics["updates"] == 2.0
    (batch,) = read
    rows = [trainer.tokenizer.decode(row) for row in batch.tokens_BT]
    assert len(rows) == sum(len(group.members) for group in groups)
    assert {row.count("- walk") for row in rows} == {1}
    assert max(row.count("room ") for row in rows) > 1
    assert all(row.index("- walk") < row.index("room ") for row in rows)


def test_figures_are_the_ones_named(models, skills):
    trainer = build(models, GROWING, skills=skills, ref_kl_coef=0.01)
    update = trainer.update(spoken_groups(trainer.run, trainer.tokenizer), 0)
    for name in ("gate", "gate_active_share", "skill_gap", "teacher_prompt_tokens", "reference_kl"):
        assert name in update.metrics
    assert 0.0 < update.metrics["gate"] < 1.0
    assert update.metrics["reference_kl"] == pytest.approx(0.0, abs=1e-6)  # before any step
    assert update.metrics["skill_gap"] == pytest.approx(-update.metrics["teacher_gap"], abs=1e-6)


@LAYOUTS
@pytest.mark.parametrize("budget", [1, 300])
def test_cuts_and_order_change_nothing(models, prompt, budget, skills):
    def found(groups, **values):
        trainer = build(models, prompt, skills=skills, distill_coef=0.7, values=values)
        return gradient(trainer, groups(trainer))

    def spoken(trainer):
        return spoken_groups(trainer.run, trainer.tokenizer)

    def turned(trainer):
        return [Group(g.key, 0, tuple(reversed(g.members))) for g in reversed(spoken(trainer))]

    def padded(trainer):
        """A long last turn by somebody else is context."""
        first, *others = spoken(trainer)
        member = first.members[0]
        said = make_turn(len(member.turns), [5] * 60, [6] * 40, author="expert")
        longer = replace(member, turns=(*member.turns, said))
        return [replace(first, members=(longer, *first.members[1:])), *others]

    whole = found(spoken)
    assert_close(found(spoken, tokens_per_micro_batch=budget), whole)
    assert_close(found(turned, tokens_per_micro_batch=budget), whole)
    if budget > 1:
        assert_close(found(padded), whole)


def test_an_average_of_the_student_may_teach_and_continues_to_the_bit(models, tmp_path, skills):
    teachers = (TeacherConfig(backend="ema", rate=0.3),)
    trainer = build(models, GROWING, teachers=teachers, skills=skills)
    groups = spoken_groups(trainer.run, trainer.tokenizer)
    trainer.update(groups, 0)
    trainer.save(tmp_path)
    again = build(models, GROWING, teachers=teachers, skills=skills)
    again.load(tmp_path)
    assert trainer.update(groups, 1).metrics == again.update(groups, 1).metrics
    assert same_weights(student_weights(trainer), student_weights(again))


def test_every_environment_of_ours_has_skills_for_its_task_types(models):
    ours = [
        name for name, point in entry_points("envs").items() if point.value.startswith("agentbench.envs.")
    ]
    assert {"alfworld", "code", "code-tool", "corridor", "search-qa", "webshop"} <= set(ours)
    for name in ours:
        skills = load_skills(name)
        for split in ("mini-train", "train"):
            spec = env_spec(name)
            if split not in spec.splits or (split == "train" and name != "corridor"):
                continue
            env = spec.make()
            for task in spec.tasks(split)[:6]:
                kind = env.reset(options={"task": task})[1]["task_type"]
                text = skills.text(kind)
                assert all(line in text for line in skills.general)
                assert all(line in text for line in skills.by_type[kind])


def test_bad_skill_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no skills for env 'mine'; write a file"):
        load_skills("mine")
    path = tmp_path / "s.yaml"
    path.write_text("general: [a]\ntypes:\n- {for: [x], skills: [b]}\n- {for: [x], skills: [c]}\n")
    with pytest.raises(ConfigError, match="'x' stands twice"):
        load_skills("corridor", str(path))
    path.write_text("general: []\n")
    with pytest.raises(ConfigError, match="general"):
        load_skills("corridor", str(path))


def test_groups_of_one_are_refused(models):
    with pytest.raises(UsageError, match="use 2 or more"):
        build(models, GROWING, values={"rollout": {"group_size": 1}})


def test_skills_that_fill_the_teachers_context_are_refused_at_the_start(models, tmp_path):
    """The context is of 256 tokens; the general skill alone fits, with the type's own it does not."""
    path = tmp_path / "long.yaml"
    own = {"for": ["far"], "skills": ["keep on " * 25]}
    path.write_text(yaml.safe_dump({"general": ["walk"], "types": [own]}))
    with pytest.raises(UsageError, match=r"no room for the student's prompt in the 256 .*trainer\.skills"):
        build(models, GROWING, skills=str(path))
    path.write_text(yaml.safe_dump({"general": ["walk"]}))
    build(models, GROWING, skills=str(path))
