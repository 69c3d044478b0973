import json
import math

import pytest

from agentbench.errors import ConfigError
from agentbench.trainers.maths import schedules as sc


@pytest.mark.parametrize("step", [0, 1, 20, 40, 79, 80, 81, 10_000])
def test_linear_equals_the_annealing_formulas(step):
    progress = min(step / 80, 1)
    kappa = max(0.1, 1.0 - (1.0 - 0.1) * progress)
    rho = 1.0 + (2.0 - 1.0) * progress
    assert sc.Linear(1.0, 0.1, 80)(step) == pytest.approx(kappa, abs=1e-15)
    assert sc.Linear(1.0, 2.0, 80)(step) == pytest.approx(rho, abs=1e-15)


def test_linear_by_hand_and_exact_at_both_ends():
    kappa = sc.Linear(1.0, 0.1, 80)
    # half way: 1 - 0.9/2 = 0.55; quarter: 1 - 0.225 = 0.775
    assert kappa(40) == pytest.approx(0.55)
    assert kappa(20) == pytest.approx(0.775)
    assert (kappa(0), kappa(80), kappa(99)) == (1.0, 0.1, 0.1)


def test_constants_are_exact():
    assert [sc.Constant(1.0)(s) for s in (0, 7)] == [1.0, 1.0]
    assert sc.from_config(0.0)(5) == 0.0


def test_cosine_by_hand():
    cosine = sc.Cosine(1.0, 0.2, 60)
    # a third of the way: .2 + .8 * (1 + cos 60 deg)/2 = .2 + .8 * .75 = .8 ; half: .2 + .4 = .6
    assert cosine(20) == pytest.approx(0.8)
    assert cosine(30) == pytest.approx(0.6)
    assert (cosine(0), cosine(60), cosine(61)) == (1.0, 0.2, 0.2)
    assert cosine(15) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


def test_stair_is_the_curriculum_horizon():
    horizon = sc.Stair(start=1, every=2, limit=4)
    # k(n) = 1 + floor(n / 2), at most 4
    assert [horizon(n) for n in range(9)] == [1, 1, 2, 2, 3, 3, 4, 4, 4]
    falling = sc.Stair(start=5, every=1, increment=-2, limit=0)
    assert [falling(n) for n in range(4)] == [5, 3, 1, 0]


def test_piecewise_holds_each_value_until_the_next_start():
    schedule = sc.Piecewise([0, 3, 10], [1.0, 0.5, 0.0])
    assert [schedule(s) for s in (0, 2, 3, 9, 10, 99)] == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]


ONE_OF_EACH = [
    sc.Constant(0.3),
    sc.Linear(1.0, 0.1, 80),
    sc.Cosine(1.0, 0.1, 80),
    sc.Stair(1.0, 6, 1.0, 30.0),
    sc.Piecewise((0, 5), (1.0, 2.0)),
    sc.Handover(1.0, 0.1, window=4),
]


@pytest.mark.parametrize("schedule", ONE_OF_EACH, ids=lambda s: s.kind)
def test_config_survives_json(schedule):
    again = sc.from_config(json.loads(json.dumps(schedule.config())))
    assert again == schedule


