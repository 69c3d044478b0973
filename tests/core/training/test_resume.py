"""Going on with a training run: what is damaged is refused with the next step, what is pinned is named."""

import errno
import json
import shutil

import pytest

from agentbench.cli import run as agentbench
from agentbench.config import validate
from agentbench.errors import CorruptData, TrainingError, UsageError
from agentbench.evaluation.evaluate import EvalConfig
from agentbench.registry import panel_files
from agentbench.runs.episodes import read_episodes
from agentbench.runs.resume import EVALUATION, TRAINING, is_free
from agentbench.training import checkpoints as disk
from agentbench.training.check import check
from agentbench.training.checkpoints import checkpoints, newest
from agentbench.training.config import RolloutConfig, TrainConfig
from agentbench.training.loop import train

pytest.importorskip("torch")


def values(model, folder, **changes):
    return {
        "algorithm": "grpo",
        "output_dir": str(folder),
        "model_name_or_path": model,
        "env": {"name": "corridor", "split": "train", "max_turns": 2},
        "rollout": {"tasks_per_step": 2, "group_size": 2, "concurrency": 4, "max_new_tokens": 4},
        "max_steps": 3,
        "learning_rate": 0.003,
        "save_steps": 1,
        "save_total_limit": None,
    } | changes


def run(model, folder, *, resume=False, **changes):
    said = []
    train(validate(TrainConfig, values(model, folder, **changes)), resume=resume, report=said.append)
    return said


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(model, folder)
    return folder


@pytest.fixture(scope="module")
def student(model, tmp_path_factory):
    config = validate(TrainConfig, values(model, tmp_path_factory.mktemp("runs") / "student"))
    spec, settings, _ = check(config)
    return spec.build(config, settings).student


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


FILES = (
    *("model.safetensors", "optimizer.pt", "rng-0.pt", "trainer_state.json", "config.json"),
    *("tokenizer.json", "tokenizer_config.json", "checksums.json"),
)
HARM = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"\x07" + path.read_bytes()[-8:]),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_refused_and_the_whole_one_before_it_named(copy, model, name, harm):
    if name == "checksums.json" and harm is HARM["gone"]:
        pytest.skip("checkpoints of earlier releases have none")
    harm(copy / "checkpoint-3" / name)
    with pytest.raises(
        CorruptData, match=r"checkpoint-2 is whole: remove checkpoint-3 to go on from it"
    ) as caught:
        run(model, copy, resume=True)
    assert "checkpoint-3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_so_is_a_damaged_one_that_has_no_checksums(copy, student):
    from agentbench.trainers.student.checkpoint import load

    folder = copy / "checkpoint-3"
    for name in ("trainer_state.json", "optimizer.pt", "rng-0.pt"):
        kept = (folder / name).read_bytes()
        for harm in ("empty", "half", "gone"):
            HARM[harm](folder / name)
            with pytest.raises(UsageError, match="checkpoint-3"):
                load(folder, student)
            (folder / name).write_bytes(kept)
    (folder / "trainer_state.json").write_text("{}")
    with pytest.raises(CorruptData, match="checkpoint-3"):
        load(folder, student)


def test_two_damaged_ones_name_the_third_and_none_names_none(copy):
    for number in (3, 2):
        (copy / f"checkpoint-{number}" / "rng-0.pt").write_bytes(b"")
    with pytest.raises(CorruptData, match="checkpoint-1 is whole"):
        newest(copy)
    (copy / "checkpoint-1" / "rng-0.pt").write_bytes(b"")
    with pytest.raises(CorruptData, match="no older checkpoint of this run is whole"):
        newest(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "lacks step 1"),
        (b"", "lacks step 1"),
        (b'{"step": 1}\n', "lacks step 2, .* remove checkpoint-3 to go on from checkpoint-1"),
        (
            b'{"step": 1}\n{"step": 2}\n{"st',
            "lacks step 3, .* remove checkpoint-3 to go on from checkpoint-2",
        ),
        (bytes(40), "torn|not JSON|lacks step 1"),
        (b'{"step": 1}\n\x00\x00\x00\n', "line 2 is not JSON"),
        (b'{"loss": 1}\n', "line 1 names no step"),
        (b'{"step": "one"}\n', "line 1 names no step"),
        (b"[1]\n", "line 1 holds list"),
    ],
)
def test_metrics_that_do_not_reach_the_checkpoint_are_refused(copy, model, text, message):
    (copy / "metrics.jsonl").unlink()
    if text is not None:
        (copy / "metrics.jsonl").write_bytes(text)
    with pytest.raises(CorruptData, match=message):
        run(model, copy, resume=True)


