"""Runs somebody else's Python program in this process, as `python FILE ARGS` or `python -m MODULE ARGS` would."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError


def run_program(words: Sequence[str]) -> None:
    """Run a program; what it raises, and its exit, go to the caller.

    Args:
        words: a file and its arguments, or "-m", a module and its arguments.
    Raises: UsageError: there is no program.
    """
    words = list(words)
    if words[:1] == ["--"]:
        words = words[1:]
    if not words or words == ["-m"]:
        raise UsageError(
            "no program to run; write: agentbench bridge run NAME -- FILE.py ARGS, or -- -m MODULE ARGS"
        )
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, "")
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    file = Path(words[0])
    if not file.is_file():
        raise UsageError(f"no program {words[0]!r}")
    sys.argv = words
    sys.path.insert(0, str(file.resolve().parent))
    runpy.run_path(str(file), run_name="__main__")
