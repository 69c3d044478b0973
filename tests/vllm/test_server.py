"""A real vLLM server, started by `agentbench serve`: as engine, as teacher, and in training.

The tests share one server and run in order: those after the first push find other weights in it.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys

import pytest
import torch
import yaml
from trainer_cases import make_run, random_groups
from vllm_cases import ask, largest_error, load, scaled, score_error

from agentbench.cli.training import main
from agentbench.engine import sample
from agentbench.engines.vllm.server import build
from agentbench.errors import UsageError
from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.models.weights import weights_digest
from agentbench.runs.episodes import read_episodes
from agentbench.trainers.batch.tables import collate
from agentbench.trainers.student.processes import Processes
from agentbench.trainers.student.student import Student
from agentbench.trainers.teachers.local import LocalTeacher
from agentbench.trainers.teachers.open import open_teacher
from agentbench.training.config import TeacherConfig

FLOAT32 = 1e-3


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of "served", "student" and "third": one architecture, one tokenizer that can speak of corridors."""
    words = [
        f"Room {n} of {m}. The red door is left, the blue door is right." for n in range(8) for m in range(8)
    ]
    texts = [*words, "go left", "go right", "open door", "Leave by the green, yellow, white or black door."]
    root = tmp_path_factory.mktemp("served")
    tokenizer = make_tokenizer(root / "tokenizer", texts, vocab_size=400)
    found = {}
    for seed, name in enumerate(("served", "student", "third")):
        folder = root / name
        make_model(
            folder,
            tokenizer,
            hidden=64,
            layers=2,
            heads=2,
            kv_heads=1,
            max_position=600,
            seed=seed,
        )
        scaled(load(folder), 3.0).save_pretrained(folder)
        found[name] = str(folder)
    return found


