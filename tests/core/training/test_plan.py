"""What a configuration says it would play is what the run then plays."""

import pytest

from agentbench.cli import run as agentbench
from agentbench.config import validate
from agentbench.runs.view import read_recorded
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train
from agentbench.training.plan import _who, plan_lines
from agentbench.types import RolloutPlan

pytest.importorskip("torch")


def values(model, folder, **changes):
    return {
        "algorithm": "sft",
        "output_dir": str(folder),
        "model_name_or_path": model,
        "env": {
            "name": "corridor",
            "split": "train",
            "prompt": "agentbench.prompts:corridor/transcript",
            "max_turns": 6,
        },
        "rollout": {"tasks_per_step": 3, "group_size": 2, "concurrency": 4, "max_new_tokens": 5},
        "trainer": {"takeover": [0, 0]},
        "eval": {"panel": "corridor/test@1", "every": 2, "limit": 4, "temperature": 1.0},
        "max_steps": 3,
        "save_steps": 3,
    } | changes


def test_the_tasks_that_are_named_are_those_that_are_played(model, tmp_path):
    config = validate(TrainConfig, values(model, tmp_path / "run"))
    lines = list(plan_lines(config, 2))
    assert lines[0] == "step 1: 3 tasks × 2 episodes of up to 6 turns"
    assert lines[4] == "step 2: 3 tasks × 2 episodes of up to 6 turns"
    assert all("by expert" in line for line in lines[1:4])
    # 3 steps x 3 x 2 episodes; x 6 turns; x 5 tokens
    assert lines[8] == "3 steps: 18 episodes, at most 108 replies and 540 sampled tokens"
    assert lines[9] == "3 evaluations of corridor/test@1, 4 episodes each, after steps 0, 2, 3"
    assert len(lines) == 10
    train(config, report=lambda line: None)
    for step in (1, 2):
        named = [line.split()[0] for line in lines[4 * step - 3 : 4 * step]]
        played = read_recorded(tmp_path / "run", step).episodes
        assert sorted(2 * named) == sorted(item.task for item in played)


def test_branches_are_told_with_their_roots(model, tmp_path):
    changes = {
        "algorithm": "opad",
        "teachers": [{"model_name_or_path": model}],
        "trainer": {"prefix": "onpolicy", "states_per_episode": 4, "steps": 1},
        "eval": None,
    }
    lines = list(plan_lines(validate(TrainConfig, values(model, tmp_path / "run", **changes)), 1))
    assert lines[0].startswith("step 1: 3 roots of up to 6 turns, 12 states drawn from them (")
    # a step: 3 roots and 12 x 2 branches of one turn: 27 episodes, 3 x 6 + 24 replies
    assert lines[-1] == "3 steps: 81 episodes, at most 126 replies and 630 sampled tokens"


def test_the_command_refuses_what_training_would(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(
        "algorithm: sft\noutput_dir: x\nmodel_name_or_path: nope\nenv: {name: corridor}\n"
    )
    assert agentbench(("plan", str(tmp_path / "bad.yaml"))) == 2
    assert "env.split" in capsys.readouterr().err


def test_odds_and_schedules_of_single_tasks_are_told():
    odds = (("student", 3.0), ("expert", 1.0))
    plan = RolloutPlan(1, 2, authors=(((0, odds),),), tasks={"b": ((0, "replay"), (4, "student"))})
    assert _who(plan, 0, "a") == "  by student (75%) or expert (25%)"
    assert _who(plan, 0, "b") == "  by replay, student from turn 5"
