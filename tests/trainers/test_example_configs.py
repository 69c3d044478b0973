"""The example configurations: their keys are those of the algorithms, and their pairs are some paper's."""

import pytest
from places import ROOT

from agentbench.config import validate
from agentbench.registry import entry_points, trainer_spec
from agentbench.trainers.surrogate import EpisodeAdvantageConfig
from agentbench.training.config import read_config

FILES = [
    *sorted((ROOT / "examples" / "learning").glob("*.yaml")),
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
