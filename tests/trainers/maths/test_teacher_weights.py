import math

import pytest
import torch

from agentbench.errors import ConfigError
from agentbench.trainers.maths.teacher_weights import confidence_weights

NONE = math.nan


def weights(confidence, present=None, temperature=1.0):
    confidence_NK = torch.tensor([confidence])
    present_NK = torch.tensor([[True] * len(confidence) if present is None else present])
    return confidence_weights(confidence_NK, present_NK, temperature=temperature)[0].tolist()


@pytest.mark.parametrize(
    ("confidence", "temperature", "expected"),
    [
        # two teachers: w_1 = 1 / (1 + exp(-(c_1 - c_2) / 100 / T))
        ((95.0, 70.0), 1.0, (0.5622, 0.4378)),  # 1 / (1 + exp(-0.25))
        ((90.0, 80.0), 1.0, (0.5250, 0.4750)),  # 1 / (1 + exp(-0.1))
        ((100.0, 0.0), 1.0, (0.7311, 0.2689)),  # the widest there is: 1 / (1 + 1/e)
        ((90.0, 80.0), 0.1, (0.7311, 0.2689)),  # a tenth of the temperature, ten times the difference
        ((50.0, 50.0, 50.0), 1.0, (1 / 3, 1 / 3, 1 / 3)),
        ((40.0,), 1.0, (1.0,)),
    ],
)
def test_weights_by_hand(confidence, temperature, expected):
    assert weights(confidence, temperature=temperature) == pytest.approx(expected, abs=1e-4)


def test_one_missing_confidence_makes_all_equal():
    assert weights((99.0, NONE, 10.0)) == pytest.approx([1 / 3] * 3)


def test_a_missing_teacher_leaves_its_weight_to_the_others():
    assert weights((NONE, 70.0), (False, True)) == [0.0, 1.0]
    # of three, the two that are there share as if they were alone: 1 / (1 + exp(-0.1))
    assert weights((90.0, 80.0, NONE), (True, True, False)) == pytest.approx([0.5250, 0.4750, 0.0], abs=1e-4)
    assert weights((NONE, 80.0, NONE), (True, True, False)) == pytest.approx([0.5, 0.5, 0.0])


def test_without_teachers_there_is_no_weight():
    assert weights((NONE, NONE), (False, False)) == [0.0, 0.0]


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="must be positive"):
        weights((1.0,), temperature=0.0)
