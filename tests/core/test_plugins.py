"""A package of somebody else, installed into a fresh environment: its env and its algorithm train together."""

import json
import os
import shutil
import site
import subprocess
import sys
import venv

import pytest
from places import ROOT

from agentbench.runs.episodes import read_episodes

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh virtual environment that shares this one's packages and holds the plug-ins."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    shared = "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    (next(folder.glob("lib/python3*/site-packages")) / "shared.pth").write_text(shared)
    source = shutil.copytree(ROOT / "examples" / "plugins", folder / "source")
    command = ["install", "--no-deps", "--no-build-isolation", "--no-index", "-q", source]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *command], check=True)
    return python


def agentbench(python, folder, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-m", "agentbench", *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_they_stand_among_the_others(python, tmp_path):
    listed = json.loads(agentbench(python, tmp_path, "list", "--json"))
    assert "lamps" in listed["envs"]
    assert "winners" in listed["trainers"]
    assert "alfworld" in listed["envs"]


def test_the_env_conforms(python, tmp_path):
    agentbench(python, tmp_path, "env", "check", "lamps")


def test_they_train_together(python, model, tmp_path):
    config = ROOT / "examples" / "plugins" / "lamps" / "train.yaml"
    agentbench(
        python, tmp_path, "train", config, f"model_name_or_path={model}", f"output_dir={tmp_path / 'run'}",
        "max_steps=3", "trainer.scout={kind: linear, start: 1.0, end: 0.0, steps: 2}",
    )  # fmt: skip
    said = []
    for step in range(3):
        episodes = read_episodes(tmp_path / "run" / "rollouts" / f"step-{step:06d}.jsonl")
        assert {item.env for item in episodes} == {"lamps"}
        said.append({turn.action.author for item in episodes for turn in item.turns})
    assert said == [{"scout"}, {"scout", "student"}, {"student"}]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["scout"] for line in lines] == [1.0, 0.5, 0.0]
    assert lines[0]["updates"] == 1.0  # a random scout wins 1 row in 27, of 36: the seed of the run has some
    assert (tmp_path / "run" / "checkpoint-3" / "model.safetensors").is_file()
