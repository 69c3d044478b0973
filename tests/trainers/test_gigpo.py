import pytest
from trainer_cases import make_run, make_trajectory, make_turn, same_weights, student_weights

from agentbench.trainers import grpo
from agentbench.trainers.gigpo import SPEC
from agentbench.types import Group


def group():
    """Two episodes that part in the hall: one finds the goal, the other wanders off."""
    found = [
        make_turn(0, [1], [2], observation="hall"),
        make_turn(1, [1], [3], observation="kitchen", reward=1.0),
    ]
    lost = [
        make_turn(0, [1], [4], observation="hall"),
        make_turn(1, [1], [5], observation="hall"),
        make_turn(2, [1], [6], observation="cellar"),
    ]
    return Group("t", 0, (make_trajectory("a", found), make_trajectory("b", lost)))


def update(models, settings):
    run = make_run(models, "gigpo", teacher=None)
    return SPEC.build(run, SPEC.config(ref_kl_coef=0.0, **settings)).update([group()], 0)


def test_step_advantage_compares_returns_from_the_same_observation(models):
    # discounted returns: 0.5 and 1 of "a"; 0, 0, 0 of "b". The hall was met with 0.5, 0, 0: mean 1/6.
    # kitchen and cellar were met once: 0. Episode part, mean only, per trajectory: rewards 1, 0 -> +-0.5
    column = update(
        models, {"gamma": 0.5, "step_weight": 2.0, "divide_by_std": False, "group_stats": "trajectory"}
    ).turn_columns["advantage"]
    assert column["a", 0] == pytest.approx(0.5 + 2 * (0.5 - 1 / 6))
    assert column["a", 1] == pytest.approx(0.5)
    assert column["b", 0] == pytest.approx(-0.5 + 2 * (0 - 1 / 6))
    assert column["b", 1] == pytest.approx(-0.5 + 2 * (0 - 1 / 6))
    assert column["b", 2] == pytest.approx(-0.5)


def test_bucket_sizes_are_logged(models):
    metrics = update(models, {}).metrics
    # three anchors: hall met 3 times, kitchen and cellar once
    assert metrics["anchor_size"] == pytest.approx(5 / 3)
    assert metrics["anchor_singleton_share"] == pytest.approx(2 / 3)


def test_step_weight_zero_is_grpo_to_the_bit(models):
    ours = SPEC.build(make_run(models, "gigpo", teacher=None), SPEC.config(step_weight=0.0))
    theirs = grpo.SPEC.build(make_run(models, "grpo", teacher=None), grpo.SPEC.config())
    for step in range(3):
        ours.update([group()], step)
        theirs.update([group()], step)
    assert same_weights(student_weights(ours), student_weights(theirs))


def test_penalty_of_a_later_turn_reaches_earlier_returns(models):
    # Departure pinned: the penalty 0.4 at turn 1 of "b" is discounted into the return of its turn 0
    lost = list(group().members[1].turns)
    lost[1] = make_turn(1, [1], [5], observation="hall", reward=-0.4, penalty=0.4)
    changed = Group("t", 0, (group().members[0], make_trajectory("b", lost)))
    run = make_run(models, "gigpo", teacher=None)
    keys = {"gamma": 0.5, "divide_by_std": False, "group_stats": "trajectory", "ref_kl_coef": 0.0}
    column = SPEC.build(run, SPEC.config(**keys)).update([changed], 0).turn_columns["advantage"]
    # hall returns 0.5, -0.2, -0.4: mean -1/30; episode rewards 1 and -0.4: mean 0.3
    assert column["b", 0] == pytest.approx(-0.7 + (-0.2 + 1 / 30))


def test_only_identical_observations_are_compared(models):
    """Departure: the optional grouping by similarity is left out; one more letter is another state."""
    near = list(group().members[1].turns)
    near[0] = make_turn(0, [1], [4], observation="hall.")
    near[1] = make_turn(1, [1], [5], observation="Hall")
    other = Group("t", 0, (group().members[0], make_trajectory("b", near)))
    run = make_run(models, "gigpo", teacher=None)
    settings = SPEC.config(ref_kl_coef=0.0, step_weight=2.0, divide_by_std=False, group_stats="trajectory")
    update = SPEC.build(run, settings).update([other], 0)
    # nobody meets anybody: the episode's +-0.5 is all
    assert sorted(set(update.turn_columns["advantage"].values())) == [-0.5, 0.5]
    assert update.metrics["anchor_singleton_share"] == 1.0
