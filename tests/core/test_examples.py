"""The two files that a newcomer copies: an environment and an algorithm, small, and whole."""

import pytest
from places import ROOT

from agentbench import evaluate, read_episodes, train
from agentbench.config import validate
from agentbench.evaluation.evaluate import EvalConfig
from agentbench.training.config import TrainConfig

ENV = f"{ROOT / 'examples' / 'minimal_env.py'}:SPEC"
TRAINER = f"{ROOT / 'examples' / 'minimal_trainer.py'}:SPEC"


def code_lines(path):
    return [line for line in path.read_text().splitlines() if line.strip()]


def test_they_are_short():
    assert len((ROOT / "examples" / "minimal_env.py").read_text().splitlines()) <= 60
    assert len(code_lines(ROOT / "examples" / "minimal_trainer.py")) <= 40


def test_the_pages_hold_them_as_they_are():
    for page, file in (("adding-a-trainer", "minimal_trainer"), ("adding-an-environment", "minimal_env")):
        assert (ROOT / "examples" / f"{file}.py").read_text().strip() in (
            ROOT / "docs" / f"{page}.md"
        ).read_text()


def test_the_env_is_played_from_its_file_without_a_panel(tmp_path):
    config = EvalConfig(env=ENV, split="test", policy="random", repeats=8, output_dir=str(tmp_path))
    summary = evaluate(config)
    assert summary.recorded == 32
    assert summary.plan.banners[0].startswith("no panel: split 'test'")
    assert summary.errors == {}
    assert 0 < summary.overall.success.value <= 1
    assert {item.env for item in read_episodes(tmp_path)} == {"hilo"}


def test_the_trainer_runs_from_its_file_in_the_env_from_its_file(model, tmp_path):
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    from agentbench.models.tiny import make_model

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(tmp_path / "teacher")
    make_model(tmp_path / "teacher", tokenizer, hidden=32, layers=1, seed=3)
    values = {
        "algorithm": TRAINER,
        "output_dir": str(tmp_path / "run"),
        "model_name_or_path": model,
        "teachers": [{"model_name_or_path": str(tmp_path / "teacher")}],
        "env": {"name": ENV, "split": "train", "max_turns": 3},
        "rollout": {"tasks_per_step": 4, "group_size": 4, "max_new_tokens": 8, "concurrency": 8},
        "trainer": {"bound": 1.0},
        "max_steps": 2,
        "learning_rate": 0.01,
        "updates_per_step": 2,
    }
    train(validate(TrainConfig, values), report=lambda line: None)
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()
    turns = [
        turn for item in read_episodes(tmp_path / "run/rollouts/step-000001.jsonl") for turn in item.turns
    ]
    assert turns
    assert all(abs(turn.annotations["advantage"]) <= 1.0 + 1e-6 for turn in turns)