def test_every_kind_is_covered():
    assert {s.kind for s in ONE_OF_EACH} == set(sc.KINDS)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"kind": "liner", "start": 1, "end": 0, "steps": 2}, "Did you mean 'linear'"),
        ({"start": 1}, "no schedule kind None"),
        ({"kind": ["linear"]}, r"no schedule kind \['linear'\]"),
        ({"kind": {"linear": 1}}, "no schedule kind {'linear': 1}"),
        ({"kind": "linear", "start": 1, "end": 0, "step": 2}, "no field 'step'.*Did you mean 'steps'"),
        ({"kind": "linear", "start": 1, "end": 0}, "lacks steps"),
        ({"kind": "linear", "start": 1, "end": 0, "steps": 0}, "at least 1"),
        ({"kind": "cosine", "start": 1, "end": 0, "steps": 2.5}, "whole number"),
        ({"kind": "stair", "every": 0}, "every=0"),
        ({"kind": "piecewise", "starts": [1], "values": [1]}, "must begin at 0"),
        ({"kind": "piecewise", "starts": [0, 2, 2], "values": [1, 2, 3]}, "rise strictly"),
        ({"kind": "piecewise", "starts": [0, 2], "values": [1]}, "one value each"),
        ({"kind": "linear", "start": "fast", "end": 0, "steps": 2}, "start='fast' must be a number"),
        ({"kind": "linear", "start": None, "end": 0, "steps": 2}, "start=None must be a number"),
        ({"kind": "piecewise", "starts": [0], "values": 0.5}, "values=0.5 must be a list"),
        ("fast", "a number or a mapping"),
        (True, "a number or a mapping"),
    ],
)
def test_bad_configs_are_refused(config, text):
    with pytest.raises(ConfigError, match=text):
        sc.from_config(config)


def test_negative_steps_are_refused():
    with pytest.raises(ConfigError, match="step=-1"):
        sc.Constant(1.0)(-1)


def hand_over(gap, steps=100, **values):
    schedule = sc.from_config({"kind": "handover", "start": 1.0, "end": 0.1, **values})
    for step in range(steps):
        schedule.observe({"teacher_distance": gap(step)})
    return schedule


# mu 0.9, W 10, eta = zeta = 0.02. A gap that shrinks by 0.1 % a step falls by under 2 % within a window: 91 windows
# push r by 0.02 each, up to 1. By 0.25 % a step only 18 windows do, while the smoothing still lags. By 1 % none, nor
# where it stands still or grows.
@pytest.mark.parametrize(
    ("factor", "progress"), [(1.0, 0.0), (0.999, 1.0), (0.9975, 0.36), (0.99, 0.0), (1.001, 0.0)]
)
def test_the_hand_over_follows_the_gap(factor, progress):
    schedule = hand_over(lambda step: factor**step)
    assert schedule.progress == pytest.approx(progress)
    assert schedule(0) == schedule(99) == pytest.approx(1.0 - 0.9 * progress)


def test_one_push_of_the_hand_over_by_hand():
    # no smoothing, window 2: 1 -> 0.99 falls by 1 % (pushes by 0.5), 0.99 -> 0.9 by 9 % (too fast), 0.9 -> 0.95 grows
    schedule = sc.Handover(1.0, 0.0, smoothing=0.0, window=2, rate=0.5)
    seen = []
    for gap in (1.0, 0.99, 0.9, 0.95, 0.94):
        schedule.observe({"teacher_distance": gap})
        seen.append(schedule(0))
    assert seen == [1.0, 0.5, 0.5, 0.5, 0.0]


def test_a_threshold_of_nought_keeps_the_start():
    assert hand_over(lambda step: 0.999**step, threshold=0.0)(100) == 1.0


def test_a_measured_schedule_goes_on_from_its_state():
    whole = hand_over(lambda step: 0.999**step, 60)
    half = hand_over(lambda step: 0.999**step, 30)
    other = sc.from_config(half.config())
    assert other == half  # the settings; what was seen is no part of them
    other.load_state(json.loads(json.dumps(half.state())))
    for step in range(30, 60):
        other.observe({"teacher_distance": 0.999**step})
    assert other.state() == whole.state()
    assert other(60) == whole(60)
    assert half(60) != whole(60)


def test_a_measured_schedule_names_a_figure_that_is_not_reported():
    schedule = sc.from_config({"kind": "handover", "start": 1.0, "end": 0.0, "figure": "teacher_distanc"})
    with pytest.raises(ConfigError, match=r"no figure 'teacher_distanc'\. Did you mean 'teacher_distance'"):
        schedule.observe({"teacher_distance": 1.0})
    for wrong in ({"window": 1}, {"smoothing": 1.0}, {"figure": ""}, {"rate": "fast"}, {"memory": {}}):
        with pytest.raises(ConfigError):
            sc.from_config({"kind": "handover", "start": 1.0, "end": 0.0, **wrong})
