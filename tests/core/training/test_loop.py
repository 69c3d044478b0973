"""The training loop on a tiny model and the toy: files, resume after a kill, the checkpoint's own evaluation."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml
from floats import assert_same_actions

from agentbench.cli.training import main
from agentbench.config import validate
from agentbench.errors import ConfigError, UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.runs.episodes import read_episodes
from agentbench.training.check import check
from agentbench.training.checkpoints import checkpoints
from agentbench.training.config import TrainConfig
from agentbench.training.loop import train
from agentbench.training.tasks import TaskOrder

pytest.importorskip("torch")
PROMPT = "agentbench.prompts:corridor/transcript"


def values(model, folder, **changes):
    return {
        "algorithm": "sft",
        "output_dir": str(folder),
        "model_name_or_path": model,
        "env": {"name": "corridor", "split": "train", "prompt": PROMPT, "max_turns": 6},
        "rollout": {"tasks_per_step": 4, "group_size": 2, "concurrency": 4, "max_new_tokens": 6},
        "trainer": {"takeover": [0, 0]},
        "eval": {"panel": "corridor/test@1", "every": 2, "limit": 6, "temperature": 1.0},
        "max_steps": 5,
        "learning_rate": 0.003,
        "save_steps": 1,
        "save_total_limit": None,
    } | changes


def run(model, folder, **changes):
    lines = []
    train(validate(TrainConfig, values(model, folder, **changes)), report=lines.append)
    return lines


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(model, folder)
    return folder


def test_run_folder_holds_what_it_should(whole):
    steps = [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in checkpoints(whole)] == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in (whole / "rollouts").iterdir()) == [
        f"step-00000{n}.jsonl" for n in range(5)
    ]
    assert sorted(path.name for path in (whole / "eval").iterdir()) == [
        "step-0",
        "step-2",
        "step-4",
        "step-5",
    ]
    assert yaml.safe_load((whole / "config.yaml").read_text())["max_steps"] == 5
    best = json.loads((whole / "best.json").read_text())
    found = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert best["value"] == max(line["eval/success"] for line in found[1:] if "eval/success" in line)
    assert best["checkpoint"] == f"checkpoint-{best['step']}"
    assert (whole / best["checkpoint"]).is_dir()


def test_checkpoint_evaluates_to_the_number_seen_in_training(whole, tmp_path):
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for step in (2, 5):
        config = EvalConfig(
            panel="corridor/test@1", policy="model", model_name_or_path=str(whole / f"checkpoint-{step}"),
            prompt=PROMPT, temperature=1.0, max_new_tokens=6, limit=6, max_turns=6, concurrency=4,
            output_dir=str(tmp_path / str(step)),
        )  # fmt: skip
        summary = evaluate(config)
        assert summary.overall.success.value == metrics[step]["eval/success"]
        again, seen = said(tmp_path / str(step)), said(whole / "eval" / f"step-{step}")
        assert again.keys() == seen.keys()
        for task, turns in again.items():
            assert [turn.reward for turn in turns] == [turn.reward for turn in seen[task]]
            # only the policy's version number differs after loading
            actions = [replace(turn.action, policy_version=step) for turn in turns]
            assert_same_actions(actions, [replace(turn.action, policy_version=step) for turn in seen[task]])


def test_checkpoint_is_played_as_it_was_trained_when_nothing_else_is_said(whole, tmp_path):
    config = EvalConfig(
        policy="model", model_name_or_path=str(whole / "checkpoint-4"), panel="corridor/test@1", limit=6,
        output_dir=str(tmp_path / "again"),
    )  # fmt: skip
    evaluate(config)
    again, seen = said(tmp_path / "again"), said(whole / "eval" / "step-4")
    assert {task: [list(turn.action.token_ids) for turn in turns] for task, turns in again.items()} == {
        task: [list(turn.action.token_ids) for turn in turns] for task, turns in seen.items()
    }


def test_the_run_records_its_models_and_what_its_teacher_scores(model, tmp_path):
    from agentbench.evaluation.card import as_markdown, card_of
    from agentbench.evaluation.protocol import read_protocol

    folder = tmp_path / "taught"
    changes = {"algorithm": "opd", "trainer": {}, "teachers": [{"model_name_or_path": model}], "max_steps": 1}
    played = {"panel": "corridor/test@1", "every": 1, "limit": 3, "temperature": 1.0}
    run(model, folder, **changes, eval={**played, "teachers": True})
    facts = json.loads((folder / "versions.json").read_text())
    assert list(facts["origins"]) == [model]
    assert facts["origins"][model] == facts["engine"]["weights"]
    assert read_protocol(str(folder / "checkpoint-1")).origins == facts["origins"]
    # the teacher is the untrained student, so it plays as that did before the first step
    teacher, before = said(folder / "teachers" / "0"), said(folder / "eval" / "step-0")
    assert {task: [turn.action.text for turn in turns] for task, turns in teacher.items()} == {
        task: [turn.action.text for turn in turns] for task, turns in before.items()
    }
    card = card_of(folder / "eval" / "step-1")
    assert card["teacher"][f"weights of {model}"] == facts["origins"][model]
    assert "n=3" in card["teacher"][f"success of {model}"]
    assert f"| origins | {model}: {facts['origins'][model]} |" in as_markdown(card, "x")
    # the same checkpoint, evaluated elsewhere, still knows
    evaluate(
        EvalConfig(
            policy="model", model_name_or_path=str(folder / "checkpoint-1"), panel="corridor/test@1", limit=1,
            output_dir=str(tmp_path / "later"),
        )
    )  # fmt: skip
    made = card_of(tmp_path / "later")["training"]
    assert (made["algorithm"], made["run"], made["step"]) == ("opd", "taught", 1)
    assert made["origins"] == facts["origins"]
    # without the key, the card says how to get the score
    (folder / "teachers" / "0" / "summary.json").unlink()
    played = folder / "eval" / "step-1"
    told = card_of(played)["teacher"][f"own score of {model}"]
    assert told.startswith(f"not measured: agentbench eval {played / 'config.yaml'} --model {model}")


def test_teachers_that_cannot_play_are_refused(model, tmp_path):
    played = {"panel": "corridor/test@1", "teachers": True}
    with pytest.raises(
        ConfigError, match=r"eval\.teachers plays teachers of backend 'hf', and .* no teacher"
    ):
        check(validate(TrainConfig, values(model, tmp_path / "x", eval=played)))


def said(folder):
    """The turns of every task."""
    return {item.task: item.turns for item in read_episodes(folder)}


def test_killed_run_resumes_to_the_same_weights_and_metrics(model, whole, tmp_path):
    folder = tmp_path / "killed"
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values(model, folder)))
    command = [sys.executable, "-m", "agentbench", "train", str(config)]
    moments = random.Random()
    for wanted in (1, 2, 4):  # killed three times, at a random moment after a checkpoint appeared
        arguments = command if wanted == 1 else [*command, "--resume"]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not (folder / f"checkpoint-{wanted}").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    assert main(config, [], resume=True) == 0
    assert digest(folder / "checkpoint-5" / "model.safetensors") == digest(
        whole / "checkpoint-5" / "model.safetensors"
    )
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert sorted(path.name for path in folder.iterdir() if "partial" in path.name) == []


def test_old_checkpoints_go_but_the_best_stays(model, tmp_path):
    folder = tmp_path / "pruned"
    run(model, folder, save_total_limit=1)
    best = json.loads((folder / "best.json").read_text())["step"]
    assert {step for step, _ in checkpoints(folder)} == {5, best}


def test_tasks_are_dealt_in_seeded_shuffles_without_end():
    order = TaskOrder(["a", "b", "c"], seed=1)
    drawn = order.at(0, 9)
    assert [sorted(drawn[i : i + 3]) for i in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert order.at(4, 3) == drawn[4:7]
    assert len({tuple(TaskOrder(["a", "b", "c"], seed).at(0, 3)) for seed in range(20)}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "atodd"}, "Did you mean 'atod'"),
        ({"algorithm": "opd", "trainer": {}}, "'opd' needs a teacher"),
        ({"teachers": [{"model_name_or_path": "t"}]}, "'sft' uses no teacher"),
        ({"trainer": {"takeove": [0, 1]}}, "unknown key 'trainer.takeove'"),
        (
            {"env": {"name": "corridor", "split": "nowhere"}},
            "env.split = 'nowhere' is not a split of corridor",
        ),
        ({"env": {"name": "corridr", "split": "train"}}, "Did you mean 'corridor'"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(model, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        check(validate(TrainConfig, values(model, tmp_path / "x", **change)))


def test_used_folder_and_changed_configuration_are_refused(model, whole):
    with pytest.raises(UsageError, match="not empty"):
        train(validate(TrainConfig, values(model, whole)))
    with pytest.raises(UsageError, match=r"learning_rate was 0\.003 and is now 0\.1"):
        train(validate(TrainConfig, values(model, whole, learning_rate=0.1)), resume=True)


def test_dry_run_checks_and_trains_nothing(model, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values(model, tmp_path / "dry")))
    assert main(config, ["seed=7"], dry_run=True) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 7
    assert not (tmp_path / "dry").exists()
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        main(tmp_path / "absent.yaml", [])


def test_figures_go_to_tensorboard_and_an_absent_tracker_is_named(model, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "tracked"
    run(model, folder, max_steps=2, report_to=["tensorboard"])
    (file,) = (folder / "trackers" / "tracked").glob("events.out.tfevents*")
    found = events.EventAccumulator(str(file.parent))
    found.Reload()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seen = [(event.step, event.value) for event in found.Scalars("loss")]
    assert seen == [(line["step"], pytest.approx(line["loss"])) for line in lines if "loss" in line]
    assert [event.step for event in found.Scalars("eval/success")] == [0, 2]
    with pytest.raises(ConfigError, match=r"tracker 'aim' is not installed; available: .*tensorboard"):
        run(model, tmp_path / "other", max_steps=1, report_to=["aim"])


def test_success_of_the_collected_episodes_is_written_and_told(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for step, line in enumerate(lines[1:]):
        episodes = read_episodes(whole / "rollouts" / f"step-{step:06d}.jsonl")
        assert line["success"] == pytest.approx(sum(item.success for item in episodes) / len(episodes))


def test_reports_name_the_weights_that_played(whole, model):
    def played(step):
        return json.loads((whole / "eval" / f"step-{step}" / "summary.json").read_text())["policy"]["engine"][
            "model"
        ]

    assert played(0) == model
    assert played(4) == str(whole / "checkpoint-4")
    assert "checkpoint-4" in (whole / "eval" / "step-4" / "report.md").read_text()