def test_policy_versions_of_a_resumed_run_are_those_of_one_that_was_not_stopped(whole, copy, model):
    shutil.rmtree(copy / "checkpoint-3")
    run(model, copy, resume=True)
    for step in range(3):
        ours, theirs = (
            {
                item.id: [(turn.action.policy_version, turn.action.token_ids) for turn in item.turns]
                for item in read_episodes(folder / "rollouts" / f"step-{step:06d}.jsonl")
            }
            for folder in (copy, whole)
        )
        assert ours == theirs
        assert {version for turns in ours.values() for version, _ in turns} == {step}


FREE = {
    "tokens_per_micro_batch": {"tokens_per_micro_batch": 64},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "rollout.concurrency": {"rollout": {"concurrency": 1}},
    "rollout.publish_tolerance": {"rollout": {"publish_tolerance": 0.2}},
    "rollout.retries": {"rollout": {"retries": 3}},
    "rollout.step_seconds": {"rollout": {"step_seconds": 100.0}},
    "rollout.episode_seconds": {"rollout": {"episode_seconds": 100.0}},
    "rollout.engine_options": {"rollout": {"engine_options": {"slots": 2, "request_timeout": 60.0}}},
    "save_steps": {"save_steps": 2},
    "max_steps": {"max_steps": 4},
}
PINNED = {
    "seed": {"seed": 1},
    "learning_rate": {"learning_rate": 0.1},
    "updates_per_step": {"updates_per_step": 2},
    "rollout.temperature": {"rollout": {"temperature": 0.5}},
    "rollout.group_size": {"rollout": {"group_size": 4}},
    "rollout.engine_options.max_context": {"rollout": {"engine_options": {"max_context": 100}}},
    "rollout.engine_options.keep_cache": {"rollout": {"engine_options": {"keep_cache": True}}},
    "env.max_turns": {"env": {"max_turns": 3}},
    "bf16": {"bf16": True},
    "trainer": {"trainer": {"clip": 0.1}},
}


def merged(base, changes):
    return {
        key: merged(base.get(key) or {}, value) if isinstance(value, dict) else value
        for key, value in {**base, **changes}.items()
    }


def resumed(model, folder, changes):
    said = []
    config = validate(TrainConfig, merged(values(model, folder), changes))
    train(config, resume=True, report=said.append)
    return "\n".join(said)


@pytest.mark.parametrize("key", FREE)
def test_what_moves_no_number_may_change_on_resume(copy, model, key):
    said = resumed(model, copy, FREE[key])
    assert f"resumed with another {key}" in said
    (sitting,) = json.loads((copy / "versions.json").read_text())["resumed"]
    assert all(name.startswith(key) for name in sitting)
    assert checkpoints(copy)[-1][0] == (4 if key == "max_steps" else 3)


def test_what_an_evaluation_may_change_its_training_run_may_too():
    shared = RolloutConfig.model_fields.keys() & EvalConfig.model_fields.keys()
    free = {name for name in shared if is_free(name, EVALUATION)}
    assert {"concurrency", "retries", "step_seconds", "episode_seconds"} <= free
    assert [name for name in sorted(free) if not is_free(f"rollout.{name}", TRAINING)] == []


@pytest.mark.parametrize("key", PINNED)
def test_what_moves_a_number_may_not(copy, model, key):
    with pytest.raises(UsageError, match=f"cannot resume .*: {key}"):
        resumed(model, copy, PINNED[key])


def test_more_steps_are_refused_where_the_schedule_depends_on_them(model, tmp_path):
    run(model, tmp_path / "run", lr_scheduler_type="cosine", max_steps=1)
    with pytest.raises(UsageError, match=r"max_steps was 1 and is now 2 .*learning rate"):
        run(model, tmp_path / "run", lr_scheduler_type="cosine", max_steps=2, resume=True)


def test_fewer_steps_than_are_done_are_refused(copy, model):
    with pytest.raises(UsageError, match="checkpoint-3 has more steps"):
        run(model, copy, resume=True, max_steps=2)


