"""The example configurations: their keys are those of the algorithms, and their pairs are some paper's."""

import json

import pytest
from places import ROOT

from agentbench.cli.training import main
from agentbench.config import validate
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.registry import entry_points, trainer_spec
from agentbench.trainers.surrogate import EpisodeAdvantageConfig
from agentbench.training.config import read_config

FILES = [
    *sorted((ROOT / "examples" / "learning").glob("*.yaml")),
    *sorted((ROOT / "examples" / "learning" / "prepare").glob("*.yaml")),
    *sorted((ROOT / "examples" / "paper").glob("*.yaml")),
]
FILES = [file for file in FILES if file.stem != "heldout"]


def settings_of(file):
    run = read_config(file)
    return run, validate(trainer_spec(run.algorithm).config, run.trainer, "trainer.")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_an_examples_keys_are_the_algorithms_and_work_together(file):
    run, settings = settings_of(file)
    spec = trainer_spec(run.algorithm)
    assert ("teacher" in spec.needs) == bool(run.teachers)
    if spec.refuse is not None:
        spec.refuse(run, settings)
    if isinstance(settings, EpisodeAdvantageConfig):
        # advantages are centred under one pair of statistics and reduction only: turns and tokens, or trajectories
        assert (settings.group_stats == "trajectory") == (settings.reduction == "trajectory_mean")


@pytest.mark.parametrize("folder", ["learning", "paper"])
def test_every_method_has_an_example(folder):
    """Behaviour cloning is no method of these papers; examples/real has it."""
    shown = {read_config(file).algorithm for file in FILES if file.parent.name == folder}
    ours = {
        n for n, point in entry_points("trainers").items() if point.value.startswith("agentbench.trainers.")
    }
    assert ours - shown == {"sft"}


START = ROOT / "examples" / "quickstart" / "start"


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_an_example_passes_the_dry_run(file, monkeypatch, tmp_path):
    """With models that are there, generated tasks in place of the official ones, and recordings of the expert."""
    monkeypatch.chdir(ROOT)
    run = read_config(file)
    small = f"model_name_or_path={START / 'student'}"
    words = [small, f"output_dir={tmp_path / 'run'}", "rollout.engine=hf"]
    teachers = [
        {**t.model_dump(exclude_unset=True), "model_name_or_path": str(START / "teacher")}
        for t in run.teachers
        if t.backend == "hf"
    ]
    if teachers:
        words.append(f"teachers={json.dumps(teachers)}")
    if run.env.split == "train":
        words += ["env.split=mini-train", "eval=null"]
    if run.rollout.recordings is not None:
        keys = {"env": "alfworld", "split": "mini-train", "limit": 2, "policy": "expert"}
        evaluate(validate(EvalConfig, {**keys, "output_dir": str(tmp_path / "recorded")}))
        words.append(f"rollout.recordings={tmp_path / 'recorded'}")
    if file.stem == "guided-opd" and file.parent.name == "paper":
        words.append("trainer.engine=hf")
    assert main(file, words, dry_run=True) == 0
