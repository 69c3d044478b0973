"""A model writes programs: evaluation in one turn and in several, and training, on the env as on any other."""

import json

import pytest

from agentbench.config import validate
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.runs.episodes import read_episodes

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from agentbench.models.tiny import make_model, make_tokenizer

    folder = tmp_path_factory.mktemp("models")
    texts = [
        "```python\ndef blend(x):\n    return x + 3\n```",
        "Write a function blend(x) that takes an integer",
    ]
    for name, seed in (("student", 0), ("teacher", 1)):
        tokenizer = make_tokenizer(folder / name, texts, vocab_size=300)
        make_model(folder / name, tokenizer, hidden=32, layers=1, seed=seed, max_position=4096)
    return folder


@pytest.mark.parametrize(("turns", "prompt"), [(1, "code/chat"), (2, "code/chat"), (2, "code/fresh")])
def test_a_model_is_evaluated_in_one_turn_and_in_several(judge, models, tmp_path, turns, prompt):
    values = {
        "panel": "code/mini@1",
        "policy": "model",
        "model_name_or_path": str(models / "student"),
        "prompt": f"agentbench.prompts:{prompt}",
        "output_dir": str(tmp_path / "run"),
        "limit": 3,
        "max_new_tokens": 8,
        "env_options": {"max_turns": turns},
    }
    evaluate(validate(EvalConfig, values))
    episodes = list(read_episodes(tmp_path / "run"))
    assert [len(item.turns) for item in episodes] == [turns] * 3
    assert all(item.success is False and item.error is None for item in episodes)
    assert all(turn.info["sandbox"] == judge.label for item in episodes for turn in item.turns)
    facts = json.loads((tmp_path / "run" / "versions.json").read_text())["env"]
    assert facts["isolation"] == judge.proof.way
    assert facts["python"] == judge.facts["python"]


def test_distillation_runs_on_programs(judge, models, tmp_path):
    from agentbench.training.config import TrainConfig
    from agentbench.training.loop import train

    values = {
        "algorithm": "gkd",
        "output_dir": str(tmp_path / "run"),
        "model_name_or_path": str(models / "student"),
        "teachers": [{"model_name_or_path": str(models / "teacher")}],
        "env": {
            "name": "code",
            "split": "mini-train",
            "prompt": "agentbench.prompts:code/transcript",
            "max_turns": 2,
        },
        "rollout": {"tasks_per_step": 2, "group_size": 2, "max_new_tokens": 8},
        "max_steps": 3,
        "learning_rate": 0.01,
    }
    train(validate(TrainConfig, values), report=lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["teacher_gap"] < lines[0]["teacher_gap"]
