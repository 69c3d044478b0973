"""Training knows nothing of environments: OPD runs on the shop as it does on households."""

import json

import pytest

from agentbench.config import validate
from agentbench.runs.episodes import read_episodes
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train

pytest.importorskip("torch")


def test_opd_brings_the_student_closer_to_its_teacher_in_the_shop(tmp_path):
    from agentbench.models.tiny import make_model, make_tokenizer

    texts = [
        "search[coffee table]",
        "click[buy now]",
        "Page 1 (Total results: 50) | Next > | $12.99 | Back to Search",
    ]
    for name, seed in (("student", 0), ("teacher", 1)):
        tokenizer = make_tokenizer(tmp_path / name, texts, entities=["buy now", "Search"])
        make_model(tmp_path / name, tokenizer, hidden=32, layers=1, seed=seed, max_position=4096)
    values = {
        "algorithm": "gkd",
        "output_dir": str(tmp_path / "run"),
        "model_name_or_path": str(tmp_path / "student"),
        "teachers": [{"model_name_or_path": str(tmp_path / "teacher")}],
        "env": {
            "name": "webshop",
            "split": "mini-train",
            "prompt": "agentbench.prompts:webshop/transcript",
            "max_turns": 2,
        },
        "rollout": {"tasks_per_step": 4, "group_size": 2, "max_new_tokens": 8},
        "max_steps": 4,
        "learning_rate": 0.01,
    }
    train(validate(TrainConfig, values), report=lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gaps = [line["teacher_gap"] for line in lines]
    assert len(gaps) == 4
    assert gaps[-1] < 0.9 * gaps[0]
    episodes = read_episodes(tmp_path / "run" / "rollouts" / "step-000003.jsonl")
    assert {item.env for item in episodes} == {"webshop"}
    assert len(episodes) == 8
    assert all(turn.annotations["divergence"] >= 0 for item in episodes for turn in item.turns)
