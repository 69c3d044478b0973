from trainer_cases import assert_close, gradient, make_run, random_groups

from agentbench.trainers.opd import SPEC as OPD
from agentbench.trainers.tcod import SPEC

EXACT = {"max_grad_norm": 1e9}


def test_the_horizon_grows_by_the_step(models):
    trainer = SPEC.build(make_run(models, "tcod"), SPEC.config(first_turns=2, steps_per_turn=3))
    # k(n) = 2 + floor(n / 3)
    assert [trainer.horizon(step) for step in (0, 1, 2, 3, 5, 6, 30)] == [2, 2, 2, 3, 3, 4, 12]
    assert [trainer.plan(step).max_turns for step in (0, 3)] == [2, 3]


def test_the_runs_own_limit_stays(models):
    run = make_run(models, "tcod")
    run = run.model_copy(update={"env": run.env.model_copy(update={"max_turns": 3})})
    trainer = SPEC.build(run, SPEC.config(first_turns=1, steps_per_turn=1))
    assert [trainer.plan(step).max_turns for step in range(5)] == [1, 2, 3, 3, 3]


def test_on_given_episodes_it_is_opd(models):
    groups = random_groups(250)
    settings = SPEC.config(reduction="token_mean")
    ours = gradient(SPEC.build(make_run(models, "tcod", **EXACT), settings), groups)
    assert_close(ours, gradient(OPD.build(make_run(models, "opd", **EXACT), OPD.config()), groups))


def test_teacher_equal_to_the_student_teaches_nothing(models):
    run = make_run(models | {"teacher": models["student"]}, "tcod", **EXACT)
    found = gradient(SPEC.build(run, SPEC.config()), random_groups(250))
    assert all(float(grad.abs().max()) < 1e-7 for grad in found.values())
