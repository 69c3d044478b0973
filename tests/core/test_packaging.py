"""The wheel on a bare machine: base dependencies only, no torch, no textworld, no checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

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


SUPPORTED = ("3.11", "3.12", "3.13")


def interpreters():
    """One Python of each supported version on this machine: the running one, those on the path, Debian's, pyenv's."""
    places = [
        Path(sys.executable).resolve(),
        *(Path(found) for version in SUPPORTED if (found := shutil.which(f"python{version}"))),
        *Path("/usr/bin").glob("python3.1?"),
        *Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin/python3.1?"),
    ]
    found = {}
    for place in places:
        asked = subprocess.run(
            [place, "-c", "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
        )
        if asked.returncode == 0:
            found.setdefault(asked.stdout.strip(), place)
    return found


@pytest.fixture(scope="module", params=SUPPORTED)
def installed(request, wheel, tmp_path_factory):
    """Folder of the commands of a fresh virtual environment that holds the wheel."""
    python = interpreters().get(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} with ensurepip on this machine")
    folder = tmp_path_factory.mktemp("fresh")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, "-m", "venv", folder], check=True, env=environment)
    subprocess.run([folder / "bin" / "pip", "install", "-q", wheel], check=True, env=environment)
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
        "agentbench/runs/view.html",
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
