"""What a panel in training is played with: the run's own settings, none forgotten."""

import pytest

from agentbench.config import validate
from agentbench.evaluation.evaluate import EvalConfig
from agentbench.training.config import TrainConfig
from agentbench.training.evaluation import evaluation_of

VALUES = {
    "algorithm": "grpo",
    "output_dir": "run",
    "model_name_or_path": "model",
    "seed": 5,
    "env": {
        "name": "webshop",
        "split": "mini-train",
        "options": {"observation": "text"},
        "prompt": "agentbench.prompts:webshop/transcript",
        "history": 3,
        "max_turns": 7,
    },
    "rollout": {
        "engine": "scripted",
        "engine_options": {"a": 1},
        "concurrency": 9,
        "guided": True,
        "top_p": 0.9,
        "top_k": 8,
        "max_new_tokens": 33,
        "stop": ["</action>"],
        "max_episode_tokens": 99,
        "step_seconds": 2.0,
        "episode_seconds": 30.0,
        "retries": 3,
    },
    "eval": {"panel": "webshop/mini@1", "limit": 4, "temperature": 0.2, "repeats": 2},
}


def test_every_key_of_an_evaluation_follows_the_run():
    played = evaluation_of(validate(TrainConfig, VALUES), model="run/checkpoint-2", output_dir="out")
    assert played == EvalConfig(
        policy="model",
        model_name_or_path="run/checkpoint-2",
        output_dir="out",
        engine="scripted",
        engine_options={"a": 1},
        prompt="agentbench.prompts:webshop/transcript",
        history=3,
        guided=True,
        temperature=0.2,
        top_p=0.9,
        top_k=8,
        max_new_tokens=33,
        stop=["</action>"],
        panel="webshop/mini@1",
        limit=4,
        seed=5,
        repeats=2,
        concurrency=9,
        max_turns=7,
        max_episode_tokens=99,
        step_seconds=2.0,
        episode_seconds=30.0,
        retries=3,
        env_options={"observation": "text"},
    )


@pytest.mark.parametrize(
    ("panel", "options"), [("webshop/mini@1", {"observation": "text"}), ("corridor/test@1", {})]
)
def test_options_of_the_env_apply_where_the_panel_plays_the_same_env(panel, options):
    config = validate(TrainConfig, {**VALUES, "eval": {"panel": panel}})
    assert evaluation_of(config, model="m", output_dir="o").env_options == options