def test_a_prompt_file_that_changed_is_refused_and_one_that_moved_is_not(model, tmp_path):
    text = "layout: fresh\nparser: plain\nfirst: '{{ observation }}'\nlater: '{{ observation }}'\n"
    env = {"name": "corridor", "split": "train", "max_turns": 2, "prompt": str(tmp_path / "p.yaml")}
    (tmp_path / "p.yaml").write_text(text)
    run(model, tmp_path / "run", env=env, max_steps=1)
    (tmp_path / "q.yaml").write_text(text)
    run(model, tmp_path / "run", env={**env, "prompt": str(tmp_path / "q.yaml")}, max_steps=2, resume=True)
    (tmp_path / "q.yaml").write_text(text + "system: Win.\n")
    with pytest.raises(UsageError, match=r"played\.prompt was"):
        run(
            model, tmp_path / "run", env={**env, "prompt": str(tmp_path / "q.yaml")}, max_steps=3, resume=True
        )


@pytest.mark.parametrize("changed", ["prompt", "panel_options", "tasks"])
def test_what_a_file_pins_is_refused_before_a_model_is_loaded(model, tmp_path, changed, capsys):
    prompt, panel = tmp_path / "p.yaml", tmp_path / "panel.yaml"
    shipped = next(file for name, file in panel_files().items() if name == "corridor-test")
    prompt.write_text(
        "layout: fresh\nparser: plain\nfirst: '{{ observation }}'\nlater: '{{ observation }}'\n"
    )
    panel.write_text(shipped.read_text(encoding="utf-8"))
    more = {"eval": {"panel": str(panel), "every": 9, "limit": 1}}
    more["env"] = {"name": "corridor", "split": "train", "max_turns": 2, "prompt": str(prompt)}
    run(model, tmp_path / "run", max_steps=1, **more)
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(values(model, tmp_path / "run", max_steps=2, **more)))
    words = ["train", str(config), "--resume", "--dry-run"]
    assert agentbench(words) == 0
    if changed == "tasks":
        facts = json.loads((tmp_path / "run/versions.json").read_text())
        facts["played"]["tasks"] = "of another release"
        (tmp_path / "run/versions.json").write_text(json.dumps(facts))
    else:
        file, line = {
            "prompt": (prompt, "system: Win.\n"),
            "panel_options": (panel, "env_options: {render_mode: ansi}\n"),
        }[changed]
        file.write_text(file.read_text() + line)
    capsys.readouterr()
    assert agentbench(words) == 2
    assert f"cannot resume {tmp_path / 'run'}: played.{changed}" in capsys.readouterr().err


def test_a_checkpoint_too_many_is_pruned_even_when_nothing_is_left_to_do(copy, model):
    run(model, copy, resume=True, save_total_limit=1)
    assert [step for step, _ in checkpoints(copy)] == [3]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["os", "torch", "safetensors"],
)
def test_a_disk_that_refuses_a_checkpoint_is_one_line(error, tmp_path):
    from agentbench.runs.files import disk_refused

    with pytest.raises((OSError, UsageError)) as caught, disk.writing(tmp_path / "checkpoint-1"):
        raise error
    line = disk_refused(caught.value) if isinstance(caught.value, OSError) else str(caught.value)
    assert "checkpoint-1" in line
    assert "--resume" in line
    assert "\n" not in line


def test_other_errors_of_a_checkpoint_pass(tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ"), disk.writing(tmp_path):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("algorithm", ["grpo", "sft"])
def test_a_run_without_one_sound_episode_stops(model, tmp_path, algorithm, monkeypatch):
    from agentbench.envs.corridor import CorridorEnv

    monkeypatch.setattr(CorridorEnv, "step", lambda self, action: 1 / 0)
    changes = {"algorithm": algorithm} | ({"trainer": {"takeover": [0, 0]}} if algorithm == "sft" else {})
    with pytest.raises(TrainingError, match=r"step 0: every episode broke .*ZeroDivisionError"):
        run(model, tmp_path / "run", **changes)
    assert not checkpoints(tmp_path / "run")


def test_a_context_that_nothing_fits_stops_a_training_run_at_its_first_step(model, tmp_path):
    rollout = values(model, tmp_path)["rollout"] | {"max_new_tokens": 4096}
    with pytest.raises(
        UsageError, match=r"prompt of \d+ tokens \+ max_new_tokens 4096 exceeds the context of"
    ):
        run(model, tmp_path / "run", rollout=rollout)
