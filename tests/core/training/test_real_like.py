"""Training with weights that behave like trained ones, in the precisions people use: nothing but the defaults."""

import json

import pytest
from real_like import make_real_like

from agentbench.config import validate
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.runs.episodes import read_episodes
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train

pytest.importorskip("torch", reason="needs the extra 'train'")

PROMPT = "agentbench.prompts:corridor/transcript"


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def source(request, tmp_path_factory):
    return make_real_like(tmp_path_factory.mktemp(request.param), request.param, layers=6)


def values(model, folder, **changes):
    return {
        "algorithm": "grpo",
        "output_dir": str(folder),
        "model_name_or_path": str(model),
        "env": {"name": "corridor", "split": "train", "prompt": PROMPT, "max_turns": 3},
        "rollout": {"tasks_per_step": 1, "group_size": 2, "concurrency": 2, "max_new_tokens": 6},
        "eval": {"panel": "corridor/test@1", "every": 2, "limit": 3, "temperature": 1.0},
        "max_steps": 2,
        "learning_rate": 1e-5,
        "bf16": True,
    } | changes


def replies(folder):
    return {
        (episode.task, episode.repeat): [turn.action.token_ids for turn in episode.turns]
        for episode in read_episodes(folder / "episodes.jsonl")
    }


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's, not ours
@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["whole", "lora"])
def test_bf16_trains_and_the_checkpoint_plays_as_it_did_in_training(source, lora, tmp_path):
    run = tmp_path / "run"
    train(validate(TrainConfig, values(source, run, lora=lora)), report=lambda line: None)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    gaps = [line["publish_gap"] for line in steps if "publish_gap" in line]
    assert len(gaps) == 2
    assert max(gaps) < 0.05
    versions = json.loads((run / "versions.json").read_text())
    assert versions["engine"]["keeps_cache"] is True
    config = EvalConfig(
        policy="model", model_name_or_path=str(run / "checkpoint-2"), prompt=PROMPT, temperature=1.0, max_new_tokens=6,
        panel="corridor/test@1", limit=3, concurrency=2, max_turns=3, output_dir=str(tmp_path / "eval"),
    )  # fmt: skip
    evaluate(config)
    assert replies(tmp_path / "eval") == replies(run / "eval" / "step-2")