@pytest.fixture(scope="module")
def url(models, tmp_path_factory):
    """Where the server answers; it ends with the module."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "agentbench", "serve", models["served"], "--for", "training"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*words, "--port", str(port), "--top-k", "8"],
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
        line = ""
        while "Ctrl-C ends it" not in line:
            line = server.stdout.readline()
            assert line, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
        assert server.returncode == 0


@pytest.fixture(scope="module")
def engine(models, url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return build(models["served"], base_url=url, weights_folder=str(folder))


@pytest.fixture(scope="module")
def student(models):
    return Student(make_run(models, "opd", teacher=None), Processes(1))


def requests(count, seed=0, **sampling):
    rng = random.Random(seed)
    return [
        ask(str(i), [rng.randrange(300) for _ in range(rng.randint(3, 90))], i, f"slot {i % 5}", **sampling)
        for i in range(count)
    ]


# --- as the engine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, {"temperature": 0.0}], ids=str)
def test_logprobs_are_those_of_a_plain_forward_pass(engine, models, sampling):
    model = load(models["served"])
    asked = requests(30, max_new_tokens=20, **sampling)
    said = sample(engine, asked)
    divided = sampling.get("temperature") or 1.0  # greedy replies carry the log-probs at temperature 1
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight / divided)
    assert sum(len(action.token_ids) for action in said) > 300
    for request, action in zip(asked, said, strict=True):
        assert largest_error(model, request.token_ids, action) <= FLOAT32


def test_restricted_sampling_renormalises_the_logprobs(engine):
    said = sample(engine, requests(10, max_new_tokens=20, top_k=1))
    assert all(abs(value) <= 1e-5 for action in said for value in action.logprobs)


def test_the_same_seed_says_the_same_whatever_runs_beside_it(engine):
    asked = requests(24, seed=1, max_new_tokens=16)
    together = [list(action.token_ids) for action in sample(engine, asked)]
    alone = [list(sample(engine, [request])[0].token_ids) for request in asked[:6]]
    assert alone == together[:6]


def test_long_prompts_with_seeds_wait_for_each_other_and_are_not_split(engine):
    asked = [ask(str(i), [(7 * i + t) % 300 for t in range(590)], i, max_new_tokens=3) for i in range(12)]
    assert len(sample(engine, asked)) == 12


def test_scores_are_those_of_a_plain_forward_pass(engine, models):
    ids = [(i * 37) % 300 for i in range(200)]
    assert score_error(load(models["served"]), engine, ids) <= FLOAT32


def test_an_endpoint_for_messages_plays_a_panel(models, url, tmp_path):
    from agentbench.config import validate
    from agentbench.evaluation.evaluate import EvalConfig, evaluate

    values = {"panel": "corridor/test@1", "limit": 3, "max_turns": 4, "policy": "model", "engine": "openai"}
    values |= {"model_name_or_path": models["served"], "engine_options": {"base_url": url}}
    values |= {"prompt": "agentbench.prompts:corridor/transcript", "max_new_tokens": 8}
    for name in ("a", "b"):
        summary = evaluate(validate(EvalConfig, {**values, "output_dir": str(tmp_path / name)}))
        assert summary.errors == {}
    first, second = (
        {item.task: [turn.action.text for turn in item.turns] for item in read_episodes(tmp_path / name)}
        for name in ("a", "b")
    )
    assert first == second
    assert summary.usage["completion_tokens"] > 0


# --- as the teacher ---------------------------------------------------------------------------------------------------


def test_it_scores_as_a_local_teacher_does(models, url, student):
    batch = collate(random_groups(300, fresh=True), student.pad_id)
    config = TeacherConfig(model_name_or_path=models["served"])
    local = LocalTeacher(config, student).score(batch, 8)
    remote = open_teacher(TeacherConfig(**dict(config) | {"backend": "server", "base_url": url}), student)
    scores = remote.score(batch, 8)
    assert (scores.logp_BT - local.logp_BT).abs().max() <= FLOAT32
    assert (scores.topk_logp_BTK - local.topk_logp_BTK).abs().max() <= FLOAT32
    assert (scores.topk_ids_BTK == local.topk_ids_BTK).float().mean() > 0.99  # near ties may change places


def test_more_likely_ids_than_it_was_started_for_are_refused(models, url):
    run = make_run(models, "gkd", teacher=None)
    config = TeacherConfig(model_name_or_path=models["served"], backend="server", base_url=url)
    with pytest.raises(UsageError, match="--for teacher --top-k 9"):
        open_teacher(config, Student(run, Processes(1)), top_k=9)


def atod(models, output, **rollout):
    return {
        "algorithm": "atod",
        "output_dir": str(output),
        "model_name_or_path": models["student"],
        "teachers": [{"model_name_or_path": models["served"]}],
        "env": {
            "name": "corridor",
            "split": "train",
            "prompt": "agentbench.prompts:corridor/transcript",
            "max_turns": 4,
        },
        "rollout": {"tasks_per_step": 4, "group_size": 2, "concurrency": 8, "max_new_tokens": 6, **rollout},
        "max_steps": 2,
        "updates_per_step": 2,
        "learning_rate": 0.01,
        "save_steps": 1,
    }


def train(config, output):
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    assert main(path, []) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_atod_learns_from_it_what_it_learns_from_a_local_teacher(models, url, tmp_path):
    local = train(atod(models, tmp_path / "local"), tmp_path / "local")
    config = atod(models, tmp_path / "remote")
    config["teachers"] = [{"model_name_or_path": models["served"], "backend": "server", "base_url": url}]
    remote = train(config, tmp_path / "remote")
    for ours, theirs in zip(remote, local, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-3)
        assert ours["teacher_gap"] == pytest.approx(theirs["teacher_gap"], abs=1e-3)


# --- with other weights: from here on the server holds what was pushed last -------------------------------------------


def test_after_a_push_it_answers_with_the_new_weights_even_where_the_prompt_was_cached(engine, models):
    prompt = [(i * 11) % 300 for i in range(128)]
    sample(engine, [ask(prompt=prompt)])
    model = load(models["third"])
    engine.load_weights(model.state_dict().items())
    (action,) = sample(engine, [ask(prompt=prompt)])
    assert action.policy_version == 1
    assert largest_error(model, prompt, action) <= FLOAT32
    assert score_error(model, engine, prompt) <= FLOAT32
    assert engine.info["weights"] == weights_digest(model)
    engine.load_weights(load(models["served"]).named_parameters())
    (action,) = sample(engine, [ask(prompt=prompt)])
    assert largest_error(load(models["served"]), prompt, action) <= FLOAT32


def test_requests_under_way_at_a_push_say_nothing_of_the_old_weights(engine, models):
    asked = requests(12, max_new_tokens=60)
    model = load(models["third"])
    engine.submit(asked)
    engine.load_weights(model.named_parameters())
    found = {}
    while len(found) < len(asked):
        found |= {item.key: item.action for item in engine.poll()}
    for request in asked:
        assert largest_error(model, request.token_ids, found[request.key]) <= FLOAT32


def test_a_server_with_pushed_weights_is_no_teacher(models, url, student):
    config = TeacherConfig(model_name_or_path=models["served"], backend="server", base_url=url)
    with pytest.raises(UsageError, match="has had other weights pushed to it"):
        open_teacher(config, student)


def test_two_steps_of_atod_with_it_as_the_engine(models, url, tmp_path):
    options = {"base_url": url, "served_model": models["served"], "weights_folder": str(tmp_path / "weights")}
    config = atod(models, tmp_path / "engine", engine="vllm-server", engine_options=options)
    config["eval"] = {"panel": "corridor/test@1", "every": 1, "limit": 3, "temperature": 1.0}
    steps = train(config, tmp_path / "engine")
    for step in steps[1:]:
        assert step["engine_gap"] <= FLOAT32
        assert step["publish_gap"] <= FLOAT32
    versions = json.loads((tmp_path / "engine" / "versions.json").read_text())
    assert versions["engine"]["weights"] == weights_digest(load(models["student"]))
    last = build(models["served"], base_url=url).info["weights"]
    assert last == weights_digest(load(tmp_path / "engine" / "checkpoint-2"))
