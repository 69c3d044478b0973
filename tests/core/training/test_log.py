"""The best evaluation: the largest of what is better when larger, the smallest of what is better when smaller."""

import json

import pytest

from agentbench.config import validate
from agentbench.training.config import TrainConfig
from agentbench.training.log import FIGURES, TrainLog

EVALUATIONS = {  # step -> success, score, turns, errors
    0: (0.9, 0.9, 1.0, 0.0),
    2: (0.2, 0.3, 9.0, 2.0),
    4: (0.4, 0.3, 7.0, 1.0),
    6: (0.1, 0.1, 8.0, 1.0),
}


@pytest.mark.parametrize(
    ("figure", "step", "value"),
    [("success", 4, 0.4), ("score", 2, 0.3), ("turns", 4, 7.0), ("errors", 4, 1.0)],
)
def test_best_follows_the_direction_of_its_figure(tmp_path, figure, step, value):
    values = {"algorithm": "sft", "output_dir": "x", "model_name_or_path": "m"}
    values |= {"env": {"name": "corridor", "split": "train"}, "metric_for_best_model": figure}
    log = TrainLog(tmp_path, -1, validate(TrainConfig, values))
    for at, figures in EVALUATIONS.items():
        log.write(at, {f"eval/{name}": found for name, found in zip(FIGURES, figures, strict=True)}, {})
    log.close()
    # step 0 has no checkpoint, and of equals the first counts
    best = {"step": step, "metric": f"eval/{figure}", "value": value, "checkpoint": f"checkpoint-{step}"}
    assert json.loads((tmp_path / "best.json").read_text()) == best
