"""What the sandbox contains: interpreter, standard library, allowed packages, shared libraries."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentbench.errors import UsageError

from .inside.boot import DEVICES

INSIDE = str(Path(__file__).parent)
_HIDDEN = ("site-packages", "dist-packages")
_QUESTION = """
import sys, sysconfig, json, os
print(json.dumps({
  "executable": os.path.realpath(sys._base_executable if sys.prefix != sys.base_prefix else sys.executable),
  "stdlib": os.path.realpath(sysconfig.get_path("stdlib")),
  "platstdlib": os.path.realpath(sysconfig.get_path("platstdlib")),
  "base": os.path.realpath(sys.base_prefix), "platlibdir": sys.platlibdir, "version": sys.version_info[:3],
  "shared": bool(sysconfig.get_config_var("Py_ENABLE_SHARED")), "name": "python%d.%d" % sys.version_info[:2]}))
"""


@dataclass(frozen=True)
class Interpreter:
    """An interpreter as it describes itself: real paths."""

    executable: str
    stdlib: str
    platstdlib: str
    base: str
    platlibdir: str
    version: tuple[int, int, int]
    shared: bool
    name: str


@lru_cache(maxsize=8)
def interpreter(python: str) -> Interpreter:
    """Ask an interpreter where it lives.

    Raises: UsageError: it does not run, or is older than 3.10.
    """
    try:
        answer = subprocess.run(
            [python, "-I", "-S", "-c", _QUESTION], capture_output=True, text=True, check=True, timeout=60
        )
        found = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UsageError(f"the sandbox's interpreter {python!r} does not run: {error}") from error
    item = Interpreter(**{**found, "version": tuple(found["version"])})
    if item.version < (3, 10, 0):
        raise UsageError(
            f"the sandbox's interpreter {python!r} is Python {found['version']}; it must be 3.10 or newer"
        )
    return item


def package_places(names: Sequence[str]) -> dict[str, str]:
    """Find allowed packages, with the folders of shared libraries beside them, without importing them.

    Raises: UsageError: one is not installed.
    """
    import importlib.util

    places = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise UsageError(f"the sandbox shall offer the package {name!r}, which is not installed")
        place = os.path.dirname(spec.origin) if spec.submodule_search_locations else spec.origin
        places[name] = os.path.realpath(place)
        libraries = os.path.join(os.path.dirname(place), f"{name}.libs")
        if os.path.isdir(libraries):
            places[f"{name}.libs"] = os.path.realpath(libraries)
    return places


def boot_settings(
    way: str, python: str, packages: Sequence[str], *, preload: bool, canary: str = ""
) -> dict[str, Any]:
    """Put together what `inside.boot` needs to know for one way of isolation."""
    item = interpreter(python)
    places = package_places(packages)
    own = way in ("root", "user")
    libraries = _library_folders()
    settings: dict[str, Any] = {
        "way": way,
        "python": "/python/bin/python3" if own else item.executable,
        "python_minor": item.version[1],
        "inside": "/python/judge" if own else INSIDE,
        "preload": preload,
        "devices": DEVICES,
        "environment": _environment(item, own),
        "packages": {
            name: f"/packages/{Path(place).name}" if own else place for name, place in places.items()
        },
        "binds": [],
        "hidden": [],
        "links": [],
    }
    shared = _shared_libraries(item)
    if own:
        stdlib = f"/python/lib/{item.name}"
        settings["binds"] = [
            (item.executable, "/python/bin/python3"),
            (item.stdlib, stdlib),
            *(
                [(item.platstdlib, f"/python/{item.platlibdir}/{item.name}")]
                if item.platlibdir != "lib"
                else []
            ),
            *((path, f"/python/lib/{Path(path).name}") for path in shared),
            (f"{INSIDE}/inside", "/python/judge/inside"),
            *((place, f"/packages/{Path(place).name}") for place in places.values()),
            *((folder, folder) for folder in libraries if not os.path.islink(folder)),
            ("/etc/ld.so.cache", "/etc/ld.so.cache"),
            ("/usr/share/zoneinfo", "/usr/share/zoneinfo"),
        ]
        settings["links"] = [(folder, os.readlink(folder)) for folder in _linked(libraries)]
        settings["hidden"] = [f"{stdlib}/{name}" for name in _HIDDEN]
        settings["readable"] = ["/python", "/packages", "/lib", "/lib64", "/usr", "/etc"]
    else:
        settings["readable"] = [
            *(
                os.path.join(item.stdlib, name)
                for name in sorted(os.listdir(item.stdlib))
                if name not in _HIDDEN
            ),
            item.platstdlib + "/lib-dynload",
            item.executable,
            *shared,
            *places.values(),
            *libraries,
            f"{INSIDE}/inside",
            "/etc/ld.so.cache",
            "/usr/share/zoneinfo",
        ]
    return settings


def _environment(item: Interpreter, own: bool) -> Mapping[str, str]:
    fixed = {
        "PYTHONHASHSEED": "0",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "PATH": "/python/bin",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if own:
        fixed["PYTHONHOME"] = "/python"
        if item.shared:
            fixed["LD_LIBRARY_PATH"] = "/python/lib"
    return fixed


def _library_folders() -> list[str]:
    """Folders that the dynamic loader looks into; on systems without any of their own, all of /usr/lib."""
    machine = os.uname().machine
    narrow = [f"/usr/lib/{machine}-linux-gnu", f"/lib/{machine}-linux-gnu", "/usr/lib64", "/lib64"]
    found = [folder for folder in narrow if os.path.isdir(folder)]
    if not any(len(os.listdir(folder)) > 20 for folder in found):
        found += [folder for folder in ("/usr/lib", "/lib") if os.path.isdir(folder)]
    return found


def _linked(libraries: Sequence[str]) -> list[str]:
    """Symbolic links on the way to the folders: /lib where it is /usr/lib, /lib64 alike."""
    tops = {"/" + folder.split("/")[1] for folder in libraries}
    return sorted(folder for folder in {*tops, *libraries} if os.path.islink(folder))


def _shared_libraries(item: Interpreter) -> list[str]:
    """The interpreter's own shared libraries, where its folder is not one of the system's."""
    folder = Path(item.base) / "lib"
    if item.base in ("/usr", "/usr/local") or not folder.is_dir():
        return []
    return sorted(str(path) for path in folder.iterdir() if ".so" in path.name and path.is_file())
