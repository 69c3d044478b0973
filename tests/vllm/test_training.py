"""`agentbench train` and `eval` with vLLM as the engine, and as the teacher."""

import json

import pytest
import yaml

pytest.importorskip("torch", reason="needs the extra 'train'")

from vllm_cases import load, scaled

from agentbench.cli.training import main
from agentbench.engines.vllm import worker as vllm_worker
from agentbench.errors import TrainingError, UsageError
from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.runs.episodes import read_episodes


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Student and teacher that can speak of corridors."""
    words = [
        f"Room {n} of {m}. The red door is left, the blue door is right." for n in range(8) for m in range(8)
    ]
    texts = [*words, "go left", "go right", "open door", "Leave by the green, yellow, white or black door."]
    root = tmp_path_factory.mktemp("corridor")
    tokenizer = make_tokenizer(root / "tokenizer", texts, vocab_size=400)
    for name, seed in (("student", 1), ("teacher", 2)):
        make_model(root / name, tokenizer, hidden=64, layers=1, heads=2, kv_heads=1, seed=seed)
        scaled(load(root / name), 3.0).save_pretrained(root / name)
    return root


def write_config(models, output, *, engine, backend, **changes):
    config = {
        "algorithm": "atod",
        "output_dir": str(output),
        "model_name_or_path": str(models / "student"),
        "teachers": [{"model_name_or_path": str(models / "teacher"), "backend": backend}],
        "env": {
            "name": "corridor",
            "split": "train",
            "prompt": "agentbench.prompts:corridor/transcript",
            "max_turns": 4,
        },
        "rollout": {
            "engine": engine,
            "tasks_per_step": 4,
            "group_size": 2,
            "concurrency": 8,
            "max_new_tokens": 6,
        },
        "eval": {"panel": "corridor/test@1", "every": 2, "limit": 4, "temperature": 1.0},
        "max_steps": 2,
        "updates_per_step": 2,
        "learning_rate": 0.01,
        "save_steps": 1,
    } | changes
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    return path


def steps(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_two_steps_of_atod_with_the_engine_vllm(models, tmp_path):
    output = tmp_path / "engine"
    assert main(write_config(models, output, engine="vllm", backend="hf"), []) == 0
    first, second = [line for line in steps(output) if "loss" in line]
    for line in (first, second):  # the second step was sampled with the weights that the first one learnt
        assert 0 < line["engine_gap_max"] < 1e-4
        assert line["episode_errors"] == 0
    assert second["teacher_distance"] != first["teacher_distance"]
    assert json.loads((output / "versions.json").read_text())["engine"]["name"] == "vllm"
    versions = [
        {turn.action.policy_version for item in read_episodes(path) for turn in item.turns}
        for path in sorted((output / "rollouts").iterdir())
    ]
    assert versions == [{0}, {1}]
    evaluated = steps(output)[-1]
    assert evaluated["eval/errors"] == 0


def test_an_engine_that_keeps_old_weights_is_found_out(models, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_worker, "repack_heads", lambda model: None)
    path = write_config(models, tmp_path / "stale", engine="vllm", backend="hf", learning_rate=0.1)
    with pytest.raises(TrainingError, match="does not answer with the new weights"):
        main(path, [])


def test_a_vllm_teacher_teaches_as_the_local_one_does(models, tmp_path):
    for backend in ("hf", "vllm"):
        assert (
            main(write_config(models, tmp_path / backend, engine="hf", backend=backend, max_steps=1), []) == 0
        )
    local, served = (
        next(line for line in steps(tmp_path / backend) if "loss" in line) for backend in ("hf", "vllm")
    )
    for name in ("loss", "teacher_gap", "teacher_distance", "grad_norm"):
        assert served[name] == pytest.approx(local[name], rel=1e-3, abs=1e-5)


def test_a_teacher_without_a_distribution_is_refused_where_one_is_needed(models, tmp_path):
    path = write_config(models, tmp_path / "full", engine="hf", backend="vllm", algorithm="gkd")
    with pytest.raises(UsageError, match="whole vocabulary"):
        main(path, [])
