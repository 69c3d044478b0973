"""A real pretrained model end to end: `make test-real` fetches it; without it these tests skip."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from places import ROOT

from agentbench.config import validate
from agentbench.engine import Request, sample
from agentbench.engines.hf.engine import build
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.models.loading import open_model
from agentbench.runs.episodes import read_episodes
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train
from agentbench.types import SamplingParams

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

FOLDER = os.environ.get("AGENTBENCH_REAL_MODEL", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="AGENTBENCH_REAL_MODEL names no model folder; make test-real sets it"
)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def prompt(tokenizer):
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def test_it_speaks_english_as_generate_does():
    model, tokenizer = open_model(FOLDER, dtype="float32")
    ids = prompt(tokenizer)
    with torch.no_grad():
        at = torch.tensor([ids], device=model.device)
        made = model.generate(at, attention_mask=torch.ones_like(at), do_sample=False, max_new_tokens=24)
    wanted = made[0, len(ids) :].tolist()
    engine = build(FOLDER, dtype="float32")
    (action,) = sample(
        engine, [Request("a", tuple(ids), SamplingParams(temperature=0, max_new_tokens=24), 0)]
    )
    assert list(action.token_ids) == wanted
    assert "Paris" in action.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_caches_are_kept_in_every_precision(dtype):
    engine = build(FOLDER, dtype=dtype)
    assert engine.keeps_cache
    ids = prompt(engine.tokenizer)
    (action,) = sample(engine, [Request("a", tuple(ids), SamplingParams(max_new_tokens=12), 0)])
    plain = engine.score([*ids, *action.token_ids])[-len(action.token_ids) :]
    gap = np.abs(np.array(plain) - np.array(action.logprobs)).mean()
    assert gap < (1e-4 if dtype == "float32" else 0.1)


@pytest.mark.parametrize(
    "dtype", ["auto", "bfloat16"]
)  # of the engine: the source's float32, or what everybody runs
def test_bf16_trains_with_the_defaults_and_the_checkpoint_plays_alike(dtype, tmp_path):
    values = yaml.safe_load((ROOT / "examples" / "real" / "sft.yaml").read_text())
    values |= {
        "model_name_or_path": FOLDER,
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "save_steps": 2,
    }
    values["rollout"] |= {"tasks_per_step": 2, "engine_options": {"dtype": dtype}}
    values["eval"] |= {"every": 2, "limit": 4}
    train(validate(TrainConfig, values), report=lambda line: None)
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["publish_gap"] < 0.1 for line in steps[1:])
    config = EvalConfig(
        policy="model", model_name_or_path=str(tmp_path / "run" / "checkpoint-2"), prompt=values["env"]["prompt"],
        temperature=0.0, max_new_tokens=8, panel="corridor/test@1", limit=4, max_turns=8,
        output_dir=str(tmp_path / "again"),
    )  # fmt: skip
    evaluate(config)

    def said(folder: Path):
        return [[t.action.token_ids for t in e.turns] for e in read_episodes(folder / "episodes.jsonl")]

    assert sorted(said(tmp_path / "again")) == sorted(said(tmp_path / "run" / "eval" / "step-2"))
