"""The wheel on a bare machine: base dependencies only, no torch, no textworld, no checkout."""

import json
import os
import subprocess
import sys
import venv
import zipfile

import pytest
from places import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        folder,
    ]
    subprocess.run(command, check=True, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder of the commands of a fresh virtual environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", wheel], check=True)
    return folder / "bin"


def run(installed, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [installed / "agentbench", *arguments], capture_output=True, text=True, env=environment, cwd=installed
    )


def test_wheel_holds_the_merged_tree(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for path in (
        "agentbench/envs/alfworld/logic/domain.pddl",
        "agentbench/prompts/alfworld/react.yaml",
        "agentbench/envs/panels/alfworld-mini.yaml",
        "agentbench/py.typed",
        "agentbench/trainers/atod.py",
    ):
        assert path in names
    assert not [name for name in names if name.startswith(("envs/", "tests/", "trainers/"))]


def test_base_install_lists_and_evaluates(installed, tmp_path):
    listed = run(installed, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert {"alfworld", "corridor"} <= set(json.loads(listed.stdout)["envs"])
    output = tmp_path / "run"
    done = run(installed, "eval", "--panel", "alfworld/mini@1", "--policy", "expert", "--output", str(output))
    assert done.returncode == 0, done.stderr
    summary = json.loads((output / "summary.json").read_text())
    assert summary["overall"]["success"]["value"] == 1.0
    assert summary["overall"]["n"] == 128
    absent = subprocess.run([installed / "python", "-c", "import torch"], capture_output=True)
    assert absent.returncode != 0


def test_what_is_missing_is_named_with_its_extra(installed, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "tokenizer.json").write_text("{}")
    asked = run(
        installed,
        "eval",
        "--panel",
        "alfworld/mini@1",
        "--policy",
        "model",
        "--model",
        str(model),
        "--output",
        str(tmp_path / "a"),
    )
    assert asked.returncode == 2
    assert "agentbench-opd[train]" in asked.stderr
    reference = run(
        installed,
        "eval",
        "--panel",
        "alfworld/mini@1",
        "--policy",
        "expert",
        "--env-option",
        "engine=textworld",
        "--output",
        str(tmp_path / "b"),
    )
    assert reference.returncode == 2
    assert "agentbench-opd[alfworld]" in reference.stderr
