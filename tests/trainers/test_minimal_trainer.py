"""The algorithm that the page on adding a trainer shows learns, and keeps the rules of the house."""

from places import ROOT
from trainer_cases import gradient, make_run, random_groups

from agentbench import trainer_spec

SPEC = trainer_spec(f"{ROOT / 'examples' / 'minimal_trainer.py'}:SPEC")


def test_the_gap_to_the_teacher_falls(models):
    groups = random_groups(250, groups=4)
    trainer = SPEC.build(make_run(models, "bounded", learning_rate=3e-3, max_steps=40), SPEC.config())
    gaps = [trainer.update(groups, step).metrics["teacher_distance"] for step in range(15)]
    assert gaps[-1] < 0.7 * gaps[0]


def test_teacher_equal_to_the_student_teaches_nothing(models):
    run = make_run(models | {"teacher": models["student"]}, "bounded", max_grad_norm=1e9)
    found = gradient(SPEC.build(run, SPEC.config()), random_groups(250))
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())


def test_no_token_is_credited_beyond_the_bound(models):
    trainer = SPEC.build(make_run(models, "bounded"), SPEC.config(bound=0.01))
    column = trainer.update(random_groups(250), 0).turn_columns["advantage"]
    assert 0 < max(abs(value) for value in column.values()) <= 0.01 + 1e-7
