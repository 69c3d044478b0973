"""The quickstart's checkpoint, played by the line that the README gives, plays what training saw."""

import re
import shlex

import pytest
from places import ROOT

from agentbench import read_episodes
from agentbench.cli import run

pytestmark = pytest.mark.slow
README = (ROOT / "README.md").read_text()


def said(folder):
    return {item.task: [turn.action.text for turn in item.turns] for item in read_episodes(folder)}


def test_the_readmes_line_gives_what_training_saw(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(ROOT)  # the configuration names its models from here
    small = (
        "max_steps=1",
        "save_steps=1",
        "rollout.tasks_per_step=2",
        "rollout.group_size=2",
        "eval.limit=16",
    )
    assert run(("train", "examples/quickstart/opd.yaml", f"output_dir={tmp_path / 'trained'}", *small)) == 0
    (line,) = re.findall(r"^(agentbench eval .* --model path/to/checkpoint .*)$", README, re.MULTILINE)
    words = shlex.split(line)[1:]
    words[words.index("path/to/checkpoint")] = str(tmp_path / "trained" / "checkpoint-1")
    words[words.index("--output") + 1] = str(tmp_path / "mine")
    assert run((*words, "--limit", "16")) == 0
    seen = said(tmp_path / "trained" / "eval" / "step-1")
    assert len(seen) == 16
    assert said(tmp_path / "mine") == seen
